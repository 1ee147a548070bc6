// All kinds that the API serves: for the controllers that look at everything. Knows names of kinds, nothing of them.

import {
  CONFIG_MAPS,
  DEPLOYMENTS,
  ENDPOINT_SLICES,
  ENDPOINTS,
  EVENTS,
  LEASES,
  NAMESPACES,
  NODES,
  PODS,
  REPLICA_SETS,
  type Resource,
  SECRETS,
  SERVICE_ACCOUNTS,
  SERVICES,
} from "../../common/client.js";

/** Owners before what they own, so that a namespace is emptied from the top. */
export const SERVED: readonly Resource[] = [
  DEPLOYMENTS,
  REPLICA_SETS,
  PODS,
  SERVICES,
  ENDPOINT_SLICES,
  ENDPOINTS,
  CONFIG_MAPS,
  SECRETS,
  SERVICE_ACCOUNTS,
  LEASES,
  EVENTS,
  NAMESPACES,
  NODES,
];

/** "pods" or "deployments.apps": how kubectl and messages name a resource. */
export function resourceName(r: Resource): string {
  return r.group ? `${r.plural}.${r.group}` : r.plural;
}

const byKind = new Map(SERVED.map((r) => [`${r.group}/${r.kind}`, r]));

/** The resource an owner reference speaks of, in whatever version; undefined when it is not served. */
export function resourceOf(reference: { apiVersion: string; kind: string }): Resource | undefined {
  const slash = reference.apiVersion.indexOf("/");
  const group = slash < 0 ? "" : reference.apiVersion.slice(0, slash);
  return byKind.get(`${group}/${reference.kind}`);
}
