// Which of a service port's endpoints traffic may use on this node.
// Pure. KEP-1669 (terminating endpoints); topology hints will narrow the cluster set here.

import { type Endpoint, externallyAccessible, type PortState } from "./model.js";

export interface Selection {
  /** For traffic under policy Cluster; empty when no traffic of this port takes that policy. */
  readonly cluster: readonly Endpoint[];
  /** For traffic under policy Local: those on this node. */
  readonly local: readonly Endpoint[];
  /** Union of the two: each needs a chain of its own. */
  readonly reachable: readonly Endpoint[];
  /** Whether there is a usable endpoint anywhere, reachable from here or not. */
  readonly any: boolean;
}

/** Ready endpoints; when there is none, those that still serve while they terminate. */
function usable(endpoints: readonly Endpoint[]): readonly Endpoint[] {
  const ready = endpoints.filter((endpoint) => endpoint.ready);
  if (ready.length > 0) return ready;
  return endpoints.filter((endpoint) => endpoint.serving && endpoint.terminating);
}

/** Even a port with externalTrafficPolicy Local needs the cluster set, for clients on the node and in its pods. */
function usesCluster({ port }: PortState): boolean {
  return !port.internalLocal || externallyAccessible(port);
}

function usesLocal({ port }: PortState): boolean {
  return port.internalLocal || port.externalLocal;
}

export function selectEndpoints(state: PortState): Selection {
  const cluster = usesCluster(state) ? usable(state.endpoints) : [];
  const local = usesLocal(state) ? usable(state.endpoints.filter((endpoint) => endpoint.local)) : [];
  const onlyLocal = local.filter((endpoint) => !cluster.includes(endpoint));
  const reachable = onlyLocal.length === 0 ? cluster : [...cluster, ...onlyLocal];
  return { cluster, local, reachable, any: cluster.length > 0 || usable(state.endpoints).length > 0 };
}
