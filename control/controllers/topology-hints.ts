// Zone hints under service.kubernetes.io/topology-mode: Auto: each zone is given as many endpoints as it has CPU, its
// own first. Pure; knows Nodes and endpoints. Rules of Kubernetes' topology cache (KEP-2433).

import type { Endpoint, EndpointHints, Node, Stored } from "../../common/k8s.js";
import { parseQuantity } from "../resources/validation/quantity.js";
import { semanticallyEqual } from "./canonical.js";

export const ZONE = "topology.kubernetes.io/zone";

/** How much more traffic than its share an endpoint may get. */
const OVERLOAD = 0.2;
const CONTROL_PLANE = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/** The endpoints that one slice is to have. An unchanged slice is not written, so its hints are left when they can be. */
export interface SliceDraft {
  endpoints: Endpoint[];
  changed: boolean;
}

/** Zone → its part of the CPU of all Ready nodes; undefined when there are not two zones or a node does not tell. */
export type CpuRatios = ReadonlyMap<string, number> | undefined;

export function cpuRatios(nodes: readonly Stored<Node>[]): CpuRatios {
  const byZone = new Map<string, number>();
  let total = 0;
  for (const { metadata, status } of nodes) {
    if (CONTROL_PLANE.some((label) => label in (metadata.labels ?? {}))) continue;
    if (!status?.conditions?.some((c) => c.type === "Ready" && c.status === "True")) continue;
    const zone = metadata.labels?.[ZONE];
    const cpu = parseQuantity(status.allocatable?.cpu ?? "0")?.value ?? 0;
    if (!zone || cpu === 0) return undefined;
    byZone.set(zone, (byZone.get(zone) ?? 0) + cpu);
    total += cpu;
  }
  if (byZone.size < 2) return undefined;
  return new Map([...byZone].map(([zone, cpu]) => [zone, cpu / total]));
}

/** How many endpoints a zone must, may and should be given. */
interface Share {
  minimum: number;
  maximum: number;
  desired: number;
}

type Counts = Map<string, number>;

const add = (counts: Counts, zone: string, n = 1) => counts.set(zone, (counts.get(zone) ?? 0) + n);

export const isReady = ({ conditions }: Endpoint): boolean => conditions?.ready === true;

/** Gives an endpoint these hints, if it has others: endpoints of unchanged slices are shared and must be copied. */
export function setHints(slice: SliceDraft, index: number, hints: EndpointHints | undefined): void {
  const endpoint = slice.endpoints[index];
  if (!endpoint || semanticallyEqual(endpoint.hints, hints)) return;
  const { hints: _, ...rest } = endpoint;
  slice.endpoints[index] = hints ? { ...rest, hints } : rest;
  slice.changed = true;
}

/** Sets the hints of all slices of a Service and family. @returns Why there can be none; then the hints are as before. */
export function addZoneHints(slices: readonly SliceDraft[], ratios: CpuRatios): string | undefined {
  if (!ratios) {
    return "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
  }
  const ready = slices.flatMap(({ endpoints }) => endpoints.filter(isReady));
  if (ready.some(({ zone }) => !zone)) return "One or more endpoints do not have a zone specified";
  const count = ready.length;
  const scale = `(${count} endpoints, ${ratios.size} zones)`;
  if (ratios.size > count) return `Insufficient number of endpoints ${scale}`;
  const shares = sharesOf(ratios, count);
  if (!shares) {
    return `Unable to allocate minimum required endpoints to each zone without exceeding overload threshold ${scale}`;
  }
  const given: Counts = new Map();
  const free = slices.filter((slice) => slice.changed || !keepHints(slice, shares, given));
  const zones = free.map(({ endpoints }) => endpoints.map((e) => (isReady(e) ? e.zone : undefined)));
  for (const zone of zones.flat()) if (zone) add(given, zone);
  redistribute(zones, moves(shares, given));
  for (const [i, slice] of free.entries()) {
    for (const [j, zone] of (zones[i] ?? []).entries()) {
      setHints(slice, j, zone ? { forZones: [{ name: zone }] } : undefined);
    }
  }
  return undefined;
}

function sharesOf(ratios: ReadonlyMap<string, number>, count: number): Map<string, Share> | undefined {
  const shares = new Map<string, Share>();
  let spare = count;
  for (const [zone, ratio] of ratios) {
    const desired = ratio * count;
    const minimum = Math.ceil(desired / (1 + OVERLOAD));
    shares.set(zone, { minimum, maximum: 0, desired: Math.max(desired, minimum) });
    spare -= minimum;
  }
  if (spare < 0) return undefined;
  for (const share of shares.values()) share.maximum = share.minimum + spare;
  return shares;
}

/** Counts the hints of an unchanged slice. False when some are missing or no longer fit: then it counts nothing. */
function keepHints({ endpoints }: SliceDraft, shares: ReadonlyMap<string, Share>, given: Counts): boolean {
  const own: Counts = new Map();
  for (const { hints } of endpoints.filter(isReady)) {
    const { forZones: zones = [], forNodes = [] }: EndpointHints = hints ?? {};
    if (zones.length === 0 || forNodes.length > 0) return false;
    for (const { name } of zones) add(own, name);
  }
  for (const [zone, n] of own) {
    const share = shares.get(zone);
    if (!share || n + (given.get(zone) ?? 0) > share.maximum) return false;
  }
  for (const [zone, n] of own) add(given, zone, n);
  return true;
}

/** How many endpoints each zone gives away and gets, one at a time from who has most too many to who lacks most. */
function moves(shares: ReadonlyMap<string, Share>, given: Counts): { giving: Counts; receiving: Counts } {
  const surplus: Counts = new Map();
  const deficit: Counts = new Map();
  for (const [zone, { desired }] of shares) {
    const over = (given.get(zone) ?? 0) - desired;
    if (over > 0) surplus.set(zone, over);
    else if (over < 0) deficit.set(zone, -over);
  }
  const giving: Counts = new Map();
  const receiving: Counts = new Map();
  for (;;) {
    const [from, tooMany] = most(surplus);
    const [to, missing] = most(deficit);
    // Half an endpoint is not worth a move, unless the other side has a whole one.
    if (!from || !to || (tooMany < 1 && missing < 1) || tooMany < 0.5 || missing < 0.5) break;
    add(giving, from);
    add(surplus, from, -1);
    add(receiving, to);
    add(deficit, to, -1);
  }
  return { giving, receiving };
}

/** The first in the order of names among equals. */
function most(counts: Counts): [string | undefined, number] {
  let best: [string | undefined, number] = [undefined, 0];
  for (const [zone, n] of [...counts].sort(([a], [b]) => (a < b ? -1 : 1))) if (n > best[1]) best = [zone, n];
  return best;
}

/** `zones` are those of free endpoints, by slice and index. */
function redistribute(
  zones: (string | undefined)[][],
  { giving, receiving }: { giving: Counts; receiving: Counts },
): void {
  for (const list of zones) {
    for (const [i, from] of list.entries()) {
      const [to] = most(receiving);
      if (!from || !to || !giving.get(from)) continue;
      list[i] = to;
      add(giving, from, -1);
      add(receiving, to, -1);
    }
  }
}
