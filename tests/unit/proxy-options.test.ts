// What the service proxy is told: node port addresses, detect-local modes, the masquerade bit, conntrack sysctls; and
// the names, labels and buckets of its metrics.

import t from "tap";
import type { Logger } from "../../common/log.js";
import { applyConntrackSysctls, conntrackSysctls } from "../../dataplane/proxy/conntrack-sysctls.js";
import { createMetrics, localDetector, nodePortAddresses } from "../../dataplane/proxy/index.js";
import { memoryProxy, sample } from "../helpers/proxy-memory.js";
import { service } from "../helpers/service-objects.js";

t.test("--nodeport-addresses", async (t) => {
  const OWN = ["192.168.56.11", "fd00:56::11"];
  const HOST = ["127.0.0.1", "::1", "192.168.56.11", "10.1.0.2", "10.1.0.1", "10.1.0.1", "fd00:56:0::11"];
  const of = (ranges: string[], family: 4 | 6) => {
    const { all, loopback, matching } = nodePortAddresses(ranges, family, OWN);
    return [all ? "all" : matching(HOST).join(" "), loopback];
  };
  t.same(of([], 4), ["all", true]);
  t.same(of([], 6), ["all", false], "IPv6 has no localhost node ports");
  t.same(of(["10.0.0.0/8"], 4), ["10.1.0.1 10.1.0.2", false], "sorted, each once");
  t.same(of(["10.0.0.0/8"], 6), ["all", false], "no range of the family: all, as kube-proxy");
  t.same(of(["10.0.0.0/8", "127.0.0.0/8"], 4), ["10.1.0.1 10.1.0.2 127.0.0.1", true]);
  t.same(of(["127.0.0.1/32"], 4), ["127.0.0.1", true]);
  t.same(of(["10.0.0.0/8", "0.0.0.0/0"], 4), ["all", true]);
  t.same(of(["primary"], 4), ["192.168.56.11", false]);
  t.same(of(["primary"], 6), ["fd00:56::11", false]);
  for (const wrong of [["10.0.0.0"], ["Primary"], ["primary", "10.0.0.0/8"], ["10.0.0.0/33"]]) {
    t.throws(() => nodePortAddresses(wrong, 4, OWN), RangeError, wrong.join());
  }
});

t.test("--detect-local-mode", async (t) => {
  const cidrs = ["10.244.0.0/16", "fd00:244::/48"];
  t.same(localDetector({ mode: "ClusterCIDR", cidrs }, 4), {
    isLocal: ["-s", "10.244.0.0/16"],
    isNotLocal: ["!", "-s", "10.244.0.0/16"],
  });
  t.match(localDetector({ mode: "ClusterCIDR", cidrs }, 6), { isLocal: ["-s", "fd00:244::/48"] });
  t.equal(localDetector({ mode: "ClusterCIDR", cidrs: ["10.244.0.0/16"] }, 6), undefined);
  t.match(localDetector({ mode: "NodeCIDR" }, 6, ["10.244.1.0/24", "fd00:244:0:1::/64"]), {
    isLocal: ["-s", "fd00:244:0:1::/64"],
  });
  t.match(localDetector({ mode: "BridgeInterface", interface: "cni0" }, 4), { isLocal: ["-i", "cni0"] });
  t.match(localDetector({ mode: "InterfaceNamePrefix", prefix: "veth" }, 6), {
    isNotLocal: ["!", "-i", "veth+"],
  });
  t.equal(localDetector(undefined, 4), undefined);
  for (const name of ["", "a b", "a/b", "cni+", "sixteen-letters-"]) {
    t.throws(() => localDetector({ mode: "BridgeInterface", interface: name }, 4), RangeError, name);
  }
  t.throws(() => localDetector({ mode: "InterfaceNamePrefix", prefix: "fifteen-letters" }, 4), RangeError);
  t.throws(() => localDetector({ mode: "ClusterCIDR", cidrs: ["10.244.0.0"] }, 4), RangeError);
});

t.test("--iptables-masquerade-bit", async (t) => {
  for (const bit of [-1, 32, 1.5]) t.throws(() => memoryProxy({ masqueradeBit: bit }), RangeError, `${bit}`);
  const marks: [bit: number, mark: string][] = [
    [0, "0x1"],
    [14, "0x4000"],
    [31, "0x80000000"],
  ];
  for (const [masqueradeBit, mark] of marks) {
    const { kernel, proxy, begin } = memoryProxy({ masqueradeBit });
    await begin();
    t.match(await kernel.save(), `-A KUBE-MARK-MASQ -j MARK --or-mark ${mark}\n`);
    await proxy.stop();
  }
});

