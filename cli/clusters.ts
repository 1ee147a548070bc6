// Finds the cluster and the place inside it that a command line names. Knows names and sockets; runs nothing.

import { isNotFound, PODS } from "../common/client.js";
import type { ClusterInfo } from "../lab/types.js";
import { type ArgumentSpec, nameOption, type OptionSpec, UsageError } from "./command.js";

/** Where a command runs: a path on a socket that speaks the remote-command protocol. */
export interface Target {
  /** node-1, or pod default/web-0. */
  label: string;
  kind: "host" | "pod";
  socketPath: string;
  path: string;
}

export interface TargetOptions {
  namespace?: string;
  container?: string;
}

export const targetArgument: ArgumentSpec = {
  flags: "<target>",
  description: "a host, a pod, or underlay: beside the hosts, where traffic from outside begins",
  complete: "targets",
};

/** The place beside the hosts: the wire's own namespace. */
export const OUTSIDE = "underlay";

/** How a target is named more closely; they make {@link TargetOptions}. */
export const targetOptions: readonly OptionSpec[] = [
  nameOption,
  { flags: "-n, --namespace <namespace>", description: "namespace of the pod" },
  { flags: "-c, --container <container>", description: "container of the pod" },
];

/** @throws Error naming the clusters there are when there is none of that name. */
export async function requireCluster(name: string): Promise<ClusterInfo> {
  const { clusterInfo, listClusters } = await import("../lab/lifecycle.js");
  const info = clusterInfo(name);
  if (info) return info;
  const others = await listClusters();
  const hint = others.length > 0 ? `there are: ${others.join(", ")}` : "kubeplumb up creates one";
  throw new Error(`there is no cluster ${JSON.stringify(name)}; ${hint}`);
}

/**
 * `HOST`, `underlay`, `NAMESPACE/POD` or, when no host is called so or a namespace or container is given, `POD`.
 * @throws UsageError for text that is none of these; Error when there is neither host nor pod of that name.
 */
export async function findTarget(
  info: ClusterInfo,
  text: string,
  options: TargetOptions = {},
): Promise<Target> {
  const parts = text.replace(/^pods?\//, "").split("/");
  if (parts.length > 2 || parts.some((part) => part === "")) {
    throw new UsageError(`${JSON.stringify(text)}: HOST, POD or NAMESPACE/POD is expected`);
  }
  const [first = "", second] = parts;
  if (second !== undefined) {
    if (options.namespace && options.namespace !== first) {
      throw new UsageError(
        `two namespaces: ${first} in ${JSON.stringify(text)} and ${options.namespace} in --namespace`,
      );
    }
    return podTarget(info, first, second, options.container);
  }
  const plainPod = options.namespace !== undefined || options.container !== undefined || text !== first;
  if (!plainPod && (first === OUTSIDE || info.nodes.some((node) => node.name === first))) {
    return { label: first, kind: "host", socketPath: info.labSocket, path: `/hosts/${first}/exec` };
  }
  const namespace = options.namespace ?? "default";
  if (!plainPod) await requirePod(info, namespace, first);
  return podTarget(info, namespace, first, options.container);
}

function podTarget(info: ClusterInfo, namespace: string, pod: string, container?: string): Target {
  const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(pod)}/exec`;
  return {
    label: `${namespace}/${pod}`,
    kind: "pod",
    socketPath: info.controlSocket,
    path: container ? `${path}?container=${encodeURIComponent(container)}` : path,
  };
}

/** A mistyped host would else be called a missing pod. */
async function requirePod(info: ClusterInfo, namespace: string, pod: string): Promise<void> {
  const { ApiClient } = await import("../client/api-client.js");
  const client = new ApiClient({ socketPath: info.controlSocket });
  try {
    await client.get(PODS, pod, namespace);
  } catch (error) {
    if (!isNotFound(error)) throw explained(error, info.name);
    const hosts = info.nodes.map((node) => node.name).join(", ");
    throw new Error(
      `${JSON.stringify(pod)} is neither a host (${hosts}) nor a pod in namespace ${namespace}`,
      {
        cause: error,
      },
    );
  } finally {
    await client.close();
  }
}

/** A connection that cannot be had means that the cluster does not run; everything else as it is. */
export function explained(error: unknown, name: string): unknown {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code !== "ENOENT" && code !== "ECONNREFUSED") return error;
  return new Error(`cluster ${name} does not run; 'kubeplumb up --name ${name}' starts it`, { cause: error });
}

/** What a start that failed may be missing is for `doctor` to say; everything else as it is. */
export function withDoctorHint(error: unknown): unknown {
  if (!(error instanceof Error) || !("code" in error) || error.code !== "START_FAILED") return error;
  return new Error(`${error.message}\n'kubeplumb doctor' tells what this machine lacks`, { cause: error });
}
