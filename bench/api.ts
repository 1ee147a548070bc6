// The API server alone: creates a second, a list of 10,000 pods, events to 100 watchers, memory; beside kube-apiserver
// with etcd in the same run where $KUBE_APISERVER and $ETCD name them. The client is the same program for both. They take
// turns, and each figure is the median of its rounds: the machine is not as fast in each minute as in the next. The CPU
// time of a create is of all processes of the server, and says most where other programs share the machine.
// BENCH_DIR chooses the disk; on a tmpfs (/dev/shm) nobody waits for one.

import { fork } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Agent, Pool } from "undici";
import { ours, type Peer, theirs } from "./api-peers.js";
import { cpuOf, rssOf } from "./memory.js";
import { machine, median, percentile, printTable } from "./report.js";

const PEERS = { ours, theirs };
type PeerName = keyof typeof PEERS;

const PODS = Number(process.argv[2] ?? 10_000);
/** Created before, in another namespace: a server that has just started compiles and fills its caches. */
const FIRST_PODS = 2000;
const WORKERS = 32;
const WATCHERS = 100;
const LISTS = 5;
/** Changes a second while the delay of events is measured, and for how long. */
const PACE = 50;
const PACED_SECONDS = 20;
const BURST = 500;
const ROUNDS = 3;

const podsPath = (namespace: string): string => `/api/v1/namespaces/${namespace}/pods`;
const PATH = podsPath("default");
const SENT = "bench/sent-at";

interface Figures {
  firstCreates: number;
  creates: number;
  createP99: number;
  createCpuUs: number;
  listMs: number;
  listBytes: number;
  delayP50: number;
  delayP99: number;
  eventsPerSecond: number;
  idleRss: number;
  rssPerThousand: number;
}

function pod(i: number): string {
  const labels = { app: `app-${i % 100}`, "pod-template-hash": "5d4f8c7b9", tier: "web" };
  return JSON.stringify({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: `web-${i}`, labels },
    // Nobody's scheduler: this is about the API server.
    spec: {
      schedulerName: "none",
      automountServiceAccountToken: false,
      containers: [
        {
          name: "web",
          image: "nginx:1.29",
          ports: [{ containerPort: 80, name: "http" }],
          env: [{ name: "MODE", value: "production" }],
          resources: { requests: { cpu: "100m", memory: "64Mi" } },
        },
      ],
    },
  });
}

class Client {
  readonly #pool: Pool;
  readonly #streams: Agent;
  readonly #server: string;
  readonly #headers: Record<string, string>;

