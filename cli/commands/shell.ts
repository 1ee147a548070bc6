// kubeplumb shell: a shell in a host or a pod, on a terminal when we have one.

import { existsSync } from "node:fs";
import {
  explained,
  findTarget,
  requireCluster,
  type TargetOptions,
  targetArgument,
  targetOptions,
} from "../clusters.js";
import type { CommandSpec } from "../command.js";
import { runRemote } from "../remote.js";

interface Options extends TargetOptions {
  name: string;
}

const spec: CommandSpec<Options> = {
  description:
    "Programs and files are this machine's; network, host name and /run are the host's or the pod's own.",
  arguments: [targetArgument],
  options: targetOptions,
  examples: [
    ["look around in a host", "kubeplumb shell node-1"],
    ["run a script in it", "kubeplumb shell node-1 < script.sh"],
  ],
  async run(context, [text = ""], options) {
    const info = await requireCluster(options.name);
    const target = await findTarget(info, text, options);
    const { streams, signal } = context;
    const tty = streams.stdin.isTTY === true;
    const shell = existsSync("/bin/bash") ? "/bin/bash" : "/bin/sh";
    // The processes of a lab have no terminal of their own, hence no TERM to inherit.
    const command = tty ? ["env", `TERM=${streams.env.TERM ?? "xterm"}`, shell] : [shell];
    try {
      return await runRemote(target, streams, { command, stdin: true, tty, signal });
    } catch (error) {
      throw explained(error, options.name);
    }
  },
};

export default spec as CommandSpec;
