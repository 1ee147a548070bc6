// The proxy's own registry of metrics, under kube-proxy's names, so that its dashboards and alerts work.
// Knows prom-client; what is counted is told by the sync, and by who serves /healthz and /livez.

import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { PACKET_COUNTERS } from "./names.js";

/** 1 ms doubled fourteen times, as upstream. */
const SYNC_BUCKETS = Array.from({ length: 15 }, (_, i) => 0.001 * 2 ** i);

/** The buckets of the network programming SLI (seconds); upstream's begin with 0 (component-base, MergeBuckets). */
const PROGRAMMING_BUCKETS = [
  0,
  0.25,
  0.5,
  ...Array.from({ length: 59 }, (_, i) => i + 1),
  ...Array.from({ length: 12 }, (_, i) => 60 + 5 * i),
  ...Array.from({ length: 7 }, (_, i) => 120 + 30 * i),
];

type Family = "ip_family";
/** The value of label `ip_family`. */
export type FamilyLabel = { readonly ip_family: "IPv4" | "IPv6" };

/** One set for both families of a node: two proxies of one node share it. */
export interface ProxyMetrics {
  readonly registry: Registry;
  readonly syncDuration: Histogram<Family>;
  readonly fullDuration: Histogram<Family>;
  readonly partialDuration: Histogram<Family>;
  readonly programmingDuration: Histogram<Family>;
  readonly lastSync: Gauge<Family>;
  readonly lastQueued: Gauge<Family>;
  readonly serviceChanges: { readonly pending: Gauge; readonly total: Counter };
  readonly endpointChanges: { readonly pending: Gauge; readonly total: Counter };
  readonly rules: Gauge<Family | "table">;
  readonly rulesSent: Gauge<Family | "table">;
  readonly restoreFailures: Counter<Family>;
  readonly partialRestoreFailures: Counter<Family>;
  readonly noLocalEndpoints: Gauge<Family | "traffic_policy">;
  readonly conntrackDuration: Histogram<Family>;
  readonly conntrackDeleted: Counter<Family>;
  /** Answers of /healthz and /livez, for who serves them. */
  readonly healthz: Counter<"code">;
  readonly livez: Counter<"code">;
}

export function createMetrics(registry = new Registry()): ProxyMetrics {
  const registers = [registry];
  const FAMILY = ["ip_family"] as const;
  const name = (suffix: string) => `kubeproxy_${suffix}`;
  const seconds = (suffix: string, help: string, buckets = SYNC_BUCKETS) =>
    new Histogram({ name: name(suffix), help, buckets, labelNames: FAMILY, registers });
  const gauge = <L extends string>(suffix: string, help: string, labelNames: readonly L[]) =>
    new Gauge({ name: name(suffix), help, labelNames: [...labelNames], registers });
  const counter = <L extends string>(suffix: string, help: string, labelNames: readonly L[]) =>
    new Counter({ name: name(suffix), help, labelNames: [...labelNames], registers });
  const changes = (kind: string) => ({
    pending: gauge(`sync_proxy_rules_${kind}_changes_pending`, `Pending proxy rules ${kind} changes`, []),
    total: counter(`sync_proxy_rules_${kind}_changes_total`, `Total proxy rules ${kind} changes`, []),
  });
  const tables = ["ip_family", "table"] as const;
  return {
    registry,
    syncDuration: seconds("sync_proxy_rules_duration_seconds", "Duration of a sync"),
    fullDuration: seconds("sync_full_proxy_rules_duration_seconds", "Duration of a full sync"),
    partialDuration: seconds("sync_partial_proxy_rules_duration_seconds", "Duration of a partial sync"),
    programmingDuration: seconds(
      "network_programming_duration_seconds",
      "From the change of a pod or service to the rules in the kernel",
      PROGRAMMING_BUCKETS,
    ),
    lastSync: gauge("sync_proxy_rules_last_timestamp_seconds", "When rules were last synced", FAMILY),
    lastQueued: gauge(
      "sync_proxy_rules_last_queued_timestamp_seconds",
      "When a sync was last queued",
      FAMILY,
    ),
    serviceChanges: changes("service"),
    endpointChanges: changes("endpoint"),
    rules: gauge("sync_proxy_rules_iptables_total", "Number of iptables rules owned by the proxy", tables),
    rulesSent: gauge(
      "sync_proxy_rules_iptables_last",
      "Number of iptables rules written by the last sync",
      tables,
    ),
    restoreFailures: counter(
      "sync_proxy_rules_iptables_restore_failures_total",
      "Failed iptables restores",
      FAMILY,
    ),
    partialRestoreFailures: counter(
      "sync_proxy_rules_iptables_partial_restore_failures_total",
      "Failed iptables restores of partial syncs",
      FAMILY,
    ),
    noLocalEndpoints: gauge(
      "sync_proxy_rules_no_local_endpoints_total",
      "Service ports with a Local traffic policy and no local endpoints",
      ["ip_family", "traffic_policy"],
    ),
    conntrackDuration: seconds(
      "conntrack_reconciler_sync_duration_seconds",
      "Duration of looking for conntrack entries whose backend is gone",
    ),
    conntrackDeleted: counter(
      "conntrack_reconciler_deleted_entries_total",
      "Conntrack entries deleted because their backend is gone",
      FAMILY,
    ),
    healthz: counter("proxy_healthz_total", "Answers of /healthz", ["code"]),
    livez: counter("proxy_livez_total", "Answers of /livez", ["code"]),
  };
}

const PACKET_METRICS = [
  {
    name: "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
    help: "Packets that conntrack calls INVALID, dropped",
    counter: PACKET_COUNTERS.invalidDropped,
  },
  {
    name: "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
    help: "Packets to NodePorts on 127.0.0.0/8, accepted",
    counter: PACKET_COUNTERS.localhostAccepted,
  },
] as const;

/** Shows the kernel's counters, read whenever somebody asks; two proxies of one node show the same ones. */
export function showPacketCounters(registry: Registry, read: (counter: string) => number | undefined): void {
  for (const { name, help, counter } of PACKET_METRICS) {
    if (registry.getSingleMetric(name)) continue;
    new Counter({
      name,
      help,
      registers: [registry],
      collect() {
        this.remove();
        const packets = read(counter);
        if (packets !== undefined) this.inc(packets);
      },
    });
  }
}
