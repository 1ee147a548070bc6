// From `up` to the first answered ClusterIP request, beside the floor of the same run: the same kernel objects made by
// iproute2 and iptables alone (bench/floor.sh). Then the memory of the two processes.

import { fileURLToPath } from "node:url";
import { runCommand } from "../dataplane/kernel/command.js";
import { createCluster } from "../index.js";
import { isPrivileged } from "../lab/launch.js";
import { privateOf, rssOf } from "./memory.js";
import { machine, median, printTable, timed } from "./report.js";

const ROUNDS = Number(process.argv[2] ?? 5);
const FLOOR = fileURLToPath(new URL("../../bench/floor.sh", import.meta.url));

const WORKLOAD = `
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec:
  nodeName: node-3
  containers: [{ name: web, image: gcr.io/google-samples/kubernetes-bootcamp:v1 }]
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { clusterIP: 10.96.0.80, selector: { app: web }, ports: [{ port: 80, targetPort: 8080 }] }`;

async function floor(): Promise<number> {
  const privileged = isPrivileged() ? [] : ["--user", "--map-root-user"];
  const { ms } = await timed(() =>
    runCommand("unshare", [
      ...privileged,
      ..."--net --mount --pid --fork --kill-child --mount-proc --propagation private".split(" "),
      FLOOR,
    ]),
  );
  return ms;
}

const memory = (pid: number) => ({ rss: rssOf(pid), own: privateOf(pid) });

interface Round {
  up: number;
  answered: number;
  control: { rss: number; own: number };
  lab: { rss: number; own: number };
}

async function round(): Promise<Round> {
  const start = performance.now();
  await using cluster = await createCluster({ nodes: 3 });
  const up = performance.now() - start;
  await cluster.apply(WORKLOAD);
  // Retried while the rules are on their way: refused is as good as not there yet.
  const script = "until curl -sf --max-time 1 http://10.96.0.80/; do :; done";
  const { stdout } = await cluster.exec("node-1", ["sh", "-c", script]);
  const answered = performance.now() - start;
  if (!stdout.includes("Running on: web")) throw new Error(`unexpected answer: ${stdout}`);
  const pids = cluster.pids();
  return { up, answered, control: memory(pids.control), lab: memory(pids.lab) };
}

console.log(`up of three hosts, ${ROUNDS} rounds, medians; ${machine()}\n`);
const floors: number[] = [];
const rounds: Round[] = [];
for (let i = 0; i < ROUNDS; i++) {
  floors.push(await floor());
  rounds.push(await round());
}
const base = median(floors);
const rows: [string, number][] = [
  ["floor: ip and iptables alone, first answer", base],
  ["up: all hosts Ready", median(rounds.map((r) => r.up))],
  ["up, pod and Service created, first ClusterIP answer", median(rounds.map((r) => r.answered))],
];
printTable(
  ["step", "ms", "ratio to floor"],
  rows.map(([step, ms]) => [step, ms, ms / base]),
);
printTable(
  ["process", "RSS MB", "of it private MB"],
  (["control", "lab"] as const).map((name) => [
    name,
    median(rounds.map((r) => r[name].rss)),
    median(rounds.map((r) => r[name].own)),
  ]),
);
