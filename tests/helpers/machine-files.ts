// hostPath volumes that show a container files of this machine at their own places: its root is its own else.

import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const withPackages = (directory: string): string =>
  existsSync(join(directory, "node_modules")) ? directory : withPackages(dirname(directory));
/** Wherever below it the compiler has put this file. */
const checkout = withPackages(dirname(fileURLToPath(import.meta.url)));

/** Where npm packages really are. */
export const NODE_MODULES = realpathSync(join(checkout, "node_modules"));
/** Node, and the compiled code with what it imports. */
export const PROGRAM_FILES = [process.execPath, checkout, NODE_MODULES];

/** Fields of a container and of its pod's spec that show it `paths`. */
export function machineFiles(paths: readonly string[]) {
  const named = paths.map((path, i) => ({ name: `machine-${i}`, path }));
  return {
    container: { volumeMounts: named.map(({ name, path }) => ({ name, mountPath: path, readOnly: true })) },
    spec: { volumes: named.map(({ name, path }) => ({ name, hostPath: { path } })) },
  };
}
