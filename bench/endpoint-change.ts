// An endpoint changes: how long until a host sends new connections to the new one, with 10 and with 1,000 Services of
// three endpoints around? From the write of the EndpointSlice to a host's first request that the new endpoint answers;
// beside the floor of the same run: one iptables-restore of one chain by hand in the same host.
//   node dist/bench/endpoint-change.js [SERVICES,… [ROUNDS [auto|nft|legacy]]]      e.g. 100,1000,5000,10000 30 legacy

import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Cluster, createCluster, ENDPOINT_SLICES, PODS, SERVICES } from "../index.js";
import { machine, percentile, printTable, timed } from "./report.js";

const COUNTS = (process.argv[2] ?? "10,1000").split(",").map(Number);
/** Even, so that each figure moves there and back. */
const ROUNDS = Number(process.argv[3] ?? 16);
const IPTABLES = (process.argv[4] ?? "auto") as "auto" | "nft" | "legacy";
const VIP = "10.96.0.90";
const TRAFFIC = fileURLToPath(new URL("traffic.js", import.meta.url));
const PROBE_START_MS = 1000;

const service = (name: string, clusterIP?: string) => ({
  apiVersion: "v1" as const,
  kind: "Service" as const,
  metadata: { name },
  spec: { ...(clusterIP ? { clusterIP } : {}), ports: [{ port: 80, targetPort: 8080 }] },
});

const slice = (name: string, addresses: string[]) => ({
  apiVersion: "discovery.k8s.io/v1" as const,
  kind: "EndpointSlice" as const,
  metadata: { name, labels: { "kubernetes.io/service-name": name } },
  addressType: "IPv4" as const,
  ports: [{ name: "", port: 8080, protocol: "TCP" }],
  endpoints: addresses.map((ip) => ({ addresses: [ip] })),
});

/** Requests on their way together. */
const WINDOW = 50;

async function fill(cluster: Cluster, count: number): Promise<void> {
  const { items } = await cluster.client.list(SERVICES, { namespace: "default" });
  const add = async (i: number) => {
    await cluster.client.create(SERVICES, service(`s${i}`), { namespace: "default" });
    const endpoints = [1, 2, 3].map((n) => `10.${244 + n}.${i >> 8}.${i & 255}`);
    await cluster.client.create(ENDPOINT_SLICES, slice(`s${i}`, endpoints), { namespace: "default" });
  };
  for (let i = items.length; i < count; i += WINDOW) {
    await Promise.all(Array.from({ length: Math.min(WINDOW, count - i) }, (_, n) => add(i + n)));
  }
  await cluster.waitForSync();
}

/**
 * Milliseconds from the write of the EndpointSlice until a host's connection is answered by the new endpoint. The host
 * connects again and again meanwhile, which begins before the write.
 */
async function change(cluster: Cluster, to: { name: string; ip: string }): Promise<number> {
  const moved = cluster.exec("node-2", [process.execPath, TRAFFIC, VIP, "80", `${to.name} `]);
  await sleep(PROBE_START_MS);
  const start = Date.now();
  const patch = { endpoints: [{ addresses: [to.ip] }] };
  await cluster.client.patch(ENDPOINT_SLICES, "moving", "merge", patch, { namespace: "default" });
  const { stdout, stderr } = await moved;
  const [begun = 0, end = 0] = stdout.split(" ").map(Number);
  if (begun === 0 || begun > start) throw new Error(`the probe began too late: ${stdout}${stderr}`);
  return end - start;
}

/** One restore of one chain by hand in the same host, as the proxy would send it. */
async function byHand(cluster: Cluster): Promise<number> {
  const input =
    "*nat\n:KP-BENCH - [0:0]\n-A KP-BENCH -p tcp -j DNAT --to-destination 10.244.1.9:8080\nCOMMIT\n";
  const { ms, result } = await timed(() =>
    cluster.exec("node-2", ["iptables-restore", "--noflush"], { input }),
  );
  if (result.exitCode !== 0) throw new Error(result.stderr);
  return ms;
}

console.log(
  `endpoint change to moved traffic, three hosts, iptables ${IPTABLES}, ${ROUNDS} rounds; ${machine()}\n`,
);
await using cluster = await createCluster({ nodes: 3, config: { networking: { iptables: IPTABLES } } });
const pods: { name: string; ip: string }[] = [];
for (const name of ["one", "two"]) {
  const containers = [{ name, image: "gcr.io/google-samples/kubernetes-bootcamp:v1" }];
  await cluster.client.create(PODS, { metadata: { name }, spec: { containers } }, { namespace: "default" });
  const pod = await cluster.waitFor(PODS, name, "Ready");
  pods.push({ name, ip: pod?.status?.podIP ?? "" });
}
await cluster.client.create(SERVICES, service("moving", VIP), { namespace: "default" });
await cluster.client.create(ENDPOINT_SLICES, slice("moving", [pods[0]?.ip ?? ""]), { namespace: "default" });
const rows: (string | number)[][] = [];
let first: number | undefined;
for (const count of COUNTS) {
  await fill(cluster, count);
  const moved: number[] = [];
  const hand: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    // The proxy syncs three times at once and then once a second: with the probe's start that is waited out, to time
    // the work and not the wait.
    await sleep(1200);
    const to = pods[(i + 1) % 2];
    if (to) moved.push(await change(cluster, to));
    hand.push(await byHand(cluster));
  }
  const [p50, p90, floor] = [percentile(moved, 50), percentile(moved, 90), percentile(hand, 50)];
  first ??= p50;
  rows.push([count, p50, p90, floor, p50 / floor, p50 / first]);
}
printTable(
  [
    "Services",
    "p50 ms",
    "p90 ms",
    "one iptables-restore by hand, ms",
    "ratio to it",
    `ratio to ${COUNTS[0]} Services`,
  ],
  rows,
);
