// The proxy's own registry of metrics, under kube-proxy's names, so that its dashboards and alerts work.
// Knows prom-client; what is counted is told by the sync.

import { Counter, Gauge, Histogram, Registry } from "prom-client";

/** 1 ms doubled fourteen times, as upstream. */
const SYNC_BUCKETS = Array.from({ length: 15 }, (_, i) => 0.001 * 2 ** i);

/** The buckets of the network programming SLI (seconds). */
const PROGRAMMING_BUCKETS = [
  0.25,
  0.5,
  ...Array.from({ length: 59 }, (_, i) => i + 1),
  ...Array.from({ length: 12 }, (_, i) => 60 + 5 * i),
  ...Array.from({ length: 7 }, (_, i) => 120 + 30 * i),
];

export interface ProxyMetrics {
  readonly registry: Registry;
  readonly syncDuration: Histogram;
  readonly fullDuration: Histogram;
  readonly partialDuration: Histogram;
  readonly programmingDuration: Histogram;
  readonly lastSync: Gauge;
  readonly lastQueued: Gauge;
  readonly serviceChanges: { readonly pending: Gauge; readonly total: Counter };
  readonly endpointChanges: { readonly pending: Gauge; readonly total: Counter };
  readonly rules: Gauge<"table">;
  readonly rulesSent: Gauge<"table">;
  readonly restoreFailures: Counter;
  readonly partialRestoreFailures: Counter;
  readonly noLocalEndpoints: Gauge<"traffic_policy">;
  readonly conntrackDeleted: Counter;
}

export function createMetrics(registry = new Registry()): ProxyMetrics {
  const registers = [registry];
  const name = (suffix: string) => `kubeproxy_${suffix}`;
  const seconds = (suffix: string, help: string, buckets = SYNC_BUCKETS) =>
    new Histogram({ name: name(suffix), help, buckets, registers });
  const gauge = (suffix: string, help: string) => new Gauge({ name: name(suffix), help, registers });
  const counter = (suffix: string, help: string) => new Counter({ name: name(suffix), help, registers });
  const tables = (suffix: string, help: string) =>
    new Gauge({ name: name(suffix), help, labelNames: ["table"] as const, registers });
  const changes = (kind: string) => ({
    pending: gauge(`sync_proxy_rules_${kind}_changes_pending`, `Pending proxy rules ${kind} changes`),
    total: counter(`sync_proxy_rules_${kind}_changes_total`, `Total proxy rules ${kind} changes`),
  });
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
    lastSync: gauge("sync_proxy_rules_last_timestamp_seconds", "When rules were last synced"),
    lastQueued: gauge("sync_proxy_rules_last_queued_timestamp_seconds", "When a sync was last queued"),
    serviceChanges: changes("service"),
    endpointChanges: changes("endpoint"),
    rules: tables("sync_proxy_rules_iptables_total", "Number of iptables rules owned by the proxy"),
    rulesSent: tables("sync_proxy_rules_iptables_last", "Number of iptables rules written by the last sync"),
    restoreFailures: counter("sync_proxy_rules_iptables_restore_failures_total", "Failed iptables restores"),
    partialRestoreFailures: counter(
      "sync_proxy_rules_iptables_partial_restore_failures_total",
      "Failed iptables restores of partial syncs",
    ),
    noLocalEndpoints: new Gauge({
      name: name("sync_proxy_rules_no_local_endpoints_total"),
      help: "Service ports with a Local traffic policy and no local endpoints",
      labelNames: ["traffic_policy"] as const,
      registers,
    }),
    conntrackDeleted: counter(
      "conntrack_reconciler_deleted_entries_total",
      "Conntrack entries deleted because their backend is gone",
    ),
  };
}
