// Measurements without a cluster: /proc, an emulated process's CPU time, the kubelet's two documents, and
// metrics.k8s.io from scrapes of them.

import t from "tap";
import { NAMESPACES, PODS } from "../../common/client.js";
import type { PodMetrics, Stored } from "../../common/k8s.js";
import { MetricsServer } from "../../control/metrics/metrics-server.js";
import { parseResourceMetrics } from "../../control/metrics/resource-metrics.js";
import { UsageStore } from "../../control/metrics/usage-store.js";
import { metricsDefinitions } from "../../control/resources/metrics.js";
import { threadCpuNanoseconds } from "../../dataplane/kernel/thread-clock.js";
import { CpuMeter, emulatedCpuNanoseconds } from "../../node/images/meter.js";
import { resourceMetrics, statsSummary } from "../../node/kubelet/stats.js";
import { parsePss, parseStat, treeUsage } from "../../node/stats/process-tree.js";
import { NOW } from "./helpers/kinds.js";
import { addNodes, eventually, openLocalApi } from "./helpers/local-cluster.js";

t.test("/proc", async (t) => {
  const stat = `7 (a) b (c) S 1 7 7 0 -1 4194560 100 200 0 0 150 50 7 3 20 0 1 0 12345 1000000 25 18446744073709551615`;
  t.same(parseStat(stat), { cpuNanoseconds: 2_100_000_000, rssBytes: 25 * 4096 });
  t.equal(parseStat(""), undefined);
  t.equal(parsePss("Rss:  9 kB\nPss:                8 kB\nPss_Anon: 1 kB\n"), 8192);
  const own = treeUsage(process.pid);
  t.ok(own.cpuNanoseconds > 0 && own.memoryBytes > 1 << 20, "this very process");
  t.same(treeUsage(2 ** 22), { cpuNanoseconds: 0, memoryBytes: 0 }, "one that is gone");
});

t.test("the CPU time of an emulated process", async (t) => {
  const meter = new CpuMeter();
  // By the thread's own clock: other programs may have the CPU meanwhile.
  const burn = (ms: number) => {
    const end = threadCpuNanoseconds() + ms * 1e6;
    while (threadCpuNanoseconds() < end);
  };
  const before = emulatedCpuNanoseconds();
  // As an event comes: from the loop.
  setImmediate(() =>
    meter.run(() => {
      void Promise.resolve()
        .then(() => undefined)
        .then(() => burn(20));
      burn(20);
    }),
  );
  await new Promise((resolve) => setTimeout(resolve, 100));
  const seen = meter.nanoseconds;
  t.ok(seen >= 40e6 && seen < 60e6, `with what follows at once: ${seen}`);
  t.equal(emulatedCpuNanoseconds() - before, seen);
  burn(5);
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(meter.nanoseconds, seen, "what others do is not counted");
});

const usage = (cpu: number, memoryBytes: number) => ({ cpuNanoseconds: cpu * 1e9, memoryBytes });
const sample = (at: number, cpu: number) => ({
  at,
  startedAt: NOW - 100_000,
  ...usage(cpu * 2, 5000),
  system: usage(1, 1000),
  pods: [
    {
      namespace: "ns",
      name: "p",
      uid: "u",
      startedAt: NOW - 50_000,
      containers: [{ name: "c", startedAt: NOW - 50_000, ...usage(cpu, 2048) }],
    },
  ],
});

