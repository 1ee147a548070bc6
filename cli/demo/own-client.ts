// The demo without kubectl: the same requests by our own client, with the same words for their results. Knows the
// API and what kubectl makes of these few commands.

import { ApiClient } from "../../client/api-client.js";
import { collectionPath, objectPath, type Query } from "../../client/paths.js";
import { DEPLOYMENTS, NODES, PODS, type Resource, SERVICES } from "../../common/client.js";
import type { Deployment, Stored } from "../../common/k8s.js";
import type { ClusterInfo } from "../../lab/types.js";
import { nameWords } from "../command.js";
import { shellLine } from "../programs.js";
import { formatTable } from "../table.js";
import { type Action, type Outcome, remoteAction } from "./action.js";
import { type DemoKube, kubectlLine, kubectlWords } from "./kube.js";

const NAMESPACE = "default";
/** kubectl's way of asking for what it prints (meta.k8s.io/v1 Table). */
const ACCEPT_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

interface Table {
  columnDefinitions: { name: string; priority?: number }[];
  rows?: { cells: unknown[] }[];
}

/** @param self how we are called: pods are entered with `kubeplumb exec`, which works without kubectl. */
export function createOwnClient(info: ClusterInfo, self: string): DemoKube {
  const client = new ApiClient({ socketPath: info.controlSocket });
  const action = (words: readonly string[], run: (signal: AbortSignal) => Promise<string>): Action => ({
    line: kubectlLine(words),
    run: async (signal): Promise<Outcome> => ({ exitCode: 0, output: await run(signal) }),
  });
  const table = (words: readonly string[], path: string, query: Query = {}): Action =>
    action(words, () => readTable(client, path, { query, wide: words.includes("wide") }));
  const one = (r: Resource, name: string) => objectPath(r, name, NAMESPACE);
  return {
    notice: "kubectl is not installed; kubeplumb's own client makes the same requests.",
    getNodes: () => table(kubectlWords.getNodes(), collectionPath(NODES)),
    createDeployment: (name, image) =>
      action(kubectlWords.createDeployment(name, image), async () => {
        await client.create(DEPLOYMENTS, deployment(name, image), { namespace: NAMESPACE });
        return `deployment.apps/${name} created\n`;
      }),
    getDeployment: (name) => table(kubectlWords.getDeployment(name), one(DEPLOYMENTS, name)),
    scale: (name, replicas) =>
      action(kubectlWords.scale(name, replicas), async () => {
        const options = { namespace: NAMESPACE, subresource: "scale" } as const;
        await client.patch(DEPLOYMENTS, name, "merge", { spec: { replicas } }, options);
        return `deployment.apps/${name} scaled\n`;
      }),
    rolloutStatus: (name) =>
      action(kubectlWords.rolloutStatus(name), async (signal) => {
        await rolledOut(client, name, signal);
        return `deployment "${name}" successfully rolled out\n`;
      }),
    getPods: (app) =>
      table(kubectlWords.getPods(app), collectionPath(PODS, NAMESPACE), { labelSelector: `app=${app}` }),
    expose: (name, port) =>
      action(kubectlWords.expose(name, port), async () => {
        await expose(client, name, port);
        return `service/${name} exposed\n`;
      }),
    getService: (name) => table(kubectlWords.getService(name), one(SERVICES, name)),
    exec: (pod, command) => {
      const target = { socketPath: info.controlSocket, path: `${one(PODS, pod)}/exec` };
      return remoteAction(
        shellLine([
          ...self.split(" "),
          "exec",
          ...nameWords(info.name),
          `${NAMESPACE}/${pod}`,
          "--",
          ...command,
        ]),
        target,
        command,
      );
    },
    close: () => client.close(),
  };
}

/** What `kubectl create deployment` sends. */
function deployment(name: string, image: string): Deployment {
  const labels = { app: name };
  // kubectl names the container after the last part of the image, without tag or digest.
  const container = image.replace(/^.*\//, "").replace(/[:@].*$/, "");
  return {
    metadata: { name, labels },
    spec: {
      replicas: 1,
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { containers: [{ name: container, image }] } },
    },
  };
}

/** What `kubectl expose` sends: the selector is the Deployment's. */
async function expose(client: ApiClient, name: string, port: number): Promise<void> {
  const { metadata, spec } = await client.get(DEPLOYMENTS, name, NAMESPACE);
  await client.create(
    SERVICES,
    {
      metadata: { name, labels: metadata.labels },
      spec: {
        type: "NodePort",
        selector: spec?.selector.matchLabels,
        ports: [{ port, protocol: "TCP", targetPort: port }],
      },
    },
    { namespace: NAMESPACE },
  );
}

/** kubectl's rule for "successfully rolled out". */
function isRolledOut({ metadata, spec, status = {} }: Stored<Deployment>): boolean {
  const wanted = spec?.replicas ?? 1;
  const { observedGeneration = 0, updatedReplicas = 0, replicas = 0, availableReplicas = 0 } = status;
  if (observedGeneration < (metadata.generation ?? 0)) return false;
  return updatedReplicas >= wanted && replicas <= updatedReplicas && availableReplicas >= updatedReplicas;
}

async function rolledOut(client: ApiClient, name: string, signal: AbortSignal): Promise<void> {
  const fieldSelector = `metadata.name=${name}`;
  const { items, resourceVersion } = await client.list(DEPLOYMENTS, { namespace: NAMESPACE, fieldSelector });
  if (items[0] && isRolledOut(items[0])) return;
  const options = { namespace: NAMESPACE, fieldSelector, resourceVersion, signal };
  for await (const event of client.watch(DEPLOYMENTS, options)) {
    if (event.type === "DELETED") throw new Error(`deployment ${name} was deleted meanwhile`);
    if (event.type !== "BOOKMARK" && isRolledOut(event.object)) return;
  }
  signal.throwIfAborted();
  throw new Error(`the watch of deployment ${name} ended before it was rolled out`);
}

async function readTable(
  client: ApiClient,
  path: string,
  { query, wide }: { query: Query; wide: boolean },
): Promise<string> {
  const table = await client.json<Table>("GET", path, { query, accept: ACCEPT_TABLE });
  const shown = table.columnDefinitions.map(({ priority = 0 }) => wide || priority === 0);
  const pick = (cells: readonly unknown[]) => cells.filter((_, index) => shown[index]).map(String);
  const head = pick(table.columnDefinitions.map(({ name }) => name.toUpperCase()));
  return formatTable([head, ...(table.rows ?? []).map(({ cells }) => pick(cells))]);
}
