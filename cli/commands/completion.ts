// kubeplumb completion: the script that a shell loads.

import type { CommandSpec } from "../command.js";
import { completionScript, SHELLS } from "../completion/scripts.js";

const spec: CommandSpec = {
  description: "Commands, options, names of clusters, hosts and pods.",
  arguments: [{ flags: "<shell>", description: "which shell", choices: SHELLS, complete: SHELLS }],
  examples: [
    ["bash, in ~/.bashrc", "source <(kubeplumb completion bash)"],
    ["zsh, in ~/.zshrc after compinit", "source <(kubeplumb completion zsh)"],
    ["fish", "kubeplumb completion fish > ~/.config/fish/completions/kubeplumb.fish"],
  ],
  async run(context, [shell]) {
    const known = SHELLS.find((one) => one === shell);
    if (known) context.print(completionScript(known));
    return 0;
  },
};

export default spec;
