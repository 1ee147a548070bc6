// npm test [-- FILE…]: setup, Biome, then every compiled test file as a process of its own. Kernel tests run in
// private namespaces. The last line is plain: "N passed, N failed", counted from the TAP of the files; a file that
// crashes, runs too long or tests nothing counts as failed. (tap's own runner costs a second of CPU a file.)

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { root, setup } from "./setup.mjs";

const FILE_TIMEOUT_MS = 4 * 60_000;
// sbin holds iptables; it is not on the path of every user.
process.env.PATH = `${process.env.PATH ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`;
const COLORS = process.stdout.isTTY && !process.env.NO_COLOR;
const paint = (code, text) => (COLORS ? `\x1b[${code}m${text}\x1b[0m` : text);

/** Suites in order; a lab wants the machine for itself, so those come one after another. */
const SUITES = [
  { dir: "tests/unit", jobs: Math.min(2, availableParallelism()), namespaces: false },
  { dir: "tests/kernel", jobs: Math.min(2, availableParallelism()), namespaces: true },
  // Container runtimes leave processes that nobody waits for.
  { dir: "tests/runtimes", jobs: 1, namespaces: true, pids: true },
  { dir: "tests/e2e", jobs: 1, namespaces: false },
  // Only when asked for: npm run test:vm. Its image is made outside of the namespaces, with Debian's packages.
  { dir: "tests/vm", jobs: 1, namespaces: true, pids: true, vms: true, timeoutMs: 45 * 60_000 },
];

/** CAP_SYS_ADMIN and CAP_NET_ADMIN: then namespaces need no user namespace around them. */
function isPrivileged() {
  const hex = /^CapEff:\s*([0-9a-f]+)/m.exec(readFileSync("/proc/self/status", "utf8"))[1];
  const needed = (1n << 21n) | (1n << 12n);
  return (BigInt(`0x${hex}`) & needed) === needed;
}

function commandFor(suite, file) {
  const node = [process.execPath, "--enable-source-maps", join(root, "dist", file)];
  if (!suite.namespaces) return node;
  // The shell is the namespace's init, which waits for orphans: Node does not, and libvirt takes a dead VM that nobody
  // has waited for as one that still ends.
  const init = ["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh"];
  const pids = suite.pids ? init : [];
  // Whatever ends us, VMs end too.
  const bound = suite.vms ? ["setpriv", "--pdeathsig", "KILL"] : [];
  return isPrivileged()
    ? [...bound, "unshare", "-nm", "--propagation", "private", ...pids, ...node]
    : ["unshare", "-Urnm", ...node];
}

/** Compiled test files of a suite that the filters (path prefixes of sources or folders) let through. */
function filesOf(suite, filters) {
  const dir = join(root, "dist", suite.dir);
  if (!existsSync(dir) || (suite.vms && filters.length === 0)) return [];
  return (
    readdirSync(dir)
      .filter((name) => name.endsWith(".test.js"))
      // Left in dist by a source that is gone.
      .filter((name) => existsSync(join(root, suite.dir, name.replace(/\.js$/, ".ts"))))
      .map((name) => `${suite.dir}/${name}`)
      .filter((file) => filters.length === 0 || filters.some((filter) => file.startsWith(filter)))
      .sort()
  );
}

/** Counts the assertions of one TAP stream; a subtest's own line counts only when it fails by itself. */
class Tally {
  passed = 0;
  failed = 0;
  skipped = 0;
  failures = [];

  /** `ended` is called at the end of each subtest that is right below. */
  attach(parser, path, ended = () => {}) {
    let child;
    let failedBefore = 0;
    parser.on("child", (sub) => {
      child = sub;
      failedBefore = this.failed;
      this.attach(sub, [...path, sub.name]);
      sub.on("complete", ({ ok, time }) => ended({ ok, name: sub.name, time }));
    });
    parser.on("assert", (result) => {
      const isSubtest = child !== undefined;
      const ownFailure = !result.ok && !(isSubtest && this.failed > failedBefore);
      child = undefined;
      if (!isSubtest && result.skip) ended(result);
      if (result.skip || result.todo) this.skipped++;
      else if (ownFailure) this.fail([...path, result.name].join(" › "), result.diag);
      else if (!isSubtest) this.passed++;
    });
    parser.on("bailout", (reason) => this.fail([...path, `bail out: ${reason}`].join(" › ")));
  }

  fail(name, detail) {
    this.failed++;
    this.failures.push({ name, detail });
  }
}

/** Shows each subtest when it ends, for files that take many minutes. */
function progress({ ok, name, skip, time }) {
  const mark = ok ? paint(32, "✓") : paint(31, "✗");
  const took = skip ? `skipped: ${skip}` : `${(time / 1000).toFixed(1)} s`;
  console.log(`    ${mark} ${name} ${paint(2, took)}`);
}

