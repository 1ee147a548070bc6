// The standalone proxy's configuration, flags and HTTP servers, and the credentials of a pod.

import { rmSync, writeFileSync } from "node:fs";
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import t from "tap";
import { inClusterConnection } from "../../client/in-cluster.js";
import { tokenSource } from "../../client/token.js";
import { formatDuration, parseDuration } from "../../common/duration.js";
import { ConfigError } from "../../common/fields.js";
import { silentLogger } from "../../common/log.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { createMetrics, type ProxyHealth, type ServiceHealthCheck } from "../../dataplane/proxy/index.js";
import {
  checkKubeProxyConfiguration,
  parseKubeProxyConfiguration,
} from "../../node/kube-proxy/configuration.js";
import { configurationFile } from "../../node/kube-proxy/configuration-file.js";
import { configurationFromFlags, FIELD_FLAGS, overshadowed } from "../../node/kube-proxy/flags.js";
import { HealthCheckServers } from "../../node/kube-proxy/health-check-servers.js";
import { factsHandler, healthHandler, StatusServers } from "../../node/kube-proxy/status-servers.js";
import { tempDir } from "../helpers/temp-dir.js";

t.test("durations as Go writes them", async (t) => {
  const cases: [string, number | undefined][] = [
    ["30s", 30_000],
    ["1h0m0s", 3_600_000],
    ["100ms", 100],
    ["1.5m", 90_000],
    ["0", 0],
    ["0s", 0],
    ["-5s", -5000],
    ["30", undefined],
    ["", undefined],
    ["s", undefined],
    ["1 s", undefined],
    ["1m x", undefined],
    ["x1m", undefined],
    ["1d", undefined],
  ];
  for (const [text, ms] of cases) t.equal(parseDuration(text), ms, JSON.stringify(text));
  for (const text of ["0s", "30s", "1h0m0s", "15m0s", "24h0m0s", "100ms", "1m30.5s"])
    t.equal(formatDuration(parseDuration(text) ?? -1), text);
});

/** What kubeadm writes for kube-proxy, as a user has it in a ConfigMap. */
const KUBEADM = `
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  networkName: ""
`;

t.test("a configuration file", async (t) => {
  const config = parseKubeProxyConfiguration(KUBEADM, "config.conf");
  t.match(config, {
    kubeconfig: "/var/lib/kube-proxy/kubeconfig.conf",
    clusterCIDRs: ["10.244.0.0/16", "fd00:10:244::/56"],
    detectLocalMode: "ClusterCIDR",
    iptables: { masqueradeBit: 14, localhostNodePorts: true, syncPeriodMs: 30_000, minSyncPeriodMs: 1000 },
    healthzBindAddress: { host: "0.0.0.0", port: 10256 },
    conntrack: { maxPerCore: 32_768, min: 131_072, tcpEstablishedTimeoutMs: 86_400_000 },
    oomScoreAdj: -999,
  });
  t.strictSame(
    checkKubeProxyConfiguration(configurationFile(config), "again"),
    config,
    "written out and read again it is the same",
  );
  const defaults = checkKubeProxyConfiguration({}, "empty");
  t.strictSame(defaults.healthzBindAddress, { host: "0.0.0.0", port: 10256 });
  t.strictSame(defaults.metricsBindAddress, { host: "127.0.0.1", port: 10249 });
  t.equal(defaults.iptables.minSyncPeriodMs, 1000);
  const six = checkKubeProxyConfiguration({ bindAddress: "::", metricsBindAddress: "[fd00::1]:9" }, "v6");
  t.strictSame(six.healthzBindAddress, { host: "::", port: 10256 });
  t.strictSame(six.metricsBindAddress, { host: "fd00::1", port: 9 });
  const ignoring = checkKubeProxyConfiguration(
    { ipvs: { strictARP: true }, clientConnection: { qps: 50 }, logging: { verbosity: 0 } },
    "f",
  );
  t.strictSame(ignoring.ignored, ["ipvs", "clientConnection.qps"], "what has no effect is known");
});

