// kubeplumb kubeconfig: the cluster's kubeconfig, printed or merged into the user's.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseDocument } from "yaml";
import { requireCluster } from "../clusters.js";
import { type CommandSpec, type Context, nameOption, UsageError } from "../command.js";
import { connectUser } from "../connect.js";
import { ADMIN_CONTEXT, ADMIN_KUBECONFIG, CONTROL_DATA } from "../host-paths.js";
import { kubeconfigFiles, mergeContext } from "../kubeconfig-file.js";

interface Options {
  name: string;
  merge?: boolean;
  kubeconfig?: string;
  fromVagrant?: boolean;
}

/** A port that the Vagrantfile has QEMU forward: the wire between its VMs does not reach this machine. */
const QEMU_SERVER = "https://127.0.0.1:15643";

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
    {
      flags: "--from-vagrant",
      description: "of the cluster that vagrant up has made from the Vagrantfile of this directory",
    },
  ],
  examples: [
    ["for one command", "kubeplumb kubeconfig > /tmp/k && kubectl --kubeconfig /tmp/k get nodes"],
    ["for good", "kubeplumb kubeconfig --merge"],
    ["of the VMs", "kubeplumb kubeconfig --from-vagrant --merge"],
  ],
  async run(context, _args, { name, merge, kubeconfig, fromVagrant }) {
    if (kubeconfig && !merge) throw new UsageError("--kubeconfig is the file that --merge writes to");
    if (fromVagrant) return ofVagrant(context, merge ? kubeconfigFiles(context.streams.env, kubeconfig) : []);
    const info = await requireCluster(name);
    if (!merge) {
      context.print(readFileSync(info.kubeconfigPath, "utf8"));
      return 0;
    }
    const files = kubeconfigFiles(context.streams.env, kubeconfig);
    noteMerged(context, info.contextName, await connectUser(info, files));
    return 0;
  },
};

function noteMerged(context: Context, name: string, changed: readonly string[]): void {
  context.note(
    changed.length > 0
      ? `context ${name} is in ${changed.join(", ")} and the current one`
      : `context ${name} is there already`,
  );
}

/** Printed, or merged into `files` when there are any. @throws Error with what vagrant says. */
async function ofVagrant(context: Context, files: readonly string[]): Promise<number> {
  const source = readFromVagrant();
  if (files.length === 0) context.print(source);
  else noteMerged(context, ADMIN_CONTEXT, (await mergeContext(files, source, ADMIN_CONTEXT)).changed);
  return 0;
}

function readFromVagrant(): string {
  const text = vagrant("ssh", "control", "-c", `sudo cat ${join(CONTROL_DATA, ADMIN_KUBECONFIG)}`);
  return asReached(text, vagrant("status", "control", "--machine-readable"));
}

/** @throws Error with what it says. */
function vagrant(...words: string[]): string {
  try {
    return execFileSync("vagrant", words, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  } catch (error) {
    const { code, stderr } = error as { code?: string; stderr?: string };
    if (code === "ENOENT") throw new Error("vagrant is not installed here");
    throw new Error(`the control VM has no kubeconfig to give; is it up?\n${(stderr ?? "").trim()}`);
  }
}

/**
 * The control VM's kubeconfig with the server's address as it is from the machine that runs the VMs.
 * @param status what `vagrant status control --machine-readable` printed
 */
export function asReached(kubeconfig: string, status: string): string {
  if (!/^\d+,control,provider-name,qemu$/m.test(status)) return kubeconfig;
  const document = parseDocument(kubeconfig);
  document.setIn(["clusters", 0, "cluster", "server"], QEMU_SERVER);
  return document.toString({ lineWidth: 0 });
}

export default spec as CommandSpec;
