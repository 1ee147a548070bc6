// Which EndpointSlices a Service should have and the fewest writes to get there. Pure; knows Services, Pods and
// EndpointSlices. Rules of Kubernetes' endpointslice reconciler.

import { ipFamily } from "../../common/ip.js";
import type { Endpoint, EndpointPort, EndpointSlice, Pod, Service, Stored } from "../../common/k8s.js";
import { semanticallyEqual } from "./canonical.js";
import { hintSlices } from "./endpointslice-hints.js";
import { controllerReference } from "./owners.js";
import { isPodReady, podAddresses } from "./pod-state.js";
import { endpointHostname, isEndpoint, TRIGGER_TIME, targetPortOf } from "./service-pods.js";
import { timestamp } from "./time.js";
import type { CpuRatios, SliceDraft } from "./topology-hints.js";

export const MAX_ENDPOINTS = 100;
export const MANAGED_BY = "endpointslice.kubernetes.io/managed-by";
export const CONTROLLER_NAME = "endpointslice-controller.k8s.io";
export const SERVICE_NAME = "kubernetes.io/service-name";
export const HEADLESS = "service.kubernetes.io/headless";

export interface SliceChanges {
  create: EndpointSlice[];
  update: Stored<EndpointSlice>[];
  delete: Stored<EndpointSlice>[];
  /** By family: why a Service with topology-mode Auto gets no hints; undefined when there is nothing to say. */
  hintProblems: Map<string, string | undefined>;
}

export interface SliceInput {
  service: Stored<Service>;
  pods: readonly Stored<Pod>[];
  /** Slices of this Service that this controller manages. */
  existing: readonly Stored<EndpointSlice>[];
  /** The zone of a node ("" when it has none); undefined when the node is not known. */
  zoneOf(nodeName: string): string | undefined;
  /** For the annotation last-change-trigger-time, milliseconds since the epoch. */
  triggerTime: number | undefined;
  /** Asked only for a Service with topology-mode Auto. */
  cpuRatios(): CpuRatios;
}

/** Endpoints with the same ports share slices. */
interface Group {
  ports: EndpointPort[];
  endpoints: Map<string, Endpoint>;
}

/** The fewest changes: what is right stays untouched, what remains is filled before anything new is made. */
export function planSlices(input: SliceInput): SliceChanges {
  const changes: SliceChanges = { create: [], update: [], delete: [], hintProblems: new Map() };
  const families = input.service.spec?.ipFamilies ?? ["IPv4"];
  for (const family of families) {
    const existing = input.existing.filter((slice) => slice.addressType === family);
    const groups = desiredGroups(input, family === "IPv6" ? 6 : 4);
    if (groups.size === 0) groups.set("[]", { ports: [], endpoints: new Map() });
    planFamily(changes, input, { family, groups, existing });
  }
  changes.delete.push(...input.existing.filter((slice) => !families.includes(slice.addressType)));
  return changes;
}

function desiredGroups(input: SliceInput, family: 4 | 6): Map<string, Group> {
  const groups = new Map<string, Group>();
  for (const pod of input.pods) {
    const endpoint = endpointOf(input, pod, family);
    if (!endpoint) continue;
    const ports = portsOf(input.service, pod);
    const key = portKey(ports);
    let group = groups.get(key);
    if (!group) {
      group = { ports, endpoints: new Map() };
      groups.set(key, group);
    }
    group.endpoints.set(identityOf(endpoint), endpoint);
  }
  return groups;
}

