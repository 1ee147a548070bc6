// The service proxy of one node: takes Services and EndpointSlices, keeps the node's iptables rules right.
// Wires tracker, desired ruleset, kernel and clock together; decides nothing about rules itself.

import { networkInterfaces } from "node:os";
import { type EndpointSlice, keyOf, type Service, type Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import type { IptablesDriver } from "../iptables/index.js";
import type { NetNs } from "../kernel/netns.js";
import { RulesetApplier } from "./apply.js";
import { Conntrack } from "./conntrack.js";
import { DesiredRuleset } from "./desired.js";
import { FlushWaiters } from "./flush-waiters.js";
import type { RestoreInput } from "./input.js";
import { createMetrics, type ProxyMetrics } from "./metrics.js";
import type { PortState } from "./model.js";
import { FlushMonitor } from "./monitor.js";
import type { RuleContext } from "./rules/context.js";
import { hasFirewallChain, sentinelRules } from "./rules/fixed.js";
import { type Clock, SyncRunner, systemClock } from "./runner.js";
import { addressKey, changedUdpServices, staleFlows } from "./stale-flows.js";
import { type Change, ChangeTracker } from "./tracker.js";

export interface ServiceProxyOptions {
  /** The host's namespace; rules, sysctls and conntrack of no other are touched. */
  ns: Pick<NetNs, "run" | "sysctl" | "name">;
  iptables: IptablesDriver;
  /** Endpoints with this nodeName are local. */
  nodeName: string;
  /** Addresses of the node, for NodePort flows; those that the namespace has are found anyway. */
  nodeIPs: readonly string[];
  /** Sources inside are pods and keep their address on the way to a ClusterIP. */
  clusterCIDR?: string;
  /** Milliseconds from the end of one sync to the start of the next; after a pause three go at once. Default 1000. */
  minSyncPeriodMs?: number;
  /** Milliseconds between looks after flushed tables, and the longest delay after a failure. Default 30000. */
  syncPeriodMs?: number;
  /** NodePorts on 127.0.0.1 (IPv4); sets route_localnet in the namespace. Default true. */
  localhostNodePorts?: boolean;
  /** Masquerade all traffic to ClusterIPs. Default false. */
  masqueradeAll?: boolean;
  log: Logger;
  /** Default: a registry of its own. */
  metrics?: ProxyMetrics;
  /** For tests. */
  clock?: Clock;
}

/** What else must be known before rules are written: half a list would cut off the other half. */
export type Source = "services" | "endpointslices";

const ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet";
const BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal";
const FULL_SYNC_PERIOD_MS = 3_600_000;
const FIRST_RETRY_MS = 1000;
/** The first full sync, and a Service that is created right after the host's start in its two parts. */
const SYNC_BURST = 3;

export class ServiceProxy {
  readonly #options: ServiceProxyOptions;
  readonly #log: Logger;
  readonly #clock: Clock;
  readonly #metrics: ProxyMetrics;
  readonly #context: RuleContext;
  readonly #tracker: ChangeTracker;
  readonly #desired: DesiredRuleset;
  readonly #applier: RulesetApplier;
  readonly #runner: SyncRunner;
  readonly #monitor: FlushMonitor;
  readonly #waiters = new FlushWaiters();
  readonly #synced = new Set<Source>();
  #started = false;
  #stopped = false;
  #needFull = true;
  #lastFull = Number.NEGATIVE_INFINITY;
  #hourly: unknown;
  #triggerTimes: number[] = [];
  #udpChanges = new Map<string, Change>();
  #conntrack: Conntrack | undefined;
  #routeLocalnetBefore: string | undefined;

  constructor(options: ServiceProxyOptions) {
    const { iptables, log, syncPeriodMs = 30_000, minSyncPeriodMs = 1000 } = options;
    this.#options = options;
    this.#log = log;
    this.#clock = options.clock ?? systemClock;
    this.#metrics = options.metrics ?? createMetrics();
    this.#context = {
      family: iptables.family,
      clusterCIDR: options.clusterCIDR,
      masqueradeAll: options.masqueradeAll ?? false,
      localhostNodePorts: iptables.family === 4 && (options.localhostNodePorts ?? true),
      randomFully: iptables.randomFully,
      tcpBeLiberal: (this.#readSysctl(BE_LIBERAL) ?? "0") !== "0",
    };
    this.#tracker = new ChangeTracker({
      nodeName: options.nodeName,
      family: iptables.family,
      startTime: Date.now(),
    });
    this.#desired = new DesiredRuleset(this.#context);
    this.#applier = new RulesetApplier(iptables, this.#desired, this.#context);
    this.#runner = new SyncRunner({
      work: () => this.#sync(),
      minIntervalMs: minSyncPeriodMs,
      burst: SYNC_BURST,
      retryMs: [Math.min(FIRST_RETRY_MS, syncPeriodMs), syncPeriodMs],
      clock: this.#clock,
    });
    this.#monitor = new FlushMonitor({
      iptables,
      intervalMs: syncPeriodMs,
      sentinels: sentinelRules(this.#context),
      onFlushed: () => this.#requestFull(),
      log,
    });
  }

  /** Add (no old), update, delete (no new); from an informer. */
  serviceChanged(old?: Stored<Service>, now?: Stored<Service>): void {
    if (!this.#tracker.serviceChanged(old, now)) return;
    if (now?.spec?.loadBalancerSourceRanges?.length && now.status?.loadBalancer?.ingress?.length) {
      const why =
        "spec.loadBalancerSourceRanges is not enforced: its load-balancer addresses answer everybody";
      this.#log.warn({ service: keyOf(now) }, why);
    }
    this.#metrics.serviceChanges.total.inc();
    this.#changed();
  }

  /** The same for EndpointSlices. */
  endpointSliceChanged(old?: Stored<EndpointSlice>, now?: Stored<EndpointSlice>): void {
    if (!this.#tracker.endpointSliceChanged(old, now)) return;
    this.#metrics.endpointChanges.total.inc();
    this.#changed();
  }

  /** The source has delivered its first full list. Nothing is programmed before both have. */
  setSynced(source: Source): void {
    if (this.#synced.has(source)) return;
    this.#synced.add(source);
    this.#changed();
  }

  /** From now on the kernel is kept right, as soon as both lists are known. */
  start(): void {
    if (this.#started || this.#stopped) return;
    this.#started = true;
    this.#changed();
  }

  /**
   * Ends syncing; the rules stay, so that traffic goes on, unless `cleanup` asks to remove everything that is ours.
   * @throws RestoreError when the clean-up is refused.
   */
  async stop({ cleanup = false }: { cleanup?: boolean } = {}): Promise<void> {
    this.#stopped = true;
    this.#clock.clearTimeout(this.#hourly);
    await Promise.all([this.#runner.stop(), this.#monitor.stop()]);
    this.#waiters.fail(new Error(`the service proxy of ${this.#options.nodeName} was stopped`));
    this.#conntrack?.close();
    this.#conntrack = undefined;
    if (!cleanup) return;
    await this.#applier.removeEverything();
    if (this.#routeLocalnetBefore !== undefined) {
      this.#options.ns.sysctl(ROUTE_LOCALNET, this.#routeLocalnetBefore);
      this.#routeLocalnetBefore = undefined;
    }
  }

  /**
   * Resolves when what is queued now is in the kernel; waits for both lists if they are not there yet.
   * @throws Error when the proxy is stopped before.
   */
  flush(): Promise<void> {
    if (this.#stopped)
      return Promise.reject(new Error(`the service proxy of ${this.#options.nodeName} was stopped`));
    return this.#waiters.wait();
  }

  /** Metrics in the Prometheus text format. */
  metrics(): Promise<string> {
    return this.#metrics.registry.metrics();
  }

  /** What the proxy knows: every service port with its endpoints, as of the last sync. */
  get ports(): ReadonlyMap<string, PortState> {
    return this.#tracker.ports;
  }

  #changed(): void {
    this.#waiters.queued();
    const { services, endpoints } = this.#tracker.pending;
    this.#metrics.serviceChanges.pending.set(services);
    this.#metrics.endpointChanges.pending.set(endpoints);
    if (!this.#started || this.#synced.size < 2) return;
    this.#metrics.lastQueued.set(Date.now() / 1000);
    this.#runner.request();
  }

  #requestFull(): void {
    this.#needFull = true;
    this.#changed();
  }

  async #sync(): Promise<void> {
    const sequence = this.#waiters.sequence;
    const started = this.#clock.now();
    const { dirty, triggerTimes } = this.#tracker.take();
    this.#triggerTimes.push(...triggerTimes);
    for (const [key, change] of dirty) {
      this.#desired.update(key, change.now);
      this.#noteUdp(key, change);
    }
    this.#metrics.serviceChanges.pending.set(0);
    this.#metrics.endpointChanges.pending.set(0);
    const input = await this.#apply();
    this.#forgetStaleFlows();
    this.#record(started, input);
    this.#waiters.reached(sequence);
  }

  /** Partial while the kernel is believed to be as we left it; a refused partial sync shows that it is not. */
  async #apply(): Promise<RestoreInput> {
    if (!this.#needFull) {
      const started = this.#clock.now();
      try {
        const input = await this.#applier.partial();
        this.#metrics.partialDuration.observe((this.#clock.now() - started) / 1000);
        return input;
      } catch (error) {
        this.#metrics.restoreFailures.inc();
        this.#metrics.partialRestoreFailures.inc();
        this.#needFull = true;
        this.#log.warn({ err: error }, "partial sync failed; doing a full one");
      }
    }
    const started = this.#clock.now();
    try {
      this.#prepareHost();
      // Asked for again while the kernel is being read: then once more.
      this.#needFull = false;
      const input = await this.#applier.full();
      this.#metrics.fullDuration.observe((this.#clock.now() - started) / 1000);
      this.#fullSyncDone();
      return input;
    } catch (error) {
      this.#needFull = true;
      this.#metrics.restoreFailures.inc();
      this.#log.error({ err: error }, "full sync failed; will be tried again");
      throw error;
    }
  }

  #fullSyncDone(): void {
    const first = this.#lastFull === Number.NEGATIVE_INFINITY;
    this.#lastFull = this.#clock.now();
    this.#clock.clearTimeout(this.#hourly);
    this.#hourly = this.#clock.setTimeout(() => this.#requestFull(), FULL_SYNC_PERIOD_MS, true);
    if (!first || this.#stopped) return;
    this.#monitor.start();
    this.#log.info(
      { ports: this.#tracker.ports.size, variant: this.#options.iptables.variant },
      "rules are in place",
    );
  }

  #noteUdp(key: string, change: Change): void {
    const { before, now } = change;
    if ((now ?? before)?.port.protocol !== "udp") return;
    const earlier = this.#udpChanges.get(key);
    this.#udpChanges.set(key, { before: earlier?.before ?? before, now });
  }

  /** Rules first, flows after: a flow that is forgotten too early would be tracked again by the old rules. */
  #forgetStaleFlows(): void {
    if (this.#udpChanges.size === 0) return;
    const changes = this.#udpChanges;
    this.#udpChanges = new Map();
    try {
      this.#conntrack ??= Conntrack.open(this.#options.ns, this.#context.family);
      const flows = this.#conntrack.udpFlows();
      const stale = staleFlows(flows, changedUdpServices(changes.values()), this.#nodeAddresses());
      for (const flow of stale) if (this.#conntrack.delete(flow)) this.#metrics.conntrackDeleted.inc();
      if (stale.length) this.#log.debug({ flows: stale.length }, "forgot UDP flows to removed endpoints");
    } catch (error) {
      // The rules are right already; the flows are tried again with the next sync.
      for (const [key, change] of changes) if (!this.#udpChanges.has(key)) this.#udpChanges.set(key, change);
      this.#log.warn({ err: error }, "could not clear stale UDP conntrack entries");
    }
  }

  #nodeAddresses(): Set<string> {
    const found = this.#options.ns.run(() =>
      Object.values(networkInterfaces()).flatMap((list) => list ?? []),
    );
    return new Set([...this.#options.nodeIPs, ...found.map(({ address }) => address)].map(addressKey));
  }

  #record(started: number, input: RestoreInput): void {
    const metrics = this.#metrics;
    metrics.syncDuration.observe((this.#clock.now() - started) / 1000);
    metrics.lastSync.set(Date.now() / 1000);
    const counts = this.#desired.ruleCounts();
    for (const table of ["filter", "nat"] as const) {
      metrics.rules.set({ table }, counts[table]);
      metrics.rulesSent.set({ table }, input.rules[table]);
    }
    const dropped = this.#desired.droppedCounts();
    metrics.noLocalEndpoints.set({ traffic_policy: "internal" }, dropped.internal);
    metrics.noLocalEndpoints.set({ traffic_policy: "external" }, dropped.external);
    const now = Date.now();
    for (const time of this.#triggerTimes) metrics.programmingDuration.observe((now - time) / 1000);
    this.#triggerTimes = [];
  }

  /** NodePorts on loopback need packets with a loopback source to be routed. */
  #prepareHost(): void {
    if (!hasFirewallChain(this.#context)) return;
    const before = this.#readSysctl(ROUTE_LOCALNET);
    if (before === "1") return;
    try {
      this.#options.ns.sysctl(ROUTE_LOCALNET, 1);
      this.#routeLocalnetBefore ??= before;
    } catch (error) {
      this.#log.warn({ err: error }, `cannot set ${ROUTE_LOCALNET}: NodePorts will not answer on 127.0.0.1`);
    }
  }

  #readSysctl(key: string): string | undefined {
    try {
      return this.#options.ns.sysctl(key);
    } catch (error) {
      this.#log.debug({ err: error }, `cannot read ${key}`);
      return undefined;
    }
  }
}
