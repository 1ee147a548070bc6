// kubeplumb down: nothing of the cluster remains, whatever state it was in.

import { type CommandSpec, nameOption } from "../command.js";
import { madeFiles, writtenFiles } from "../connect.js";
import { kubeconfigFiles, removeContext } from "../kubeconfig-file.js";

interface Options {
  name: string;
  kubeconfig?: string;
}

const spec: CommandSpec<Options> = {
  description: "Also of one that has crashed. That there is none is no error.",
  options: [
    nameOption,
    {
      flags: "--kubeconfig <file>",
      description: "where its context is taken out (default: where up has written it)",
      complete: "files",
    },
  ],
  examples: [
    ["the default cluster", "kubeplumb down"],
    ["another", "kubeplumb down --name blue"],
  ],
  async run(context, _args, { name, kubeconfig }) {
    const { clusterInfo, down } = await import("../../lab/lifecycle.js");
    const info = clusterInfo(name);
    const written = info && !kubeconfig ? writtenFiles(info.dir) : [];
    const made = info ? madeFiles(info.dir) : [];
    const files = new Set([...kubeconfigFiles(context.streams.env, kubeconfig), ...written]);
    const steps = context.steps();
    try {
      const title = `Removing cluster ${name}`;
      steps.start(title);
      const { existed } = await down(name);
      steps.done(title, { title: existed ? `Cluster ${name} is removed` : `There is no cluster ${name}` });
    } finally {
      steps.close();
    }
    for (const path of files) {
      try {
        await removeContext([path], info?.contextName ?? `kubeplumb-${name}`, made);
      } catch (error) {
        // In a file that we have not written to there is nothing of ours: that it cannot be read is worth a word only.
        if (kubeconfig || written.includes(path)) throw error;
        context.note(
          `${context.noteStyle.yellow("!")} ${error instanceof Error ? error.message : String(error)}`,
        );
      }
    }
    return 0;
  },
};

export default spec as CommandSpec;
