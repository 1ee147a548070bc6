// kubeplumb get: the names of the clusters, or the hosts of one.

import { requireCluster } from "../clusters.js";
import { type CommandSpec, nameOption, outputOption } from "../command.js";
import { formatTable } from "../table.js";
import { printClusters } from "./list.js";

interface Options {
  name: string;
  output: "name" | "json" | "wide";
}

const spec: CommandSpec<Options> = {
  arguments: [
    {
      flags: "<what>",
      description: "clusters or hosts",
      choices: ["clusters", "hosts"],
      complete: ["clusters", "hosts"],
    },
  ],
  options: [{ ...nameOption, description: "the cluster whose hosts" }, outputOption("name", "wide", "json")],
  examples: [
    ["the clusters of this user", "kubeplumb get clusters"],
    ["the hosts of one, with their addresses", "kubeplumb get hosts -o wide"],
  ],
  async run(context, [what], { name, output }) {
    if (what === "clusters") return await printClusters(context, output);
    const { nodes } = await requireCluster(name);
    if (output === "json") context.print(JSON.stringify(nodes, null, 2));
    else if (output === "name") context.print(nodes.map((node) => node.name).join("\n"));
    else context.print(formatTable([["HOST", "ADDRESS"], ...nodes.map((node) => [node.name, node.ip])]));
    return 0;
  },
};

export default spec as CommandSpec;
