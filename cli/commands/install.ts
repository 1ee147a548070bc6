// kubeplumb install: control or node as a service of systemd on this machine, or the CNI plugins for its runtimes.

import { realpathSync } from "node:fs";
import { isAbsolute } from "node:path";
import { serverFlags } from "../../common/v8.js";
import { type CommandSpec, type Context, UsageError } from "../command.js";
import { cniFiles, OVERLAY_SUBNET_FILE } from "../install/cni.js";
import { installFiles, type Role } from "../install/files.js";
import { startService, systemdRuns, writeFiles } from "../install/machine.js";

interface Options {
  root: string;
  subnetFile?: string;
}

const spec: CommandSpec<Options> = {
  description:
    "Writes the unit and, for a node, the kernel modules and settings it needs; then starts it. Done again it changes\nonly what differs. What follows -- goes to kubeplumb control or kubeplumb node. Of cni it writes the plugins into\n/opt/cni/bin and their configuration into /etc/cni/net.d.",
  arguments: [{ flags: "<role>", description: "which of them", choices: ["control", "node", "cni"] }],
  options: [
    {
      flags: "--root <dir>",
      description: "write below another system's root, and start nothing",
      default: "/",
      complete: "files",
    },
    {
      flags: "--subnet-file <file>",
      description: `of cni: where the overlay says which block this host has; default: ${OVERLAY_SUBNET_FILE}, kubeplumb node's`,
      parse: parseAbsolute,
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
    ["the plugins, beside flanneld", "kubeplumb install cni --subnet-file /run/flannel/subnet.env"],
  ],
  async run(context, [role], { root, subnetFile }) {
    if (role === "cni") {
      if (context.rest?.length) throw new UsageError("nothing follows -- of install cni");
      return report(context, writeFiles(cniFiles({ node: process.execPath, subnetFile }), root));
    }
    if (subnetFile !== undefined) throw new UsageError("--subnet-file is for install cni");
    const daemon = await (role === "control" ? import("./control.js") : import("./node.js"));
    const { args, secrets } = split(context.rest ?? [], daemon.default);
    const flags = role === "control" ? serverFlags() : [];
    const program = [process.execPath, ...flags, realpathSync(process.argv[1] ?? "")];
    const changed = writeFiles(installFiles({ role: role as Role, program, args, secrets }), root);
    report(context, changed);
    if (root !== "/") return 0;
    if (systemdRuns()) startService(role as Role, changed);
    else context.note("systemd does not run here: nothing is started");
    return 0;
  },
};

function parseAbsolute(path: string): string {
  if (!isAbsolute(path)) throw new Error(`${JSON.stringify(path)}: an absolute path is expected`);
  return path;
}

function report(context: Context, changed: readonly string[]): number {
  for (const path of changed) context.note(`written: ${path}`);
  if (changed.length === 0) context.note("all files are as they should be");
  return 0;
}

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