  constructor({ server, ca, cert, key, token }: Peer) {
    // kube-apiserver's own certificate names no address that we could check.
    const connect = { ca, cert, key, rejectUnauthorized: token === undefined };
    this.#server = server;
    this.#pool = new Pool(server, { connect, connections: WORKERS });
    this.#streams = new Agent({ connect, bodyTimeout: 0 });
    this.#headers = {
      "content-type": "application/json",
      ...(token ? { authorization: `Bearer ${token}` } : {}),
    };
  }

  /** Opens its connections: TLS costs the client more than it costs the server. */
  async connect(): Promise<void> {
    await Promise.all(Array.from({ length: WORKERS }, () => this.send("GET", "/version")));
  }

  async send(method: "POST" | "PATCH" | "GET", path: string, body?: string, type?: string): Promise<string> {
    const headers = type ? { ...this.#headers, "content-type": type } : this.#headers;
    const answer = await this.#pool.request({ method, path, headers, body });
    const text = await answer.body.text();
    if (answer.statusCode >= 300)
      throw new Error(`${method} ${path}: ${answer.statusCode} ${text.slice(0, 300)}`);
    return text;
  }

  /** Calls with the time that stands in each event; resolves once the stream is open. */
  async watch(resourceVersion: string, event: (sentAt: number) => void): Promise<void> {
    const path = `${PATH}?watch=true&resourceVersion=${resourceVersion}`;
    const answer = await this.#streams.request({
      origin: this.#server,
      path,
      method: "GET",
      headers: this.#headers,
    });
    let rest = "";
    answer.body.on("data", (chunk: Buffer) => {
      const lines = (rest + chunk.toString()).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) event(Number(/"bench\/sent-at":"([\d.]+)"/.exec(line)?.[1]));
    });
    answer.body.on("error", () => undefined);
  }

  async close(): Promise<void> {
    await Promise.all([this.#pool.destroy(), this.#streams.destroy()]);
  }
}

const sumOf = (peer: Peer, figure: (pid: number) => number): number =>
  peer.pids.reduce((sum, pid) => sum + figure(pid), 0);

async function create(
  client: Client,
  count: number,
  path: string,
): Promise<{ perSecond: number; p99: number }> {
  const delays: number[] = [];
  let next = 0;
  const start = performance.now();
  const worker = async (): Promise<void> => {
    for (let i = next++; i < count; i = next++) {
      const at = performance.now();
      await client.send("POST", path, pod(i));
      delays.push(performance.now() - at);
    }
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
  return { perSecond: (count * 1000) / (performance.now() - start), p99: percentile(delays, 99) };
}

async function list(client: Client): Promise<{ ms: number; bytes: number; resourceVersion: string }> {
  const times: number[] = [];
  let text = "";
  for (let i = 0; i < LISTS; i++) {
    const at = performance.now();
    text = await client.send("GET", PATH);
    times.push(performance.now() - at);
  }
  const { items, metadata } = JSON.parse(text);
  if (items.length !== PODS) throw new Error(`${items.length} pods are listed`);
  return { ms: median(times), bytes: text.length, resourceVersion: metadata.resourceVersion };
}

const stamp = (client: Client, i: number): Promise<string> => {
  const body = JSON.stringify({ metadata: { annotations: { [SENT]: String(performance.now()) } } });
  return client.send("PATCH", `${PATH}/web-${i % PODS}`, body, "application/merge-patch+json");
};

async function until(done: () => boolean): Promise<void> {
  for (const end = Date.now() + 60_000; !done(); ) {
    if (Date.now() > end) throw new Error("events are missing");
    await sleep(5);
  }
}

async function fanOut(
  client: Client,
  resourceVersion: string,
): Promise<Pick<Figures, "delayP50" | "delayP99" | "eventsPerSecond">> {
  const delays: number[] = [];
  const event = (sentAt: number): void => void delays.push(performance.now() - sentAt);
  await Promise.all(Array.from({ length: WATCHERS }, () => client.watch(resourceVersion, event)));
  const changes = PACE * PACED_SECONDS;
  const start = performance.now();
  const writes: Promise<string>[] = [];
  for (let i = 0; i < changes; i++) {
    const wait = start + (i * 1000) / PACE - performance.now();
    if (wait > 0) await sleep(wait);
    writes.push(stamp(client, i));
  }
  await Promise.all(writes);
  await until(() => delays.length === changes * WATCHERS);
  const paced = delays.splice(0);
  const at = performance.now();
  await Promise.all(Array.from({ length: BURST }, (_, i) => stamp(client, i)));
  await until(() => delays.length === BURST * WATCHERS);
  return {
    delayP50: median(paced),
    delayP99: percentile(paced, 99),
    eventsPerSecond: (BURST * WATCHERS * 1000) / (performance.now() - at),
  };
}

/** The client's own code is compiled before: against a server that nobody measures. */
async function warmUp(folder: string): Promise<void> {
  const peer = await ours(folder);
  const client = new Client(peer);
  try {
    await create(client, FIRST_PODS, PATH);
  } finally {
    await client.close();
    await peer.stop();
  }
}

async function measure(peer: Peer, scratch: string): Promise<Figures> {
  const client = new Client(peer);
  try {
    await warmUp(scratch);
    await sleep(2000);
    const idleRss = sumOf(peer, rssOf);
    await client.connect();
    const first = await create(client, FIRST_PODS, podsPath("kube-public"));
    const cpuBefore = sumOf(peer, cpuOf);
    const { perSecond, p99 } = await create(client, PODS, PATH);
    const createCpuUs = ((sumOf(peer, cpuOf) - cpuBefore) * 1000) / PODS;
    await sleep(5000);
    const rssPerThousand = ((sumOf(peer, rssOf) - idleRss) * 1000) / (FIRST_PODS + PODS);
    const { ms, bytes, resourceVersion } = await list(client);
    const events = await fanOut(client, resourceVersion);
    return {
      firstCreates: first.perSecond,
      creates: perSecond,
      createP99: p99,
      createCpuUs,
      listMs: ms,
      listBytes: bytes,
      ...events,
      idleRss,
      rssPerThousand,
    };
  } finally {
    await client.close();
    await peer.stop();
  }
}

/** By a process of its own, so that no peer has a client that another one has warmed up. */
async function measured(name: PeerName, folder: string): Promise<[string, Figures] | undefined> {
  const child = fork(fileURLToPath(import.meta.url), [String(PODS), name, folder]);
  return new Promise((resolve, reject) => {
    child.once("message", (message) => resolve(message as [string, Figures] | undefined));
    child.once("exit", (code) =>
      code === 0 ? resolve(undefined) : reject(new Error(`${name}: exit ${code}`)),
    );
  });
}

async function main(): Promise<void> {
  const folder = mkdtempSync(join(process.env.BENCH_DIR ?? tmpdir(), "kubeplumb-bench-api-"));
  try {
    const what = `${PODS} pods by ${WORKERS} connections, ${WATCHERS} watchers`;
    console.log(`${what}, ${ROUNDS} rounds, medians; ${machine()}\n`);
    const rounds = new Map<string, Figures[]>();
    for (let round = 0; round < ROUNDS; round++)
      for (const peer of Object.keys(PEERS) as PeerName[]) {
        const result = await measured(peer, join(folder, `${peer}-${round}`));
        if (!result) continue;
        const [name, figures] = result;
        rounds.set(name, [...(rounds.get(name) ?? []), figures]);
      }
    if (rounds.size === 1) console.log("no $KUBE_APISERVER and $ETCD: ours alone\n");
    print([...rounds].map(([name, all]) => [name, medians(all)]));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function medians(all: readonly Figures[]): Figures {
  const names = Object.keys(all[0] ?? {}) as (keyof Figures)[];
  const entries = names.map((name) => [name, median(all.map((figures) => figures[name]))]);
  return Object.fromEntries(entries) as Figures;
}

function print(results: readonly [string, Figures][]): void {
  const [own, other] = results.map(([, figures]) => figures);
  const mib = 1 << 20;
  const rows: [string, (figures: Figures) => number, "more" | "less"][] = [
    [`creates a second, the first ${FIRST_PODS}`, (f) => f.firstCreates, "more"],
    ["creates a second, after them", (f) => f.creates, "more"],
    ["create, p99 ms", (f) => f.createP99, "less"],
    ["create, CPU time of the server, µs", (f) => f.createCpuUs, "less"],
    [`list of ${PODS} pods, median ms`, (f) => f.listMs, "less"],
    ["list, MiB", (f) => f.listBytes / mib, "less"],
    [`event delay at ${PACE} changes/s, p50 ms`, (f) => f.delayP50, "less"],
    [`event delay at ${PACE} changes/s, p99 ms`, (f) => f.delayP99, "less"],
    ["events a second in a burst", (f) => f.eventsPerSecond, "more"],
    ["memory without pods, MB", (f) => f.idleRss, "less"],
    ["memory a 1,000 pods, MB", (f) => f.rssPerThousand, "less"],
  ];
  printTable(
    ["", ...results.map(([name]) => name), ...(other ? ["times better"] : [])],
    rows.map(([what, value, better]) => [
      what,
      ...results.map(([, figures]) => value(figures)),
      ...(own && other ? [better === "more" ? value(own) / value(other) : value(other) / value(own)] : []),
    ]),
  );
}

const [peerName, folder] = process.argv.slice(3);
if (peerName && folder) {
  const peer = await PEERS[peerName as PeerName](folder);
  if (peer) process.send?.([peer.name, await measure(peer, `${folder}-warm-up`)]);
} else await main();
