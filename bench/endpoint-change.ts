// An endpoint changes: how long until every host sends new connections to the new one, with 10 and with 1,000
// Services around? From the write of the EndpointSlice to the answer in a host's kernel; beside the floor of the same
// run: one iptables-restore of the changed chain by hand in the same host.

import { type Cluster, createCluster, ENDPOINT_SLICES, SERVICES } from "../index.js";
import { machine, percentile, printTable, timed } from "./report.js";

const COUNTS = (process.argv[2] ?? "10,1000").split(",").map(Number);
const ROUNDS = Number(process.argv[3] ?? 15);

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

async function fill(cluster: Cluster, count: number): Promise<void> {
  const { items } = await cluster.client.list(SERVICES, { namespace: "default" });
  for (let i = items.length; i < count; i++) {
    await cluster.client.create(SERVICES, service(`s${i}`), { namespace: "default" });
    const endpoints = [1, 2].map((n) => `10.244.${n}.${2 + (i % 250)}`);
    await cluster.client.create(ENDPOINT_SLICES, slice(`s${i}`, endpoints), { namespace: "default" });
  }
  await cluster.waitForSync();
}

/** Milliseconds from the write to a kernel, on each host, whose rules name the new address only. */
async function change(cluster: Cluster, address: string): Promise<number> {
  const { ms } = await timed(async () => {
    await cluster.client.patch(
      ENDPOINT_SLICES,
      "moving",
      "merge",
      { endpoints: [{ addresses: [address] }] },
      { namespace: "default" },
    );
    await cluster.waitForSync();
  });
  const rules = await cluster.rules("node-2", "nat");
  if (!rules.includes(`--to-destination ${address}:8080`)) throw new Error(`${address} is not in the rules`);
  return ms;
}

/** One restore of one chain by hand, as the proxy would send it. */
async function byHand(cluster: Cluster): Promise<number> {
  const input =
    "*nat\n:KP-BENCH - [0:0]\n-A KP-BENCH -p tcp -j DNAT --to-destination 10.244.1.9:8080\nCOMMIT\n";
  const { ms, result } = await timed(() =>
    cluster.exec("node-2", ["iptables-restore", "--noflush"], { input }),
  );
  if (result.exitCode !== 0) throw new Error(result.stderr);
  return ms;
}

console.log(`endpoint change to kernel, three hosts, ${ROUNDS} rounds; ${machine()}\n`);
await using cluster = await createCluster({ nodes: 3 });
await cluster.client.create(SERVICES, service("moving", "10.96.0.90"), { namespace: "default" });
await cluster.client.create(ENDPOINT_SLICES, slice("moving", ["10.244.1.250"]), { namespace: "default" });
const rows: (string | number)[][] = [];
let first: number | undefined;
for (const count of COUNTS) {
  await fill(cluster, count);
  const moved: number[] = [];
  const hand: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    // The proxy syncs at most twice at once and then once a second: wait that out, to time the work and not the wait.
    await new Promise((resolve) => setTimeout(resolve, 2200));
    moved.push(await change(cluster, `10.244.1.${100 + (i % 100)}`));
    hand.push(await byHand(cluster));
  }
  const [p50, p99, floor] = [percentile(moved, 50), percentile(moved, 99), percentile(hand, 50)];
  first ??= p50;
  rows.push([count, p50, p99, floor, p50 / floor, p50 / first]);
}
printTable(
  [
    "Services",
    "p50 ms",
    "p99 ms",
    "one iptables-restore by hand, ms",
    "ratio to it",
    `ratio to ${COUNTS[0]} Services`,
  ],
  rows,
);
