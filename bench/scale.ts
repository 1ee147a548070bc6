// What one more host and one more pod cost, in time and in memory of the lab process, beside the kernel's own price
// for the bare objects (namespace, veth pair, addresses, route) in the same run.

import { createCluster, DEPLOYMENTS, PODS } from "../index.js";
import { bareObjects } from "./bare-objects.js";
import { rssOf } from "./memory.js";
import { machine, printTable, timed } from "./report.js";

const HOSTS = Number(process.argv[2] ?? 100);
const PODS_WANTED = Number(process.argv[3] ?? 1000);

const web = (replicas: number) => `
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: ${replicas}
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{ name: web, image: nginx }]
`;

async function measureHosts(nodes: number): Promise<{ ms: number; rss: number }> {
  const { ms, result: cluster } = await timed(() => createCluster({ nodes }));
  await using _ = cluster;
  return { ms, rss: rssOf(cluster.pids().lab) };
}

console.log(`cost of hosts and pods; ${machine()}\n`);
const bare = { host: await bareObjects("hosts", HOSTS), pod: await bareObjects("pods", 200) };
const few = await measureHosts(3);

const { ms, result: cluster } = await timed(() => createCluster({ nodes: HOSTS }));
await using _ = cluster;
const rss = rssOf(cluster.pids().lab);
const perHost = { ms: (ms - few.ms) / (HOSTS - 3), mb: (rss - few.rss) / (HOSTS - 3) };

const before = rssOf(cluster.pids().lab);
const pods = await timed(async () => {
  await cluster.apply(web(PODS_WANTED));
  await cluster.waitFor(DEPLOYMENTS, "web", (d) => d?.status?.availableReplicas === PODS_WANTED, {
    timeoutMs: 300_000,
  });
});
const running = (await cluster.client.list(PODS, { namespace: "default" })).items.length;
const perPod = { ms: pods.ms / running, mb: (rssOf(cluster.pids().lab) - before) / running };

printTable(
  ["one more", "ms", "kB in the lab process", "ratio to bare kernel objects"],
  [
    ["bare host: namespace, uplink, VXLAN, peers", bare.host, "-", 1],
    [`host (3 → ${HOSTS})`, perHost.ms, perHost.mb * 1024, perHost.ms / bare.host],
    ["bare pod: namespace, veth, address, route", bare.pod, "-", 1],
    [`pod (0 → ${running}, Deployment to Available)`, perPod.ms, perPod.mb * 1024, perPod.ms / bare.pod],
  ],
);
console.log(
  `${HOSTS} hosts up in ${(ms / 1000).toFixed(1)} s, ${running} pods available in ${(pods.ms / 1000).toFixed(1)} s`,
);
