// Starts the two processes of a cluster and stops them, whatever state they are in. Knows processes and the
// namespaces they run in, nothing of what they do.

import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import type { Socket } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { serverFlags } from "../common/v8.js";
import { cgroupRecord, removeRecorded } from "../dataplane/kernel/cgroups.js";
import { type ChildMessage, ParentChannel } from "./channel.js";
import { ClusterError, hasCode } from "./errors.js";
import {
  currentBootId,
  identify,
  isAlive,
  type ProcessId,
  processesInUserNamespace,
  processesWithArgument,
  signal,
  userNamespaceOf,
  waitGone,
} from "./identity.js";
import { type ClusterPaths, readJson, writeJson } from "./state.js";
import type { ProcessRole } from "./types.js";
import { packageVersion } from "./version.js";

/** control.json and lab.json. */
export interface ProcessRecord extends ProcessId {
  role: ProcessRole;
  version: string;
  /** RFC 3339. */
  startedAt: string;
  /** The user namespace made for it, as /proc/PID/ns/user names it; absent when there is none. */
  userNamespace?: string;
}

const SCRIPTS: Record<ProcessRole, string> = {
  control: fileURLToPath(new URL("../cli/processes/control.js", import.meta.url)),
  lab: fileURLToPath(new URL("../cli/processes/lab.js", import.meta.url)),
};

/** An argument of every process we start, by which it is found again when its record was lost. */
export function markerOf(paths: ClusterPaths, role: ProcessRole): string {
  return `--kubeplumb-${role}=${paths.dir}`;
}

function recordPath(paths: ClusterPaths, role: ProcessRole): string {
  return role === "control" ? paths.controlRecord : paths.labRecord;
}

function logPath(paths: ClusterPaths, role: ProcessRole): string {
  return role === "control" ? paths.controlLog : paths.labLog;
}

/** The running process of that role, undefined when it is dead or was never started. */
export function runningProcess(paths: ClusterPaths, role: ProcessRole): ProcessRecord | undefined {
  const record = readJson<ProcessRecord>(recordPath(paths, role));
  return record && isAlive(record) ? record : undefined;
}