function endpointOf(input: SliceInput, pod: Stored<Pod>, family: 4 | 6): Endpoint | undefined {
  const { service } = input;
  if (!isEndpoint(pod, true)) return undefined;
  const addresses = podAddresses(pod).filter((address) => ipFamily(address) === family);
  if (addresses.length === 0) return undefined;
  const publishNotReady = service.spec?.publishNotReadyAddresses ?? false;
  const nodeName = pod.spec?.nodeName;
  const zone = nodeName === undefined ? undefined : input.zoneOf(nodeName);
  // Of a node that is gone; it comes back in when the node does.
  if (nodeName !== undefined && zone === undefined && !publishNotReady) return undefined;
  const serving = isPodReady(pod);
  const terminating = pod.metadata.deletionTimestamp !== undefined;
  const ready = publishNotReady || (serving && !terminating);
  const hostname = endpointHostname(pod, service);
  const { name, namespace, uid } = pod.metadata;
  return {
    addresses: addresses.slice(0, 1),
    conditions: { ready, serving, terminating },
    targetRef: { kind: "Pod", ...(namespace ? { namespace } : {}), name, uid },
    ...(nodeName ? { nodeName } : {}),
    ...(zone ? { zone } : {}),
    ...(hostname ? { hostname } : {}),
  };
}

function portsOf(service: Stored<Service>, pod: Stored<Pod>): EndpointPort[] {
  const ports: EndpointPort[] = [];
  for (const servicePort of service.spec?.ports ?? []) {
    const port = targetPortOf(pod, servicePort);
    if (port === undefined) continue;
    const { name = "", protocol = "TCP", appProtocol } = servicePort;
    ports.push({ name, port, protocol, ...(appProtocol ? { appProtocol } : {}) });
  }
  return ports;
}

/** The same for the same set of ports. */
function portKey(ports: readonly EndpointPort[] | undefined): string {
  const parts = (ports ?? []).map(({ name = "", port, protocol = "TCP", appProtocol = "" }) =>
    [name, port, protocol, appProtocol].join("/"),
  );
  return JSON.stringify(parts.sort());
}

function identityOf({ addresses, hostname, targetRef }: Endpoint): string {
  return `${addresses.join(",")}|${hostname ?? ""}|${targetRef?.namespace}/${targetRef?.name}/${targetRef?.uid}`;
}

/** A slice that stays, with what it will hold; `changed` when that differs from what it holds now. */
interface Draft extends SliceDraft {
  slice: Stored<EndpointSlice>;
}

interface Family {
  family: string;
  groups: ReadonlyMap<string, Group>;
  existing: readonly Stored<EndpointSlice>[];
}

function planFamily(changes: SliceChanges, input: SliceInput, { family, groups, existing }: Family): void {
  const labels = sliceLabels(input.service);
  const spare: Stored<EndpointSlice>[] = existing.filter((slice) => !groups.has(portKey(slice.ports)));
  const drafts: (Draft & { ports: EndpointPort[] })[] = [];
  const fresh: (SliceDraft & { ports: EndpointPort[] })[] = [];
  for (const [key, { ports, endpoints }] of groups) {
    const own = existing.filter((slice) => portKey(slice.ports) === key);
    const { kept, emptied, left } = keepInPlace(endpoints, own);
    const rest = fillUp(kept, left);
    while (rest.length > 0) fresh.push({ ports, endpoints: rest.splice(0, MAX_ENDPOINTS), changed: true });
    // A Service without endpoints keeps one empty slice, so that "none" can be told from "not known yet".
    const needsPlaceholder = endpoints.size === 0;
    const placeholder = needsPlaceholder ? emptied.shift() : undefined;
    if (placeholder) kept.push(placeholder);
    else if (needsPlaceholder) fresh.push({ ports, endpoints: [], changed: true });
    spare.push(...emptied.map(({ slice }) => slice));
    drafts.push(...kept.map((draft) => ({ ...draft, ports })));
  }
  // Rather change a slice that would go than delete it and make another.
  for (const draft of fresh.splice(0, Math.min(fresh.length, spare.length))) {
    const slice = spare.shift();
    if (slice) drafts.push({ slice, ...draft });
  }
  changes.hintProblems.set(family, hintSlices(input.service, [...fresh, ...drafts], input.cpuRatios));
  for (const { slice, ports, endpoints, changed } of drafts) {
    if (!changed && semanticallyEqual(slice.metadata.labels ?? {}, labels)) continue;
    const annotations = changed ? withTrigger(slice.metadata.annotations, input.triggerTime) : undefined;
    const metadata = { ...slice.metadata, labels, ...(annotations ? { annotations } : {}) };
    changes.update.push({ ...slice, metadata, ports: changed ? ports : (slice.ports ?? ports), endpoints });
  }
  changes.create.push(...fresh.map((draft) => newSlice(input, family, labels, draft)));
  changes.delete.push(...spare);
}