t.test("conntrack sysctls", async (t) => {
  const N = "net/netfilter/nf_conntrack";
  t.same(conntrackSysctls({}, 2), [
    [`${N}_max`, 131_072],
    [`${N}_tcp_timeout_established`, 86_400],
    [`${N}_tcp_timeout_close_wait`, 3600],
  ]);
  const max = (cores: number, options = {}) => new Map(conntrackSysctls(options, cores)).get(`${N}_max`);
  t.equal(max(8), 262_144, "32768 a core");
  t.equal(max(256), 1_048_576, "at most a million");
  t.equal(max(8, { maxPerCore: 0 }), undefined, "left as it is");
  t.equal(max(2, { min: 500_000 }), 500_000);
  const everything = { tcpBeLiberal: true, udpTimeout: 10, udpStreamTimeout: 20, tcpCloseWaitTimeout: 0 };
  t.same(conntrackSysctls({ ...everything, maxPerCore: 0 }, 2), [
    [`${N}_tcp_timeout_established`, 86_400],
    [`${N}_tcp_be_liberal`, 1],
    [`${N}_udp_timeout`, 10],
    [`${N}_udp_timeout_stream`, 20],
  ]);

  const told: string[] = [];
  const log = {
    debug: (_: object, text: string) => told.push(`debug: ${text}`),
    warn: (_: object, text: string) => told.push(`warn: ${text}`),
  } as unknown as Logger;
  const values = new Map<string, string>([
    [`${N}_tcp_timeout_established`, "86400"],
    [`${N}_tcp_timeout_close_wait`, "60"],
  ]);
  const refused: Record<string, string> = { [`${N}_max`]: "EACCES", [`${N}_udp_timeout`]: "EROFS" };
  const written: string[] = [];
  const ns = {
    sysctl: ((key: string, value?: number) => {
      if (value === undefined) return values.get(key) ?? "0";
      if (refused[key]) throw Object.assign(new Error(refused[key]), { code: refused[key] });
      written.push(`${key}=${value}`);
      return undefined;
    }) as Parameters<typeof applyConntrackSysctls>[0]["sysctl"],
  };
  applyConntrackSysctls(ns, { udpTimeout: 10 }, log, 2);
  t.same(written, [`${N}_tcp_timeout_close_wait=3600`], "what is right already is not written");
  t.same(told, [`debug: cannot set ${N}_max`, `warn: cannot set ${N}_udp_timeout`]);
  delete refused[`${N}_max`];
  values.set(`${N}_buckets`, "1024");
  applyConntrackSysctls(ns, {}, log, 8);
  t.same(written.slice(1, 3), [`${N}_max=262144`, `${N}_buckets=65536`], "the table grows with the limit");
});

/** Name, type, labels; as the reference page of Kubernetes 1.36 lists them for kube-proxy. */
const METRICS = `
conntrack_reconciler_deleted_entries_total counter ip_family
conntrack_reconciler_sync_duration_seconds histogram ip_family
iptables_ct_state_invalid_dropped_packets_total counter
iptables_localhost_nodeports_accepted_packets_total counter
network_programming_duration_seconds histogram ip_family
proxy_healthz_total counter code
proxy_livez_total counter code
sync_full_proxy_rules_duration_seconds histogram ip_family
sync_partial_proxy_rules_duration_seconds histogram ip_family
sync_proxy_rules_duration_seconds histogram ip_family
sync_proxy_rules_endpoint_changes_pending gauge
sync_proxy_rules_endpoint_changes_total counter
sync_proxy_rules_iptables_last gauge ip_family table
sync_proxy_rules_iptables_partial_restore_failures_total counter ip_family
sync_proxy_rules_iptables_restore_failures_total counter ip_family
sync_proxy_rules_iptables_total gauge ip_family table
sync_proxy_rules_last_queued_timestamp_seconds gauge ip_family
sync_proxy_rules_last_timestamp_seconds gauge ip_family
sync_proxy_rules_no_local_endpoints_total gauge ip_family traffic_policy
sync_proxy_rules_service_changes_pending gauge
sync_proxy_rules_service_changes_total counter
`.trim();

t.test(
  "metrics: kube-proxy's names, types, labels and buckets; one registry for both families",
  async (t) => {
    const metrics = createMetrics();
    const proxies = ([4, 6] as const).map((family) => memoryProxy({ metrics }, family));
    for (const { proxy, begin } of proxies) {
      proxy.serviceChanged(undefined, service("default/web", "10.96.0.1", [{ port: 80 }]));
      await begin();
    }
    metrics.healthz.inc({ code: "200" });
    metrics.livez.inc({ code: "503" });
    const [four] = proxies;
    if (!four) return;
    const listed = (await metrics.registry.getMetricsAsArray()).map((metric) =>
      [
        metric.name.replace(/^kubeproxy_/, ""),
        metric.type,
        ...("labelNames" in metric ? (metric.labelNames as string[]) : []),
      ].join(" "),
    );
    t.same(listed.sort(), METRICS.split("\n"));
    for (const family of ["IPv4", "IPv6"]) {
      t.equal(
        await sample(four.proxy, "sync_proxy_rules_duration_seconds_count", `ip_family="${family}"`),
        1,
      );
    }
    const text = await four.proxy.metrics();
    const buckets = (name: string) =>
      [
        ...text.matchAll(new RegExp(`^kubeproxy_${name}_bucket\\{le="([^"]+)",ip_family="IPv4"\\}`, "gm")),
      ].map(([, le]) => le);
    t.same(
      buckets("sync_proxy_rules_duration_seconds").map(Number),
      [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
        .map((n) => n / 1000)
        .concat(Number.NaN),
    );
    metrics.programmingDuration.observe({ ip_family: "IPv6" }, 1);
    const programming = [
      ...(await four.proxy.metrics()).matchAll(/network_programming_duration_seconds_bucket\{le="([^"]+)"/g),
    ].map(([, le]) => le);
    t.same(programming.slice(0, 5), ["0", "0.25", "0.5", "1", "2"]);
    t.same(programming.slice(60, 65), ["58", "59", "60", "65", "70"]);
    t.same(programming.slice(-9), ["115", "120", "150", "180", "210", "240", "270", "300", "+Inf"]);
    t.equal(programming.length, 82);
    for (const { proxy } of proxies) await proxy.stop();
  },
);
