// Where a cluster keeps its state on disk, and the lock that lets one command at a time change it.
// Knows files; nothing of processes or namespaces.

import {
  accessSync,
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { homedir, tmpdir, userInfo } from "node:os";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { tryLock } from "../dataplane/kernel/libc.js";
import { ClusterError, hasCode } from "./errors.js";
import { makeDirectory } from "./files.js";
import { dnsLabelProblem } from "./formats.js";
import type { ClusterInfo, ResolvedConfig } from "./types.js";

/** sun_path of struct sockaddr_un is 108 bytes, one of them the terminating zero (unix(7)). */
const SOCKET_PATH_MAX = 107;

/** The files of one cluster. */
export interface ClusterPaths {
  name: string;
  home: string;
  dir: string;
  config: string;
  controlSocket: string;
  labSocket: string;
  relaySocket: string;
  kubeconfig: string;
  data: string;
  controlLog: string;
  labLog: string;
  controlRecord: string;
  labRecord: string;
  /** What the hosts keep under /var; the lab makes one folder a host. */
  hosts: string;
  /** What the PersistentVolumes of the default StorageClass hold. */
  volumes: string;
  /** There when the cluster's DNS was set up. */
  clusterDnsMark: string;
  lock: string;
}

/**
 * The directory that holds the state directories: $KUBEPLUMB_HOME, $XDG_STATE_HOME/kubeplumb (XDG Base Directory
 * Specification), ~/.local/state/kubeplumb, or a directory of the user's own under the temporary directory when
 * the home directory cannot be written.
 */
export function stateHome(env: NodeJS.ProcessEnv = process.env): string {
  if (env.KUBEPLUMB_HOME) return resolve(env.KUBEPLUMB_HOME);
  if (env.XDG_STATE_HOME?.startsWith("/")) return join(env.XDG_STATE_HOME, "kubeplumb");
  const home = env.HOME || homedir();
  if (canCreateIn(home)) return join(home, ".local", "state", "kubeplumb");
  return join(tmpdir(), `kubeplumb-${userInfo().uid}`);
}

/** Whether `.local/state/kubeplumb` exists or may be made below `home`. */
function canCreateIn(home: string): boolean {
  for (let path = join(home, ".local", "state", "kubeplumb"); path.startsWith(home); path = dirname(path)) {
    try {
      accessSync(path, constants.W_OK | constants.X_OK);
      return true;
    } catch (error) {
      if (!hasCode(error, "ENOENT")) return false;
    }
    if (path === "/") return false;
  }
  return false;
}

/**
 * The paths of cluster `name`.
 * @throws ClusterError INVALID_NAME; PATH_TOO_LONG when a unix socket would not fit into its 107 bytes.
 */
export function clusterPaths(name: string, home = stateHome()): ClusterPaths {
  const problem = dnsLabelProblem(name);
  if (problem) throw new ClusterError("INVALID_NAME", `cluster name ${JSON.stringify(name)}: ${problem}`);
  const dir = join(resolve(home), name);
  const longest = Buffer.byteLength(join(dir, "control.sock"));
  if (longest > SOCKET_PATH_MAX) {
    throw new ClusterError(
      "PATH_TOO_LONG",
      `${join(dir, "control.sock")} has ${longest} bytes, a unix socket path may have ${SOCKET_PATH_MAX}; ` +
        "set KUBEPLUMB_HOME to a shorter directory or take a shorter --name",
    );
  }
  return {
    name,
    home: resolve(home),
    dir,
    config: join(dir, "cluster.json"),
    controlSocket: join(dir, "control.sock"),
    labSocket: join(dir, "lab.sock"),
    relaySocket: join(dir, "relay.sock"),
    kubeconfig: join(dir, "kubeconfig"),
    data: join(dir, "data"),
    controlLog: join(dir, "control.log"),
    labLog: join(dir, "lab.log"),
    controlRecord: join(dir, "control.json"),
    labRecord: join(dir, "lab.json"),
    hosts: join(dir, "hosts"),
    volumes: join(dir, "volumes"),
    clusterDnsMark: join(dir, "cluster-dns"),
    lock: join(resolve(home), `.${name}.lock`),
  };
}

/** Parsed JSON of a file, undefined when there is none or a crash left it unreadable. */
export function readJson<T>(path: string): T | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw error;
  }
  try {
    return JSON.parse(text) as T;
  } catch {
    return undefined;
  }
}

/** Replaces a file in one step, so that a reader sees the old or the new text, never half of one. */
export function writeJson(path: string, value: unknown): void {
  const draft = `${path}.${process.pid}.tmp`;
  writeFileSync(draft, `${JSON.stringify(value, null, 2)}\n`, { mode: 0o600 });
  renameSync(draft, path);
}

