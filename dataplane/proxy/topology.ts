// Which of a service port's endpoints traffic may use on this node.
// Pure. KEP-1669 (terminating endpoints), KEP-2433 and KEP-3015 (hints by zone and by node).

import { type Endpoint, externallyAccessible, type PortState } from "./model.js";

/** Where this node is, as far as hints speak of it. */
export interface NodePlace {
  readonly name: string;
  /** Label topology.kubernetes.io/zone; undefined when the node has none. */
  readonly zone: string | undefined;
}

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

/**
 * The nearer part of the ready endpoints, by node hints, else by zone hints. Hints count only when every endpoint has
 * one and at least one names us: half-hinted slices are being rewritten, and nobody must be left without endpoints.
 */
function nearest(ready: readonly Endpoint[], { name, zone }: NodePlace): readonly Endpoint[] {
  const hinted = (hints: (endpoint: Endpoint) => readonly string[], place: string) =>
    ready.every((endpoint) => hints(endpoint).length > 0)
      ? ready.filter((endpoint) => hints(endpoint).includes(place))
      : [];
  const onNode = hinted(({ nodeHints }) => nodeHints, name);
  if (onNode.length > 0) return onNode;
  const inZone = zone === undefined ? [] : hinted(({ zoneHints }) => zoneHints, zone);
  return inZone.length > 0 ? inZone : ready;
}

/** Even a port with externalTrafficPolicy Local needs the cluster set, for clients on the node and in its pods. */
function usesCluster({ port }: PortState): boolean {
  return !port.internalLocal || externallyAccessible(port);
}

function usesLocal({ port }: PortState): boolean {
  return port.internalLocal || port.externalLocal;
}

/** Topology narrows ready endpoints under policy Cluster only: terminating ones are a last resort, wherever they are. */
function clusterEndpoints(endpoints: readonly Endpoint[], place: NodePlace): readonly Endpoint[] {
  const candidates = usable(endpoints);
  return candidates[0]?.ready ? nearest(candidates, place) : candidates;
}

export function selectEndpoints(state: PortState, place: NodePlace): Selection {
  const cluster = usesCluster(state) ? clusterEndpoints(state.endpoints, place) : [];
  const local = usesLocal(state) ? usable(state.endpoints.filter((endpoint) => endpoint.local)) : [];
  const onlyLocal = local.filter((endpoint) => !cluster.includes(endpoint));
  const reachable = onlyLocal.length === 0 ? cluster : [...cluster, ...onlyLocal];
  return { cluster, local, reachable, any: cluster.length > 0 || usable(state.endpoints).length > 0 };
}
