// kubeplumb list: the clusters of this user.

import { type CommandSpec, type Context, outputOption } from "../command.js";
import { formatTable } from "../table.js";

interface Options {
  output: "name" | "json" | "wide";
}

const spec: CommandSpec<Options> = {
  options: [outputOption("name", "wide", "json")],
  examples: [
    ["names, one a line", "kubeplumb list"],
    ["remove them all", "kubeplumb list | xargs -rn1 kubeplumb down --name"],
  ],
  run: (context, _args, { output }) => printClusters(context, output),
};

/** Names one a line; `wide` and `json` ask each cluster how it is. */
export async function printClusters(context: Context, output: Options["output"]): Promise<number> {
  const { listClusters, status } = await import("../../lab/lifecycle.js");
  const names = await listClusters();
  if (output === "name") {
    if (names.length > 0) context.print(names.join("\n"));
    else context.note("There are no clusters; kubeplumb up creates one.");
    return 0;
  }
  const clusters = await Promise.all(names.map((name) => status(name)));
  if (output === "json") {
    const short = clusters.map(({ name, state, info, nodes }) => ({
      name,
      state,
      server: info?.server,
      context: info?.contextName,
      nodes: nodes.length,
    }));
    context.print(JSON.stringify(short, null, 2));
    return 0;
  }
  const rows = clusters.map(({ name, state, nodes, info }) => [
    name,
    state,
    String(nodes.length),
    info?.server ?? "",
    info?.contextName ?? "",
  ]);
  context.print(formatTable([["CLUSTER", "STATE", "HOSTS", "API", "CONTEXT"], ...rows]));
  return 0;
}

export default spec as CommandSpec;
