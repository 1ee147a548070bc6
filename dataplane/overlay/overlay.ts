// The overlay of one host in one address family or both, kept as it should be for as long as it runs. Knows Nodes as
// data and tells what it announces through a callback; which API there is, is the caller's business.

import type { Node, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import type { NetNs } from "../kernel/netns.js";
import { RtNetlink } from "../kernel/rtnetlink.js";
import { FamilyOverlay, OverlayRefusal, type OverlayStack } from "./family.js";
import { annotationsFor, podCIDROf } from "./lease.js";
import { removeSubnetEnv, writeSubnetEnv } from "./subnet-env.js";

export interface OverlayOptions {
  ns: NetNs;
  nodeName: string;
  /** The interface to the other hosts. */
  uplink: string;
  /** One a family at most. Those that the Node has a block of (spec.podCIDRs) are in use. */
  stacks: readonly OverlayStack[];
  /** The host's /run. */
  runDir: string;
  /** Patches the own Node: annotations and condition NetworkUnavailable=False, reason FlannelIsUp. */
  publish: (annotations: Record<string, string>, networkUnavailable: false) => Promise<void>;
  log: Logger;
  /** Milliseconds between looks at rules and kernel tables. Default 5,000, as flannel's. */
  checkPeriodMs?: number;
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
  readonly #families: readonly FamilyOverlay[];
  readonly #rt: RtNetlink;
  #resolveReady!: () => void;
  #rejectReady!: (error: Error) => void;
  #node: Stored<Node> | undefined;
  /** Undefined until told: entries that a former life has left carry traffic, and are not taken for too many. */
  #nodes: readonly Stored<Node>[] | undefined;
  #published: { text: string; seen: string; at: number } | undefined;
  #state: OverlayState = { phase: "waiting", message: "the overlay has not been started" };

  #started = false;
  #stopped = false;
  #running: Promise<void> | undefined;
  #dirty = false;
  /** The kernel may have changed, not only what we know of the Nodes. */
  #lookAtKernel = true;
  #failures = 0;
  #timer: NodeJS.Timeout | undefined;
  #retry: NodeJS.Timeout | undefined;
  #unsubscribe: (() => void) | undefined;

  /** @throws RangeError for a network or public IP that is none; SyscallError when no netlink socket can be had. */
  constructor(options: OverlayOptions) {
    this.#o = options;
    this.#rt = RtNetlink.open(options.ns);
    this.#families = options.stacks.map((stack) => new FamilyOverlay(stack, { ...options, rt: this.#rt }));
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
    this.#unsubscribe = this.#rt.onLink((event) => {
      if (this.#families.some((one) => one.concerns(event))) this.#triggerFull();
    });
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
    for (const one of this.#families) await one.cleanup();
    removeSubnetEnv(this.#o.runDir);
  }

  #schedule(): void {
    const { checkPeriodMs = CHECK_PERIOD_MS } = this.#o;
    const tunnels = this.#families.reduce((sum, one) => sum + one.tunnels, 0);
    const period = Math.max(checkPeriodMs, tunnels * CHECK_MS_PER_PEER) * (0.9 + Math.random() / 5);
    this.#timer = setTimeout(() => {
      for (const one of this.#families) one.recheckRules();
      this.#triggerFull();
      if (!this.#stopped) this.#schedule();
    }, period).unref();
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
    const node = this.#node;
    // Those that come during the pass are the next one's.
    const nodes = this.#nodes;
    const families = this.#families.filter(({ family }) => node && podCIDROf(node, family));
    if (!node || families.length === 0) {
      const { nodeName } = this.#o;
      const message = node ? `Node ${nodeName} has no podCIDR yet` : `Node ${nodeName} is not known yet`;
      this.#state = { phase: "waiting", message };
      return;
    }
    const failures: Error[] = [];
    // What fails in one family must not keep the other one's packets from flowing.
    const each = async (work: (one: FamilyOverlay) => Promise<void>) => {
      for (const one of families) await work(one).catch((error: Error) => failures.push(error));
    };
    let looked = false;
    await each(async (one) => {
      if (await one.prepare({ node, nodes: nodes ?? [], looking })) looked = true;
    });
    if (looked && failures.length === 0) {
      const subnets = families.flatMap(({ subnet }) => subnet ?? []);
      writeSubnetEnv(this.#o.runDir, { subnets, mtu: Math.min(...families.map(({ mtu }) => mtu)) });
    }
    if (nodes) await each((one) => one.applyPeers());
    if (failures.length > 0) throw theFailure(failures);
    await this.#announce(node, families);
    this.#state = { phase: "ready" };
    this.#resolveReady();
  }

  /** Once for each difference between the Node and what it should say. */
  async #announce(node: Stored<Node>, families: readonly FamilyOverlay[]): Promise<void> {
    const wanted = annotationsFor(families.map(({ vtep }) => vtep));
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
}

/** One error for all: a refusal before what may pass by itself. */
function theFailure(failures: readonly Error[]): Error {
  const [first] = failures;
  const refusal = failures.find((failure) => failure instanceof OverlayRefusal);
  if (refusal) return refusal;
  if (first && failures.length === 1) return first;
  return new AggregateError(failures, failures.map(({ message }) => message).join("; "));
}
