// Brings a cluster up, down, and says how it is. Knows the two processes and their state directory; what they do
// inside is theirs. One command at a time works on a cluster (lock); each leaves it whole or as it was.

import { existsSync, mkdirSync, statfsSync, statSync } from "node:fs";
import { ClusterError, hasCode, messageOf } from "./errors.js";
import { removeTree } from "./files.js";
import { residentBytes } from "./identity.js";
import { type Launched, launch, logTail, runningProcess, stopProcess } from "./launch.js";
import { DEFAULT_NAME, publishProblem, resolveConfig, resolvePublish } from "./resolve.js";
import {
  type ClusterPaths,
  clusterNames,
  clusterPaths,
  infoOf,
  readConfig,
  stateHome,
  withLock,
  writeJson,
} from "./state.js";
import { Steps } from "./steps.js";
import type {
  ClusterConfig,
  ClusterInfo,
  ClusterStatus,
  LabStatus,
  ProcessRole,
  ProcessStatus,
  Publish,
  ResolvedConfig,
  UpOptions,
  UpResult,
} from "./types.js";
import { requestJson } from "./unix-http.js";

export { ClusterError } from "./errors.js";
export { logTail } from "./launch.js";
export { stateHome } from "./state.js";
export type {
  ClusterInfo,
  ClusterStatus,
  ProcessStatus,
  Publish,
  StepEvent,
  UpOptions,
  UpResult,
} from "./types.js";

const ROLES: readonly ProcessRole[] = ["control", "lab"];

/** A start that takes longer hangs: 100 hosts take a few seconds. */
const START_TIMEOUT_MS = 60_000;

/** With fewer bytes free the store takes no writes. */
const LEAST_SPACE = 4 << 20;

/**
 * Makes the cluster run: creates it, starts again what has died, or finds that it runs. Resolves when every node
 * is Ready. On failure everything that this call started is stopped and, if it created the cluster, removed.
 * @throws ConfigError for a configuration that cannot be used; ClusterError DIFFERENT_CONFIG when the cluster exists
 *   and was asked for with other hosts or networks, START_FAILED (with the end of the log), PORT_IN_USE,
 *   INVALID_NAME, PATH_TOO_LONG.
 */
export async function up(options: UpOptions = {}): Promise<UpResult> {
  // The YAML reader and the images take most of the time that this file takes to load; only here are they needed.
  const { overrideConfig } = await import("./config.js");
  const asked = overrideConfig(options.config ?? {}, options);
  const wanted = resolveConfig(asked);
  const paths = clusterPaths(wanted.name, options.home);
  checkOwner(paths.home);
  return withLock(paths, async () => {
    const existing = readConfig(paths);
    if (existing) checkSame(existing, wanted, asked);
    return bringUp(paths, existing, wanted, options);
  });
}

/** Under a directory that all may write to, somebody else could have made ours first. */
function checkOwner(home: string): void {
  if (!existsSync(home)) return;
  const { uid } = statSync(home);
  const own = process.getuid?.() ?? uid;
  if (uid === own || own === 0) return;
  throw new ClusterError(
    "INVALID_OPTION",
    `${home} belongs to user ${uid}, not to ${own}; set KUBEPLUMB_HOME to a directory of your own`,
  );
}

/** An existing cluster is not changed by `up`: what was asked for and differs is an error, with both values. */
function checkSame(existing: ResolvedConfig, wanted: ResolvedConfig, asked: ClusterConfig): void {
  const differences: string[] = [];
  const compare = (what: string, is: unknown, want: unknown) => {
    if (JSON.stringify(is) !== JSON.stringify(want)) {
      differences.push(`${what}: is ${JSON.stringify(is)}, asked for ${JSON.stringify(want)}`);
    }
  };
  if (typeof asked.nodes === "number") compare("nodes", existing.nodes.length, asked.nodes);
  else if (asked.nodes) {
    const plain = (nodes: ResolvedConfig["nodes"]) =>
      nodes.map(({ name, labels, taints }) => ({ name, labels, taints }));
    compare("nodes", plain(existing.nodes), plain(wanted.nodes));
  }
  for (const key of Object.keys(asked.networking ?? {}) as (keyof ResolvedConfig["networking"])[]) {
    compare(`networking.${key}`, existing.networking[key], wanted.networking[key]);
  }
  for (const key of Object.keys(asked.controlPlane ?? {}) as (keyof ResolvedConfig["controlPlane"])[]) {
    compare(`controlPlane.${key}`, existing.controlPlane[key], wanted.controlPlane[key]);
  }
  for (const key of Object.keys(asked.dns ?? {}) as ("enabled" | "domain")[]) {
    compare(`dns.${key}`, existing.dns?.[key], wanted.dns?.[key]);
  }
  if (asked.images) compare("images", existing.images, wanted.images);
  if (differences.length === 0) return;
  throw new ClusterError(
    "DIFFERENT_CONFIG",
    `cluster ${existing.name} exists already with another configuration (${differences.join("; ")}); ` +
      `run "kubeplumb down --name ${existing.name}" first, or choose another --name`,
  );
}

