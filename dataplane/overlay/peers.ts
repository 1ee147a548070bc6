// Which tunnels a host should have in one address family, given all Nodes. Pure.

import type { Cidr } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";
import { type Lease, LeaseError, leaseOf } from "./lease.js";

/** The host that asks; everything in it is of the family that it asks for. */
export interface Self {
  nodeName: string;
  publicIP: string;
  podCIDR: Cidr;
  vtepMAC: string;
  /** The whole pod network. */
  network: Cidr;
}

export interface DesiredPeers {
  /** One tunnel each, oldest Node first. */
  peers: Lease[];
  /** Why a Node has no tunnel, or why this host must not have any: sentences for people. */
  problems: string[];
  /** Set when the conflict is this host's own fault: it came later than the Node it collides with. */
  refusal?: string;
}

/**
 * One entry for each other Node that has announced a usable lease. Of two Nodes that claim the same public IP, MAC or
 * block the older keeps it: a newcomer must not be able to take over somebody's traffic.
 */
export function desiredPeers(nodes: readonly Stored<Node>[], self: Self): DesiredPeers {
  const problems: string[] = [];
  const peers: Lease[] = [];
  const accepted = new Claims();
  let refusal: string | undefined;
  const own: Lease = {
    node: self.nodeName,
    podCIDR: self.podCIDR,
    vtepIP: self.podCIDR.network,
    vtepMAC: self.vtepMAC,
    publicIP: self.publicIP,
  };
  for (const node of byAge(nodes, self.nodeName)) {
    const isSelf = node.metadata.name === self.nodeName;
    let lease: Lease | undefined;
    try {
      lease = isSelf ? own : leaseOf(node, self.podCIDR.family);
    } catch (error) {
      if (!(error instanceof LeaseError)) throw error;
      problems.push(error.message);
      continue;
    }
    if (!lease) continue;
    const problem = outside(lease, self.network) ?? accepted.conflict(lease);
    if (problem === undefined) {
      accepted.add(lease);
      if (!isSelf) peers.push(lease);
    } else {
      problems.push(problem);
      if (isSelf) refusal = problem;
    }
  }
  return { peers, problems, ...(refusal !== undefined && { refusal }) };
}

// All hosts of a process get the same list of Nodes: it is put in order once.
const ordered = new WeakMap<readonly Stored<Node>[], readonly Stored<Node>[]>();

/** Oldest first; this host itself is there even when its Node is not in the list yet: then it is the newest. */
function byAge(nodes: readonly Stored<Node>[], self: string): readonly Stored<Node>[] {
  let sorted = ordered.get(nodes);
  if (!sorted) {
    sorted = nodes.toSorted(
      (a, b) =>
        compare(a.metadata.creationTimestamp, b.metadata.creationTimestamp) ||
        compare(a.metadata.name, b.metadata.name),
    );
    ordered.set(nodes, sorted);
  }
  if (sorted.some(({ metadata }) => metadata.name === self)) return sorted;
  const metadata = { name: self, uid: "", resourceVersion: "", creationTimestamp: "" };
  return [...sorted, { apiVersion: "v1", kind: "Node", metadata }];
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Why a block cannot be part of the network; undefined when it can. */
export function outside(lease: Pick<Lease, "node" | "podCIDR">, network: Cidr): string | undefined {
  if (network.contains(lease.podCIDR)) return undefined;
  return `Node ${lease.node}: podCIDR ${lease.podCIDR} is not inside the pod network ${network}`;
}

/** What the older Nodes have, by what must be unique. */
class Claims {
  readonly #publicIP = new Map<string, Lease>();
  readonly #vtepMAC = new Map<string, Lease>();
  readonly #podCIDR = new Map<string, Lease>();
  /** Lengths of the blocks: nearly always one. */
  readonly #prefixes = new Set<number>();

  add(lease: Lease): void {
    this.#publicIP.set(lease.publicIP, lease);
    this.#vtepMAC.set(lease.vtepMAC, lease);
    this.#podCIDR.set(String(lease.podCIDR), lease);
    this.#prefixes.add(lease.podCIDR.prefix);
  }

  /** Why the lease cannot be accepted; undefined when it can. */
  conflict(lease: Lease): string | undefined {
    const { node, publicIP, vtepMAC, podCIDR } = lease;
    const because = (other: Lease, shared: string) =>
      `Node ${node} has the same ${shared} as the older Node ${other.node}: delete one of the two Nodes`;
    const ip = this.#publicIP.get(publicIP);
    if (ip) return because(ip, `public IP ${publicIP}`);
    const mac = this.#vtepMAC.get(vtepMAC);
    if (mac) return because(mac, `VTEP MAC ${vtepMAC}`);
    const block = this.#overlapping(podCIDR);
    if (block) return because(block, `podCIDR ${podCIDR} (it has ${block.podCIDR})`);
    return undefined;
  }

  /** Blocks of one length overlap only when they are the same. */
  #overlapping(podCIDR: Cidr): Lease | undefined {
    const uniform = this.#prefixes.size === 1 && this.#prefixes.has(podCIDR.prefix);
    if (uniform) return this.#podCIDR.get(String(podCIDR));
    return [...this.#podCIDR.values()].find((other) => other.podCIDR.overlaps(podCIDR));
  }
}
