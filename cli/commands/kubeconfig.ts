// kubeplumb kubeconfig: the cluster's kubeconfig, printed or merged into the user's.

import { readFileSync } from "node:fs";
import { requireCluster } from "../clusters.js";
import { type CommandSpec, nameOption, UsageError } from "../command.js";
import { connectUser } from "../connect.js";
import { kubeconfigFiles } from "../kubeconfig-file.js";

interface Options {
  name: string;
  merge?: boolean;
  kubeconfig?: string;
}

const spec: CommandSpec<Options> = {
  description: "Who has it is the administrator of the cluster.",
  options: [
    nameOption,
    {
      flags: "--merge",
      description: "write it into the user's kubeconfig and make its context the current one",
    },
    {
      flags: "--kubeconfig <file>",
      description: "with --merge: into this file (default: $KUBECONFIG, ~/.kube/config)",
      complete: "files",
    },
  ],
  examples: [
    ["for one command", "kubeplumb kubeconfig > /tmp/k && kubectl --kubeconfig /tmp/k get nodes"],
    ["for good", "kubeplumb kubeconfig --merge"],
  ],
  async run(context, _args, { name, merge, kubeconfig }) {
    if (kubeconfig && !merge) throw new UsageError("--kubeconfig is the file that --merge writes to");
    const info = await requireCluster(name);
    if (!merge) {
      context.print(readFileSync(info.kubeconfigPath, "utf8"));
      return 0;
    }
    const files = kubeconfigFiles(context.streams.env, kubeconfig);
    const changed = await connectUser(info, files);
    context.note(
      changed.length > 0
        ? `context ${info.contextName} is in ${changed.join(", ")} and the current one`
        : `context ${info.contextName} is there already`,
    );
    return 0;
  },
};

export default spec as CommandSpec;
