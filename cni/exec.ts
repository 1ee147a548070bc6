// Other people's plugins: executed inside the host by the protocol, configuration on stdin, result on stdout.

import { accessSync, constants } from "node:fs";
import { join } from "node:path";
import { CommandError } from "../dataplane/kernel/command.js";
import type { NetNs } from "../dataplane/kernel/netns.js";
import { CniError, CODE, type NetConf } from "./types.js";

/** As long as a kubelet waits for the runtime. */
const TIMEOUT_MS = 120_000;

export type Verb = "ADD" | "DEL" | "CHECK" | "GC" | "STATUS" | "VERSION";

export interface ExecOptions {
  binDirs: readonly string[];
  hostNs: NetNs;
  containerId?: string;
  netns?: string;
  ifName?: string;
  /** CNI_ARGS as pairs. */
  args?: Readonly<Record<string, string>>;
}

/** @throws CniError 105 listing where it was looked for. */
export function findPlugin(type: string, binDirs: readonly string[]): string {
  for (const dir of binDirs) {
    const path = join(dir, type);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // The next directory may have it.
    }
  }
  throw new CniError(
    CODE.plugin,
    `CNI plugin ${type} is not in ${binDirs.join(", ") || "any directory (none given)"}`,
  );
}

/** Runs a plugin. Returns what it printed, parsed; throws its error as CniError. */
export async function execPlugin(verb: Verb, conf: NetConf, options: ExecOptions): Promise<unknown> {
  const path = findPlugin(conf.type, options.binDirs);
  let stdout: string;
  try {
    ({ stdout } = await options.hostNs.exec(path, [], {
      input: JSON.stringify(conf),
      env: environment(verb, options),
      timeout: TIMEOUT_MS,
    }));
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw pluginError(conf.type, verb, error);
  }
  if (stdout.trim() === "") return undefined;
  try {
    return JSON.parse(stdout);
  } catch (error) {
    throw new CniError(CODE.decode, `CNI plugin ${conf.type} ${verb} printed what is not JSON`, {
      details: stdout.slice(0, 1000),
      cause: error,
    });
  }
}

function environment(verb: Verb, options: ExecOptions): NodeJS.ProcessEnv {
  const { binDirs, containerId, netns, ifName, args = {} } = options;
  return {
    ...process.env,
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
