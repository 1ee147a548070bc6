// Other people's plugins: executed inside the host by the protocol, configuration on stdin, result on stdout, and with
// a /var/lib/cni of the host's own, since that is where they keep their state whatever they are told.

import { accessSync, constants, mkdirSync } from "node:fs";
import { join } from "node:path";
import { CommandError } from "../dataplane/kernel/command.js";
import type { NetNs } from "../dataplane/kernel/netns.js";
import { CniError, CODE, type NetConf } from "./types.js";

/** As long as a kubelet waits for the runtime. */
const TIMEOUT_MS = 120_000;

export type Verb = "ADD" | "DEL" | "CHECK" | "GC" | "STATUS" | "VERSION";

/**
 * Shows $1 at /var/lib/cni and becomes the command that follows. Where that directory is missing, /var/lib is covered:
 * nothing may be made there that would stay on the machine, and without root nothing can.
 */
const WITH_STATE = `
[ -d /var/lib/cni ] || { mount -t tmpfs -o mode=0755 tmpfs /var/lib && mkdir /var/lib/cni; } || exit
mount --bind "$1" /var/lib/cni || exit
shift
exec "$@"`;

export interface ExecOptions {
  binDirs: readonly string[];
  /** The host's /var/lib/cni, where that is not the machine's. */
  stateDir?: string;
  hostNs: NetNs;
  /** The program, where it is not the configuration's own: an IPAM plugin. */
  type?: string;
  containerId?: string;
  netns?: string;
  ifName?: string;
  /** CNI_ARGS as pairs. */
  args?: Readonly<Record<string, string>>;
  /** The environment that the program gets, CNI_* aside; default this process's own. */
  env?: NodeJS.ProcessEnv;
  /** What the program has written to stderr, whether it has failed or not; never called with "". */
  onStderr?: (text: string) => void;
}

/** @throws CniError 105 listing where it was looked for. */
export function findPlugin(type: string, binDirs: readonly string[]): string {
  const path = binDirs.map((dir) => join(dir, type)).find(isExecutable);
  if (path !== undefined) return path;
  throw new CniError(
    CODE.plugin,
    `CNI plugin ${type} is not in ${binDirs.join(", ") || "any directory (none given)"}`,
  );
}

export function hasPlugin(type: string, binDirs: readonly string[]): boolean {
  return binDirs.some((dir) => isExecutable(join(dir, type)));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Runs a plugin. Returns what it printed, parsed; throws its error as CniError. */
export async function execPlugin(verb: Verb, conf: NetConf, options: ExecOptions): Promise<unknown> {
  const { stateDir, type = conf.type } = options;
  const path = findPlugin(type, options.binDirs);
  if (stateDir !== undefined) mkdirSync(stateDir, { recursive: true });
  let stdout: string;
  let stderr = "";
  try {
    const [program, ...args] =
      stateDir === undefined
        ? [path]
        : ["unshare", "--mount", "/bin/sh", "-c", WITH_STATE, "cni", stateDir, path];
    ({ stdout, stderr } = await options.hostNs.exec(program as string, args, {
      input: JSON.stringify(conf),
      env: environment(verb, options),
      timeout: TIMEOUT_MS,
    }));
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    ({ stderr } = error);
    throw pluginError(type, verb, new CommandError({ ...error, argv: [path], cause: error.cause }));
  } finally {
    if (stderr !== "") options.onStderr?.(stderr);
  }
  if (stdout.trim() === "") return undefined;
  try {
    return JSON.parse(stdout);
  } catch (error) {
    throw new CniError(CODE.decode, `CNI plugin ${type} ${verb} printed what is not JSON`, {
      details: stdout.slice(0, 1000),
      cause: error,
    });
  }
}

function environment(verb: Verb, options: ExecOptions): NodeJS.ProcessEnv {
  const { binDirs, containerId, netns, ifName, args = {} } = options;
  return {
    ...(options.env ?? process.env),
    CNI_COMMAND: verb,
    CNI_PATH: binDirs.join(":"),
    ...(containerId !== undefined && { CNI_CONTAINERID: containerId }),
    ...(netns !== undefined && { CNI_NETNS: netns }),
    ...(ifName !== undefined && { CNI_IFNAME: ifName }),
    CNI_ARGS: Object.entries(args)
      .map(([key, value]) => `${key}=${value}`)
      .join(";"),
  };
}

/** What the plugin said on stdout in the error shape, or else how it ended. */
function pluginError(type: string, verb: Verb, error: CommandError): CniError {
  let said: { code?: unknown; msg?: unknown; details?: unknown } | null = null;
  try {
    said = JSON.parse(error.stdout);
  } catch {
    // It died without words in the protocol's shape; its exit and stderr are in the CommandError's message.
  }
  if (typeof said?.code === "number" && typeof said.msg === "string") {
    return new CniError(said.code, `CNI plugin ${type} ${verb}: ${said.msg}`, {
      ...(typeof said.details === "string" && { details: said.details }),
      cause: error,
    });
  }
  return new CniError(CODE.plugin, `CNI plugin ${type} ${verb} failed: ${error.message}`, { cause: error });
}
