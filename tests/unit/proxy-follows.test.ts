// What the service proxy follows beside Services and EndpointSlices, without a kernel: its node's zone, podCIDR and
// addresses; and what it tells about itself: health checks of Services, its own health, its log.

import t from "tap";
import { type Logger, silentLogger } from "../../common/log.js";
import { chainsOf, RestoreError, renderRestore } from "../../dataplane/iptables/index.js";
import type { ServiceHealthCheck, ServiceProxyOptions } from "../../dataplane/proxy/index.js";
import { memoryProxy, NO_HOST, settle } from "../helpers/proxy-memory.js";
import { HTTP, node, service, slice, WEB, webSlice } from "../helpers/service-objects.js";

t.test("a node's zone moves traffic; nothing is sent when it does not", async (t) => {
  const { kernel, proxy, sync, begin } = memoryProxy();
  const endpoints = [
    { ip: "10.244.1.2", zones: ["a"] },
    { ip: "10.244.2.2", node: "node-2", zones: ["b"] },
  ];
  proxy.serviceChanged(undefined, WEB);
  proxy.endpointSliceChanged(undefined, slice("default/web", [{ name: "http", port: 8080 }], endpoints));
  const used = () => {
    const text = renderRestore(chainsOf(kernel.ruleset()));
    return [...text.matchAll(/--to-destination (\S+):8080/g)].map(([, ip]) => ip).sort();
  };
  const inZone = (zone: string, extra = {}) =>
    node("node-1", { labels: { "topology.kubernetes.io/zone": zone }, ...extra });
  await begin();
  t.same(used(), ["10.244.1.2", "10.244.2.2"], "no zone: hints say nothing");
  proxy.nodeChanged(inZone("b"));
  await sync();
  t.same(used(), ["10.244.2.2"]);
  const { length } = kernel.inputs;
  const syncs = async () =>
    /sync_proxy_rules_duration_seconds_count\{.*\} (\d+)/.exec(await proxy.metrics())?.[1];
  const before = await syncs();
  proxy.nodeChanged(inZone("b", { unschedulable: true }));
  await settle();
  t.equal(kernel.inputs.length, length, "a heartbeat is no news");
  t.equal(await syncs(), before, "and no reason to sync");
  proxy.nodeChanged(inZone("c"));
  await sync();
  t.same(used(), ["10.244.1.2", "10.244.2.2"], "nobody is hinted for our zone: all of them");
  await proxy.stop();
});

t.test("detect-local mode NodeCIDR waits for the node, and follows it", async (t) => {
  const { kernel, clock, proxy, sync, begin } = memoryProxy({ detectLocal: { mode: "NodeCIDR" } });
  proxy.serviceChanged(undefined, WEB);
  proxy.endpointSliceChanged(undefined, webSlice("10.244.1.2"));
  const begun = begin();
  await clock.advance(10_000);
  t.equal(kernel.inputs.length, 0, "who is a pod is not known yet");
  t.ok(proxy.health().healthy, "which is no sickness");
  proxy.nodeChanged(node("node-1", { podCIDRs: ["fd00:244:0:1::/64", "10.244.1.0/24"] }));
  await clock.advance(1000);
  await begun;
  const masqueraded = () =>
    /! -s (\S+) -j KUBE-MARK-MASQ/.exec(renderRestore(chainsOf(kernel.ruleset())))?.[1];
  t.equal(masqueraded(), "10.244.1.0/24");
  proxy.nodeChanged(node("node-1", { podCIDR: "10.244.7.0/24" }));
  await sync();
  t.equal(masqueraded(), "10.244.7.0/24");
  await proxy.stop();
});

t.test("node ports on listed addresses follow the addresses that the host has", async (t) => {
  const addresses = ["192.168.56.11", "10.9.0.1", "127.0.0.1", "fd00::1"];
  // What Object.values(networkInterfaces()) gives in the namespace.
  const run = (() => [addresses.map((address) => ({ address }))]) as ServiceProxyOptions["ns"]["run"];
  const { kernel, proxy, sync, begin } = memoryProxy({
    ns: { ...NO_HOST, run },
    nodePortAddresses: ["192.168.56.0/24", "10.0.0.0/8", "fd00::/16"],
  });
  const tail = () =>
    kernel
      .ruleset()
      .get("nat")
      ?.get("KUBE-SERVICES")
      ?.rules.map(({ args }) => args.join(" "));
  await begin();
  t.same(tail(), ["-d 10.9.0.1 -j KUBE-NODEPORTS", "-d 192.168.56.11 -j KUBE-NODEPORTS"]);
  t.notOk(kernel.ruleset().get("filter")?.has("KUBE-FIREWALL"), "loopback is not in the list");
  addresses[1] = "10.9.0.2";
  proxy.serviceChanged(undefined, WEB);
  await sync();
  t.same(tail(), ["-d 10.9.0.2 -j KUBE-NODEPORTS", "-d 192.168.56.11 -j KUBE-NODEPORTS"]);
  await proxy.stop();
});

