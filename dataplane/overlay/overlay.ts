// The overlay of one host: lease, device, rules, peers, kept as they should be for as long as it runs. Knows Nodes as
// data and tells what it announces through a callback; which API there is, is the caller's business.

import { Cidr, ipFamily } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import type { IptablesDriver } from "../iptables/index.js";
import type { NetNs } from "../kernel/netns.js";
import { type Link, type LinkEvent, RtNetlink } from "../kernel/rtnetlink.js";
import { DEVICE, ensureDevice } from "./device.js";
import { changeEntries, fingerprint, reconcileEntries, removePeer } from "./entries.js";
import { annotationsFor, type Lease, LeaseError, podCIDROf, vtepMACOf } from "./lease.js";
import { desiredPeers, outside, type Self } from "./peers.js";
import { ensureRules, removeRules } from "./rules.js";
import { removeSubnetEnv, writeSubnetEnv } from "./subnet-env.js";

export interface OverlayOptions {
  ns: NetNs;
  nodeName: string;
  /** The interface to the other hosts. */
  uplink: string;
  /** Its address; followed when the uplink gets another one. */
  publicIP: string;
  /** The whole pod network: clusterCIDR. */
  network: string;
  /** The host's /run. */
  runDir: string;
  iptables: IptablesDriver;
  /** Patches the own Node: annotations and condition NetworkUnavailable=False, reason FlannelIsUp. */
  publish: (annotations: Record<string, string>, networkUnavailable: false) => Promise<void>;
  log: Logger;
  /** Milliseconds between looks at rules and kernel tables. Default 5,000, as flannel's. */
  checkPeriodMs?: number;
}

/** The lease cannot work as it is: somebody has to change the cluster's configuration or a Node. */
export class OverlayRefusal extends Error {
  override readonly name = "OverlayRefusal";
}

export type OverlayState =
  | { phase: "waiting"; message: string }
  | { phase: "ready" }
  | { phase: "refused" | "failing"; message: string };

const RETRY_MIN_MS = 1_000;
const RETRY_MAX_MS = 30_000;
const CHECK_PERIOD_MS = 5_000;
/** A thousand hosts look less often each, so that looking (a process each time) never becomes the work. */
const CHECK_MS_PER_PEER = 100;

export class Overlay {
  /** Resolves when the overlay has first worked; rejects with {@link OverlayRefusal} when it refuses before that. */
  readonly ready: Promise<void>;
  readonly #o: OverlayOptions;
  readonly #network: Cidr;
  readonly #rt: RtNetlink;
  #resolveReady!: () => void;
  #rejectReady!: (error: Error) => void;
  #publicIP: string;
  #mac: string | undefined;
  #node: Stored<Node> | undefined;
  #nodes: readonly Stored<Node>[] = [];
  #peers: readonly Lease[] = [];
  #problems: readonly string[] = [];
  #published: { text: string; seen: string; at: number } | undefined;
  /** What the kernel was last brought to, see {@link fingerprint}. */
  #applied: { self: Self; peers: string } | undefined;
  #state: OverlayState = { phase: "waiting", message: "the overlay has not been started" };
  #uplinkIndex = 0;
  #deviceIndex = 0;

  #started = false;
  #stopped = false;
  #running: Promise<void> | undefined;
  #dirty = false;
  /** The kernel may have changed, not only what we know of the Nodes. */
  #lookAtKernel = true;
  #checkRules = true;
  /** The block that the rules were last written for. */
  #rulesFor: string | undefined;
  #failures = 0;
  #timer: NodeJS.Timeout | undefined;
  #retry: NodeJS.Timeout | undefined;
  #unsubscribe: (() => void) | undefined;

