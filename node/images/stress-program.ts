// The programs behind stress.ts: hogs of CPU and memory that are as real as any. A process of its own; nothing imports it.
// `stress-program.js stress OPTIONS` is stress 1.0.4, `stress-program.js vish OPTIONS` is github.com/vishh/stress.

import { isMainThread, Worker, workerData } from "node:worker_threads";

const PAGE = 4096;
const DEFAULT_VM_BYTES = "256M";

const sleep = (seconds: number): void => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, seconds * 1000);
};

type Hog = { kind: "cpu" } | { kind: "vm"; bytes: number; hang: number | undefined };

/** Never comes back. The memory that a real one frees and takes again is kept here, and written to again. */
function run(hog: Hog): void {
  if (hog.kind === "cpu") for (;;) Math.sqrt(Math.random());
  const memory: Buffer[] = [];
  for (let left = hog.bytes; left > 0; left -= 1 << 30)
    memory.push(Buffer.allocUnsafeSlow(Math.min(left, 1 << 30)));
  for (let turn = 0; ; turn++) {
    for (const part of memory) for (let at = 0; at < part.length; at += PAGE) part[at] = turn;
    if (hog.hang !== undefined) sleep(hog.hang === 0 ? Number.POSITIVE_INFINITY : hog.hang);
  }
}

/** 250M, 2G, 90s: a number with a unit of bytes or of time, as stress reads it. */
function number(text: string, units: Readonly<Record<string, number>>): number {
  const [, digits, unit = ""] = /^(\d+)([a-zA-Z]?)$/.exec(text) ?? [];
  const factor = unit === "" ? 1 : units[unit.toLowerCase()];
  if (digits === undefined || factor === undefined) return fail(`invalid number: ${text}`);
  return Number(digits) * factor;
}

const BYTES = { b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 };
const SECONDS = { s: 1, m: 60, h: 3600, d: 86_400, y: 31_536_000 };

function fail(why: string): never {
  process.stderr.write(`stress: FAIL: [${process.pid}] ${why}\n`);
  process.exit(1);
}

const SHORT: Readonly<Record<string, string>> = {
  "-c": "--cpu",
  "-m": "--vm",
  "-t": "--timeout",
  "-q": "--quiet",
  "-v": "--verbose",
};
const FLAGS = ["--quiet", "--verbose", "--vm-keep"];
const VALUES = ["--cpu", "--vm", "--vm-bytes", "--vm-hang", "--vm-stride", "--backoff", "--timeout"];

function options(args: readonly string[]): Map<string, string> {
  const found = new Map<string, string>();
  for (let at = 0; at < args.length; at++) {
    const [word = "", inline] = (args[at] ?? "").split("=", 2);
    const name = SHORT[word] ?? word;
    if (FLAGS.includes(name)) found.set(name, "");
    else if (!VALUES.includes(name)) fail(`unrecognized option: ${args[at]}`);
    else found.set(name, inline ?? args[++at] ?? fail(`missing argument to option '${word}'`));
  }
  return found;
}

function stress(args: readonly string[]): void {
  const given = options(args);
  const [cpu, vm] = ["--cpu", "--vm"].map((name) => number(given.get(name) ?? "0", {})) as [number, number];
  const say = (text: string) =>
    given.has("--quiet") || process.stdout.write(`stress: info: [${process.pid}] ${text}\n`);
  if (cpu + vm === 0) fail("no hogs of cpu or vm are asked for, and others are not to be had");
  say(`dispatching hogs: ${cpu} cpu, 0 io, ${vm} vm, 0 hdd`);
  const bytes = number(given.get("--vm-bytes") ?? DEFAULT_VM_BYTES, BYTES);
  const pause = given.get("--vm-hang");
  const hang = pause === undefined ? undefined : number(pause, SECONDS);
  const hogs = [
    ...Array.from({ length: cpu }, (): Hog => ({ kind: "cpu" })),
    ...Array.from({ length: vm }, (): Hog => ({ kind: "vm", bytes, hang })),
  ];
  for (const hog of hogs) new Worker(new URL(import.meta.url), { workerData: hog });
  const timeout = number(given.get("--timeout") ?? "0", SECONDS);
  if (timeout === 0) return;
  setTimeout(() => {
    say(`successful run completed in ${timeout}s`);
    process.exit(0);
  }, timeout * 1000);
}

const QUANTITIES: Readonly<Record<string, number>> = {
  "": 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
};
const MILLISECONDS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000 };

/** A Go program's flags: one dash or two, the value after = or as the next word. */
function goFlags(args: readonly string[]): Map<string, string> {
  const found = new Map<string, string>();
  for (let at = 0; at < args.length; at++) {
    const [word = "", inline] = (args[at] ?? "").split("=", 2);
    const name = word.replace(/^--?/, "");
    if (!["cpus", "mem-total", "mem-alloc-size", "mem-alloc-sleep", "logtostderr"].includes(name)) {
      process.stderr.write(`flag provided but not defined: -${name}\n`);
      process.exit(2);
    }
    found.set(name, inline ?? (name === "logtostderr" ? "" : (args[++at] ?? "")));
  }
  return found;
}

function amount(text: string, units: Readonly<Record<string, number>>): number {
  const [, digits, unit = ""] = /^([\d.]+)([a-zA-Z]*)$/.exec(text) ?? [];
  const factor = units[unit];
  if (digits !== undefined && factor !== undefined) return Number(digits) * factor;
  process.stderr.write(`F main.go: quantities must match the regular expression: ${text}\n`);
  process.exit(255);
}

function goLog(text: string): void {
  const now = new Date().toISOString();
  process.stderr.write(
    `I${now.slice(5, 7)}${now.slice(8, 10)} ${now.slice(11, 23)}000 1 main.go:26] ${text}\n`,
  );
}

function vish(args: readonly string[]): void {
  const given = goFlags(args);
  const [total = "0", size = "4Ki", pause = "1ms"] = ["total", "alloc-size", "alloc-sleep"].map((name) =>
    given.get(`mem-${name}`),
  );
  const [bytes, chunk, wait] = [
    amount(total, QUANTITIES),
    amount(size, QUANTITIES),
    amount(pause, MILLISECONDS),
  ];
  goLog(`Allocating "${total}" memory, in "${size}" chunks, with a ${pause} sleep between allocations`);
  for (let left = amount(given.get("cpus") ?? "0", QUANTITIES); left > 0; left--) {
    goLog("Spawning a thread to consume CPU");
    new Worker(new URL(import.meta.url), { workerData: { kind: "cpu" } satisfies Hog });
  }
  const memory: Buffer[] = [];
  const allocate = (left: number): void => {
    if (left <= 0) {
      goLog(`Allocated "${total}" memory`);
      // It waits for ever.
      setInterval(() => memory.length, 2 ** 30);
      return;
    }
    memory.push(Buffer.alloc(Math.min(chunk, left), 1));
    setTimeout(() => allocate(left - chunk), wait);
  };
  allocate(bytes);
}

const [, , program = "", ...args] = process.argv;
if (!isMainThread) {
  run(workerData as Hog);
} else {
  process.title = [program === "vish" ? "/stress" : "stress", ...args].join(" ");
  if (program === "vish") vish(args);
  else stress(args);
}
