// kubeplumb exec: one command in a host or a pod, as if it ran here.

import {
  explained,
  findTarget,
  requireCluster,
  type TargetOptions,
  targetArgument,
  targetOptions,
} from "../clusters.js";
import { type CommandSpec, UsageError } from "../command.js";
import { runRemote } from "../remote.js";

interface Options extends TargetOptions {
  name: string;
  stdin?: boolean;
  tty?: boolean;
}

const spec: CommandSpec<Options> = {
  description:
    "TARGET is a host, NAMESPACE/POD, a pod of the default namespace, or underlay: beside the hosts. Standard " +
    "input is passed on when it is no terminal (or with -i); the exit code is the command's, 126 and 127 as in a shell.",
  arguments: [targetArgument],
  options: [
    ...targetOptions,
    { flags: "-i, --stdin", description: "pass standard input on, even from a terminal" },
    { flags: "--no-stdin", description: "never pass standard input on" },
    { flags: "-t, --tty", description: "give the command a terminal" },
  ],
  takesCommand: true,
  examples: [
    ["a ClusterIP from a host", "kubeplumb exec node-1 -- curl -s 10.96.0.10:8080"],
    ["a load balancer's address from outside", "kubeplumb exec underlay -- curl -s 192.168.56.200"],
    ["the rules that a host has", "kubeplumb exec node-1 -- iptables-save -t nat"],
    ["from a pod to the address of another", "kubeplumb exec default/web-0 -- ping -c1 10.244.2.3"],
  ],
  async run(context, [text = ""], options) {
    const [program] = context.rest ?? [];
    if (program === undefined) throw new UsageError("the command is missing: it follows after --");
    const info = await requireCluster(options.name);
    const target = await findTarget(info, text, options);
    let { stdin, tty = false } = options;
    if (tty && context.streams.stdin.isTTY !== true) {
      context.note("no terminal is given to the command: standard input is none");
      tty = false;
    }
    if (tty) stdin ??= true;
    try {
      const { signal, rest = [] } = context;
      return await runRemote(target, context.streams, { command: rest, stdin, tty, signal });
    } catch (error) {
      throw explained(error, options.name);
    }
  },
};

export default spec as CommandSpec;
