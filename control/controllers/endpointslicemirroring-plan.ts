// Which EndpointSlices mirror an Endpoints object that no controller of ours keeps, and the fewest writes to get
// there. Pure; knows Endpoints and EndpointSlices. Rules of Kubernetes' endpointslicemirroring reconciler.

import { ipFamily } from "../../common/ip.js";
import type {
  Endpoint,
  EndpointAddress,
  EndpointPort,
  EndpointSlice,
  Endpoints,
  EndpointsPort,
  Stored,
} from "../../common/k8s.js";
import { canonicalJson, semanticallyEqual } from "./canonical.js";
import { MANAGED_BY, SERVICE_NAME } from "./endpointslice-plan.js";
import { controllerReference } from "./owners.js";
import { TRIGGER_TIME } from "./service-pods.js";

export const MIRROR_NAME = "endpointslicemirroring-controller.k8s.io";
/** Of each subset so many addresses are mirrored; an EndpointSlice holds no more either. */
export const MAX_MIRRORED = 1000;
const SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror";
const LEADER = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration";

export interface MirrorChanges {
  create: EndpointSlice[];
  update: Stored<EndpointSlice>[];
  delete: Stored<EndpointSlice>[];
  /** Addresses that are none. */
  invalid: number;
  /** Addresses left out because their subset has too many. */
  skipped: number;
}

/** Whether an Endpoints object is to be mirrored, as far as it says so itself. */
export function isMirrored({ metadata }: Stored<Endpoints>): boolean {
  return metadata.labels?.[SKIP_MIRROR] !== "true" && metadata.annotations?.[LEADER] === undefined;
}

/** The slices of one address family and one set of ports: never more than one is kept. */
interface Group {
  addressType: string;
  ports: EndpointPort[];
  endpoints: Endpoint[];
}

/** @param existing The slices that this controller made for the Service of that name. */
export function planMirror(
  endpoints: Stored<Endpoints>,
  existing: readonly Stored<EndpointSlice>[],
): MirrorChanges {
  const { groups, invalid, skipped } = desiredGroups(endpoints);
  const changes: MirrorChanges = { create: [], update: [], delete: [], invalid, skipped };
  const metadata = metadataOf(endpoints);
  const left = new Set(existing);
  const fresh: Group[] = [];
  for (const [key, group] of groups) {
    const own = existing.find((slice) => groupKey(slice.addressType, slice.ports ?? []) === key);
    if (!own) {
      fresh.push(group);
      continue;
    }
    left.delete(own);
    const { labels, annotations = {}, ownerReferences } = own.metadata;
    const isSame =
      semanticallyEqual(sorted(own.endpoints ?? []), group.endpoints) &&
      semanticallyEqual({ labels, annotations, ownerReferences }, metadata);
    if (!isSame) changes.update.push(rewritten(own, metadata, group));
  }
  for (const group of fresh) {
    // Rather change a slice that would go than delete it and make another; the family of a slice is fixed.
    const spare = [...left].find(({ addressType }) => addressType === group.addressType);
    if (spare) {
      left.delete(spare);
      changes.update.push(rewritten(spare, metadata, group));
    } else if (!endpoints.metadata.deletionTimestamp) changes.create.push(newSlice(endpoints, group));
  }
  changes.delete.push(...left);
  return changes;
}

function desiredGroups(endpoints: Stored<Endpoints>) {
  const groups = new Map<string, Group>();
  let invalid = 0;
  let skipped = 0;
  for (const { ports, addresses } of repacked(endpoints)) {
    let taken = 0;
    for (const { address, ready } of addresses) {
      if (taken === MAX_MIRRORED) {
        skipped++;
        continue;
      }
      const family = ipFamily(address.ip);
      if (family === 0) {
        invalid++;
        continue;
      }
      taken++;
      const addressType = `IPv${family}`;
      const key = groupKey(addressType, ports);
      const group = groups.get(key) ?? { addressType, ports, endpoints: [] };
      groups.set(key, group);
      group.endpoints.push(endpointOf(address, ready));
    }
  }
  for (const group of groups.values()) group.endpoints = sorted(group.endpoints);
  return { groups, invalid, skipped };
}

