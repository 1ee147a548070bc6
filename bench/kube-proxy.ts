// kube-proxy as the peer of a benchmark: the binary in a namespace, beside an API server that serves made-up Services.
// Takes whatever understands kube-proxy's flags and metrics. Knows the few requests that an informer makes.

import { type ChildProcess, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, symlinkSync } from "node:fs";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { findTools, type Variant } from "../dataplane/iptables/index.js";
import { NetNs } from "../dataplane/kernel/netns.js";
import { node, service, slice } from "../tests/helpers/service-objects.js";
import { idleCpu, rssOf } from "./memory.js";
import type { Figures } from "./proxy.js";
import { Traffic } from "./traffic.js";

const METRICS_PORT = 10249;
/** Of IPv4, where both families are told apart. */
const LAST_SYNC = /^kubeproxy_sync_proxy_rules_last_timestamp_seconds(?:\{[^}]*IPv4[^}]*\})? (\S+)/m;
const FIRST_SYNC_MS = 20 * 60_000;
const SYNC_MS = 60_000;
const POLL_MS = 5;

export interface PeerCase {
  variant: Variant;
  count: number;
  rounds: number;
  /** Of measuring the CPU of an idle minute; 0: not. */
  idleSeconds: number;
  /** For files of this case. */
  folder: string;
  vip: (i: number) => string;
  endpointsOf: (i: number) => string[];
  pod: (i: number, which: number) => string;
}

/** The program of $KUBE_PROXY or the PATH, if any. */
export function kubeProxyPath(): string | undefined {
  if (process.env.KUBE_PROXY) return process.env.KUBE_PROXY;
  const { status, stdout } = spawnSync("sh", ["-c", "command -v kube-proxy"], { encoding: "utf8" });
  return status === 0 ? stdout.trim() : undefined;
}

interface Stored {
  kind: string;
  metadata: { namespace?: string; name?: string; resourceVersion?: string };
}

/** What is served of one kind; each watch with the version that it asked for. */
interface Kind {
  list: string;
  items: Map<string, Stored>;
  watches: Map<ServerResponse, string>;
}

/** Lists and watches of a few kinds, as JSON whatever was asked for, in the version of the path. */
class Objects {
  readonly #kinds = new Map<string, Kind>();
  #version = 1;

  constructor(kinds: Readonly<Record<string, string>>) {
    for (const [resource, list] of Object.entries(kinds)) {
      this.#kinds.set(resource, { list, items: new Map(), watches: new Map() });
    }
  }

