// From EndpointSlices to the endpoints of each port of a Service.
// Pure; rules of the EndpointSlice API (discovery/v1) for absent fields, of kube-proxy for what is ignored.

import type { EndpointHints, EndpointSlice, Stored } from "../../common/k8s.js";
import { addressOf } from "./addresses.js";
import type { Endpoint } from "./model.js";

const SERVICE_NAME_LABEL = "kubernetes.io/service-name";
const TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time";
/** Slices with one of these are not for this proxy. */
const FOREIGN_LABELS = ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"];

/** Endpoints by `portName/protocol`, as one slice or a whole Service has them. */
export type EndpointsByPort = ReadonlyMap<string, readonly Endpoint[]>;

export function portKey(portName: string, protocol: string): string {
  return `${portName}/${protocol.toLowerCase()}`;
}

/** `namespace/name` of the Service that a slice belongs to; undefined when the proxy has no business with it. */
export function serviceOfSlice(slice: Stored<EndpointSlice>, family: 4 | 6): string | undefined {
  const { labels, namespace } = slice.metadata;
  const name = labels?.[SERVICE_NAME_LABEL];
  if (!name || slice.addressType !== `IPv${family}`) return undefined;
  if (FOREIGN_LABELS.some((label) => labels?.[label] !== undefined)) return undefined;
  return `${namespace}/${name}`;
}

/** When the change that led to this version of the slice happened, in milliseconds since 1970. */
export function triggerTime(slice: Stored<EndpointSlice>): number | undefined {
  const time = Date.parse(slice.metadata.annotations?.[TRIGGER_TIME] ?? "");
  return Number.isNaN(time) ? undefined : time;
}

/** Shared: most endpoints have none. */
const NO_HINTS: readonly string[] = [];

function hintNames(hints: readonly { readonly name: string }[] | undefined): readonly string[] {
  return hints?.length ? hints.map(({ name }) => name) : NO_HINTS;
}

/** Only the first address of an endpoint counts; ports without a name field or number are ignored. */
export function sliceEndpoints(
  slice: Stored<EndpointSlice>,
  family: 4 | 6,
  nodeName: string,
): EndpointsByPort {
  const out = new Map<string, Endpoint[]>();
  for (const { name, port, protocol = "TCP" } of slice.ports ?? []) {
    if (name === undefined || name === null || !port) continue;
    const list: Endpoint[] = [];
    for (const { addresses, conditions, hints, nodeName: node } of slice.endpoints ?? []) {
      const ip = addressOf(family, addresses[0]);
      if (ip === undefined) continue;
      list.push({
        text: family === 6 ? `[${ip}]:${port}` : `${ip}:${port}`,
        ip,
        port,
        local: node === nodeName,
        ready: conditions?.ready ?? true,
        serving: conditions?.serving ?? true,
        terminating: conditions?.terminating ?? false,
        zoneHints: hintNames(hints?.forZones),
        nodeHints: hintNames((hints as EndpointHints | undefined)?.forNodes),
      });
    }
    out.set(portKey(name, protocol), list);
  }
  return out;
}

/** One list a port over all slices: no address twice (a local one wins), sorted, so that order means no change. */
export function mergeSlices(slices: Iterable<EndpointsByPort>): EndpointsByPort {
  const ports = new Map<string, Map<string, Endpoint>>();
  for (const slice of slices) {
    for (const [key, endpoints] of slice) {
      const merged = ports.get(key) ?? new Map<string, Endpoint>();
      ports.set(key, merged);
      for (const endpoint of endpoints) {
        if (!merged.get(endpoint.text)?.local) merged.set(endpoint.text, endpoint);
      }
    }
  }
  const byText = (a: Endpoint, b: Endpoint) => (a.text < b.text ? -1 : 1);
  return new Map([...ports].map(([key, merged]) => [key, [...merged.values()].sort(byText)]));
}