t.test("a configuration file that is wrong", async (t) => {
  const cases: [unknown, RegExp][] = [
    [{ mode: "ipvs" }, /f: mode: "ipvs": allowed is iptables/],
    [{ iptables: { masqueradeBit: 32 } }, /iptables.masqueradeBit: 32: a whole number from 0 to 31/],
    [{ iptables: { syncPeriod: "30" } }, /iptables.syncPeriod: "30": a duration/],
    [{ iptables: { syncPeriod: "1s", minSyncPeriod: "2s" } }, /minSyncPeriod: "2s": must not be longer/],
    [{ clusterCIDR: "10.0.0.0/8,10.1.0.0/16" }, /clusterCIDR: .*at most one CIDR a family/],
    [{ clusterCIDR: "ten" }, /clusterCIDR: "ten": a CIDR/],
    [
      { nodePortAddresses: ["primary", "10.0.0.0/8"] },
      /nodePortAddresses\[0\]: "primary": .*cannot be combined/,
    ],
    [{ nodePortAddresses: ["eth0"] }, /nodePortAddresses\[0\]: "eth0": a CIDR or "primary"/],
    [{ detectLocalMode: "BridgeInterface" }, /detectLocal.bridgeInterface: is required/],
    [{ detectLocalMode: "Guess" }, /detectLocalMode: "Guess": allowed are ClusterCIDR, NodeCIDR/],
    [{ healthzBindAddress: "localhost:1" }, /healthzBindAddress: "localhost:1": IP or IP:port/],
    [{ metricsBindAddress: "1.2.3.4:70000" }, /metricsBindAddress/],
    [{ iptable: {} }, /iptable: unknown field, allowed are/],
    [{ oomScoreAdj: -1001 }, /oomScoreAdj: -1001/],
    [{ conntrack: { tcpBeLiberal: "yes" } }, /conntrack.tcpBeLiberal: "yes": true or false/],
    [{ kind: "Cluster" }, /kind: "Cluster": allowed is KubeProxyConfiguration/],
  ];
  for (const [value, message] of cases)
    t.throws(() => checkKubeProxyConfiguration(value, "f"), message, JSON.stringify(value));
  try {
    parseKubeProxyConfiguration("mode: x\niptables:\n  masqueradeBit: 99\n", "file.yaml");
    t.fail("both are wrong");
  } catch (error) {
    t.ok(error instanceof ConfigError);
    t.match((error as Error).message, /file.yaml:1:7: mode.*\nfile.yaml:3:18: iptables.masqueradeBit/s);
  }
});

t.test("flags", async (t) => {
  const config = configurationFromFlags({
    "cluster-cidr": "10.244.0.0/16",
    "iptables-min-sync-period": "10ms",
    "masquerade-all": true,
    "iptables-localhost-nodeports": "false",
    "nodeport-addresses": "192.168.0.0/16,10.0.0.0/8",
    "healthz-bind-address": "",
    kubeconfig: "/k",
    "conntrack-min": "0",
  });
  t.match(config, {
    kubeconfig: "/k",
    clusterCIDRs: ["10.244.0.0/16"],
    nodePortAddresses: ["192.168.0.0/16", "10.0.0.0/8"],
    iptables: { minSyncPeriodMs: 10, masqueradeAll: true, localhostNodePorts: false },
    conntrack: { min: 0 },
  });
  t.equal(config.healthzBindAddress, undefined);
  t.equal(configurationFromFlags({ "iptables-min-sync-period": "0" }).iptables.minSyncPeriodMs, 0);
  t.throws(
    () =>
      configurationFromFlags({
        "iptables-masquerade-bit": "x",
        "proxy-mode": "nftables",
        "nodeport-addresses": "q",
      }),
    /--proxy-mode: "nftables": allowed is iptables\n.*--iptables-masquerade-bit: "x".*\n.*--nodeport-addresses: "q"/s,
    "the flag is named, not the field",
  );
  t.strictSame(overshadowed({ "masquerade-all": true, config: "f" }), ["--masquerade-all"]);
  for (const { name, path } of FIELD_FLAGS) {
    const nested = path.split(".").reduceRight<unknown>((value, key) => ({ [key]: value }), null);
    t.doesNotThrow(() => checkKubeProxyConfiguration(nested, "f"), `--${name} stands for a field there is`);
  }
});

