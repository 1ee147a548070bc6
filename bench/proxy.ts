// The service proxy with 100 to 10,000 Services of three endpoints, iptables-nft and -legacy: first load, one endpoint
// changed, one Service added, an endpoint changed till a connection reaches the new one, memory, CPU of an idle minute.
// The floor is one chain of one rule by hand beside all those. The same proxy through iptables-nft-restore and, where
// $KUBE_PROXY or the PATH has one, kube-proxy are measured in the same run; figures in brackets are theirs divided by
// ours. Namespaces of its own:
//   unshare -Urnm node dist/bench/proxy.js [--sizes 100,1000] [--kinds nft,legacy,nft-tools] [--rounds 30]
//     [--idle 60] [--tools-limit 1000] [--json]

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { EndpointSlice, Stored } from "../common/k8s.js";
import { silentLogger } from "../common/log.js";
import { Iptables, type IptablesDriver } from "../dataplane/iptables/index.js";
import { NetNs } from "../dataplane/kernel/netns.js";
import { ServiceProxy } from "../dataplane/proxy/index.js";
import { service, slice } from "../tests/helpers/service-objects.js";
import { kubeProxyPath, measureKubeProxy } from "./kube-proxy.js";
import { idleCpu } from "./memory.js";
import { figure, machine, median, percentile, printTable, timed } from "./report.js";
import { Traffic } from "./traffic.js";

/** nft-tools: our proxy, but every input goes through iptables-nft-restore. */
const KINDS = ["nft", "legacy", "nft-tools", "kube-proxy-nft", "kube-proxy-legacy"] as const;
type Kind = (typeof KINDS)[number];

export interface Figures {
  /** Milliseconds, from both lists being there to the last rule in the kernel. */
  cold: number;
  /** Milliseconds, one a round, from the proxy's ear to the kernel. */
  endpoint: number[];
  service: number[];
  /** Milliseconds, one a round, from the proxy's ear to the first connection that the new endpoint answers. */
  moved: number[];
  /** The same kernel with the same rules, one chain of one rule by hand: what no proxy can be faster than. */
  floor?: number[];
  /** Resident set of the process after the rounds and the idle time, MB. */
  memory: number;
  /** CPU milliseconds of a minute in which nothing changes; undefined when not asked for. */
  idle?: number;
}

const { values: options } = parseArgs({
  options: {
    sizes: { type: "string", default: "100,1000,5000,10000" },
    kinds: { type: "string", default: KINDS.join(",") },
    rounds: { type: "string", default: "30" },
    /** Seconds of doing nothing, for the CPU of an idle minute; two of the looks that come every 30 s. 0: left out. */
    idle: { type: "string", default: "60" },
    /** iptables-nft-restore takes minutes for the first load of 10,000. */
    "tools-limit": { type: "string", default: "1000" },
    json: { type: "boolean", default: false },
    /** One case in this process, its figures as JSON: how the parent asks. */
    case: { type: "string" },
  },
});
const rounds = Number(options.rounds);
const idleSeconds = Number(options.idle);

const PORTS = [{ name: "http", port: 80 }];
const BACKENDS = [{ name: "http", port: 8080 }];
const vip = (i: number) => `10.96.${i >> 8}.${i & 255}`;
const pod = (i: number, which: number) => `10.${244 + which}.${i >> 8}.${i & 255}`;
const endpointsOf = (i: number) => [pod(i, 0), pod(i, 1), pod(i, 2)];

async function measureOurs(kind: Kind, count: number, folder: string): Promise<Figures> {
  using ns = NetNs.create(`bench-${kind}-${count}`);
  const iptables: IptablesDriver = Iptables.open(ns, {
    variant: kind === "legacy" ? "legacy" : "nft",
    path: kind === "nft-tools" ? "tools" : "auto",
    lockFile: join(folder, "lock"),
  });
  const proxy = new ServiceProxy({
    ns,
    iptables,
    nodeName: "node-1",
    nodeIPs: ["192.168.56.11"],
    detectLocal: { mode: "ClusterCIDR", cidrs: ["10.244.0.0/14"] },
    minSyncPeriodMs: 0,
    log: silentLogger,
  });
  const slices: Stored<EndpointSlice>[] = [];
  const moving = Traffic.ENDPOINTS.map((ip) => slice("default/moving", BACKENDS, [ip]));
  proxy.serviceChanged(undefined, service("default/moving", Traffic.VIP, PORTS));
  proxy.endpointSliceChanged(undefined, moving[0]);
  for (let i = 0; i < count; i++) {
    proxy.serviceChanged(undefined, service(`default/s${i}`, vip(i), PORTS));
    const endpoints = slice(`default/s${i}`, BACKENDS, endpointsOf(i));
    slices.push(endpoints);
    proxy.endpointSliceChanged(undefined, endpoints);
  }
  const after = async (change: () => void) => {
    const { ms } = await timed(() => {
      change();
      return proxy.flush();
    });
    return ms;
  };
  const cold = await after(() => {
    proxy.setSynced("services");
    proxy.setSynced("endpointslices");
    proxy.start();
  });
  const endpoint: number[] = [];
  const added: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const i = (round * 7919) % count;
    const now = slice(`default/s${i}`, BACKENDS, [pod(i, 0), pod(i, 1), pod(round, 3)]);
    endpoint.push(await after(() => proxy.endpointSliceChanged(slices[i], now)));
    slices[i] = now;
    added.push(
      await after(() => {
        proxy.serviceChanged(undefined, service(`default/extra${round}`, vip(20_000 + round), PORTS));
        const endpoints = slice(`default/extra${round}`, BACKENDS, [pod(20_000 + round, 0)]);
        proxy.endpointSliceChanged(undefined, endpoints);
      }),
    );
  }
  const traffic = await Traffic.open(ns);
  const moved: number[] = [];
  for (let round = 1; round <= rounds; round++) {
    const [from, to] = [(round - 1) % 2, round % 2];
    // The kernel is still busy with the change before.
    await sleep(100);
    moved.push(
      await traffic.moved(Traffic.ENDPOINTS[to] ?? "", () =>
        proxy.endpointSliceChanged(moving[from], moving[to]),
      ),
    );
    await proxy.flush();
  }
  await traffic.close();
  const idle = idleSeconds > 0 ? await idleCpu(process.pid, idleSeconds) : undefined;
  const memory = process.memoryUsage.rss() / 1e6;
  await proxy.stop();
  const floor: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const rule = `-A BENCH -p tcp -j DNAT --to-destination ${pod(round, 3)}:80`;
    floor.push((await timed(() => iptables.restore(`*nat\n:BENCH - [0:0]\n${rule}\nCOMMIT\n`))).ms);
  }
  return { cold, endpoint, service: added, moved, floor, memory, ...(idle !== undefined && { idle }) };
}

