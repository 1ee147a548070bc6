// kubeplumb publish: a NodePort of a running cluster, on this machine's own loopback.

import { requireCluster } from "../clusters.js";
import { type CommandSpec, nameOption, UsageError } from "../command.js";
import { parsePublish, publishedUrl } from "../ports.js";

interface Options {
  name: string;
}

const spec: CommandSpec<Options> = {
  description: "It stays until the cluster is taken down.",
  arguments: [{ flags: "<host:node>", description: "[ADDRESS:]HOSTPORT:NODEPORT; the address is 127.0.0.1" }],
  options: [nameOption],
  examples: [["NodePort 30080 on http://127.0.0.1:8080", "kubeplumb publish 8080:30080"]],
  async run(context, [text = ""], { name }) {
    const publish = parse(text);
    await requireCluster(name);
    const lifecycle = await import("../../lab/lifecycle.js");
    await lifecycle.publish(name, publish);
    context.print(publishedUrl(publish));
    return 0;
  },
};

function parse(text: string) {
  try {
    return parsePublish(text);
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

export default spec as CommandSpec;