/**
 * Takes from each slice what is no longer wanted and renews what changed; `left` has no place yet. Hints are settled
 * when all endpoints have their place: until then those of unchanged endpoints stay.
 */
function keepInPlace(wantedEndpoints: ReadonlyMap<string, Endpoint>, own: readonly Stored<EndpointSlice>[]) {
  const left = new Map(wantedEndpoints);
  const kept: Draft[] = [];
  const emptied: Draft[] = [];
  for (const slice of own) {
    const endpoints: Endpoint[] = [];
    let changed = false;
    for (const endpoint of slice.endpoints ?? []) {
      const identity = identityOf(endpoint);
      const wanted = left.get(identity);
      if (!wanted || endpoints.length === MAX_ENDPOINTS) {
        changed = true;
        continue;
      }
      left.delete(identity);
      const { hints, ...others } = endpoint;
      const isSame = semanticallyEqual(wanted, others);
      if (!isSame) changed = true;
      endpoints.push(isSame ? endpoint : wanted);
    }
    (endpoints.length > 0 ? kept : emptied).push({ slice, endpoints, changed });
  }
  return { kept, emptied, left: [...left.values()] };
}

/**
 * Puts endpoints into slices with room: first into those that are written anyway; then what would not fill a new
 * slice into the fullest untouched one that takes all of it. Returns what needs new slices.
 */
function fillUp(kept: Draft[], left: Endpoint[]): Endpoint[] {
  const rest = [...left];
  for (const draft of kept) {
    if (!draft.changed) continue;
    draft.endpoints.push(...rest.splice(0, MAX_ENDPOINTS - draft.endpoints.length));
  }
  const tail = rest.length % MAX_ENDPOINTS;
  const target = tail > 0 ? roomiest(kept, tail) : undefined;
  if (target) {
    target.endpoints.push(...rest.splice(rest.length - tail));
    target.changed = true;
  }
  return rest;
}

/** The fullest untouched slice that still takes `count` more. */
function roomiest(kept: readonly Draft[], count: number): Draft | undefined {
  let best: Draft | undefined;
  for (const draft of kept) {
    if (draft.changed || draft.endpoints.length + count > MAX_ENDPOINTS) continue;
    if (!best || draft.endpoints.length > best.endpoints.length) best = draft;
  }
  return best;
}

/** The Service's labels go with its slices, except those with a meaning of their own there. */
function sliceLabels(service: Stored<Service>): Record<string, string> {
  const { [HEADLESS]: _headless, ...labels } = service.metadata.labels ?? {};
  return {
    ...labels,
    [SERVICE_NAME]: service.metadata.name,
    [MANAGED_BY]: CONTROLLER_NAME,
    ...(service.spec?.clusterIP === "None" ? { [HEADLESS]: "" } : {}),
  };
}

/** Annotations with the trigger time, or without one when nothing that has a time changed. */
export function withTrigger(
  annotations: Record<string, string> | undefined,
  triggerTime: number | undefined,
): Record<string, string> {
  const { [TRIGGER_TIME]: _old, ...others } = annotations ?? {};
  return triggerTime === undefined ? others : { ...others, [TRIGGER_TIME]: timestamp(triggerTime) };
}

function newSlice(
  { service, triggerTime }: SliceInput,
  addressType: string,
  labels: Record<string, string>,
  { ports, endpoints }: { ports: EndpointPort[]; endpoints: Endpoint[] },
): EndpointSlice {
  const { name, namespace } = service.metadata;
  return {
    apiVersion: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    metadata: {
      generateName: `${name}-`,
      ...(namespace ? { namespace } : {}),
      labels,
      ...(triggerTime === undefined ? {} : { annotations: withTrigger({}, triggerTime) }),
      ownerReferences: [controllerReference(service)],
    },
    addressType,
    ports,
    endpoints,
  };
}
