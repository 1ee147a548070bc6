// Gives each Node its podCIDR out of the cluster's. The set of taken ones is pure (CidrSet); the truth is what the
// Nodes say, from which it is rebuilt at start. Knows Nodes.

import { NODES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { Cidr, formatIp } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import { onSight, type Reconciler } from "./reconcile.js";

/** The subnets of one size of a network, and who holds which. */
export class CidrSet {
  readonly #network: Cidr;
  readonly #prefix: number;
  readonly #bits: bigint;
  readonly #count: number;
  /** Index of a subnet → its holder. */
  readonly #taken = new Map<number, string>();
  #next = 0;

  /** @throws RangeError when the subnets do not fit into the network. */
  constructor(network: Cidr, prefix: number) {
    const width = network.family === 4 ? 32 : 128;
    if (!Number.isInteger(prefix) || prefix < network.prefix || prefix > width) {
      throw new RangeError(
        `nodeCIDRMaskSize ${prefix} does not fit clusterCIDR ${network}: allowed are ${network.prefix} to ${width}`,
      );
    }
    if (prefix - network.prefix > 16) {
      throw new RangeError(
        `nodeCIDRMaskSize ${prefix} is too small a piece of clusterCIDR ${network}: at most ${network.prefix + 16}`,
      );
    }
    this.#network = network;
    this.#prefix = prefix;
    this.#bits = BigInt(width - prefix);
    this.#count = 2 ** (prefix - network.prefix);
  }

  get size(): number {
    return this.#count;
  }

  get free(): number {
    return this.#count - this.#taken.size;
  }

  /** A subnet nobody holds, the next after the last one given; undefined when all are taken. */
  allocate(holder: string): Cidr | undefined {
    for (let i = 0; i < this.#count; i++) {
      const index = (this.#next + i) % this.#count;
      if (this.#taken.has(index)) continue;
      this.#taken.set(index, holder);
      this.#next = (index + 1) % this.#count;
      return this.#at(index);
    }
    return undefined;
  }

  /**
   * Notes what a Node has. Returns who else holds a part of it, undefined when nobody does.
   * @throws RangeError when it is outside of the network.
   */
  occupy(cidr: Cidr, holder: string): string | undefined {
    const [first, last] = this.#range(cidr);
    for (let index = first; index <= last; index++) {
      const other = this.#taken.get(index);
      if (other !== undefined && other !== holder) return other;
    }
    for (let index = first; index <= last; index++) this.#taken.set(index, holder);
    return undefined;
  }

  /** Gives back everything of a holder. */
  release(holder: string): void {
    for (const [index, other] of this.#taken) if (other === holder) this.#taken.delete(index);
  }

  #at(index: number): Cidr {
    const base = this.#network.base + (BigInt(index) << this.#bits);
    return Cidr.parse(`${formatIp(base, this.#network.family)}/${this.#prefix}`);
  }

  #range(cidr: Cidr): [number, number] {
    if (cidr.family !== this.#network.family || !this.#network.contains(cidr)) {
      throw new RangeError(`podCIDR ${cidr} is outside of clusterCIDR ${this.#network}`);
    }
    const first = Number((cidr.base - this.#network.base) >> this.#bits);
    const last = Number((cidr.base + cidr.size - 1n - this.#network.base) >> this.#bits);
    return [first, last];
  }
}

/** Prefix of a Node's IPv6 subnet, as --node-cidr-mask-size-ipv6 has it by default. */
const NODE_PREFIX_IPV6 = 64;

/** One set for each of the cluster's networks, which are one or one of each family. @throws RangeError */
export function cidrSets(clusterCIDRs: readonly string[], nodeCIDRMaskSize: number): CidrSet[] {
  const networks = clusterCIDRs.map((text) => Cidr.parse(text));
  if (networks.length === 0 || networks.length > new Set(networks.map(({ family }) => family)).size) {
    const text = "there must be one, or one IPv4 and one IPv6";
    throw new RangeError(`clusterCIDRs ${clusterCIDRs.join(",") || '""'} cannot be used: ${text}`);
  }
  return networks.map(
    (network) => new CidrSet(network, network.family === 4 ? nodeCIDRMaskSize : NODE_PREFIX_IPV6),
  );
}

/** The podCIDRs a Node has. */
function podCIDRsOf(node: Stored<Node>): string[] {
  const { podCIDR, podCIDRs } = node.spec ?? {};
  if (podCIDRs && podCIDRs.length > 0) return podCIDRs;
  return podCIDR ? [podCIDR] : [];
}

export class NodeIpamController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #nodes: Informer<Node>;
  readonly #sets: CidrSet[];
  readonly #queue: WorkQueue;
  readonly #granted = new Map<string, { uid: string; podCIDRs: string[] }>();
  /** Nodes that got nothing because nothing was left. */
  readonly #hungry = new Set<string>();
  /** Nodes whose podCIDR was found wrong, with what was said about it: once is enough. */
  readonly #complained = new Map<string, string>();

  /** @throws RangeError when clusterCIDRs and nodeCIDRMaskSize do not go together. */
  constructor(
    context: ControllerContext,
    queue: WorkQueue,
    options: { clusterCIDRs: readonly string[]; nodeCIDRMaskSize: number },
  ) {
    this.#context = context;
    this.#recorder = context.events.recorder("cidrAllocator");
    this.#nodes = context.informers.get(NODES);
    this.#sets = cidrSets(options.clusterCIDRs, options.nodeCIDRMaskSize);
    this.#queue = queue;
  }

  watch(): void {
    // All that are there are noted before the queue starts: a Node without must never get what another one holds.
    this.#nodes.subscribe({
      ...onSight((node) => {
        if (podCIDRsOf(node).length === 0) this.#queue.add(node.metadata.name);
        else this.#occupy(node);
      }),
      delete: (node) => this.#released(node.metadata.name),
    });
  }

  #released(name: string): void {
    // A Node of the same name may be there again already, with the same podCIDR.
    const present = this.#nodes.get(name);
    for (const set of this.#sets) set.release(name);
    this.#granted.delete(name);
    this.#hungry.delete(name);
    this.#complained.delete(name);
    if (present) this.#occupy(present);
    for (const waiting of this.#hungry) this.#queue.add(waiting);
  }

  #occupy(node: Stored<Node>): void {
    const { name } = node.metadata;
    for (const [index, text] of podCIDRsOf(node).entries()) {
      const problem = this.#tryOccupy(index, text, name);
      if (!problem || this.#complained.get(name) === problem) continue;
      this.#complained.set(name, problem);
      this.#context.log.error({ node: name, podCIDR: text }, problem);
      this.#recorder.event(node, "Warning", "CIDRAssignmentFailed", problem);
    }
  }

  #tryOccupy(index: number, text: string, name: string): string | undefined {
    try {
      const other = this.#sets[index]?.occupy(Cidr.parse(text), name);
      return other === undefined ? undefined : `podCIDR ${text} of node ${name} is held by node ${other}`;
    } catch (error) {
      if (error instanceof RangeError) return error.message;
      throw error;
    }
  }

  async reconcile(name: string): Promise<void> {
    const node = this.#nodes.get(name);
    if (!node || podCIDRsOf(node).length > 0) return;
    const podCIDRs = this.#grant(node);
    if (!podCIDRs) {
      this.#hungry.add(name);
      this.#recorder.event(
        node,
        "Normal",
        "CIDRNotAvailable",
        `Node ${name} status is now: CIDRNotAvailable`,
      );
      return;
    }
    this.#hungry.delete(name);
    const patch = { metadata: { uid: node.metadata.uid }, spec: { podCIDR: podCIDRs[0], podCIDRs } };
    // When the Node is gone, the event of that gives the subnet back; after any other failure it gets the same one.
    await this.#context.client.patch(NODES, name, "merge", patch);
  }

  /** The same subnets for the same Node however often it asks: the cache may lag behind what was written. */
  #grant(node: Stored<Node>): string[] | undefined {
    const { name, uid } = node.metadata;
    const granted = this.#granted.get(name);
    if (granted?.uid === uid) return granted.podCIDRs;
    const cidrs = this.#sets.map((set) => set.allocate(name));
    if (cidrs.includes(undefined)) {
      for (const set of this.#sets) set.release(name);
      return undefined;
    }
    const podCIDRs = cidrs.map(String);
    this.#granted.set(name, { uid, podCIDRs });
    return podCIDRs;
  }
}