async function bringUp(
  paths: ClusterPaths,
  existing: ResolvedConfig | undefined,
  wanted: ResolvedConfig,
  options: UpOptions,
): Promise<UpResult> {
  const config = existing ?? wanted;
  const serving = await Promise.all(ROLES.map((role) => isServing(paths, role)));
  const missing = ROLES.filter((_, index) => !serving[index]);
  if (missing.length > 0) {
    await startMissing(paths, config, missing, { ...options, created: !existing });
  }
  const added = existing ? wanted.publish.filter((one) => !isPublished(config, one)) : [];
  for (const one of added) await publishLocked(paths, one);
  const now = readConfig(paths) ?? config;
  const outcome = !existing ? "created" : missing.length > 0 ? "repaired" : "running";
  return { ...infoOf(paths, now), outcome, started: missing };
}

/**
 * Whether a process is there and listens. One that was killed a moment ago may be alive still, but not answer.
 * @throws ClusterError NOT_RUNNING for one that is alive and silent: it may be busy, so it is not ended here.
 */
async function isServing(paths: ClusterPaths, role: ProcessRole): Promise<boolean> {
  const record = runningProcess(paths, role);
  if (!record) return false;
  const socketPath = role === "control" ? paths.relaySocket : paths.labSocket;
  try {
    await requestJson({ socketPath, path: "/status", timeoutMs: 3000 });
    return true;
  } catch (error) {
    if (hasCode(error, "ENOENT", "ECONNREFUSED", "ECONNRESET", "EPIPE")) return false;
    if (error instanceof ClusterError) return true;
    throw new ClusterError(
      "NOT_RUNNING",
      `the ${role} process of cluster ${paths.name} (${record.pid}) is there but does not answer ` +
        `(${messageOf(error)}); try again, or end it ("kill -9 ${record.pid}") and run "kubeplumb up" again`,
      { cause: error },
    );
  }
}

async function startMissing(
  paths: ClusterPaths,
  config: ResolvedConfig,
  roles: readonly ProcessRole[],
  options: UpOptions & { created: boolean },
): Promise<void> {
  const steps = new Steps(options.onStep);
  const running: Launched[] = [];
  try {
    mkdirSync(paths.dir, { recursive: true, mode: 0o700 });
    // What is left of a dead process must not meet its successor: half of it may still be alive.
    await Promise.all(roles.map((role) => stopProcess(paths, role)));
    if (options.created) writeJson(paths.config, config);
    await Promise.all(roles.map((role) => startOne(paths, config, role, { steps, running, ...options })));
    for (const { channel } of running) {
      if (options.ephemeral) channel.hold();
      else channel.commit();
    }
  } catch (cause) {
    // Looked at before the clean-up makes space.
    const error = isFull(paths.home, cause) ? fullDisk(paths.home, cause) : cause;
    steps.fail(messageOf(error));
    for (const { channel } of running) channel.close();
    await Promise.all(roles.map((role) => stopProcess(paths, role)));
    if (options.created) removeTree(paths.dir);
    throw error;
  }
}

/** Whether there is no space: what fails then does not always say so (LMDB: "Input/output error"). */
function isFull(home: string, error: unknown): boolean {
  if (hasCode(error, "ENOSPC", "EDQUOT")) return true;
  const { bavail, bsize } = statfsSync(home);
  return bavail * bsize < LEAST_SPACE;
}

function fullDisk(home: string, cause: unknown): ClusterError {
  const text = `there is no space left on the disk of ${home}: ${messageOf(cause)}`;
  return new ClusterError("START_FAILED", text, { cause });
}

async function startOne(
  paths: ClusterPaths,
  config: ResolvedConfig,
  role: ProcessRole,
  options: { steps: Steps; running: Launched[]; ephemeral?: boolean },
): Promise<void> {
  const { steps, running, ephemeral = false } = options;
  const title = role === "control" ? "Control plane" : `Hosts ${summary(config)}`;
  steps.start(role === "control" ? "control" : "hosts", title);
  const launched = launch(paths, role, {
    ephemeral,
    onMessage: (message) => {
      if (message.event !== "hosts") return;
      steps.done("hosts");
      steps.start("nodes", "Nodes ready");
    },
  });
  running.push(launched);
  const { apiPort } = await withTimeout(launched.ready, paths, role);
  steps.done(role === "control" ? "control" : "nodes");
  if (apiPort && apiPort !== config.controlPlane.apiPort) {
    writeJson(paths.config, { ...config, controlPlane: { ...config.controlPlane, apiPort } });
  }
}

function summary({ nodes }: ResolvedConfig): string {
  const names = nodes.map(({ name }) => name);
  return names.length <= 3 ? names.join(", ") : `${names[0]} … ${names.at(-1)} (${names.length})`;
}

