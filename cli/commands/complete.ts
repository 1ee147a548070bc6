// kubeplumb __complete: what the completion scripts call at each TAB. Silent when it knows nothing.

import { PODS, type Resource, SERVICES } from "../../common/client.js";
import { type KubeObject, keyOf, type Stored } from "../../common/k8s.js";
import { OUTSIDE } from "../clusters.js";
import { type CommandSpec, DEFAULT_NAME } from "../command.js";
import { complete, type Providers } from "../completion/candidates.js";
import { commands } from "./index.js";

/** A person is waiting at the prompt. */
const TIMEOUT_MS = 1000;

const spec: CommandSpec = {
  takesCommand: true,
  examples: [["what may follow", "kubeplumb __complete -- exec ''"]],
  async run(context) {
    const { candidates, files } = await complete(context.rest ?? [""], commands, providers, DEFAULT_NAME);
    const lines = candidates.map(({ value, description }) =>
      description ? `${value}\t${description}` : value,
    );
    if (files) lines.push(":files");
    if (lines.length > 0) context.print(lines.join("\n"));
    return 0;
  },
};

const providers: Providers = {
  async clusters() {
    const { listClusters } = await import("../../lab/lifecycle.js");
    return await listClusters();
  },
  async hosts(cluster) {
    const { clusterInfo } = await import("../../lab/lifecycle.js");
    return clusterInfo(cluster)?.nodes.map((node) => node.name) ?? [];
  },
  async targets(cluster) {
    const [hosts, pods] = await Promise.all([providers.hosts(cluster), providers.pods(cluster)]);
    return [...hosts, OUTSIDE, ...pods];
  },
  async pods(cluster) {
    return (await list(cluster, PODS)).map(keyOf);
  },
  async services(cluster) {
    const services = await list(cluster, SERVICES);
    return services.filter(({ spec }) => spec?.clusterIP && spec.clusterIP !== "None").map(keyOf);
  },
};

async function list<T extends KubeObject>(cluster: string, resource: Resource<T>): Promise<Stored<T>[]> {
  const { clusterInfo } = await import("../../lab/lifecycle.js");
  const info = clusterInfo(cluster);
  if (!info) return [];
  const { ApiClient } = await import("../../client/api-client.js");
  const client = new ApiClient({ socketPath: info.controlSocket, timeoutMs: TIMEOUT_MS });
  try {
    return (await client.list(resource)).items;
  } catch {
    // The cluster does not run: an error at the prompt helps nobody.
    return [];
  } finally {
    await client.close();
  }
}

export default spec;
