// The CNI plugins for the container runtimes of this machine: programs in /opt/cni/bin and the configuration that names
// them. Knows their files, and whether a node of ours needs the configuration too.

import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { DEFAULT_CONFLIST_NAME, defaultConflist } from "../../cni/index.js";
import { subnetEnvPath } from "../../dataplane/overlay/index.js";
import { packageRoot } from "../../lab/version.js";
import { CNI_CONF, CNI_STATE, RUN } from "../host-paths.js";
import { type InstallFile, unitPath } from "./files.js";

/** Where runtimes look for plugins. */
const BIN = "/opt/cni/bin";
const PLUGINS = ["kubeplumb-cni", "kubeplumb-portmap"] as const;
const CONFLIST = join(CNI_CONF, DEFAULT_CONFLIST_NAME);
/** kubeplumb node's. */
export const OVERLAY_SUBNET_FILE = subnetEnvPath(RUN);

export interface CniInstallOptions {
  /** Absolute path of node: a runtime need not have it on its PATH. */
  node: string;
  /** Default {@link OVERLAY_SUBNET_FILE}. */
  subnetFile?: string | undefined;
}

/** Everything that is to be there, by path. */
export function cniFiles({
  node,
  subnetFile = OVERLAY_SUBNET_FILE,
}: CniInstallOptions): Map<string, InstallFile> {
  const files = new Map<string, InstallFile>();
  const main = new URL("../../cni/main.js", import.meta.url).href;
  const isFast = process.arch === "x64";
  for (const type of PLUGINS) {
    // The front becomes this file where no agent answers; Node takes it for CommonJS without an extension.
    const plugin = `#!${node}\nimport(${JSON.stringify(main)}).then((m) => m.runProcess(${JSON.stringify(type)}));\n`;
    files.set(join(BIN, isFast ? `${type}.mjs` : type), { text: plugin, mode: 0o755 });
    if (isFast)
      files.set(join(BIN, type), {
        text: readFileSync(join(packageRoot(), "bin/cni-front-x64")),
        mode: 0o755,
      });
  }
  const conflist = defaultConflist({
    subnetFile,
    dataDir: CNI_STATE,
    // Pods of kubeplumb node are in that network as well.
    shared: subnetFile === OVERLAY_SUBNET_FILE,
  });
  return files.set(CONFLIST, { text: `${JSON.stringify(conflist, null, 2)}\n` });
}

/** Leaves the configuration to a kubeplumb node that is installed; the paths that were there. */
export function removeCni(root: string): string[] {
  const programs = PLUGINS.flatMap((type) => [join(BIN, type), join(BIN, `${type}.mjs`)]);
  const own = existsSync(join(root, unitPath("node"))) ? programs : [...programs, CONFLIST];
  const there = own.filter((path) => existsSync(join(root, path)));
  for (const path of there) rmSync(join(root, path));
  return there;
}
