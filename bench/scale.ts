// What one more host and one more pod cost, in time and in memory of the lab process, beside the kernel's own price
// for the bare objects (namespace, veth pair, addresses, route) in the same run.

import { fileURLToPath } from "node:url";
import { runCommand } from "../dataplane/kernel/command.js";
import { NetNs } from "../dataplane/kernel/netns.js";
import { RtNetlink } from "../dataplane/kernel/rtnetlink.js";
import { createCluster, DEPLOYMENTS, PODS } from "../index.js";
import { isPrivileged } from "../lab/launch.js";
import { rssOf } from "./memory.js";
import { machine, printTable, timed } from "./report.js";

const HOSTS = Number(process.argv[2] ?? 100);
const PODS_WANTED = Number(process.argv[3] ?? 1000);
if (process.argv[2] === "--bare") {
  console.log(await bareObjects(PODS_WANTED));
  process.exit(0);
}

/** Milliseconds for one bare "pod": namespace, veth into a bridge, lo, address, default route. */
async function bareObjects(count: number): Promise<number> {
  const host = NetNs.create("bench");
  const rt = RtNetlink.open(host);
  const kept: NetNs[] = [];
  await rt.addBridge({ name: "br0", up: true });
  const { ms } = await timed(async () => {
    for (let i = 0; i < count; i++) {
      const pod = NetNs.create(`pod-${i}`);
      kept.push(pod);
      await rt.addVeth({ name: `v${i}`, peer: { name: "eth0", ns: pod }, master: "br0", up: true });
      const inside = RtNetlink.open(pod);
      await inside.setLink("lo", { up: true });
      await inside.addAddress("eth0", `10.9.${i >> 8}.${i & 255}/16`);
      await inside.setLink("eth0", { up: true });
      await inside.addRoute({ dst: "0.0.0.0/0", via: "10.9.255.254", dev: "eth0" });
      inside.close();
    }
  });
  for (const ns of kept) ns.close();
  rt.close();
  host.close();
  return ms / count;
}

/** The same in a process of its own that may make namespaces, so that this one stays an ordinary user's. */
async function bareInNamespace(count: number): Promise<number> {
  const user = isPrivileged() ? [] : ["--user", "--map-root-user"];
  const node = [process.execPath, fileURLToPath(import.meta.url), "--bare", String(count)];
  const { stdout } = await runCommand("unshare", [
    ...user,
    "--net",
    "--mount",
    "--propagation",
    "private",
    ...node,
  ]);
  return Number(stdout);
}

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
const bare = await bareInNamespace(200);
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
    ["namespace with veth, address, route (bare)", bare, "-", 1],
    [`host (3 → ${HOSTS})`, perHost.ms, perHost.mb * 1024, perHost.ms / bare],
    [`pod (0 → ${running}, Deployment to Available)`, perPod.ms, perPod.mb * 1024, perPod.ms / bare],
  ],
);
console.log(
  `${HOSTS} hosts up in ${(ms / 1000).toFixed(1)} s, ${running} pods available in ${(pods.ms / 1000).toFixed(1)} s`,
);
