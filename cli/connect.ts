// Tells the user's kubectl of a cluster, and remembers which kubeconfig files were written, so that `down` leaves
// nothing in them.

import { appendFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ClusterInfo } from "../lab/types.js";
import { mergeContext } from "./kubeconfig-file.js";

/** In the cluster's directory: the kubeconfig files that have its context, one a line. */
const RECORD = "kubeconfigs";

/** Writes the cluster's context into the kubeconfig and makes it current. Returns the files that were changed. */
export async function connectUser(info: ClusterInfo, files: readonly string[]): Promise<string[]> {
  const changed = await mergeContext(files, readFileSync(info.kubeconfigPath, "utf8"), info.contextName);
  const known = writtenFiles(info.dir);
  for (const path of changed) if (!known.includes(path)) appendFileSync(join(info.dir, RECORD), `${path}\n`);
  return changed;
}

/** The files that {@link connectUser} has written for the cluster in this directory. */
export function writtenFiles(dir: string): string[] {
  try {
    return readFileSync(join(dir, RECORD), "utf8").split("\n").filter(Boolean);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
    throw error;
  }
}