t.test("the kubelet's documents, and metrics.k8s.io from them", async (t) => {
  const text = resourceMetrics(sample(NOW, 3));
  t.match(text, /^# TYPE container_cpu_usage_seconds_total counter$/m);
  t.match(
    text.split("\n").filter((line) => line.startsWith("container_")),
    [
      `container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 3 ${NOW}`,
      `container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 2048 ${NOW}`,
      `container_start_time_seconds{container="c",namespace="ns",pod="p"} ${(NOW - 50_000) / 1000}`,
    ],
  );
  t.match(text, /^resource_scrape_error 0$/m);
  t.match(statsSummary("n", sample(NOW, 4), sample(NOW - 2000, 3)), {
    node: { nodeName: "n", cpu: { usageNanoCores: 1e9 }, systemContainers: [{ name: "kubelet" }] },
    pods: [{ podRef: { name: "p", namespace: "ns" }, containers: [{ cpu: { usageNanoCores: 5e8 } }] }],
  });
  const store = new UsageStore(15_000);
  const add = (at: number, cpu: number) =>
    store.add("n", parseResourceMetrics(resourceMetrics(sample(at, cpu))));
  add(NOW, 3);
  t.equal(store.node("n"), undefined, "one point is no usage");
  t.equal(store.pod("n", "ns/p"), undefined);
  add(NOW + 15_000, 6);
  t.same(store.node("n"), { at: NOW + 15_000, windowMs: 15_000, cpuCores: 0.4, memoryBytes: 5000 });
  t.same(store.pod("n", "ns/p")?.get("c"), {
    at: NOW + 15_000,
    windowMs: 15_000,
    cpuCores: 0.2,
    memoryBytes: 2048,
  });
  add(NOW + 15_000, 6);
  t.equal(store.pod("n", "ns/p")?.get("c")?.cpuCores, 0.2, "the same point again changes nothing");
  add(NOW + 30_000, 1);
  t.equal(store.pod("n", "ns/p"), undefined, "a counter that fell is another life");
  store.add("n", { node: undefined, pods: new Map() });
  t.equal(store.pod("n", "ns/p"), undefined);
  const fresh = new UsageStore(15_000);
  const young = sample(NOW - 38_000, 6);
  fresh.add("n", parseResourceMetrics(resourceMetrics(young)));
  t.equal(
    fresh.pod("n", "ns/p")?.get("c")?.cpuCores,
    0.5,
    "twelve seconds old: its beginning is the other point",
  );
});

t.test("metrics.k8s.io: columns and lookup", async (t) => {
  const object = {
    metadata: { name: "p" },
    window: "15s",
    containers: [
      { name: "a", usage: { cpu: "1500000n", memory: "1Mi" } },
      { name: "b", usage: { cpu: "1m", memory: "4Ki" } },
    ],
  } as unknown as Stored<PodMetrics>;
  const [, pods] = metricsDefinitions({ nodeMetrics: () => [], podMetrics: () => [object] });
  t.same(
    pods?.columns.map((column) => column.value(object as Stored, NOW)),
    ["p", "2500u", "1028Ki", "15s"],
  );
  const asked = { user: { name: "u", groups: [] }, namespace: "ns" };
  t.equal(await pods?.answers?.get?.("p", asked), object);
  t.throws(() => pods?.answers?.get?.("q", asked), { message: 'podmetrics.metrics.k8s.io "ns/q" not found' });
});

t.test("metrics.k8s.io: every kubelet is asked, one that does not answer is forgotten", async (t) => {
  const { client, informers, log, close } = await openLocalApi();
  t.teardown(close);
  await addNodes(client, 2);
  await client.create(NAMESPACES, { metadata: { name: "ns" } });
  const labels = { app: "p" };
  const spec = { nodeName: "node-1", containers: [{ name: "c", image: "x" }] };
  await client.create(PODS, { metadata: { name: "p", labels }, spec }, { namespace: "ns" });
  let down = "";
  let cpu = 0;
  const read = async ({ metadata: { name } }: { metadata: { name: string } }, path: string) => {
    if (name === down || path !== "/metrics/resource") throw new Error("connection refused");
    const one = sample(Date.now(), ++cpu);
    return resourceMetrics(name === "node-1" ? one : { ...one, pods: [] });
  };
  const server = new MetricsServer({ read, log, resolutionMs: 40 });
  server.start(informers);
  t.teardown(() => server.stop());
  informers.start();
  const nodes = () => server.nodeMetrics().map(({ metadata }) => metadata.name);
  await eventually("both nodes are measured", async () => nodes().length === 2);
  t.match(server.podMetrics("ns"), [
    {
      kind: "PodMetrics",
      metadata: { name: "p", namespace: "ns", labels },
      containers: [{ name: "c", usage: { memory: "2Ki" } }],
    },
  ]);
  t.same(server.podMetrics("other"), []);
  t.match(server.podMetrics(undefined)[0]?.window, /^0\.\d+s$/);
  down = "node-1";
  await eventually("one is forgotten", async () => nodes().join() === "node-2");
  t.same(server.podMetrics("ns"), [], "and its pods");
});