async function measureCase(kind: Kind, count: number): Promise<Figures> {
  const folder = mkdtempSync(join(tmpdir(), "kubeplumb-bench-"));
  try {
    if (kind === "kube-proxy-nft" || kind === "kube-proxy-legacy") {
      const variant = kind === "kube-proxy-nft" ? "nft" : "legacy";
      return await measureKubeProxy({ variant, count, rounds, idleSeconds, folder, vip, endpointsOf, pod });
    }
    return await measureOurs(kind, count, folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A process a case, for its memory. Undefined, with the reason on stderr, when it fails. */
function inProcess(kind: Kind, count: number): Figures | undefined {
  const self = fileURLToPath(import.meta.url);
  const args = [
    self,
    "--case",
    `${kind}:${count}`,
    "--rounds",
    String(rounds),
    "--idle",
    String(idleSeconds),
  ];
  const { status, stdout } = spawnSync(process.execPath, args, {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 64 * 1024 * 1024,
  });
  if (status === 0) return JSON.parse(stdout) as Figures;
  process.stderr.write(`${kind} with ${count} Services failed\n`);
  return undefined;
}

function isLeftOut(kind: Kind, count: number): string | undefined {
  if (kind === "nft-tools" && count > Number(options["tools-limit"]))
    return "--tools-limit runs it, for minutes";
  if (kind.startsWith("kube-proxy") && !kubeProxyPath()) return "no kube-proxy in $KUBE_PROXY or on the PATH";
  return undefined;
}

/** The peers of ours whose figures it is compared with. */
const PEERS: Readonly<Record<string, Kind>> = {
  "nft-tools": "nft",
  "kube-proxy-nft": "nft",
  "kube-proxy-legacy": "legacy",
};

function print(results: readonly { kind: Kind; count: number; figures: Figures }[]): void {
  const head = [
    "kernel",
    "Services",
    "first load s",
    "endpoint changed ms",
    "p90",
    "Service added ms",
    "p90",
    "traffic moved ms",
    "p90",
    "floor ms",
    "MB",
    "idle ms/min",
  ];
  const rows = results.map(({ kind, count, figures }) => {
    const { cold, endpoint, service, moved, floor, memory, idle } = figures;
    const ours = results.find((other) => other.kind === PEERS[kind] && other.count === count)?.figures;
    const against = (value: number, own: number | undefined) =>
      own === undefined ? value : `${figure(value)} (${(value / own).toFixed(1)}×)`;
    return [
      kind,
      String(count),
      against(cold / 1000, ours && ours.cold / 1000),
      against(median(endpoint), ours && median(ours.endpoint)),
      percentile(endpoint, 90),
      against(median(service), ours && median(ours.service)),
      percentile(service, 90),
      against(median(moved), ours && median(ours.moved)),
      percentile(moved, 90),
      floor ? median(floor) : "",
      against(memory, ours?.memory),
      idle === undefined ? "" : against(idle, ours?.idle),
    ];
  });
  printTable(head, rows);
}

if (options.case !== undefined) {
  const [kind, count] = options.case.split(":");
  const figures = await measureCase(kind as Kind, Number(count));
  process.stdout.write(JSON.stringify(figures));
} else {
  const results: { kind: Kind; count: number; figures: Figures }[] = [];
  const kinds = options.kinds.split(",") as Kind[];
  for (const count of options.sizes.split(",").map(Number)) {
    for (const kind of kinds) {
      const why = isLeftOut(kind, count);
      const figures = why ? undefined : inProcess(kind, count);
      if (figures) results.push({ kind, count, figures });
      else if (why) process.stderr.write(`${kind} with ${count} Services is left out: ${why}\n`);
    }
  }
  if (options.json) process.stdout.write(`${JSON.stringify(results, undefined, 2)}\n`);
  else {
    console.log(`service proxy, three endpoints a Service, ${rounds} rounds; ${machine()}\n`);
    print(results);
  }
}
