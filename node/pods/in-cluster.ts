// The API client of an emulated program: what client-go's InClusterConfig gives to a real one, over connections that are
// made inside the pod's namespace. Knows where the credentials are mounted, no resources.

import { ApiClient } from "../../client/api-client.js";
import { inClusterConnection, SERVICE_ACCOUNT } from "../../client/in-cluster.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import type { BindMount } from "../process/root-plan.js";
import type { Env } from "./env.js";
import { throughMounts } from "./volumes.js";

export interface InClusterOptions {
  ns: NetNs;
  env: Env;
  mounts: readonly BindMount[];
  userAgent: string;
}

/** @throws Error when the account is not mounted, or KUBERNETES_SERVICE_HOST is not set. */
export function inClusterClient({ ns, env, mounts, userAgent }: InClusterOptions): ApiClient {
  const directory = throughMounts(SERVICE_ACCOUNT, mounts);
  if (directory === undefined) throw new Error(`no service account is mounted at ${SERVICE_ACCOUNT}`);
  const connection = inClusterConnection(env, directory);
  return new ApiClient({ ...connection, userAgent, dial: (address) => ns.connect(address) });
}
