// What shall happen to traffic of one service port: which chains it has and what each kind of destination does.
// Pure; everything that writes rules for a port asks here, so that the answers agree.

import { externallyAccessible, type PortState, type ServicePort } from "../model.js";
import { type PortChains, portChains } from "../names.js";
import { type NodePlace, type Selection, selectEndpoints } from "../topology.js";

/** Where traffic ends that has nowhere to go, and the comment that tells why. */
export interface DeadEnd {
  readonly target: "REJECT" | "DROP";
  readonly comment: string;
}

export interface Decision {
  readonly port: ServicePort;
  readonly selection: Selection;
  readonly chains: PortChains;
  /** The chain with the Cluster policy's endpoints is needed. */
  readonly hasClusterChain: boolean;
  readonly hasLocalChain: boolean;
  /** Chain for traffic to the ClusterIP; undefined when it has none of its endpoints. */
  readonly internal: string | undefined;
  /** Chain for external traffic once its source is dealt with. */
  readonly external: string | undefined;
  /** The EXT chain is needed. */
  readonly hasExternalChain: boolean;
  /** The FW chain is needed: it stands between the load-balancer addresses and EXT. */
  readonly hasSourceRanges: boolean;
  /** Set when traffic to the ClusterIP must end in the filter table. */
  readonly internalDeadEnd: DeadEnd | undefined;
  /** The same for external IPs, load-balancer IPs and node ports. */
  readonly externalDeadEnd: DeadEnd | undefined;
}

export function decide(state: PortState, place: NodePlace): Decision {
  const { port } = state;
  const selection = selectEndpoints(state, place);
  const chains = portChains(port);
  const hasClusterChain = selection.cluster.length > 0;
  const hasLocalChain = selection.local.length > 0;
  const chainOf = (local: boolean): string | undefined => {
    if (local) return hasLocalChain ? chains.svl : undefined;
    return hasClusterChain ? chains.svc : undefined;
  };
  const internal = chainOf(port.internalLocal);
  const external = chainOf(port.externalLocal);
  return {
    port,
    selection,
    chains,
    hasClusterChain,
    hasLocalChain,
    internal,
    external,
    hasExternalChain: selection.any && externallyAccessible(port),
    hasSourceRanges: selection.any && port.loadBalancerIPs.length > 0 && port.sourceRanges.length > 0,
    internalDeadEnd: internal ? undefined : deadEnd(port, selection.any),
    externalDeadEnd: external ? undefined : deadEnd(port, selection.any),
  };
}

/**
 * REJECT tells clients at once that nobody serves. With endpoints on other nodes only, DROP makes a load balancer
 * try another node instead of handing an error on.
 */
function deadEnd(port: ServicePort, elsewhere: boolean): DeadEnd {
  return elsewhere
    ? { target: "DROP", comment: `${port.id} has no local endpoints` }
    : { target: "REJECT", comment: `${port.id} has no endpoints` };
}
