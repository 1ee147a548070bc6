// All kinds that the API serves: for the controllers that look at everything. Knows names of kinds, nothing of them.

import {
  CLUSTER_ROLE_BINDINGS,
  CLUSTER_ROLES,
  CONFIG_MAPS,
  CONTROLLER_REVISIONS,
  CRON_JOBS,
  DAEMON_SETS,
  DEPLOYMENTS,
  ENDPOINT_SLICES,
  ENDPOINTS,
  EVENTS,
  HORIZONTAL_POD_AUTOSCALERS,
  INGRESSES,
  JOBS,
  LEASES,
  LIMIT_RANGES,
  NAMESPACES,
  NODES,
  PERSISTENT_VOLUME_CLAIMS,
  PERSISTENT_VOLUMES,
  POD_DISRUPTION_BUDGETS,
  PODS,
  REPLICA_SETS,
  REPLICATION_CONTROLLERS,
  RESOURCE_QUOTAS,
  type Resource,
  ROLE_BINDINGS,
  ROLES,
  SECRETS,
  SERVICE_ACCOUNTS,
  SERVICES,
  STATEFUL_SETS,
} from "../../common/client.js";

/** Owners before what they own, so that a namespace is emptied from the top. */
export const SERVED: readonly Resource[] = [
  HORIZONTAL_POD_AUTOSCALERS,
  CRON_JOBS,
  JOBS,
  DEPLOYMENTS,
  REPLICA_SETS,
  REPLICATION_CONTROLLERS,
  STATEFUL_SETS,
  DAEMON_SETS,
  CONTROLLER_REVISIONS,
  PODS,
  SERVICES,
  ENDPOINT_SLICES,
  ENDPOINTS,
  POD_DISRUPTION_BUDGETS,
  PERSISTENT_VOLUME_CLAIMS,
  INGRESSES,
  LIMIT_RANGES,
  RESOURCE_QUOTAS,
  ROLE_BINDINGS,
  ROLES,
  CONFIG_MAPS,
  SECRETS,
  SERVICE_ACCOUNTS,
  LEASES,
  EVENTS,
  NAMESPACES,
  NODES,
  PERSISTENT_VOLUMES,
  CLUSTER_ROLE_BINDINGS,
  CLUSTER_ROLES,
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
