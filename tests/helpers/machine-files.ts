// hostPath volumes that show a container files of this machine at their own places: its root is its own else.

import { realpathSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const checkout = fileURLToPath(new URL("../../..", import.meta.url));

/** Node, and the compiled code with what it imports. */
export const PROGRAM_FILES = [process.execPath, checkout, realpathSync(join(checkout, "node_modules"))];

/** Fields of a container and of its pod's spec that show it `paths`. */
export function machineFiles(paths: readonly string[]) {
  const named = paths.map((path, i) => ({ name: `machine-${i}`, path }));
  return {
    container: { volumeMounts: named.map(({ name, path }) => ({ name, mountPath: path, readOnly: true })) },
    spec: { volumes: named.map(({ name, path }) => ({ name, hostPath: { path } })) },
  };
}
