// Wall time per ADD and DEL of the pod network with a published port, each plugin a process as a runtime starts it:
// ours against the reference plugins (bridge + host-local + portmap) in the same run, one at a time and 50 at once.

import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startCniAgent } from "../cni/agent.js";
import { NetNs } from "../dataplane/kernel/netns.js";
import { posixSpawn } from "../dataplane/kernel/posix-spawn.js";
import { RtNetlink } from "../dataplane/kernel/rtnetlink.js";
import { machine, median, percentile, printTable, timed } from "./report.js";

/** `npm run bench -- cni 2` for fewer. */
const ROUNDS = Number(process.argv[2] ?? 5);
const SINGLES = 5;
const PARALLEL = 50;
const REFERENCE = ["/opt/cni/bin", "/usr/lib/cni"].find((path) => existsSync(join(path, "portmap")));

const dir = mkdtempSync(join(tmpdir(), "kubeplumb-bench-cni-"));

interface Contestant {
  name: string;
  bin: string;
  env: Record<string, string>;
  plugins: readonly Record<string, unknown>[];
  /** Whether 50 at once are tried: 100 starts of Node for each verb say nothing new and take a minute. */
  many: boolean;
}

const OWN = [
  {
    type: "kubeplumb-cni",
    bridge: "own0",
    dataDir: join(dir, "own"),
    ipam: { type: "kubeplumb-cni", ranges: [[{ subnet: "10.71.0.0/16" }]] },
  },
  { type: "kubeplumb-portmap", dataDir: join(dir, "own") },
];

/** A directory of plugins that are `program` under our names, with the modules beside it. */
function install(name: string, program: string | undefined): string {
  const bin = join(dir, name);
  mkdirSync(bin);
  for (const type of ["kubeplumb-cni", "kubeplumb-portmap"]) {
    const main = new URL("../cni/main.js", import.meta.url).href;
    const module = join(bin, `${type}.mjs`);
    const text = `#!${process.execPath}\nimport { runProcess } from "${main}";\nawait runProcess("${type}");\n`;
    writeFileSync(module, text, { mode: 0o755 });
    if (program === undefined) symlinkSync(module, join(bin, type));
    else copyFileSync(program, join(bin, type));
  }
  return bin;
}

const front = install("front", fileURLToPath(new URL("../../bin/cni-front-x64", import.meta.url)));
const socket = join(dir, "cni.sock");
const contestants: Contestant[] = [
  {
    name: "kubeplumb, agent running",
    bin: front,
    env: { KUBEPLUMB_CNI_SOCKET: socket },
    plugins: OWN,
    many: true,
  },
  { name: "kubeplumb, no agent", bin: install("node", undefined), env: {}, plugins: OWN, many: false },
];
if (REFERENCE) {
  contestants.push({
    name: "bridge + host-local + portmap",
    bin: REFERENCE,
    env: {},
    many: true,
    plugins: [
      {
        type: "bridge",
        bridge: "ref0",
        isDefaultGateway: true,
        hairpinMode: true,
        ipam: { type: "host-local", ranges: [[{ subnet: "10.72.0.0/16" }]], dataDir: join(dir, "ref") },
      },
      { type: "portmap" },
    ],
  });
}

// This process is the host: its namespace is a new one (scripts/bench.mjs), and the agent works where it is started.
const host = NetNs.current();
{
  using rt = RtNetlink.open(host);
  await rt.setLink("lo", { up: true });
}
const agent = await startCniAgent(socket);

let counter = 0;
interface Pod {
  id: string;
  ns: NetNs;
  port: number;
}
const newPod = (): Pod => {
  const n = counter++;
  return { id: `bench${n}`, ns: NetNs.create(`bench${n}`), port: 20_000 + (n % 40_000) };
};

async function call(one: Contestant, verb: string, pod: Pod): Promise<void> {
  const plugins = verb === "DEL" ? one.plugins.toReversed() : one.plugins;
  let prevResult: unknown;
  for (const plugin of plugins) {
    const conf = {
      cniVersion: "1.0.0",
      name: "bench",
      ...plugin,
      ...(prevResult !== undefined && { prevResult }),
      runtimeConfig: { portMappings: [{ hostPort: pod.port, containerPort: 80, protocol: "tcp" }] },
    };
    const env = {
      ...{ PATH: process.env.PATH, CNI_COMMAND: verb, CNI_CONTAINERID: pod.id, CNI_IFNAME: "eth0" },
      ...{ CNI_NETNS: pod.ns.path, CNI_PATH: one.bin, ...one.env },
    };
    const running = posixSpawn(join(one.bin, String(plugin.type)), [], { input: JSON.stringify(conf), env });
    const { exitCode, stdout, stderr } = await running.ended;
    if (exitCode !== 0)
      throw new Error(`${one.name} ${plugin.type} ${verb}: ${exitCode} ${stdout} ${stderr}`);
    if (verb === "ADD") prevResult = JSON.parse(stdout);
  }
}

const figures = new Map(
  contestants.map(({ name }) => [name, { add: [], del: [], adds: [], dels: [] } as Figures]),
);
interface Figures {
  add: number[];
  del: number[];
  /** Milliseconds for all of {@link PARALLEL} together. */
  adds: number[];
  dels: number[];
}

// In turns, so that whatever else the machine does falls on all of them.
for (let round = 0; round <= ROUNDS; round++) {
  for (const one of contestants) {
    const own = figures.get(one.name) as Figures;
    const few = Array.from({ length: SINGLES }, newPod);
    // The first round fills caches.
    const many = Array.from({ length: one.many && round > 0 ? PARALLEL : 0 }, newPod);
    const times: Figures = { add: [], del: [], adds: [], dels: [] };
    for (const pod of few) times.add.push((await timed(() => call(one, "ADD", pod))).ms);
    for (const pod of few) times.del.push((await timed(() => call(one, "DEL", pod))).ms);
    times.adds.push((await timed(() => Promise.all(many.map((pod) => call(one, "ADD", pod))))).ms);
    times.dels.push((await timed(() => Promise.all(many.map((pod) => call(one, "DEL", pod))))).ms);
    for (const { ns } of [...few, ...many]) ns.close();
    if (round > 0) for (const key of ["add", "del", "adds", "dels"] as const) own[key].push(...times[key]);
  }
}
await agent.close();
rmSync(dir, { recursive: true, force: true });

console.log(`${machine()}; ms, medians of ${ROUNDS} rounds taken in turns\n`);
printTable(
  ["", "ADD", "ADD p95", "DEL", "DEL p95", `${PARALLEL} ADD at once`, `${PARALLEL} DEL at once`],
  contestants.map(({ name, many }) => {
    const { add, del, adds, dels } = figures.get(name) as Figures;
    return [
      name,
      median(add),
      percentile(add, 95),
      median(del),
      percentile(del, 95),
      many ? median(adds) : "–",
      many ? median(dels) : "–",
    ];
  }),
);
if (!REFERENCE) console.log("The reference plugins are missing: apt-get install containernetworking-plugins");
