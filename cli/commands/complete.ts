// kubeplumb __complete: what the completion scripts call at each TAB. Silent when it knows nothing.

import { PODS } from "../../common/client.js";
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
    const { clusterInfo } = await import("../../lab/lifecycle.js");
    const info = clusterInfo(cluster);
    if (!info) return [];
    const hosts = info.nodes.map((node) => node.name);
    return [...hosts, ...(await pods(info.controlSocket))];
  },
};

async function pods(socketPath: string): Promise<string[]> {
  const { ApiClient } = await import("../../client/api-client.js");
  const client = new ApiClient({ socketPath, timeoutMs: TIMEOUT_MS });
  try {
    const { items } = await client.list(PODS);
    return items.map(({ metadata }) => `${metadata.namespace}/${metadata.name}`);
  } catch {
    // The cluster does not run: its hosts are all there is to offer, and an error at the prompt helps nobody.
    return [];
  } finally {
    await client.close();
  }
}

export default spec;