t.test("credentials of a pod", async (t) => {
  const directory = tempDir(t);
  writeFileSync(join(directory, "ca.crt"), "CA");
  writeFileSync(join(directory, "token"), "one\n");
  t.throws(() => inClusterConnection({}, directory), /not in a pod/);
  const env = { KUBERNETES_SERVICE_HOST: "fd00::1", KUBERNETES_SERVICE_PORT: "443" };
  const connection = inClusterConnection(env, directory);
  t.match(connection, { server: "https://[fd00::1]:443", ca: "CA" });
  let now = 0;
  const token = tokenSource(connection, () => now);
  writeFileSync(join(directory, "token"), "two\n");
  t.equal(token?.(), "one", "not read at every request");
  now = 61_000;
  t.equal(token?.(), "two", "but again after a minute");
  rmSync(join(directory, "token"));
  now = 130_000;
  t.equal(token?.(), "two", "a file that is gone leaves the token that was there");
  t.throws(() => tokenSource(connection, () => now), /ENOENT/);
  t.equal(tokenSource({ token: "fixed" })?.(), "fixed");
  t.equal(tokenSource({}), undefined);
});

interface Answer {
  status: number;
  body: string;
  headers: Record<string, unknown>;
}

function get(port: number, path: string, method = "GET"): Promise<Answer> {
  return new Promise((resolve, reject) => {
    request({ host: "127.0.0.1", port, path, method, agent: false }, (res) => {
      let body = "";
      res.setEncoding("utf8");
      res.on("data", (chunk: string) => {
        body += chunk;
      });
      res.on("end", () => resolve({ status: res.statusCode ?? 0, body, headers: res.headers }));
    })
      .on("error", reject)
      .end();
  });
}

t.test("health", async (t) => {
  let health: ProxyHealth = {
    healthy: true,
    nodeEligible: true,
    lastUpdated: undefined,
    lastQueued: undefined,
  };
  const metrics = createMetrics();
  const server = createServer(healthHandler({ health: () => health, metrics })).listen(0, "127.0.0.1");
  t.teardown(() => server.close());
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as AddressInfo;
  const well = await get(port, "/healthz");
  t.match(well, { status: 200, headers: { "content-type": "application/json" } });
  const facts = JSON.parse(well.body);
  t.match(facts, { nodeEligible: true, currentTime: /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \+0000 UTC$/ });
  t.equal(facts.lastUpdated, facts.currentTime, "who keeps up is as current as can be");
  t.notMatch(JSON.parse((await get(port, "/livez")).body), { nodeEligible: true });
  health = { ...health, nodeEligible: false };
  t.equal((await get(port, "/healthz")).status, 503, "a node that goes gets no traffic");
  t.equal((await get(port, "/livez")).status, 200, "and is alive");
  health = { ...health, healthy: false, lastUpdated: Date.UTC(2026, 0, 2) };
  const sick = await get(port, "/livez");
  t.equal(sick.status, 503);
  t.equal(JSON.parse(sick.body).lastUpdated, "2026-01-02 00:00:00.000 +0000 UTC");
  t.equal((await get(port, "/nothing")).status, 404);
  t.equal((await get(port, "/livez", "POST")).status, 405);
  t.match(await metrics.registry.metrics(), /proxy_healthz_total\{code="200"\} 1\n.*code="503"\} 1/s);
});

