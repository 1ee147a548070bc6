// Tells the user's kubectl of a cluster, and remembers which kubeconfig files were written and made, so that `down`
// leaves nothing in them and nothing of them.

import { appendFileSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, sep } from "node:path";
import type { ClusterInfo } from "../lab/types.js";
import { mergeContext } from "./kubeconfig-file.js";

/** In the cluster's directory, one path a line: the kubeconfig files that have its context … */
const WRITTEN = "kubeconfigs";
/** … and what of them, with their directories, was not there before kubeplumb. */
const MADE = "kubeconfigs-made";

/** Writes the cluster's context into the kubeconfig and makes it current. Returns the files that were changed. */
export async function connectUser(info: ClusterInfo, files: readonly string[]): Promise<string[]> {
  const source = readFileSync(info.kubeconfigPath, "utf8");
  const { changed, made } = await mergeContext(files, source, info.contextName);
  // A file that another cluster's `up` has made is for the last of them to remove.
  const clusters = readdirSync(dirname(info.dir)).map((name) => join(dirname(info.dir), name));
  const others = clusters.flatMap(madeFiles).filter((path) => changed.some((file) => isWithin(file, path)));
  add(join(info.dir, WRITTEN), changed);
  add(join(info.dir, MADE), [...made, ...others]);
  return changed;
}

/** The files that {@link connectUser} has written for the cluster in this directory. */
export function writtenFiles(dir: string): string[] {
  return lines(join(dir, WRITTEN));
}

/** Files and directories that kubeplumb has made for them, a directory before what is in it. */
export function madeFiles(dir: string): string[] {
  return lines(join(dir, MADE));
}

function isWithin(file: string, path: string): boolean {
  return file === path || file.startsWith(path + sep);
}

function add(record: string, paths: readonly string[]): void {
  const known = new Set(lines(record));
  for (const path of new Set(paths)) if (!known.has(path)) appendFileSync(record, `${path}\n`);
}

function lines(path: string): string[] {
  try {
    return readFileSync(path, "utf8").split("\n").filter(Boolean);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    // Nothing was written yet, or what stands beside the clusters is none.
    if (code === "ENOENT" || code === "ENOTDIR") return [];
    throw error;
  }
}