  /** @throws RangeError for a network or public IP that is none; SyscallError when no netlink socket can be had. */
  constructor(options: OverlayOptions) {
    this.#o = options;
    this.#network = Cidr.parse(options.network);
    if (this.#network.family !== 4) throw new RangeError(`network ${options.network} must be IPv4`);
    this.#publicIP = checkIPv4(options.publicIP);
    this.#rt = RtNetlink.open(options.ns);
    this.ready = new Promise((resolve, reject) => {
      this.#resolveReady = resolve;
      this.#rejectReady = reject;
    });
    // Whoever does not wait for it sees the state and the log.
    this.ready.catch(() => {});
  }

  get state(): OverlayState {
    return this.#state;
  }

  /** The tunnels that are meant to be in the kernel. */
  get peers(): readonly Lease[] {
    return this.#peers;
  }

  get publicIP(): string {
    return this.#publicIP;
  }

  /** The host's own Node, whenever it changes. */
  setOwnNode(node: Stored<Node>): void {
    this.#node = node;
    this.#trigger();
  }

  /** All Nodes as they are now, this host's among them or not. */
  nodesChanged(nodes: readonly Stored<Node>[]): void {
    this.#nodes = nodes;
    this.#trigger();
  }

  start(): void {
    if (this.#started) return;
    this.#started = true;
    this.#unsubscribe = this.#rt.onLink((event) => this.#onLink(event));
    this.#schedule();
    this.#triggerFull();
  }

  /** Resolves when everything known now is in the kernel, or the attempt has failed (see {@link state}). */
  async flush(): Promise<void> {
    this.#triggerFull();
    while (this.#running) await this.#running;
  }

  /** Stops looking after the overlay; with `cleanup` also takes it out of the kernel. Idempotent. */
  async stop(options: { cleanup?: boolean } = {}): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#retry);
    this.#unsubscribe?.();
    while (this.#running) await this.#running;
    try {
      if (options.cleanup) await this.#cleanup();
    } finally {
      this.#rt.close();
    }
  }

  async #cleanup(): Promise<void> {
    const device = await this.#rt.getLink(DEVICE);
    if (device) {
      for (const peer of this.#peers) await removePeer(this.#rt, device, peer);
      await this.#rt.deleteLink(device.index);
    }
    await removeRules(this.#o.iptables);
    removeSubnetEnv(this.#o.runDir);
  }

  #schedule(): void {
    const { checkPeriodMs = CHECK_PERIOD_MS } = this.#o;
    const period =
      Math.max(checkPeriodMs, this.#peers.length * CHECK_MS_PER_PEER) * (0.9 + Math.random() / 5);
    this.#timer = setTimeout(() => {
      this.#checkRules = true;
      this.#triggerFull();
      if (!this.#stopped) this.#schedule();
    }, period).unref();
  }

  #onLink(event: LinkEvent): void {
    const mine =
      event.type === "lost" ||
      event.index === this.#uplinkIndex ||
      event.index === this.#deviceIndex ||
      ("name" in event && (event.name === DEVICE || event.name === this.#o.uplink));
    if (mine) this.#triggerFull();
  }

  #triggerFull(): void {
    this.#lookAtKernel = true;
    this.#trigger();
  }

  /** Many changes at once make one pass; a change during a pass makes another one after it. */
  #trigger(): void {
    if (!this.#started || this.#stopped) return;
    this.#dirty = true;
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
      if (this.#dirty) this.#trigger();
    });
  }

  async #run(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#dirty && !this.#stopped) {
      this.#dirty = false;
      try {
        await this.#sync();
        this.#failures = 0;
      } catch (error) {
        this.#failed(error as Error);
      }
    }
  }

  #failed(error: Error): void {
    const { log } = this.#o;
    this.#applied = undefined;
    const refused = error instanceof OverlayRefusal;
    const news =
      this.#state.phase === "ready" || !("message" in this.#state) || this.#state.message !== error.message;
    this.#state = { phase: refused ? "refused" : "failing", message: error.message };
    if (refused) {
      // Nothing to retry: only another Node object can help, and that triggers by itself.
      if (news) log.error({ err: error }, "overlay refuses to work");
      this.#rejectReady(error);
      return;
    }
    const delay = Math.min(RETRY_MIN_MS * 2 ** this.#failures++, RETRY_MAX_MS);
    if (news) log.warn({ err: error, retryMs: delay }, "overlay could not be set up, will retry");
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#triggerFull(), delay).unref();
  }

  /** One pass from the state as it is to the state as it should be. */
  async #sync(): Promise<void> {
    const looking = this.#lookAtKernel;
    this.#lookAtKernel = false;
    const self = looking || !this.#applied ? await this.#self() : this.#selfAsApplied(this.#applied.self);
    if (!self) return;
    const { peers, problems, refusal } = desiredPeers(this.#nodes, self);
    this.#report(problems);
    if (refusal !== undefined) throw new OverlayRefusal(refusal);
    const wanted = peers.map(fingerprint).join("\n");
    // Most news of Nodes are heartbeats of many hosts: they must cost nothing in the kernel.
    const known = !looking && self === this.#applied?.self;
    if (!known || wanted !== this.#applied?.peers) {
      this.#applied = undefined;
      await (known ? this.#applyPeers(peers) : this.#apply(self, peers));
      this.#applied = { self, peers: wanted };
    }
    await this.#announce(self);
    this.#state = { phase: "ready" };
    this.#resolveReady();
  }

  /** The same host as at the last pass, or undefined when its Node now says something else about it. */
  #selfAsApplied(self: Self): Self | undefined {
    if (this.#node && podCIDROf(this.#node) === String(self.podCIDR)) return self;
    this.#triggerFull();
    return undefined;
  }

  async #apply(self: Self, peers: readonly Lease[]): Promise<void> {
    const { log, iptables, runDir } = this.#o;
    const device = await this.#ensureDevice(self);
    if (this.#checkRules || String(self.podCIDR) !== this.#rulesFor) {
      const repaired = await ensureRules(iptables, self);
      if (repaired && this.#rulesFor === String(self.podCIDR))
        log.warn("overlay rules were missing: put back");
      this.#rulesFor = String(self.podCIDR);
      this.#checkRules = false;
    }
    writeSubnetEnv(runDir, { network: self.network, podCIDR: self.podCIDR, mtu: device.mtu });
    this.#peers = peers;
    const { added, removed } = await reconcileEntries(this.#rt, device, peers);
    if (added + removed > 0) log.info({ peers: peers.length, added, removed }, "overlay entries reconciled");
  }

  /** Only the Nodes have changed since the last pass: no link has said that the kernel has. */
  async #applyPeers(peers: readonly Lease[]): Promise<void> {
    const before = this.#peers;
    this.#peers = peers;
    const device = { index: this.#deviceIndex, name: DEVICE };
    const { added, removed } = await changeEntries(this.#rt, device, { before, after: peers });
    this.#o.log.info({ peers: peers.length, added, removed }, "overlay entries changed");
  }

  /** What this host is; undefined while it has no block. Throws {@link OverlayRefusal}. */
  async #self(): Promise<Self | undefined> {
    const { nodeName } = this.#o;
    const node = this.#node;
    const block = node && podCIDROf(node);
    if (!node || !block) {
      const message = node ? `Node ${nodeName} has no podCIDR yet` : `Node ${nodeName} is not known yet`;
      this.#state = { phase: "waiting", message };
      return undefined;
    }
    const podCIDR = parseBlock(nodeName, block);
    const problem = outside({ node: nodeName, podCIDR }, this.#network);
    if (problem) throw new OverlayRefusal(problem);
    this.#requireBridgeFilter();
    await this.#followUplink();
    this.#mac ??= this.#announcedMac(node) ?? (await this.#rt.getLink(DEVICE))?.mac;
    // A random MAC is only known when the device is there, hence "": it can collide with nobody's.
    return { nodeName, publicIP: this.#publicIP, podCIDR, vtepMAC: this.#mac ?? "", network: this.#network };
  }

  #announcedMac(node: Stored<Node>): string | undefined {
    try {
      return vtepMACOf(node);
    } catch (error) {
      if (!(error instanceof LeaseError)) throw error;
      this.#o.log.warn({ err: error }, "own announcement is not usable: replacing it");
      return undefined;
    }
  }

  /** Without it the replies between two pods of one bridge go past conntrack and are never translated back. */
  #requireBridgeFilter(): void {
    const key = "net/bridge/bridge-nf-call-iptables";
    try {
      if (this.#o.ns.sysctl(key) !== "1") this.#o.ns.sysctl(key, 1);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      throw new OverlayRefusal(`/proc/sys/${key} does not exist: load the kernel module br_netfilter`, {
        cause: error,
      });
    }
  }

  /** Takes the uplink's present address when the one we know has left it. */
  async #followUplink(): Promise<void> {
    const { uplink, log } = this.#o;
    const link = await this.#rt.getLink(uplink);
    if (!link) throw new Error(`the uplink ${uplink} is missing in ${this.#rt.ns.name}`);
    this.#uplinkIndex = link.index;
    const addresses = (await this.#rt.listAddresses(link.index)).filter(({ family }) => family === 4);
    if (addresses.some(({ ip }) => ip === this.#publicIP)) return;
    const next = addresses.find(({ scope }) => scope === 0);
    if (!next) throw new Error(`the uplink ${uplink} has no IPv4 address`);
    log.warn({ from: this.#publicIP, to: next.ip }, "the uplink's address changed");
    this.#publicIP = next.ip;
  }

  async #ensureDevice(self: Self): Promise<Link> {
    const before = this.#deviceIndex;
    const device = await ensureDevice(this.#rt, {
      uplink: this.#o.uplink,
      publicIP: self.publicIP,
      podCIDR: self.podCIDR,
      network: self.network,
      ...(this.#mac !== undefined && { mac: this.#mac }),
    });
    this.#mac = device.mac;
    this.#deviceIndex = device.index;
    if (before !== 0 && before !== device.index) this.#o.log.warn({ device: DEVICE }, "device was made anew");
    return device;
  }

  /** Once for each difference between the Node and what it should say. */
  async #announce(self: Self): Promise<void> {
    const node = this.#node;
    if (!node) return;
    const wanted = annotationsFor({ publicIP: self.publicIP, vtepMAC: this.#mac ?? self.vtepMAC });
    const text = JSON.stringify(wanted);
    const seen = `${node.metadata.uid}/${node.metadata.resourceVersion}`;
    const last = this.#published?.text === text ? this.#published : undefined;
    // The Node that we know may be older than our own patch: only a newer one can contradict it. And when somebody
    // keeps undoing it, the periodic look puts it back, not every change: else two controllers fight at full speed.
    if (last && (last.seen === seen || performance.now() - last.at < RETRY_MIN_MS)) return;
    const annotations = node.metadata.annotations ?? {};
    const said = Object.entries(wanted).every(([key, value]) => annotations[key] === value);
    const condition = node.status?.conditions?.find(({ type }) => type === "NetworkUnavailable");
    if (said && condition?.status === "False") return;
    await this.#o.publish(wanted, false);
    this.#published = { text, seen, at: performance.now() };
  }

  #report(problems: readonly string[]): void {
    for (const problem of problems) {
      if (!this.#problems.includes(problem)) this.#o.log.error({ problem }, "a Node cannot join the overlay");
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

function checkIPv4(text: string): string {
  if (ipFamily(text) !== 4)
    throw new RangeError(`publicIP must be an IPv4 address, not ${JSON.stringify(text)}`);
  return text;
}