t.test("facts", async (t) => {
  const metrics = createMetrics();
  const server = createServer(factsHandler({ metrics, configuration: { mode: "iptables" } }));
  server.listen(0, "127.0.0.1");
  t.teardown(() => server.close());
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as AddressInfo;
  t.match(await get(port, "/proxyMode"), { status: 200, body: "iptables" });
  t.match(await get(port, "/healthz"), { status: 200, body: "ok" });
  t.strictSame(JSON.parse((await get(port, "/configz")).body), {
    "kubeproxy.config.k8s.io": { mode: "iptables" },
  });
  t.match(await get(port, "/metrics?x=1"), {
    status: 200,
    headers: { "content-type": /^text\/plain; version=0.0.4/ },
  });
});

t.test("servers that cannot listen are told of, the others serve", async (t) => {
  const ns = NetNs.current();
  const taken = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => taken.once("listening", resolve));
  const { port } = taken.address() as AddressInfo;
  const servers = new StatusServers({
    ns,
    healthzBindAddress: { host: "127.0.0.1", port },
    metricsBindAddress: { host: "127.0.0.1", port: 0 },
    retryMs: 20,
    health: () => ({ healthy: true, nodeEligible: true, lastUpdated: undefined, lastQueued: undefined }),
    metrics: createMetrics(),
    configuration: {},
  });
  t.match(await servers.start(), [/the healthz server cannot listen on 127.0.0.1:\d+: .*EADDRINUSE/]);
  await new Promise((resolve) => taken.close(resolve));
  const served = async () => (await get(port, "/livez").catch(() => undefined))?.status;
  while ((await served()) !== 200) await new Promise((resolve) => setTimeout(resolve, 10));
  t.pass("the port is free: served");
  await servers.stop();
  t.equal(await served(), undefined);
});

t.test("health check node ports", async (t) => {
  const ns = NetNs.current();
  const free = async (): Promise<number> => {
    const server = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    return port;
  };
  const [one, two] = [await free(), await free()];
  let healthy = true;
  const failures: string[] = [];
  const servers = new HealthCheckServers({
    ns,
    addresses: () => ["127.0.0.1"],
    healthy: () => healthy,
    onFailure: (check, message) => failures.push(`${check.name}: ${message}`),
    log: silentLogger,
  });
  const check = (port: number, localEndpoints: number): ServiceHealthCheck => ({
    namespace: "default",
    name: "web",
    port,
    localEndpoints,
  });
  await servers.sync([check(one, 2)]);
  const answer = await get(one, "/");
  t.match(answer, { status: 200, headers: { "x-load-balancing-endpoint-weight": "2" } });
  t.strictSame(JSON.parse(answer.body), {
    service: { namespace: "default", name: "web" },
    localEndpoints: 2,
    serviceProxyHealthy: true,
  });
  await servers.sync([check(one, 0)]);
  t.equal((await get(one, "/")).status, 503, "no endpoint here");
  await servers.sync([check(one, 1)]);
  healthy = false;
  t.match(JSON.parse((await get(one, "/")).body), { localEndpoints: 1, serviceProxyHealthy: false });
  t.equal((await get(one, "/")).status, 503, "a proxy that lags behind does not know");
  await servers.sync([check(two, 1)]);
  await t.rejects(get(one, "/"), /ECONNREFUSED/, "the old port is given back");
  t.equal((await get(two, "/")).status, 503);
  const taken = createServer().listen(one, "127.0.0.1");
  await new Promise((resolve) => taken.once("listening", resolve));
  await servers.sync([check(one, 1)]);
  t.match(failures, [/web: .*EADDRINUSE/]);
  await new Promise((resolve) => taken.close(resolve));
  await servers.sync([check(one, 1)]);
  t.equal((await get(one, "/")).status, 503, "tried again");
  await servers.stop();
  await t.rejects(get(one, "/"), /ECONNREFUSED/);
});
