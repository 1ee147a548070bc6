// The overlay of one host in one address family: lease, device, rules and tunnels, brought to what they should be when
// asked. Knows what it did last; when to look again, and what is announced, is overlay.ts's business.

import { Cidr, type IpFamily, ipFamily } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import type { IptablesDriver } from "../iptables/index.js";
import type { NetNs } from "../kernel/netns.js";
import type { LinkEvent, RtNetlink } from "../kernel/rtnetlink.js";
import { DEVICE, ensureDevice } from "./device.js";
import { changeEntries, fingerprint, reconcileEntries, removePeer } from "./entries.js";
import { type Lease, LeaseError, podCIDROf, vtepMACOf } from "./lease.js";
import { desiredPeers, outside, type Self } from "./peers.js";
import { ensureRules, removeRules } from "./rules.js";

/** What a host has of one address family. */
export interface OverlayStack {
  /** The uplink's address; followed when the uplink gets another one. */
  publicIP: string;
  /** The whole pod network: clusterCIDR. */
  network: string;
  /** The driver of this family. */
  iptables: IptablesDriver;
}

/** The lease cannot work as it is: somebody has to change the cluster's configuration or a Node. */
export class OverlayRefusal extends Error {
  override readonly name = "OverlayRefusal";
}

export interface FamilyHost {
  ns: NetNs;
  rt: RtNetlink;
  nodeName: string;
  uplink: string;
  log: Logger;
}

/** /proc/sys: without it the replies between two pods of one bridge go past conntrack and are never translated back. */
const BRIDGE_FILTER: Record<IpFamily, string> = {
  4: "net/bridge/bridge-nf-call-iptables",
  6: "net/bridge/bridge-nf-call-ip6tables",
};

export class FamilyOverlay {
  readonly family: IpFamily;
  readonly network: Cidr;
  readonly #host: FamilyHost;
  readonly #iptables: IptablesDriver;
  readonly #device: string;
  #publicIP: string;
  #mac: string | undefined;
  #mtu = 0;
  #uplinkIndex = 0;
  #deviceIndex = 0;
  #peers: readonly Lease[] = [];
  #problems: readonly string[] = [];
  #checkRules = true;
  /** The block that the rules were last written for. */
  #rulesFor: string | undefined;
  /** `known`: the tunnels that are there, when the kernel need not be asked; see {@link fingerprint}. */
  #planned: { self: Self; peers: readonly Lease[]; known: string | undefined } | undefined;
  /** What the kernel was last brought to. */
  #applied: { self: Self; peers: string } | undefined;

  /** @throws RangeError for a network or public IP that is none, or when the stack's parts are of two families. */
  constructor(stack: OverlayStack, host: FamilyHost) {
    this.#host = host;
    this.#iptables = stack.iptables;
    this.network = Cidr.parse(stack.network);
    this.family = this.network.family;
    if (ipFamily(stack.publicIP) !== this.family) {
      throw new RangeError(
        `publicIP must be an IPv${this.family} address as the network ${this.network} is, not ${JSON.stringify(stack.publicIP)}`,
      );
    }
    if (stack.iptables.family !== this.family) {
      throw new RangeError(`network ${this.network} needs iptables of IPv${this.family}`);
    }
    this.#publicIP = stack.publicIP;
    this.#device = DEVICE[this.family];
  }

  /** How many tunnels are meant to be in the kernel. */
  get tunnels(): number {
    return this.#peers.length;
  }

  /** Of the device as it was last seen. */
  get mtu(): number {
    return this.#mtu;
  }