t.test("health checks of load-balanced Services are told after each sync", async (t) => {
  const told: (readonly ServiceHealthCheck[])[] = [];
  const { proxy, sync, begin } = memoryProxy({ onHealthChecks: (checks) => told.push(checks) });
  const ports = [...HTTP, { name: "https", port: 443 }];
  const balanced = {
    type: "LoadBalancer",
    externalTrafficPolicy: "Local",
    healthCheckNodePort: 32_000,
  } as const;
  const web = service("default/web", "10.96.0.10", ports, balanced);
  const endpoints = [
    { ip: "10.244.1.2" },
    { ip: "10.244.1.3", conditions: { ready: false, serving: true, terminating: true } },
    { ip: "10.244.2.2", node: "node-2" },
  ];
  const backends = [
    { name: "http", port: 8080 },
    { name: "https", port: 8443 },
  ];
  const some = slice("default/web", backends, endpoints);
  proxy.serviceChanged(undefined, web);
  proxy.serviceChanged(
    undefined,
    service("default/plain", "10.96.0.11", HTTP, { ...balanced, externalTrafficPolicy: "Cluster" }),
  );
  proxy.endpointSliceChanged(undefined, some);
  await begin();
  const check = { namespace: "default", name: "web", port: 32_000, localEndpoints: 1 };
  t.same(proxy.healthChecks(), [check], "an address counts once, a terminating one not, a distant one not");
  t.same(told.at(-1), [check]);
  proxy.endpointSliceChanged(some, slice("default/web", backends, endpoints.slice(1)));
  await sync();
  t.same(told.at(-1), [{ ...check, localEndpoints: 0 }]);
  proxy.serviceChanged(
    web,
    service("default/web", "10.96.0.10", ports, { ...balanced, healthCheckNodePort: 32_001 }),
  );
  await sync();
  t.same(told.at(-1), [{ ...check, port: 32_001, localEndpoints: 0 }]);
  proxy.serviceChanged(web, undefined);
  await sync();
  t.same(told.at(-1), []);
  await proxy.stop();
});

t.test(
  "proxy health: sick when a change waits for two sync periods, whatever the wall clock says",
  async (t) => {
    const { kernel, clock, proxy, begin } = memoryProxy({ syncPeriodMs: 30_000 });
    t.match(proxy.health(), {
      healthy: true,
      nodeEligible: true,
      lastUpdated: undefined,
      lastQueued: undefined,
    });
    proxy.serviceChanged(undefined, WEB);
    await begin();
    const { lastUpdated = 0, lastQueued = 0 } = proxy.health();
    t.ok(lastUpdated >= lastQueued && lastQueued > 0);
    await clock.advance(1_000_000);
    t.ok(proxy.health().healthy, "nothing to do is no sickness");

    kernel.beforeRestore = (input) => {
      throw new RestoreError("memory", input, "iptables-restore: line 2 failed", undefined);
    };
    proxy.endpointSliceChanged(undefined, webSlice("10.244.1.2"));
    await clock.advance(59_999);
    t.ok(proxy.health().healthy, "late, but not too late");
    await clock.advance(2);
    t.notOk(proxy.health().healthy);
    kernel.beforeRestore = undefined;
    await clock.advance(60_000);
    t.ok(proxy.health().healthy, "well again as soon as it is in the kernel");

    const { now } = Date;
    t.teardown(() => {
      Date.now = now;
    });
    for (const jump of [-10 * 365 * 86_400_000, 365 * 86_400_000]) {
      Date.now = () => now() + jump;
      const ip = jump < 0 ? "10.244.1.3" : "10.244.1.4";
      proxy.endpointSliceChanged(webSlice("10.244.1.2"), webSlice(ip));
      await clock.advance(2000);
      t.ok(proxy.health().healthy);
      t.match(renderRestore(chainsOf(kernel.ruleset())), `--to-destination ${ip}:8080`, "synced as ever");
    }
    Date.now = now;

    proxy.nodeChanged(
      node("node-1", { taints: [{ key: "ToBeDeletedByClusterAutoscaler", effect: "NoSchedule" }] }),
    );
    t.match(proxy.health(), { healthy: true, nodeEligible: false });
    proxy.nodeChanged(node("node-1"));
    t.match(proxy.health(), { nodeEligible: true });
    await proxy.stop();
  },
);

t.test("the line that iptables-restore refused is in the log", async (t) => {
  const lines: Record<string, unknown>[] = [];
  const note = (fields: Record<string, unknown>) => lines.push(fields);
  const log = {
    ...silentLogger,
    warn: note,
    error: note,
    info: () => {},
    debug: () => {},
  } as unknown as Logger;
  const { kernel, clock, proxy, begin } = memoryProxy({ log });
  proxy.serviceChanged(undefined, WEB);
  await begin();
  let refuse = 2;
  kernel.beforeRestore = (input) => {
    const line = input.split("\n").findIndex((text) => text.includes("10.244.1.2:8080")) + 1;
    if (refuse-- > 0)
      throw new RestoreError("node-1", input, `iptables-restore: line ${line} failed`, undefined);
  };
  proxy.endpointSliceChanged(undefined, webSlice("10.244.1.2"));
  await clock.advance(10_000);
  t.equal(lines.length, 2, "the partial sync and the full one that followed");
  for (const fields of lines) t.match(fields, { line: Number, rule: /-A KUBE-S.*10\.244\.1\.2:8080/ });
  await proxy.stop();
});
