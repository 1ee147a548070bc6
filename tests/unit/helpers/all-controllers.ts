// All controllers on the API in this process, for tests; a client whose watches are late.

import type { KubeClient } from "../../../common/client.js";
import type { Deployment } from "../../../common/k8s.js";
import { startControllers } from "../../../control/controllers/index.js";
import { addNodes, type LocalApi, openLocalApi } from "./local-cluster.js";

interface Running extends LocalApi {
  controllers: ReturnType<typeof startControllers>;
}

/** What controllers are told of the cluster. */
export const OPTIONS = {
  clusterCIDRs: ["10.244.0.0/16"],
  nodeCIDRMaskSize: 24,
  nodeMonitorGracePeriodSeconds: 40,
  serverAddresses: { ip: "192.168.56.1", port: 6443 },
  serviceCIDRs: ["10.96.0.0/16"],
  caCert: "the CA",
  tokens: { issue: async () => ({ token: "a token" }) },
};

/** The same API, whose watches tell everything late: what a busy server does to a cache. */
export function late(client: KubeClient, ms: number): KubeClient {
  const slow = Object.create(client) as KubeClient;
  for (const verb of ["get", "list", "create", "update", "patch", "delete", "deleteCollection"] as const) {
    Object.defineProperty(slow, verb, { value: client[verb].bind(client) });
  }
  slow.watch = async function* (resource, options) {
    for await (const event of client.watch(resource, options)) {
      await new Promise((resolve) => setTimeout(resolve, ms));
      yield event;
    }
  };
  return slow;
}

/** All controllers at work on the API, gone with the test before the API is. */
export async function startAll(
  t: { teardown(fn: () => unknown): unknown },
  { client, informers, log, close }: Pick<LocalApi, "client" | "informers" | "log" | "close">,
  options: Partial<typeof OPTIONS> & { volumesDir?: string } = {},
): Promise<ReturnType<typeof startControllers>> {
  const controllers = startControllers({ client, informers, log, ...OPTIONS, ...options });
  t.teardown(async () => {
    await controllers.stop();
    await close();
  });
  await controllers.ready;
  return controllers;
}

/** All controllers at work on an empty API with so many nodes, gone with the test. */
export async function running(
  t: { teardown(fn: () => unknown): unknown },
  nodes = 3,
  options: Parameters<typeof startAll>[2] = {},
): Promise<Running> {
  const api = await openLocalApi();
  const controllers = await startAll(t, api, options);
  await addNodes(api.client, nodes);
  return { ...api, controllers };
}

/** Deployment default/web of four pods. */
export function webDeployment(spec: Partial<NonNullable<Deployment["spec"]>> = {}, image = "v1"): Deployment {
  const labels = { app: "web" };
  return {
    metadata: { name: "web", namespace: "default" },
    spec: {
      replicas: 4,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: { containers: [{ name: "c", image, ports: [{ containerPort: 8080 }] }] },
      },
      ...spec,
    },
  };
}

/** Gives the container of a template another image. */
export const imagePatch = (image: string) => ({
  spec: { template: { spec: { containers: [{ name: "c", image }] } } },
});
