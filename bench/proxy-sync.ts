// How long a change takes from the proxy's ear to the kernel, by the number of Services that exist: iptables-nft and
// iptables-legacy side by side, and the proxy alone (no kernel). Run it where namespaces may be made:
//   unshare -Urnm node dist/bench/proxy-sync.js [--services 10,1000,10000] [--rounds 25] [--json]
// Everything happens in namespaces of its own; two endpoints a Service.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { EndpointSlice, Service, Stored } from "../common/k8s.js";
import { silentLogger } from "../common/log.js";
import {
  findTools,
  Iptables,
  type IptablesDriver,
  MemoryIptables,
  type Variant,
} from "../dataplane/iptables/index.js";
import { NetNs } from "../dataplane/kernel/netns.js";
import { ServiceProxy } from "../dataplane/proxy/index.js";
import { service, slice } from "../tests/helpers/service-objects.js";

const { values: options } = parseArgs({
  options: {
    services: { type: "string", default: "10,1000,10000" },
    rounds: { type: "string", default: "25" },
    json: { type: "boolean", default: false },
  },
});
const sizes = options.services.split(",").map(Number);
const rounds = Number(options.rounds);

const PORTS = [{ name: "http", port: 80 }];
const BACKENDS = [{ name: "http", port: 8080 }];
const vip = (i: number) => `10.96.${i >> 8}.${i & 255}`;
const pod = (i: number, which: number) => `10.${244 + which}.${i >> 8}.${i & 255}`;

/** Takes inputs and does nothing: what remains is the cost in this process. */
class NoKernel extends MemoryIptables {
  override restore(): Promise<void> {
    return Promise.resolve();
  }
}

interface Row {
  kernel: string;
  services: number;
  /** Milliseconds. */
  firstLoad: number;
  endpointChanged: number;
  serviceAdded: number;
  endpointsLost: number;
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

async function timed(work: () => void, proxy: ServiceProxy): Promise<number> {
  const start = performance.now();
  work();
  await proxy.flush();
  return performance.now() - start;
}

async function measure(kernel: string, ns: NetNs, iptables: IptablesDriver, count: number): Promise<Row> {
  const proxy = new ServiceProxy({
    ns,
    iptables,
    nodeName: "node-1",
    nodeIPs: ["192.168.56.11"],
    detectLocal: { mode: "ClusterCIDR", cidrs: ["10.244.0.0/14"] },
    minSyncPeriodMs: 0,
    syncPeriodMs: 3_600_000,
    log: silentLogger,
  });
  const slices: Stored<EndpointSlice>[] = [];
  for (let i = 0; i < count; i++) {
    proxy.serviceChanged(undefined, service(`default/s${i}`, vip(i), PORTS));
    const endpoints = slice(`default/s${i}`, BACKENDS, [pod(i, 0), pod(i, 1)]);
    slices.push(endpoints);
    proxy.endpointSliceChanged(undefined, endpoints);
  }
  proxy.setSynced("services");
  proxy.setSynced("endpointslices");
  const firstLoad = await timed(() => proxy.start(), proxy);
  const [changed, added, lost]: [number[], number[], number[]] = [[], [], []];
  for (let round = 0; round < rounds; round++) {
    const i = (round * 7919) % count;
    const name = `default/s${i}`;
    const replaced = slice(name, BACKENDS, [pod(i, 0), pod(round, 2)]);
    changed.push(await timed(() => proxy.endpointSliceChanged(slices[i], replaced), proxy));
    const none = slice(name, BACKENDS, []);
    lost.push(await timed(() => proxy.endpointSliceChanged(replaced, none), proxy));
    await timed(() => proxy.endpointSliceChanged(none, slices[i]), proxy);
    const extra = service(`default/extra${round}`, vip(20_000 + round), PORTS);
    const backends = slice(`default/extra${round}`, BACKENDS, [pod(round, 3)]);
    added.push(await timed(() => addBoth(proxy, extra, backends), proxy));
  }
  await proxy.stop();
  return {
    kernel,
    services: count,
    firstLoad,
    endpointChanged: median(changed),
    serviceAdded: median(added),
    endpointsLost: median(lost),
  };
}

function addBoth(proxy: ServiceProxy, one: Stored<Service>, endpoints: Stored<EndpointSlice>): void {
  proxy.serviceChanged(undefined, one);
  proxy.endpointSliceChanged(undefined, endpoints);
}

function available(variant: Variant): boolean {
  try {
    return findTools(4, variant).version !== "";
  } catch (error) {
    process.stderr.write(`iptables-${variant} is left out: ${String(error)}\n`);
    return false;
  }
}

function print(rows: readonly Row[]): void {
  const columns = ["firstLoad", "endpointChanged", "serviceAdded", "endpointsLost"] as const;
  const titles = ["first load", "endpoint changed", "service added", "endpoints lost"];
  const line = (cells: string[]) => process.stdout.write(`| ${cells.join(" | ")} |\n`);
  line(["kernel", "Services", ...titles.map((title) => `${title} (ms)`), "endpoint changed, against fewest"]);
  line(Array.from({ length: 7 }, () => "---"));
  for (const row of rows) {
    const base = rows.find(({ kernel }) => kernel === row.kernel) ?? row;
    const ratio = `${(row.endpointChanged / base.endpointChanged).toFixed(2)}×`;
    line([row.kernel, String(row.services), ...columns.map((column) => row[column].toFixed(1)), ratio]);
  }
}

const folder = mkdtempSync(join(tmpdir(), "kubeplumb-bench-"));
const rows: Row[] = [];
try {
  for (const kernel of ["none", "nft", "legacy"] as const) {
    if (kernel !== "none" && !available(kernel)) continue;
    for (const count of sizes) {
      using ns = NetNs.create(`bench-${kernel}-${count}`);
      const lockFile = join(folder, "lock");
      const iptables = kernel === "none" ? new NoKernel() : Iptables.open(ns, { variant: kernel, lockFile });
      rows.push(await measure(kernel, ns, iptables, count));
    }
  }
} finally {
  rmSync(folder, { recursive: true });
}
if (options.json) process.stdout.write(`${JSON.stringify(rows, undefined, 2)}\n`);
else print(rows);