interface Subset {
  ports: EndpointPort[];
  addresses: { address: EndpointAddress; ready: boolean }[];
}

/** One address of one pod, with what the subsets say of its ports. */
interface Collected {
  address: EndpointAddress;
  ports: Map<string, { port: EndpointPort; ready: boolean }>;
}

/**
 * The subsets as they would be written without repetition: each address once for the ports on which it is ready, once
 * for those on which it is not; who is both on one port is not. Ready addresses come first.
 */
function repacked({ subsets = [] }: Stored<Endpoints>): Subset[] {
  const collected = new Map<string, Collected>();
  for (const { addresses = [], notReadyAddresses = [], ports = [] } of subsets) {
    const add = (address: EndpointAddress, ready: boolean) => {
      const key = `${address.ip} ${address.targetRef?.uid ?? ""}`;
      const known: Collected = collected.get(key) ?? { address, ports: new Map() };
      collected.set(key, known);
      // An address may come without any port; that is a set of ports too.
      const keyed = ports.length > 0 ? ports.map((port) => slicePort(port)) : [undefined];
      for (const port of keyed) {
        const text = port ? canonicalJson(port) : "";
        const before = known.ports.get(text)?.ready ?? true;
        known.ports.set(text, { port: port ?? {}, ready: before && ready });
      }
    };
    for (const address of addresses) add(address, true);
    for (const address of notReadyAddresses) add(address, false);
  }
  const result = new Map<string, Subset>();
  for (const ready of [true, false]) {
    for (const { address, ports: all } of collected.values()) {
      const mine = [...all].filter(([, one]) => one.ready === ready).sort(([a], [b]) => (a < b ? -1 : 1));
      if (mine.length === 0) continue;
      const ports = mine.flatMap(([text, { port }]) => (text === "" ? [] : [port]));
      const key = canonicalJson(ports);
      const subset = result.get(key) ?? { ports, addresses: [] };
      result.set(key, subset);
      subset.addresses.push({ address, ready });
    }
  }
  return [...result.values()];
}

function slicePort({ name = "", port, protocol = "TCP", appProtocol }: EndpointsPort): EndpointPort {
  return { name, port, protocol, ...(appProtocol ? { appProtocol } : {}) };
}

function endpointOf({ ip, hostname, nodeName, targetRef }: EndpointAddress, ready: boolean): Endpoint {
  return {
    addresses: [ip],
    conditions: { ready },
    ...(hostname ? { hostname } : {}),
    ...(nodeName ? { nodeName } : {}),
    ...(targetRef ? { targetRef } : {}),
  };
}

function groupKey(addressType: string, ports: readonly EndpointPort[]): string {
  return `${addressType} ${ports.map(canonicalJson).sort().join()}`;
}

/** In an order that does not depend on who wrote them. */
function sorted(endpoints: readonly Endpoint[]): Endpoint[] {
  const keyed = endpoints.map((endpoint) => ({ endpoint, key: canonicalJson(endpoint) }));
  return keyed.sort((a, b) => (a.key < b.key ? -1 : 1)).map(({ endpoint }) => endpoint);
}

/** Labels and annotations go with the slices, except those that speak of the Endpoints object alone. */
function metadataOf(endpoints: Stored<Endpoints>) {
  const { name, labels, annotations } = endpoints.metadata;
  const { [TRIGGER_TIME]: _time, [LAST_APPLIED]: _applied, ...others } = annotations ?? {};
  return {
    labels: { ...labels, [SERVICE_NAME]: name, [MANAGED_BY]: MIRROR_NAME },
    annotations: others,
    ownerReferences: [controllerReference(endpoints)],
  };
}

function rewritten(
  slice: Stored<EndpointSlice>,
  metadata: ReturnType<typeof metadataOf>,
  group: Group,
): Stored<EndpointSlice> {
  return { ...slice, metadata: { ...slice.metadata, ...metadata }, ...group };
}

function newSlice(endpoints: Stored<Endpoints>, group: Group): EndpointSlice {
  const { name, namespace } = endpoints.metadata;
  return {
    apiVersion: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    metadata: {
      generateName: `${name}-`,
      ...(namespace ? { namespace } : {}),
      ...metadataOf(endpoints),
    },
    ...group,
  };
}
