// The executables kubeplumb-cni and kubeplumb-portmap: the CNI protocol over environment, standard input and standard
// output. Any container runtime can call them; they work in the namespace they are started in.

import { NetNs } from "../dataplane/kernel/netns.js";
import type { Invocation } from "./bridge.js";
import { type OwnType, PLUGINS } from "./plugins.js";
import { parseArgs } from "./requests.js";
import { CniError, CODE, checkAttachment, type NetConf } from "./types.js";
import { atLeast, NEWEST_VERSION, negotiate, resultAs, SUPPORTED_VERSIONS } from "./version.js";

type Environment = Readonly<Record<string, string | undefined>>;

/** What each verb needs in its environment, CNI_COMMAND aside. */
const REQUIRED: Readonly<Record<string, readonly string[]>> = {
  ADD: ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
  DEL: ["CNI_CONTAINERID", "CNI_IFNAME"],
  CHECK: ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
  GC: ["CNI_PATH"],
  STATUS: [],
  VERSION: [],
};

/** How a call ends: the exit code and what is to be printed. */
export interface Answer {
  exitCode: number;
  output: string;
}

/** Runs one invocation. `onStderr` gets what plugins that it executes (IPAM) write there. */
export async function main(
  env: Environment,
  input: string,
  type: OwnType = "kubeplumb-cni",
  onStderr?: (text: string) => void,
): Promise<Answer> {
  let version: string = NEWEST_VERSION;
  try {
    const verb = env.CNI_COMMAND ?? "";
    checkEnvironment(verb, env);
    if (verb === "VERSION") {
      const asked = (parseConf(input, { empty: true }) as Partial<NetConf>).cniVersion ?? NEWEST_VERSION;
      return print({ cniVersion: asked, supportedVersions: SUPPORTED_VERSIONS });
    }
    const conf = parseConf(input);
    version = negotiate(typeof conf.cniVersion === "string" ? conf.cniVersion : "0.1.0");
    const result = await run(type, verb, { ...conf, cniVersion: version }, { env, onStderr });
    return result === undefined ? { exitCode: 0, output: "" } : print(result);
  } catch (error) {
    const known = error instanceof CniError ? error : unexpected(error);
    return { exitCode: 1, output: `${JSON.stringify(known.toResult(version), null, 2)}\n` };
  }
}

const print = (value: unknown) => ({ exitCode: 0, output: `${JSON.stringify(value, null, 2)}\n` });

function unexpected(error: unknown): CniError {
  const { message, stack } = error as Error;
  return new CniError(CODE.kernel, message, { ...(stack !== undefined && { details: stack }), cause: error });
}

function checkEnvironment(verb: string, env: Environment): void {
  const required = Object.hasOwn(REQUIRED, verb) ? REQUIRED[verb] : undefined;
  if (!required) {
    throw new CniError(
      CODE.invalidEnvironment,
      `CNI_COMMAND ${JSON.stringify(verb)} is not one of ${Object.keys(REQUIRED).join(", ")}`,
    );
  }
  const missing = required.filter((name) => !env[name]);
  if (missing.length > 0) {
    throw new CniError(
      CODE.invalidEnvironment,
      `required environment variables are missing: ${missing.join(", ")}`,
    );
  }
  if (required.includes("CNI_CONTAINERID")) checkAttachment(env.CNI_CONTAINERID ?? "", env.CNI_IFNAME ?? "");
}

function parseConf(input: string, { empty = false } = {}): NetConf {
  if (empty && input.trim() === "") return {} as NetConf;
  let conf: unknown;
  try {
    conf = JSON.parse(input);
  } catch (error) {
    throw new CniError(
      CODE.decode,
      `the network configuration is not valid JSON: ${(error as Error).message}`,
      {
        cause: error,
      },
    );
  }
  if (typeof conf !== "object" || conf === null || Array.isArray(conf)) {
    throw new CniError(CODE.invalidConfig, "the network configuration must be a JSON object");
  }
  return conf as NetConf;
}

async function run(
  type: OwnType,
  verb: string,
  conf: NetConf,
  { env, onStderr }: { env: Environment; onStderr: ((text: string) => void) | undefined },
): Promise<unknown> {
  const plugin = PLUGINS[type];
  const call: Invocation = {
    containerId: env.CNI_CONTAINERID ?? "",
    ifName: env.CNI_IFNAME ?? "",
    hostNs: NetNs.current(),
    binDirs: (env.CNI_PATH ?? "").split(":").filter((dir) => dir !== ""),
    args: parseArgs(env.CNI_ARGS ?? ""),
    env,
    ...(onStderr && { onStderr }),
    ...(env.CNI_NETNS && { netns: env.CNI_NETNS }),
  };
  switch (verb) {
    case "ADD":
      return resultAs(await plugin.add(conf, call), conf.cniVersion);
    case "DEL":
      return plugin.del(conf, call);
    case "CHECK":
      requireVersion(verb, conf.cniVersion, "0.4.0");
      return plugin.check(conf, call);
    case "GC":
      requireVersion(verb, conf.cniVersion, "1.1.0");
      return plugin.gc(conf, call);
    default:
      requireVersion(verb, conf.cniVersion, "1.1.0");
      return plugin.status(conf, call);
  }
}

function requireVersion(verb: string, version: string, least: (typeof SUPPORTED_VERSIONS)[number]): void {
  if (atLeast(version, least)) return;
  throw new CniError(CODE.incompatibleVersion, `${verb} needs cniVersion ${least} or newer, not ${version}`);
}

/** The process: reads standard input to its end, prints, sets the exit code. */
export async function runProcess(type: OwnType = "kubeplumb-cni"): Promise<void> {
  const chunks: Buffer[] = [];
  // As a stream: the caller's end may be a non-blocking socket, which cannot be read synchronously.
  if (!process.stdin.isTTY) for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  const input = Buffer.concat(chunks).toString();
  const { exitCode, output } = await main(process.env, input, type, (text) => process.stderr.write(text));
  process.stdout.write(output);
  process.exitCode = exitCode;
}
