// The service proxy of one node: takes Services and EndpointSlices, keeps the node's iptables rules right.
// Wires tracker, desired ruleset, kernel and clock together; decides nothing about rules itself.

import { networkInterfaces } from "node:os";
import { isDeepStrictEqual } from "node:util";
import type { EndpointSlice, Node, Service, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import { RestoreError } from "../iptables/index.js";
import { RulesetApplier, removeProxyRules } from "./apply.js";
import { applyConntrackSysctls, TCP_BE_LIBERAL } from "./conntrack-sysctls.js";
import { DesiredRuleset } from "./desired.js";
import { FlushWaiters } from "./flush-waiters.js";
import { type ProxyHealth, type ServiceHealthCheck, ServiceHealthChecks, SyncHealth } from "./health.js";
import type { RestoreInput } from "./input.js";
import { createMetrics, type FamilyLabel, type ProxyMetrics, showPacketCounters } from "./metrics.js";
import type { PortState } from "./model.js";
import { FlushMonitor } from "./monitor.js";
import { PACKET_COUNTERS } from "./names.js";
import { type NodePortAddresses, nodePortAddresses } from "./node-port-addresses.js";
import { nodeFacts, ruleContext, type ServiceProxyOptions, UNKNOWN_NODE } from "./options.js";
import type { RuleContext } from "./rules/context.js";
import { sentinelRules } from "./rules/fixed.js";
import { type Clock, SyncRunner, systemClock } from "./runner.js";
import { ChangeTracker } from "./tracker.js";
import { UdpFlows } from "./udp-flows.js";

/** What else must be known before rules are written: half a list would cut off the other half. */
export type Source = "services" | "endpointslices";

const ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet";
const FULL_SYNC_PERIOD_MS = 3_600_000;
const FIRST_RETRY_MS = 1000;
/**
 * What comes right after a host's start: the first full sync, the cluster's DNS (its Service, then one endpoint after
 * the other), and a Service of the user's in its two parts.
 */
export const SYNC_BURST = 6;
/** With more endpoints than this, rules about single ones carry no comments (kube-proxy's large-cluster mode). */
const LARGE_CLUSTER_ENDPOINTS = 1000;

export class ServiceProxy {
  readonly #options: ServiceProxyOptions;
  readonly #log: Logger;
  readonly #clock: Clock;
  readonly #metrics: ProxyMetrics;
  readonly #family: FamilyLabel;
  readonly #nodePorts: NodePortAddresses;
  readonly #tracker: ChangeTracker;
  readonly #desired: DesiredRuleset;
  readonly #applier: RulesetApplier;
  readonly #runner: SyncRunner;
  readonly #monitor: FlushMonitor;
  readonly #udpFlows: UdpFlows;
  readonly #health: SyncHealth;
  readonly #healthChecks = new ServiceHealthChecks();
  readonly #waiters = new FlushWaiters();
  readonly #synced = new Set<Source>();
  #node = UNKNOWN_NODE;
  #context: RuleContext;
  #tcpBeLiberal = false;
  #packetCounters = false;
  #endpointComments = true;
  #started = false;
  #stopped = false;
  #needFull = true;
  #lastFull = Number.NEGATIVE_INFINITY;
  #hourly: unknown;
  #triggerTimes: number[] = [];
  #routeLocalnetBefore: string | undefined;

  /** @throws RangeError for options that no rules can be made of. */
  constructor(options: ServiceProxyOptions) {
    const { ns, iptables, log, nodeIPs, syncPeriodMs = 30_000, minSyncPeriodMs = 1000 } = options;
    const { family } = iptables;
    this.#options = options;
    this.#log = log;
    this.#clock = options.clock ?? systemClock;
    this.#metrics = options.metrics ?? createMetrics();
    this.#family = { ip_family: `IPv${family}` };
    this.#nodePorts = nodePortAddresses(options.nodePortAddresses ?? [], family, nodeIPs);
    this.#context = this.#makeContext();
    this.#tracker = new ChangeTracker({ nodeName: options.nodeName, family, startTime: Date.now() });
    this.#desired = new DesiredRuleset(this.#context);
    this.#applier = new RulesetApplier(iptables, this.#desired, this.#context);
    this.#udpFlows = new UdpFlows(ns, family, log);
    this.#health = new SyncHealth(2 * syncPeriodMs, () => this.#clock.now());
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
      sentinels: () => sentinelRules(this.#context),
      onFlushed: () => this.#requestFull(),
      log,
    });
    this.#metrics.restoreFailures.inc(this.#family, 0);
    this.#metrics.partialRestoreFailures.inc(this.#family, 0);
    this.#metrics.conntrackDeleted.inc(this.#family, 0);
    showPacketCounters(this.#metrics.registry, (counter) => iptables.counters.packets(counter));
  }

  /** Add (no old), update, delete (no new); from an informer. */
  serviceChanged(old?: Stored<Service>, now?: Stored<Service>): void {
    if (!this.#tracker.serviceChanged(old, now)) return;
    this.#metrics.serviceChanges.total.inc();
    this.#changed();
  }

  /** The same for EndpointSlices. */
  endpointSliceChanged(old?: Stored<EndpointSlice>, now?: Stored<EndpointSlice>): void {
    if (!this.#tracker.endpointSliceChanged(old, now)) return;
    this.#metrics.endpointChanges.total.inc();
    this.#changed();
  }

  /** The node's own Node, as it is: zone for topology hints, podCIDRs for mode NodeCIDR, whether it is to go. */
  nodeChanged(node: Stored<Node>): void {
    const wasReady = this.#ready;
    this.#node = nodeFacts(node);
    // Of a Node that changes no rule there is nothing to sync: each would delay the next change by an interval.
    if (this.#ready === wasReady && isDeepStrictEqual(this.#makeContext(), this.#context)) return;
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
    applyConntrackSysctls(this.#options.ns, this.#options.conntrack ?? {}, this.#log);
    this.#tcpBeLiberal = (this.#readSysctl(TCP_BE_LIBERAL) ?? "0") !== "0";
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
    this.#udpFlows.close();
    if (!cleanup) return;
    await removeProxyRules(this.#options.iptables);
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

  /** Whether the proxy keeps up; by the rule of kube-proxy's /healthz and /livez. */
  health(): ProxyHealth {
    return this.#health.facts(this.#node.eligible);
  }

  /** What the health check ports of load-balanced Services must answer, as of the last sync. */
  healthChecks(): ServiceHealthCheck[] {
    return this.#healthChecks.list();
  }

  /** Mode NodeCIDR knows no pods before the node has its podCIDRs. */
  get #ready(): boolean {
    const { detectLocal } = this.#options;
    const knowsPods = detectLocal?.mode !== "NodeCIDR" || this.#node.podCIDRs.length > 0;
    return this.#started && this.#synced.size === 2 && knowsPods;
  }

  #changed(): void {
    this.#waiters.queued();
    const { services, endpoints } = this.#tracker.pending;
    this.#metrics.serviceChanges.pending.set(services);
    this.#metrics.endpointChanges.pending.set(endpoints);
    if (!this.#ready) return;
    this.#health.queued();
    this.#metrics.lastQueued.set(this.#family, Date.now() / 1000);
    this.#runner.request();
  }

  #requestFull(): void {
    this.#needFull = true;
    this.#changed();
  }

  /** Whether anything was sent to the kernel. */
  async #sync(): Promise<boolean> {
    const sequence = this.#waiters.sequence;
    const started = this.#clock.now();
    this.#health.begin();
    if (this.#needFull) this.#prepareHost();
    const { dirty, triggerTimes } = this.#tracker.take();
    this.#triggerTimes.push(...triggerTimes);
    const renderedAnew = this.#refreshContext();
    for (const [key, change] of dirty) {
      if (!renderedAnew || !change.now) this.#desired.update(key, change.now);
      this.#healthChecks.update(key, change.before, change.now);
      this.#udpFlows.note(key, change);
    }
    this.#metrics.serviceChanges.pending.set(0);
    this.#metrics.endpointChanges.pending.set(0);
    const input = await this.#apply();
    this.#health.succeeded();
    this.#forgetStaleFlows();
    this.#record(started, input);
    this.#waiters.reached(sequence);
    this.#options.onHealthChecks?.(this.healthChecks());
    return input.text !== "";
  }

  #makeContext(): RuleContext {
    return ruleContext(this.#options, this.#nodePorts, {
      node: this.#node,
      addresses: this.#nodePorts.all ? [] : this.#hostAddresses(),
      tcpBeLiberal: this.#tcpBeLiberal,
      packetCounters: this.#packetCounters,
      endpointComments: this.#endpointComments,
    });
  }

  /** The node's zone, podCIDRs or addresses may be others than at the last sync; then every port is rendered anew. */
  #refreshContext(): boolean {
    // Between full syncs the comments stay as they are: crossing the threshold shall not send everything again.
    if (this.#needFull) this.#endpointComments = this.#endpointCount() <= LARGE_CLUSTER_ENDPOINTS;
    const context = this.#makeContext();
    if (isDeepStrictEqual(context, this.#context)) return false;
    this.#context = context;
    this.#desired.setContext(context, this.#tracker.ports);
    return true;
  }

  #endpointCount(): number {
    let count = 0;
    for (const { endpoints } of this.#tracker.ports.values()) count += endpoints.length;
    return count;
  }

  /** Partial while the kernel is believed to be as we left it; a refused partial sync shows that it is not. */
  async #apply(): Promise<RestoreInput> {
    if (!this.#needFull) {
      const started = this.#clock.now();
      try {
        const input = await this.#applier.partial();
        this.#metrics.partialDuration.observe(this.#family, (this.#clock.now() - started) / 1000);
        return input;
      } catch (error) {
        this.#metrics.restoreFailures.inc(this.#family);
        this.#metrics.partialRestoreFailures.inc(this.#family);
        this.#needFull = true;
        this.#log.warn({ err: error, ...offendingLine(error) }, "partial sync failed; doing a full one");
        this.#prepareHost();
        this.#refreshContext();
      }
    }
    const started = this.#clock.now();
    try {
      // Asked for again while the kernel is being read: then once more.
      this.#needFull = false;
      const input = await this.#applier.full();
      this.#metrics.fullDuration.observe(this.#family, (this.#clock.now() - started) / 1000);
      this.#fullSyncDone();
      return input;
    } catch (error) {
      this.#needFull = true;
      this.#metrics.restoreFailures.inc(this.#family);
      this.#log.error({ err: error, ...offendingLine(error) }, "full sync failed; will be tried again");
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

  #forgetStaleFlows(): void {
    if (!this.#udpFlows.pending) return;
    const started = this.#clock.now();
    const deleted = this.#udpFlows.forget([...this.#options.nodeIPs, ...this.#hostAddresses()]);
    this.#metrics.conntrackDuration.observe(this.#family, (this.#clock.now() - started) / 1000);
    this.#metrics.conntrackDeleted.inc(this.#family, deleted);
  }

  /** Addresses of the namespace's interfaces, both families. */
  #hostAddresses(): string[] {
    const found = this.#options.ns.run(() => Object.values(networkInterfaces()));
    return found.flatMap((list) => (list ?? []).map(({ address }) => address));
  }

  #record(started: number, input: RestoreInput): void {
    const metrics = this.#metrics;
    const family = this.#family;
    metrics.syncDuration.observe(family, (this.#clock.now() - started) / 1000);
    metrics.lastSync.set(family, Date.now() / 1000);
    const counts = this.#desired.ruleCounts();
    for (const table of ["filter", "nat"] as const) {
      metrics.rules.set({ ...family, table }, counts[table]);
      metrics.rulesSent.set({ ...family, table }, input.rules[table]);
    }
    const dropped = this.#desired.droppedCounts();
    for (const policy of ["internal", "external"] as const) {
      metrics.noLocalEndpoints.set({ ...family, traffic_policy: policy }, dropped[policy]);
    }
    const now = Date.now();
    for (const time of this.#triggerTimes) metrics.programmingDuration.observe(family, (now - time) / 1000);
    this.#triggerTimes = [];
  }

  /** What the rules need: counters, and, for NodePorts on loopback, that packets with such a source are routed. */
  #prepareHost(): void {
    this.#packetCounters = this.#options.iptables.counters.ensure(Object.values(PACKET_COUNTERS));
    if (!this.#context.localhostNodePorts) return;
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

/** For the log: which line of the input iptables-restore did not take. */
function offendingLine(error: unknown): { line?: number; rule?: string } {
  if (!(error instanceof RestoreError) || error.line === undefined) return {};
  return { line: error.line, ...(error.lineText !== undefined && { rule: error.lineText }) };
}