/** Whether this process may make namespaces without a user namespace: CAP_SYS_ADMIN and CAP_NET_ADMIN. */
export function isPrivileged(): boolean {
  const hex = /^CapEff:\s*([0-9a-f]+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  const needed = (1n << 21n) | (1n << 12n);
  return (BigInt(`0x${hex}`) & needed) === needed;
}

/**
 * The command that puts a program into namespaces of its own: user (unless privileged), network, mount, UTS, IPC and
 * PID. When the first process of a PID namespace ends, the kernel ends all others (pid_namespaces(7)): nothing leaks.
 * That first process is a shell that does nothing but wait: it reaps orphans, which Node would not.
 */
export function namespaceCommand(
  argv: readonly string[],
  options: { pidNamespace: boolean; privileged?: boolean },
): string[] {
  // Without PID namespace the user namespace is what tells the lab's processes from others.
  const { pidNamespace, privileged = pidNamespace && isPrivileged() } = options;
  const user = privileged ? [] : ["--user", "--map-root-user"];
  const own = ["unshare", ...user, "--net", "--mount", "--uts", "--ipc", "--propagation", "private"];
  if (!pidNamespace) return [...own, ...argv];
  const pid = ["--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"];
  return [...own, ...pid, "/bin/sh", "-c", '"$@" <&0 & wait $!', "kubeplumb-lab", ...argv];
}

/** A process on its way. */
export interface Launched {
  role: ProcessRole;
  channel: ParentChannel;
  /** Resolves with the child's own "ready"; rejects with ClusterError START_FAILED, the log's end in its message. */
  ready: Promise<{ apiPort?: number }>;
}

export interface LaunchOptions {
  /** The process ends when this one does, and control removes the cluster's home. */
  ephemeral?: boolean;
  onMessage?: (message: ChildMessage) => void;
}

/** Starts one process, detached from this one's session and terminal. */
export function launch(paths: ClusterPaths, role: ProcessRole, options: LaunchOptions = {}): Launched {
  const first = start(paths, role, true, options);
  const launched: Launched = {
    role,
    channel: first.channel,
    ready: first.ready().catch((error) => {
      // Where parts of /proc are hidden (a container), a user namespace may not mount another, and a PID namespace
      // without its own /proc shows wrong numbers. Then stopProcess finds everything by the user namespace.
      if (role !== "lab" || !(error instanceof ProcMountError)) throw error;
      const second = start(paths, role, false, options);
      launched.channel = second.channel;
      return second.ready();
    }),
  };
  return launched;
}

class ProcMountError extends ClusterError {}

interface Started {
  channel: ParentChannel;
  ready(): Promise<{ apiPort?: number }>;
}

function start(
  paths: ClusterPaths,
  role: ProcessRole,
  pidNamespace: boolean,
  options: LaunchOptions,
): Started {
  const flags = role === "control" ? serverFlags() : [];
  const node = [process.execPath, ...flags, SCRIPTS[role], markerOf(paths, role)];
  if (options.ephemeral) node.push("--ephemeral");
  const [command = "", ...args] = role === "lab" ? namespaceCommand(node, { pidNamespace }) : node;
  const log = openSync(logPath(paths, role), "a", 0o600);
  const child = spawn(command, args, {
    cwd: "/",
    detached: true,
    env: childEnvironment(),
    stdio: ["ignore", log, log, "pipe"],
  });
  closeSync(log);
  child.unref();
  if (child.pid !== undefined) writeRecord(paths, role, child.pid);
  const channel = new ParentChannel(child.stdio[3] as Socket);
  return { channel, ready: () => waitReady({ paths, role, child, channel }, options) };
}

/** sbin holds ip and iptables; it is not on the path of every user. */
function childEnvironment(): NodeJS.ProcessEnv {
  const path = (process.env.PATH ?? "").split(":").filter(Boolean);
  const wanted = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
  const { NODE_OPTIONS: _options, NODE_V8_COVERAGE: _coverage, ...env } = process.env;
  return { ...env, PATH: [...new Set([...path, ...wanted])].join(":") };
}

function writeRecord(paths: ClusterPaths, role: ProcessRole, pid: number): void {
  const id = identify(pid);
  if (!id) return;
  const space = userNamespaceOf(pid);
  const record: ProcessRecord = {
    role,
    ...id,
    version: packageVersion(),
    startedAt: new Date().toISOString(),
    ...(space === undefined || space === userNamespaceOf(process.pid) ? {} : { userNamespace: space }),
  };
  writeJson(recordPath(paths, role), record);
}

interface Waiting {
  paths: ClusterPaths;
  role: ProcessRole;
  child: ChildProcess;
  channel: ParentChannel;
}

function waitReady(waiting: Waiting, { onMessage }: LaunchOptions): Promise<{ apiPort?: number }> {
  const { paths, role, child, channel } = waiting;
  return new Promise((resolve, reject) => {
    child.once("error", (cause) => reject(notStarted(waiting, `cannot be started: ${cause.message}`, cause)));
    const ended = channel.listen((message) => {
      onMessage?.(message);
      if (message.event === "failed") reject(notStarted(waiting, message.message));
      if (message.event !== "ready") return;
      recordMain(paths, role);
      resolve(message.apiPort === undefined ? {} : { apiPort: message.apiPort });
    });
    ended.then(() => reject(notStarted(waiting, "ended before it was ready")), reject);
  });
}

/** In the record stands the Node process, not the unshare(1) around it: that is the one to look at. */
function recordMain(paths: ClusterPaths, role: ProcessRole): void {
  const main = ownProcesses(paths, role).find(({ argv }) => argv[0] === process.execPath);
  if (main) writeRecord(paths, role, main.pid);
}

function notStarted({ paths, role }: Waiting, what: string, cause?: unknown): ClusterError {
  const path = logPath(paths, role);
  const tail = logTail(path);
  const text = `the ${role} process ${what}${tail ? `\n${tail}\n(the end of ${path})` : ""}`;
  const Kind = hidesProc(tail) ? ProcMountError : ClusterError;
  return new Kind("START_FAILED", text, { cause });
}

/** Whether unshare(1) says that it may mount no /proc. */
export function hidesProc(stderr: string): boolean {
  return /mount \/proc failed|mount proc failed|unshare: mount .*proc/i.test(stderr);
}

/** The last lines of a log, "" when there is none. */
export function logTail(path: string, lines = 15): string {
  try {
    return readFileSync(path, "utf8").trimEnd().split("\n").slice(-lines).join("\n");
  } catch (error) {
    if (hasCode(error, "ENOENT")) return "";
    throw error;
  }
}

/** Every process of that role that runs now, known from its record or not. */
export function ownProcesses(paths: ClusterPaths, role: ProcessRole): (ProcessId & { argv: string[] })[] {
  return processesWithArgument(markerOf(paths, role));
}

/** Where the node agents write down which control groups they have made. */
function cgroupRecords({ hosts }: ClusterPaths): string[] {
  return existsSync(hosts) ? readdirSync(hosts).map((name) => cgroupRecord(join(hosts, name, "var"))) : [];
}

/**
 * Ends what runs of that role at once and removes its record and socket; resolves when all of it is gone. Idempotent.
 * @throws ClusterError when it does not go within 10 s.
 */
export async function stopProcess(paths: ClusterPaths, role: ProcessRole): Promise<boolean> {
  const record = readJson<ProcessRecord>(recordPath(paths, role));
  const ids: ProcessId[] = ownProcesses(paths, role);
  if (record && isAlive(record)) ids.push(record);
  // Those that the end of a PID namespace would not end, because there was none.
  if (record?.userNamespace && record.bootId === currentBootId()) {
    ids.push(...processesInUserNamespace(record.userNamespace));
  }
  for (const id of ids) signal(id, "SIGKILL");
  if (!(await waitGone(ids, 10_000))) {
    const left = ids.filter(isAlive).map(({ pid }) => pid);
    throw new ClusterError(
      "START_FAILED",
      `the ${role} process (${left.join(", ")}) does not end after SIGKILL`,
    );
  }
  // Of processes that are gone now; what they were under is the machine's and stays.
  if (role === "lab") for (const record of cgroupRecords(paths)) await removeRecorded(record);
  const sockets = role === "control" ? [paths.controlSocket, paths.relaySocket] : [paths.labSocket];
  for (const path of [recordPath(paths, role), ...sockets]) rmSync(path, { force: true });
  return ids.length > 0;
}