  /** What the host announces of this family, once the device is there. */
  get vtep(): { publicIP: string; vtepMAC: string } {
    return { publicIP: this.#publicIP, vtepMAC: this.#mac ?? "" };
  }

  /** The host's block and the network it is in; undefined before {@link prepare} has worked. */
  get subnet(): { network: Cidr; podCIDR: Cidr } | undefined {
    return this.#planned?.self;
  }

  /** Whether news of the kernel are about this family's interfaces. */
  concerns(event: LinkEvent): boolean {
    return (
      event.type === "lost" ||
      event.index === this.#uplinkIndex ||
      event.index === this.#deviceIndex ||
      ("name" in event && (event.name === this.#device || event.name === this.#host.uplink))
    );
  }

  /** The next look at the kernel is at the rules too. */
  recheckRules(): void {
    this.#checkRules = true;
  }

  /**
   * Device and rules for the Node's block, as far as they are not known to be there. Returns whether the kernel was
   * looked at; the tunnels come with {@link applyPeers}. @throws OverlayRefusal, NetlinkError, RestoreError, CommandError.
   */
  async prepare(facts: {
    node: Stored<Node>;
    nodes: readonly Stored<Node>[];
    looking: boolean;
  }): Promise<boolean> {
    const last = facts.looking ? undefined : this.#applied;
    const known = last !== undefined && podCIDROf(facts.node, this.family) === String(last.self.podCIDR);
    // Until this pass has worked nothing is known.
    this.#applied = undefined;
    this.#planned = undefined;
    const self = known ? last.self : await this.#self(facts.node);
    const { peers, problems, refusal } = desiredPeers(facts.nodes, self);
    this.#report(problems);
    if (refusal !== undefined) throw new OverlayRefusal(refusal);
    if (!known) {
      await this.#ensureDevice(self);
      await this.#ensureRules(self);
    }
    this.#planned = { self, peers, known: known ? last.peers : undefined };
    return !known;
  }

  /** The tunnels that the last {@link prepare} decided on. Most news of Nodes are heartbeats: they cost nothing. */
  async applyPeers(): Promise<void> {
    if (!this.#planned) return;
    const { self, peers, known } = this.#planned;
    const wanted = peers.map(fingerprint).join("\n");
    if (wanted !== known) {
      const before = this.#peers;
      this.#peers = peers;
      const { rt, log } = this.#host;
      const device = { index: this.#deviceIndex, name: this.#device };
      // When only the Nodes have changed since the last pass, no link has said that the kernel has.
      const { added, removed } =
        known === undefined
          ? await reconcileEntries(rt, device, peers)
          : await changeEntries(rt, device, { before, after: peers });
      if (added + removed > 0)
        log.info({ device: device.name, peers: peers.length, added, removed }, "overlay entries changed");
    }
    this.#applied = { self, peers: wanted };
  }

  /** Takes device, entries and rules out of the kernel. */
  async cleanup(): Promise<void> {
    const { rt } = this.#host;
    const device = await rt.getLink(this.#device);
    if (device) {
      for (const peer of this.#peers) await removePeer(rt, device, peer);
      await rt.deleteLink(device.index);
    }
    await removeRules(this.#iptables);
  }

  /** What this host is. Throws {@link OverlayRefusal}. */
  async #self(node: Stored<Node>): Promise<Self> {
    const { nodeName, rt } = this.#host;
    const podCIDR = parseBlock(nodeName, podCIDROf(node, this.family) ?? "");
    const problem = outside({ node: nodeName, podCIDR }, this.network);
    if (problem) throw new OverlayRefusal(problem);
    this.#requireBridgeFilter();
    await this.#followUplink();
    this.#mac ??= this.#announcedMac(node) ?? (await rt.getLink(this.#device))?.mac;
    // A random MAC is only known when the device is there, hence "": it can collide with nobody's.
    return { nodeName, publicIP: this.#publicIP, podCIDR, vtepMAC: this.#mac ?? "", network: this.network };
  }

  #announcedMac(node: Stored<Node>): string | undefined {
    try {
      return vtepMACOf(node, this.family);
    } catch (error) {
      if (!(error instanceof LeaseError)) throw error;
      this.#host.log.warn({ err: error }, "own announcement is not usable: replacing it");
      return undefined;
    }
  }

  #requireBridgeFilter(): void {
    const { ns } = this.#host;
    const key = BRIDGE_FILTER[this.family];
    try {
      if (ns.sysctl(key) !== "1") ns.sysctl(key, 1);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      throw new OverlayRefusal(`/proc/sys/${key} does not exist: load the kernel module br_netfilter`, {
        cause: error,
      });
    }
  }

  /** Takes the uplink's present address when the one we know has left it. */
  async #followUplink(): Promise<void> {
    const { uplink, log, rt } = this.#host;
    const link = await rt.getLink(uplink);
    if (!link) throw new Error(`the uplink ${uplink} is missing in ${rt.ns.name}`);
    this.#uplinkIndex = link.index;
    const addresses = (await rt.listAddresses(link.index)).filter(({ family }) => family === this.family);
    if (addresses.some(({ ip }) => ip === this.#publicIP)) return;
    const next = addresses.find(({ scope }) => scope === 0);
    if (!next) throw new Error(`the uplink ${uplink} has no IPv${this.family} address`);
    log.warn({ from: this.#publicIP, to: next.ip }, "the uplink's address changed");
    this.#publicIP = next.ip;
  }

  async #ensureDevice(self: Self): Promise<void> {
    const { uplink, log, rt } = this.#host;
    const before = this.#deviceIndex;
    const device = await ensureDevice(rt, {
      uplink,
      publicIP: self.publicIP,
      podCIDR: self.podCIDR,
      network: self.network,
      ...(this.#mac !== undefined && { mac: this.#mac }),
    });
    this.#mac = device.mac;
    this.#mtu = device.mtu;
    this.#deviceIndex = device.index;
    if (before !== 0 && before !== device.index) log.warn({ device: this.#device }, "device was made anew");
  }

  async #ensureRules(self: Self): Promise<void> {
    const block = String(self.podCIDR);
    if (!this.#checkRules && block === this.#rulesFor) return;
    const repaired = await ensureRules(this.#iptables, self);
    if (repaired && this.#rulesFor === block) this.#host.log.warn("overlay rules were missing: put back");
    this.#rulesFor = block;
    this.#checkRules = false;
  }

  #report(problems: readonly string[]): void {
    for (const problem of problems) {
      if (!this.#problems.includes(problem))
        this.#host.log.error({ problem }, "a Node cannot join the overlay");
    }
    this.#problems = problems;
  }
}

function parseBlock(nodeName: string, block: string): Cidr {
  try {
    return Cidr.parse(block);
  } catch (error) {
    throw new OverlayRefusal(`Node ${nodeName}: spec.podCIDR: ${(error as Error).message}`, { cause: error });
  }
}