function withTimeout<T>(work: Promise<T>, paths: ClusterPaths, role: ProcessRole): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const log = role === "control" ? paths.controlLog : paths.labLog;
      const text = `the ${role} process was not ready in ${START_TIMEOUT_MS / 1000} s\n${logTail(log)}\n(the end of ${log})`;
      reject(new ClusterError("START_FAILED", text));
    }, START_TIMEOUT_MS);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

function isPublished(config: ResolvedConfig, one: Required<Publish>): boolean {
  return config.publish.some((p) => JSON.stringify(p) === JSON.stringify(one));
}

/**
 * Ends both processes, and with them everything that runs in the lab, and removes the state directory. Works in any
 * state, also after kill -9, and for a cluster that never was.
 */
export async function down(
  name = DEFAULT_NAME,
  options: { home?: string } = {},
): Promise<{ existed: boolean }> {
  const paths = clusterPaths(name, options.home);
  checkOwner(paths.home);
  return withLock(paths, async () => {
    const stopped = await Promise.all(ROLES.map((role) => stopProcess(paths, role)));
    const existed = existsSync(paths.dir) || stopped.includes(true);
    removeTree(paths.dir);
    return { existed };
  });
}

/** Names of the clusters of this user, running or not. */
export async function listClusters(home = stateHome()): Promise<string[]> {
  return clusterNames(home);
}

/** How to reach a cluster, undefined when there is none of that name. Whether it runs: {@link status}. */
export function clusterInfo(name = DEFAULT_NAME, home = stateHome()): ClusterInfo | undefined {
  const paths = clusterPaths(name, home);
  const config = readConfig(paths);
  return config ? infoOf(paths, config) : undefined;
}

/** How a cluster is, asked of its processes themselves. */
export async function status(name = DEFAULT_NAME, home = stateHome()): Promise<ClusterStatus> {
  const paths = clusterPaths(name, home);
  const config = readConfig(paths);
  const control = processStatus(paths, "control");
  const lab: ClusterStatus["lab"] = processStatus(paths, "lab");
  const problems: string[] = [];
  const repair = `"kubeplumb up --name ${name}" starts it again`;
  if (config && !control.running) problems.push(`the control process does not run; ${repair}`);
  if (config && !lab.running) problems.push(`the lab process does not run; ${repair}`);
  const inside = lab.running ? await ask<LabStatus>(paths.labSocket, "lab", problems) : undefined;
  if (control.running) await ask(paths.relaySocket, "control", problems);
  if (inside) Object.assign(lab, { pods: inside.pods, processes: inside.processes });
  const runs = control.running || lab.running;
  const exists = config !== undefined || runs || existsSync(paths.dir);
  const state = !exists ? "absent" : !runs ? "stopped" : problems.length > 0 ? "degraded" : "running";
  const known = (config?.nodes ?? []).map(({ name: node, ip }) => ({
    name: node,
    ip,
    ready: false,
    pods: 0,
  }));
  const base = config ? { info: infoOf(paths, config) } : {};
  return { name, exists, state, ...base, control, lab, nodes: inside?.hosts ?? known, problems };
}

async function ask<T>(socketPath: string, who: string, problems: string[]): Promise<T | undefined> {
  try {
    return await requestJson<T>({ socketPath, path: "/status", timeoutMs: 3000 });
  } catch (error) {
    problems.push(`the ${who} process does not answer: ${messageOf(error)}`);
    return undefined;
  }
}

function processStatus(paths: ClusterPaths, role: ProcessRole): ProcessStatus {
  const log = role === "control" ? paths.controlLog : paths.labLog;
  const record = runningProcess(paths, role);
  if (!record) return { running: false, log };
  const memoryBytes = residentBytes(record.pid);
  const memory = memoryBytes === undefined ? {} : { memoryBytes };
  return { running: true, pid: record.pid, startedAt: record.startedAt, ...memory, log };
}

/**
 * Lets a TCP port of this machine's loopback lead to a NodePort of the cluster, from now on and after restarts.
 * The same again is no error.
 * @throws ClusterError NOT_FOUND, NOT_RUNNING, INVALID_OPTION (naming port and range), PORT_IN_USE.
 */
export async function publish(name: string, publish: Publish, home = stateHome()): Promise<void> {
  const paths = clusterPaths(name, home);
  await withLock(paths, () => publishLocked(paths, publish));
}

async function publishLocked(paths: ClusterPaths, publish: Publish): Promise<void> {
  const config = readConfig(paths);
  if (!config) throw new ClusterError("NOT_FOUND", `there is no cluster ${paths.name}`);
  const problem = publishProblem(publish, config);
  if (problem) throw new ClusterError("INVALID_OPTION", `publish: ${problem}`);
  const one = resolvePublish(publish);
  if (isPublished(config, one)) return;
  if (!runningProcess(paths, "control")) {
    throw new ClusterError(
      "NOT_RUNNING",
      `the control process of cluster ${paths.name} does not run; "kubeplumb up --name ${paths.name}" starts it again`,
    );
  }
  await requestJson({ socketPath: paths.relaySocket, method: "POST", path: "/publish", body: one });
  writeJson(paths.config, { ...config, publish: [...config.publish, one] });
}
