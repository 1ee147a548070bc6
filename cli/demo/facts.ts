// What the demo must know of the cluster to go on: addresses and names, read from the API. Knows no display.

import type { ApiClient } from "../../client/api-client.js";
import { DEPLOYMENTS, isNotFound, PODS, SERVICES } from "../../common/client.js";
import type { KubeObject } from "../../common/k8s.js";

export interface PodFact {
  name: string;
  ip: string;
  node: string;
}

const NAMESPACE = "default";

/** Ready pods of an app, by name; none that is being deleted. */
export async function readyPods(client: ApiClient, app: string): Promise<PodFact[]> {
  const { items } = await client.list(PODS, { namespace: NAMESPACE, labelSelector: `app=${app}` });
  return items
    .filter(({ metadata, status }) => {
      const ready = status?.conditions?.some(({ type, status: is }) => type === "Ready" && is === "True");
      return ready && !metadata.deletionTimestamp;
    })
    .map(({ metadata, spec, status }) => ({
      name: metadata.name,
      ip: status?.podIP ?? "",
      node: spec?.nodeName ?? "",
    }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

export interface ServiceFact {
  clusterIP: string;
  nodePort: number | undefined;
}

/** The Service of that name and the node port of its `port`; undefined when there is none. */
export async function findService(
  client: ApiClient,
  name: string,
  port: number,
): Promise<ServiceFact | undefined> {
  const service = await orUndefined(client.get(SERVICES, name, NAMESPACE));
  if (!service) return undefined;
  const found = service.spec?.ports?.find((one) => one.port === port);
  return { clusterIP: service.spec?.clusterIP ?? "", nodePort: found?.nodePort };
}

export async function hasClusterDns(client: ApiClient): Promise<boolean> {
  return (await orUndefined(client.get(SERVICES, "kube-dns", "kube-system"))) !== undefined;
}

export async function hasDeployment(client: ApiClient, name: string): Promise<boolean> {
  return (await orUndefined(client.get(DEPLOYMENTS, name, NAMESPACE))) !== undefined;
}

async function orUndefined<T extends KubeObject>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}
