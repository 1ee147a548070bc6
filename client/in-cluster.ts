// The connection of a program that runs in a pod: address from the environment, credentials from the mounted service
// account (as rest.InClusterConfig has it). Knows files and variables, opens no connection.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ServerOptions } from "./kubeconfig.js";

/** Where a pod has its account's token. */
export const SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";

/**
 * @param directory where the service account is mounted.
 * @throws Error when this is no pod: KUBERNETES_SERVICE_HOST and _PORT are not set, or the account is not mounted.
 */
export function inClusterConnection(
  env: NodeJS.ProcessEnv = process.env,
  directory = SERVICE_ACCOUNT,
): ServerOptions {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = env;
  if (!host || !port) {
    throw new Error("not in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set");
  }
  return {
    server: `https://${host.includes(":") ? `[${host}]` : host}:${port}`,
    ca: readFileSync(join(directory, "ca.crt"), "utf8"),
    tokenFile: join(directory, "token"),
  };
}
