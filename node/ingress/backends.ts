// From a backend to the addresses that answer for it: a Service's port, its slices, their ready endpoints. Pure.

import type { EndpointSlice, Service, ServicePort, Stored } from "../../common/k8s.js";
import type { Backend } from "./routes.js";

export interface Target {
  /** An address, or a name for a Service of type ExternalName. */
  host: string;
  port: number;
}

function portOf({ spec }: Stored<Service>, port: Backend["port"]): ServicePort | undefined {
  return spec?.ports?.find((one) => (typeof port === "number" ? one.port === port : one.name === port));
}

/**
 * Where requests for the backend may go: the ready endpoints, and when there is none those that still serve while they
 * terminate, as kube-proxy takes them. Empty when there is no such Service, port or endpoint.
 */
export function targetsOf(
  backend: Backend,
  service: Stored<Service> | undefined,
  slices: readonly Stored<EndpointSlice>[],
): Target[] {
  if (!service) return [];
  const port = portOf(service, backend.port);
  if (service.spec?.type === "ExternalName") {
    const number = port?.port ?? (typeof backend.port === "number" ? backend.port : undefined);
    const { externalName } = service.spec;
    return externalName && number ? [{ host: externalName.replace(/\.$/, ""), port: number }] : [];
  }
  if (!port) return [];
  // Of a Service of two families one has all the pods already.
  const family = service.spec?.ipFamilies?.[0] ?? "IPv4";
  const ready = new Map<string, Target>();
  const terminating = new Map<string, Target>();
  for (const slice of slices) {
    if (slice.addressType !== family) continue;
    const number = slice.ports?.find((one) => (one.name ?? "") === (port.name ?? ""))?.port;
    if (number === undefined) continue;
    for (const { addresses, conditions } of slice.endpoints ?? []) {
      const [host] = addresses;
      if (!host) continue;
      const target = { host, port: number };
      if (conditions?.ready !== false) ready.set(host, target);
      else if (conditions.serving && conditions.terminating) terminating.set(host, target);
    }
  }
  return [...(ready.size > 0 ? ready : terminating).values()];
}