async function runFile(suite, file) {
  const { Parser } = await import("tap-parser");
  const [command, ...args] = commandFor(suite, file);
  const parser = new Parser();
  const tally = new Tally();
  tally.attach(parser, [], suite.vms ? progress : undefined);
  const complete = new Promise((done) => parser.once("complete", done));
  const began = performance.now();
  // tap would end a file after 30 s by itself.
  const timeoutMs = suite.timeoutMs ?? FILE_TIMEOUT_MS;
  const env = { ...process.env, TAP_TIMEOUT: String(timeoutMs / 1000) };
  const child = spawn(command, args, { cwd: root, env, stdio: ["ignore", "pipe", "pipe"], detached: true });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text) => {
    stderr = (stderr + text).slice(-8000);
  });
  child.stdout.pipe(parser);
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    process.kill(-child.pid, "SIGKILL");
  }, timeoutMs);
  const [code, signal] = await new Promise((done) => child.once("close", (...how) => done(how)));
  clearTimeout(timer);
  const results = await complete;
  const how = timedOut
    ? `did not end within ${timeoutMs / 1000} s`
    : `ended with ${signal ?? `exit code ${code}`}`;
  if (tally.failed === 0 && (code !== 0 || timedOut)) tally.fail(`the file ${how}`, stderr);
  else if (tally.failed === 0 && !results.ok) tally.fail("the TAP stream is not whole", results.failures);
  else if (tally.passed + tally.failed + tally.skipped === 0) tally.fail("the file tests nothing", stderr);
  return { file, tally, stderr, seconds: (performance.now() - began) / 1000 };
}

/** A TAP diagnostic as lines; what is text in it stays text. */
function lines(value) {
  if (typeof value === "string") return value.trimEnd().split("\n");
  if (Array.isArray(value)) return value.flatMap(lines);
  if (typeof value !== "object" || value === null) return [String(value)];
  return Object.entries(value).flatMap(([key, inner]) => {
    const [first = "", ...more] = lines(inner);
    return more.length > 0
      ? [`${key}:`, first, ...more].map((l, i) => (i ? `  ${l}` : l))
      : [`${key}: ${first}`];
  });
}

const indent = (value) =>
  lines(value)
    .map((line) => `      ${line}`)
    .join("\n");

function show({ file, tally, stderr, seconds }) {
  const { passed, failed, skipped, failures } = tally;
  const mark = failed > 0 ? paint(31, "✗") : paint(32, "✓");
  const counts = [`${passed} passed`, failed && `${failed} failed`, skipped && `${skipped} skipped`].filter(
    Boolean,
  );
  console.log(
    `${mark} ${file.replace(/\.js$/, ".ts")} ${paint(2, `${counts.join(", ")}, ${seconds.toFixed(1)} s`)}`,
  );
  for (const { name, detail } of failures) {
    console.log(`    ${paint(31, name)}`);
    if (detail) console.log(indent(detail));
  }
  if (failed > 0 && stderr && !failures.some(({ detail }) => detail === stderr)) console.log(indent(stderr));
}

/** Runs `work` for each item, `jobs` at a time. */
async function pool(items, jobs, work) {
  const queue = [...items];
  const worker = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item);
  };
  await Promise.all(Array.from({ length: jobs }, worker));
}

function lint() {
  const biome = join(root, "node_modules", ".bin", "biome");
  const { status, stdout, stderr } = spawnSync(biome, ["check", "--max-diagnostics=20", "."], {
    cwd: root,
    encoding: "utf8",
  });
  if (status === 0) {
    console.log(`${paint(32, "✓")} biome check`);
    return true;
  }
  console.log(`${paint(31, "✗")} biome check\n${indent(stdout + stderr)}`);
  return false;
}

const filters = process.argv.slice(2).map((path) => path.replace(/^\.\//, "").replace(/\.ts$/, ".js"));
const vms = filters.some((filter) => filter.startsWith("tests/vm"));
setup({ tests: true, vms });
if (vms) execFileSync(process.execPath, [join(root, "dist/tests/vm/image.js")], { stdio: "inherit" });
let passed = 0;
let failed = 0;
if (filters.length === 0 && !lint()) failed++;
let files = 0;
for (const suite of SUITES) {
  const chosen = filesOf(suite, filters);
  files += chosen.length;
  await pool(chosen, suite.jobs, async (file) => {
    const result = await runFile(suite, file);
    passed += result.tally.passed;
    failed += result.tally.failed;
    show(result);
  });
}
if (files === 0) {
  console.log(`no test file matches ${filters.join(" ")}`);
  failed++;
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
