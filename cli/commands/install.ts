// kubeplumb install: control or node as a service of systemd on this machine.

import { realpathSync } from "node:fs";
import { type CommandSpec, UsageError } from "../command.js";
import { installFiles, type Role } from "../install/files.js";
import { startService, systemdRuns, writeFiles } from "../install/machine.js";

interface Options {
  root: string;
}

const spec: CommandSpec<Options> = {
  description:
    "Writes the unit and, for a node, the kernel modules and settings it needs; then starts it. Done again it changes\nonly what differs. What follows -- goes to kubeplumb control or kubeplumb node.",
  arguments: [{ flags: "<role>", description: "which of the two", choices: ["control", "node"] }],
  options: [
    {
      flags: "--root <dir>",
      description: "write below another system's root, and start nothing",
      default: "/",
      complete: "files",
    },
  ],
  takesCommand: true,
  examples: [
    ["the control plane", "kubeplumb install control -- --advertise-address 192.168.56.10"],
    [
      "a node",
      "kubeplumb install node -- --server https://192.168.56.10:6443 --token … --discovery-token-ca-cert-hash …",
    ],
  ],
  async run(context, [role], { root }) {
    const daemon = await (role === "control" ? import("./control.js") : import("./node.js"));
    const { args, secrets } = split(context.rest ?? [], daemon.default);
    const program = [process.execPath, realpathSync(process.argv[1] ?? "")];
    const changed = writeFiles(installFiles({ role: role as Role, program, args, secrets }), root);
    for (const path of changed) context.note(`written: ${path}`);
    if (changed.length === 0) context.note("all files are as they should be");
    if (root !== "/") return 0;
    if (systemdRuns()) startService(role as Role, changed);
    else context.note("systemd does not run here: nothing is started");
    return 0;
  },
};

/** The token goes into a file that only root reads, the rest into the unit. @throws UsageError for an unknown option. */
function split(
  words: readonly string[],
  daemon: CommandSpec,
): { args: string[]; secrets: Record<string, string> } {
  const known = (daemon.options ?? []).map(({ flags }) => flags.split(" ")[0]);
  const args: string[] = [];
  const secrets: Record<string, string> = {};
  for (let at = 0; at < words.length; at += 2) {
    const [name = "", joined] = (words[at] ?? "").split(/=(.*)/s);
    if (!known.includes(name)) throw new UsageError(`${JSON.stringify(name)}: there are ${known.join(", ")}`);
    if (joined !== undefined) at--;
    const value = joined ?? words[at + 1];
    if (value === undefined) throw new UsageError(`${name}: its value is missing`);
    if (name === "--token") secrets.KUBEPLUMB_TOKEN = value;
    else args.push(name, value);
  }
  return { args, secrets };
}

export default spec as CommandSpec;
