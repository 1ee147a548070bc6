// Questions a second and their p99: through the ClusterIP of kube-dns, at the address of one of its pods, and, as the
// floor, a bare UDP echo of Node in a pod, asked by the same client in the same run. From a pod on another host.

import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { encode } from "dns-packet";
import { type Cluster, createCluster, DEPLOYMENTS, PODS } from "../index.js";
import { machineFiles, PROGRAM_FILES } from "../tests/helpers/machine-files.js";
import { machine, percentile, printTable } from "./report.js";

/** Questions under way at the same time, and for how long, in milliseconds. */
const CONCURRENCY = 32;
const ROUND_MS = 1000;
const ROUNDS = 7;
const LOST_AFTER_MS = 1000;

/** One server of the DNS is on each: the ClusterIP leads to both. */
const CLIENT = "node-1";
const SERVER = "node-2";
const ECHO_PORT = 5300;
const SYSTEM = "kube-system";
const NAME = "kube-dns.kube-system.svc.cluster.local";

interface Figures {
  perSecond: number;
  p50: number;
  p99: number;
  lost: number;
}

/** One question after the other: resolves with how long each took, in microseconds. -1: lost. */
async function asker(target: { host: string; port: number }, end: number): Promise<number[]> {
  const socket: Socket = createSocket("udp4");
  socket.connect(target.port, target.host);
  await once(socket, "connect");
  const out: number[] = [];
  const query = encode({ type: "query", flags: 0x100, questions: [{ name: NAME, type: "A" }] });
  for (let id = 0; performance.now() < end; id = (id + 1) % 0x10000) {
    query.writeUInt16BE(id, 0);
    const began = performance.now();
    const answered = new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), LOST_AFTER_MS);
      socket.once("message", (message) => {
        clearTimeout(timer);
        resolve(message.readUInt16BE(0) === id);
      });
    });
    socket.send(query);
    out.push((await answered) ? (performance.now() - began) * 1000 : -1);
    socket.removeAllListeners("message");
  }
  socket.close();
  return out;
}

async function measure(target: { host: string; port: number }): Promise<Figures> {
  const begin = performance.now();
  const all = await Promise.all(Array.from({ length: CONCURRENCY }, () => asker(target, begin + ROUND_MS)));
  const took = all.flat().filter((one) => one >= 0);
  const seconds = (performance.now() - begin) / 1000;
  const [p50, p99] = [percentile(took, 50), percentile(took, 99)];
  return { perSecond: took.length / seconds, p50, p99, lost: all.flat().length - took.length };
}

/** This file as the program of a pod: `client HOST:PORT`, `echo PORT`. */
async function program([role, argument = ""]: readonly string[]): Promise<void> {
  if (role === "echo") {
    const socket = createSocket("udp4", (message, peer) => socket.send(message, peer.port, peer.address));
    socket.bind(Number(argument));
    return;
  }
  const [host = "", port] = argument.split(":");
  console.log(JSON.stringify(await measure({ host, port: Number(port) })));
}

const pod = (name: string, node: string, command: readonly string[]) => `
apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec:
  nodeName: ${node}
  containers:
    - name: main
      image: busybox
      command: ${JSON.stringify(command)}
      volumeMounts: ${JSON.stringify(files.container.volumeMounts)}
  volumes: ${JSON.stringify(files.spec.volumes)}`;

const files = machineFiles(PROGRAM_FILES);

async function askFrom(cluster: Cluster, target: string): Promise<Figures> {
  const file = process.argv[1] ?? "";
  const { stdout, stderr } = await cluster.exec("default/client", [process.execPath, file, "client", target]);
  if (stdout === "") throw new Error(`the client failed: ${stderr}`);
  return JSON.parse(stdout) as Figures;
}

async function main(): Promise<void> {
  await using cluster = await createCluster({ nodes: 2 });
  const file = process.argv[1] ?? "";
  await cluster.apply(pod("echo", SERVER, [process.execPath, file, "echo", String(ECHO_PORT)]));
  await cluster.apply(pod("client", CLIENT, ["sleep", "infinity"]));
  for (const name of ["echo", "client"]) await cluster.waitFor(PODS, name, "Ready");
  await cluster.waitFor(DEPLOYMENTS, "coredns", "Available", { namespace: SYSTEM });
  await cluster.waitForSync();
  const { items } = await cluster.client.list(PODS, { namespace: SYSTEM, labelSelector: "k8s-app=kube-dns" });
  const echo = await cluster.client.get(PODS, "echo", "default");
  const server = items.find(({ spec }) => spec?.nodeName === SERVER);
  if (!server) throw new Error(`no pod of kube-dns is on ${SERVER}`);
  const targets: [string, string][] = [
    ["bare UDP echo", `${echo.status?.podIP}:${ECHO_PORT}`],
    ["pod of kube-dns", `${server.status?.podIP}:53`],
    ["ClusterIP of kube-dns", "10.96.0.10:53"],
  ];
  const figures = new Map<string, Figures[]>(targets.map(([name]) => [name, []]));
  // In turns: what else the machine does meets all of them.
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, target] of targets) figures.get(name)?.push(await askFrom(cluster, target));
  }
  const middle = (name: string, key: keyof Figures) =>
    percentile(
      (figures.get(name) ?? []).map((one) => one[key]),
      50,
    );
  const floor = middle("bare UDP echo", "perSecond");
  console.log(
    `${machine()}; ${CONCURRENCY} questions at a time, median of ${ROUNDS} rounds of ${ROUND_MS / 1000} s\n`,
  );
  printTable(
    ["", "questions/s", "of the echo", "p50 µs", "p99 µs", "lost"],
    targets.map(([name]) => [
      name,
      Math.round(middle(name, "perSecond")),
      middle(name, "perSecond") / floor,
      Math.round(middle(name, "p50")),
      Math.round(middle(name, "p99")),
      middle(name, "lost"),
    ]),
  );
}

const roles = process.argv.slice(2);
if (roles[0] === "client" || roles[0] === "echo") await program(roles);
else await main();