/** The configuration that `up` has stored, undefined when there is no such cluster. */
export function readConfig(paths: ClusterPaths): ResolvedConfig | undefined {
  return readJson<ResolvedConfig>(paths.config);
}

export function contextName(name: string): string {
  return `kubeplumb-${name}`;
}

export function infoOf(paths: ClusterPaths, config: ResolvedConfig): ClusterInfo {
  return {
    name: paths.name,
    dir: paths.dir,
    server: `https://127.0.0.1:${config.controlPlane.apiPort}`,
    controlSocket: paths.controlSocket,
    labSocket: paths.labSocket,
    kubeconfigPath: paths.kubeconfig,
    contextName: contextName(paths.name),
    nodes: config.nodes.map(({ name, ip }) => ({ name, ip })),
    published: config.publish,
  };
}

/** Names of the clusters that have a state directory, sorted. */
export function clusterNames(home = stateHome()): string[] {
  try {
    return readdirSync(home, { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && !dnsLabelProblem(entry.name))
      .map((entry) => entry.name)
      .sort();
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return [];
    throw error;
  }
}

/** Removes the directory if nothing is in it. */
export function removeIfEmpty(dir: string): void {
  try {
    rmdirSync(dir);
  } catch (error) {
    if (!hasCode(error, "ENOENT", "ENOTEMPTY", "EBUSY", "EACCES", "EPERM")) throw error;
  }
}

/** Which directories were made for the home; a hidden file in it, since it is another command that removes them. */
const MADE = ".made.json";

function noteMade(home: string, made: readonly string[]): void {
  try {
    writeJson(join(home, MADE), made);
  } catch (error) {
    // ENOENT: another command's clean-up was here. Else they stay, which harms nobody.
    if (!hasCode(error, "ENOSPC", "EDQUOT", "ENOENT")) throw error;
  }
}

/** Removes the home if there is no cluster in it, and then the directories above it that were made for it. */
export function removeHome(home: string): void {
  const made = readJson<string[]>(join(home, MADE)) ?? [];
  if (made.length > 0) {
    if (readdirSync(home).some((entry) => entry !== MADE)) return;
    rmSync(join(home, MADE), { force: true });
  }
  removeIfEmpty(home);
  for (const dir of made.toReversed()) removeIfEmpty(dir);
}

/**
 * Runs `work` as the only one on this cluster. flock(2): the kernel lets go of it when the holder dies, so there is
 * no stale lock. The file is removed afterwards, hence the check that the locked file is still the one at the path.
 * @throws ClusterError LOCK_TIMEOUT, naming the holder.
 */
export async function withLock<T>(
  paths: Pick<ClusterPaths, "lock" | "name" | "home">,
  work: () => Promise<T>,
  timeoutMs = 120_000,
): Promise<T> {
  const fd = await lock(paths, timeoutMs);
  try {
    return await work();
  } finally {
    rmSync(paths.lock, { force: true });
    closeSync(fd);
    removeHome(paths.home);
  }
}

async function lock(paths: Pick<ClusterPaths, "lock" | "name" | "home">, timeoutMs: number): Promise<number> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const fd = openLockFile(paths);
    if (fd !== undefined) {
      if (tryLock(fd) && isFileAt(fd, paths.lock)) {
        ftruncateSync(fd);
        nameHolder(fd);
        return fd;
      }
      closeSync(fd);
    }
    if (Date.now() > deadline) {
      const holder = readFileSync(paths.lock, "utf8").trim();
      throw new ClusterError(
        "LOCK_TIMEOUT",
        `cluster ${paths.name} is being changed by another command (process ${holder || "unknown"}) ` +
          `for more than ${Math.round(timeoutMs / 1000)} s`,
      );
    }
    await sleep(5);
  }
}

/** For the message of whoever waits too long; a full disk is no reason not to go on, least of all for `down`. */
function nameHolder(fd: number): void {
  try {
    writeSync(fd, `${process.pid}\n`, 0);
  } catch (error) {
    if (!hasCode(error, "ENOSPC", "EDQUOT")) throw error;
  }
}

function openLockFile(paths: { home: string; lock: string }): number | undefined {
  const made = makeDirectory(paths.home);
  if (made.length > 1) noteMade(paths.home, made);
  try {
    return openSync(paths.lock, constants.O_RDWR | constants.O_CREAT, 0o600);
  } catch (error) {
    // Another command's clean-up has removed the empty home in between.
    if (hasCode(error, "ENOENT")) return undefined;
    throw error;
  }
}

function isFileAt(fd: number, path: string): boolean {
  try {
    return statSync(path).ino === fstatSync(fd).ino;
  } catch (error) {
    if (hasCode(error, "ENOENT")) return false;
    throw error;
  }
}