  put(resource: string, object: Stored): void {
    const kind = this.#kinds.get(resource);
    if (!kind) throw new RangeError(resource);
    const key = `${object.metadata.namespace ?? ""}/${object.metadata.name}`;
    const type = kind.items.has(key) ? "MODIFIED" : "ADDED";
    object.metadata.resourceVersion = String(++this.#version);
    kind.items.set(key, object);
    for (const [watch, apiVersion] of kind.watches) tell(watch, type, { ...object, apiVersion });
  }

  answer = (incoming: IncomingMessage, response: ServerResponse): void => {
    const url = new URL(incoming.url ?? "/", "http://api");
    const parts = url.pathname.split("/").filter(Boolean);
    response.setHeader("Content-Type", "application/json");
    if (incoming.method !== "GET") {
      incoming.resume().on("end", () => response.writeHead(201).end("{}"));
      return;
    }
    const found = [parts.at(-1), parts.at(-2)].map((part) => this.#kinds.get(part ?? ""));
    const [whole, one] = found;
    // kube-proxy before 1.21 knows EndpointSlices as discovery.k8s.io/v1beta1.
    const apiVersion = parts[0] === "apis" ? `${parts[1]}/${parts[2]}` : "v1";
    const item = one?.items.get(`/${parts.at(-1)}`);
    if (!whole) {
      const status = { kind: "Status", apiVersion: "v1", status: "Failure", reason: "NotFound", code: 404 };
      response.writeHead(item ? 200 : 404).end(JSON.stringify(item ?? status));
    } else if (["1", "true"].includes(url.searchParams.get("watch") ?? "")) {
      this.#watch(whole, apiVersion, url.searchParams.get("sendInitialEvents") === "true", response);
    } else {
      const metadata = { resourceVersion: String(this.#version) };
      const items = [...whole.items.values()].map((object) => ({ ...object, apiVersion }));
      response.end(JSON.stringify({ kind: whole.list, apiVersion, metadata, items }));
    }
  };

  #watch(kind: Kind, apiVersion: string, initial: boolean, response: ServerResponse): void {
    response.flushHeaders();
    if (initial) {
      for (const object of kind.items.values()) tell(response, "ADDED", { ...object, apiVersion });
      const annotations = { "k8s.io/initial-events-end": "true" };
      tell(response, "BOOKMARK", { metadata: { resourceVersion: String(this.#version), annotations } });
    }
    kind.watches.set(response, apiVersion);
    response.once("close", () => kind.watches.delete(response));
  }
}

function tell(watch: ServerResponse, type: string, object: object): void {
  watch.write(`${JSON.stringify({ type, object })}\n`);
}

/** Seconds since the epoch at which the last sync ended; 0 before the first and while nobody answers. */
function lastSync(ns: NetNs): Promise<number> {
  return new Promise((resolve) => {
    const asked = request(
      { path: "/metrics", createConnection: () => ns.connect({ host: "127.0.0.1", port: METRICS_PORT }) },
      async (response) => {
        let text = "";
        for await (const chunk of response.setEncoding("utf8")) text += chunk;
        resolve(Number(LAST_SYNC.exec(text)?.[1] ?? 0));
      },
    );
    asked.once("error", () => resolve(0));
    asked.end();
  });
}

/** Milliseconds from `since` (epoch) to the end of the first sync that ended later. */
async function syncAfter(ns: NetNs, since: number, child: ChildProcess, limitMs: number): Promise<number> {
  for (;;) {
    const at = (await lastSync(ns)) * 1000;
    if (at > since) return at - since;
    if (child.exitCode !== null) throw new Error(`kube-proxy exited with ${child.exitCode}`);
    if (Date.now() - since > limitMs) throw new Error(`kube-proxy has not synced within ${limitMs} ms`);
    await sleep(POLL_MS);
  }
}

/** A folder whose `iptables` is the variant's, for the PATH. */
function toolFolder(folder: string, variant: Variant): string {
  for (const family of [4, 6] as const) {
    const { iptables, restore, save } = findTools(family, variant);
    const base = family === 4 ? "iptables" : "ip6tables";
    mkdirSync(folder, { recursive: true });
    for (const [name, path] of [
      [base, iptables],
      [`${base}-restore`, restore],
      [`${base}-save`, save],
    ] as const) {
      symlinkSync(path, join(folder, name));
    }
  }
  return folder;
}

/** @throws Error when there is no kube-proxy, it ends early or does not sync in time. */
export async function measureKubeProxy(peer: PeerCase): Promise<Figures> {
  const { variant, count, rounds, idleSeconds, folder, vip, endpointsOf, pod } = peer;
  const program = kubeProxyPath();
  if (!program) throw new Error("no kube-proxy in $KUBE_PROXY or on the PATH");
  using ns = NetNs.create(`kube-proxy-${variant}-${count}`);
  const traffic = await Traffic.open(ns);
  const objects = new Objects({
    services: "ServiceList",
    endpointslices: "EndpointSliceList",
    nodes: "NodeList",
    servicecidrs: "ServiceCIDRList",
  });
  const addresses = [{ type: "InternalIP", address: "127.0.0.1" }];
  objects.put("nodes", { ...node("node-1"), status: { addresses } } as Stored);
  const put = (name: string, ip: string, endpoints: string[]) => {
    objects.put(
      "services",
      service(`default/${name}`, ip, [{ name: "http", port: 80, protocol: "TCP" }]) as Stored,
    );
    move(name, endpoints);
  };
  const move = (name: string, endpoints: string[]) => {
    const port = { name: "http", port: 8080, protocol: "TCP" };
    objects.put("endpointslices", slice(`default/${name}`, [port], endpoints) as Stored);
  };
  const [first = "", second = ""] = Traffic.ENDPOINTS;
  put("moving", Traffic.VIP, [first]);
  for (let i = 0; i < count; i++) put(`s${i}`, vip(i), endpointsOf(i));
  const server = createServer(objects.answer);
  const { port } = await ns.listen(server, { host: "127.0.0.1", port: 0 });
  const args = [
    `--master=http://127.0.0.1:${port}`,
    "--hostname-override=node-1",
    "--proxy-mode=iptables",
    "--cluster-cidr=10.244.0.0/14",
    "--iptables-min-sync-period=10ms",
    "--conntrack-max-per-core=0",
    "--conntrack-min=0",
    `--metrics-bind-address=127.0.0.1:${METRICS_PORT}`,
    "--healthz-bind-address=127.0.0.1:10256",
  ];
  const PATH = `${toolFolder(join(folder, "bin"), variant)}:${process.env.PATH ?? ""}`;
  const start = Date.now();
  const child = ns.spawn(program, args, {
    env: { ...process.env, PATH, XTABLES_LOCKFILE: join(folder, "lock") },
    stdio: ["ignore", "ignore", process.env.KUBE_PROXY_LOG ? "inherit" : "ignore"],
  });
  const ended = once(child, "exit");
  try {
    const cold = await syncAfter(ns, start, child, FIRST_SYNC_MS);
    const timed = async (change: () => void) => {
      // The sync before may have had a successor.
      await sleep(100);
      const since = Date.now();
      change();
      return syncAfter(ns, since, child, SYNC_MS);
    };
    const endpoint: number[] = [];
    const added: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const i = (round * 7919) % count;
      endpoint.push(await timed(() => move(`s${i}`, [pod(i, 0), pod(i, 1), pod(round, 3)])));
      added.push(await timed(() => put(`extra${round}`, vip(20_000 + round), [pod(20_000 + round, 0)])));
    }
    const moved: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const to = round % 2 === 0 ? second : first;
      // Till the sync before is over, with its successor.
      await sleep(100);
      moved.push(await traffic.moved(to, () => move("moving", [to])));
    }
    const pid = child.pid ?? 0;
    const idle = idleSeconds > 0 ? await idleCpu(pid, idleSeconds) : undefined;
    const memory = rssOf(pid);
    return { cold, endpoint, service: added, moved, memory, ...(idle !== undefined && { idle }) };
  } finally {
    child.kill("SIGTERM");
    await ended;
    await traffic.close();
    server.closeAllConnections();
    server.close();
  }
}
