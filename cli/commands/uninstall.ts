// kubeplumb uninstall: takes what kubeplumb install brought off this machine again, with its state.

import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { cgroupRecord, removeRecorded } from "../../dataplane/kernel/cgroups.js";
import { endLeftPods } from "../../node/cri/leftovers.js";
import { cleanUpNode } from "../../node/machine/cleanup.js";
import type { CommandSpec, Context } from "../command.js";
import { daemonLog } from "../daemon.js";
import { CNI_CONF, CONTROL_DATA, NODE_DATA, RUN } from "../host-paths.js";
import { removeCni } from "../install/cni.js";
import { type Role, unitPath } from "../install/files.js";
import { removeFiles, removeIfEmpty, stopService, systemctl, systemdRuns } from "../install/machine.js";

interface Options {
  root: string;
}

const spec: CommandSpec<Options> = {
  description:
    "Stops the service and removes its files and its state: of control the whole cluster with its certificates, of a\nnode its certificate, rules, bridge and overlay. Settings of the kernel stay as they are until the next start. Of cni the\nplugins and their configuration go; what containers have of them stays until their runtime gives it back.",
  arguments: [{ flags: "<role>", description: "which of them", choices: ["control", "node", "cni"] }],
  options: [
    {
      flags: "--root <dir>",
      description: "another system's root; nothing is stopped",
      default: "/",
      complete: "files",
    },
  ],
  examples: [
    ["a node", "kubeplumb uninstall node"],
    ["the control plane, and all that it knows", "kubeplumb uninstall control"],
  ],
  async run(context, [name], { root }) {
    if (name === "cni") return report(context, name, removeCni(root));
    const role = name as Role;
    const isHere = root === "/";
    if (isHere && systemdRuns() && existsSync(unitPath(role))) stopService(role);
    if (isHere && role === "node") {
      const log = daemonLog("node", context);
      await endLeftPods(NODE_DATA, log);
      await cleanUpNode(log);
      await removeRecorded(cgroupRecord(NODE_DATA));
    }
    const removed = removeFiles(role, root);
    if (isHere && systemdRuns()) systemctl("daemon-reload");
    const state = role === "control" ? [CONTROL_DATA] : [NODE_DATA, RUN, join(CNI_CONF, OWN_CONFLIST)];
    for (const path of state.map((one) => join(root, one)).filter(existsSync)) {
      rmSync(path, { recursive: true });
      removed.push(path);
    }
    removeIfEmpty(join(root, "/var/lib/kubeplumb"));
    return report(context, role, removed);
  },
};

function report(context: Context, role: string, removed: readonly string[]): number {
  for (const path of removed) context.note(`removed: ${path}`);
  if (removed.length === 0) context.note(`there is nothing of kubeplumb ${role} here`);
  return 0;
}

const OWN_CONFLIST = "10-kubeplumb.conflist";

export default spec as CommandSpec;
