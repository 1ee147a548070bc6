// kubeplumb version: what this is and what it runs on.

import { release } from "node:os";
import { packageVersion } from "../../lab/version.js";
import { type CommandSpec, outputOption } from "../command.js";

interface Options {
  output: "text" | "json";
}

const spec: CommandSpec<Options> = {
  options: [outputOption("text", "json")],
  examples: [["for programs", "kubeplumb version -o json"]],
  async run(context, _args, { output }) {
    const facts = {
      version: packageVersion(),
      node: process.version,
      platform: `${process.platform}/${process.arch}`,
      kernel: release(),
    };
    if (output === "json") context.print(JSON.stringify(facts, null, 2));
    else
      context.print(
        `kubeplumb ${facts.version} (node ${facts.node}, ${facts.platform}, kernel ${facts.kernel})`,
      );
    return 0;
  },
};

export default spec as CommandSpec;
