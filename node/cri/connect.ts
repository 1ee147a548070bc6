// The first words with a container runtime: whether one is there, and whether its own settings let it run pods. Knows what
// containerd tells of its configuration; what is wrong is told with what to change.

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "../../common/log.js";
import { CriClient } from "./client.js";
import { GrpcError, STATUS } from "./grpc.js";
import { CriRuntime } from "./runtime.js";

const CONNECT_MS = 10_000;
const PLUGIN = "kubeplumb-cni";
const PLUGINS = "/opt/cni/bin";

/** Nobody answers at the endpoint as a container runtime does: what a person must change. */
export class RuntimeError extends Error {
  override readonly name = "RuntimeError";
}

/** What containerd says of its CRI beside its status. */
export interface RuntimeConfig {
  sandboxImage?: string;
  containerd?: {
    defaultRuntimeName?: string;
    runtimes?: Record<string, { options?: { SystemdCgroup?: boolean } }>;
  };
  /** From 2.1 on there may be several directories. */
  cni?: { binDir?: string; binDirs?: string[]; confDir?: string };
}

/** @throws RuntimeError naming endpoint and options. */
export async function connectCri(endpoint: string, node: string, log: Logger): Promise<CriRuntime> {
  const client = new CriClient(endpoint);
  try {
    const { runtimeName, runtimeVersion } = await client.version(CONNECT_MS);
    const { info } = await client.status(CONNECT_MS);
    const config = JSON.parse(info.config ?? "{}") as RuntimeConfig;
    for (const problem of [pluginProblem(config), await sandboxImageProblem(client, config)])
      if (problem) log.warn(problem);
    return new CriRuntime(client, { node, log, runtimeName, runtimeVersion, config });
  } catch (error) {
    client.close();
    throw new RuntimeError(whyNot(endpoint, error), { cause: error });
  }
}

function whyNot(endpoint: string, error: unknown): string {
  const { message } = error as Error;
  if (error instanceof GrpcError && error.status === STATUS.unimplemented)
    return `what answers at ${endpoint} is no container runtime with CRI v1 (${message}); Docker's package of containerd has CRI switched off: take "cri" out of disabled_plugins in /etc/containerd/config.toml`;
  return `no container runtime answers at ${endpoint} (${message}): is containerd running? Another socket is named by --container-runtime-endpoint; --runtime emulated needs none`;
}

/** Debian's containerd looks into /usr/lib/cni only. */
export function pluginProblem({ cni }: RuntimeConfig): string | undefined {
  const directories = cni?.binDirs ?? (cni?.binDir ? [cni.binDir] : []);
  if (directories.length === 0 || directories.some((one) => existsSync(join(one, PLUGIN)))) return undefined;
  const there = existsSync(join(PLUGINS, PLUGIN)) ? "" : "kubeplumb install cni; ";
  return `the container runtime looks for CNI plugins in ${directories.join(", ")}, where ${PLUGIN} is not: ${there}ln -s ${PLUGINS}/kubeplumb-* ${directories[0]}/`;
}

async function sandboxImageProblem(
  client: CriClient,
  { sandboxImage }: RuntimeConfig,
): Promise<string | undefined> {
  if (!sandboxImage || (await client.imageStatus(sandboxImage))) return undefined;
  return `the container runtime needs the image ${sandboxImage} for every pod and does not have it: it pulls it with the first one; without a registry, kubeplumb image import brings it, or sandbox_image in /etc/containerd/config.toml names another`;
}
