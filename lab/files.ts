// Making and removing directories, wherever they are and whatever has been put into them. Knows files only.

import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { hasCode } from "./errors.js";

/**
 * mkdir -p, mode 0700. Returns the directories that were not there, the outermost first. One by one, since mkdirSync's
 * `recursive` never returns where the kernel answers ENOENT for a directory whose parent is there (below /proc).
 * @throws what mkdir(2) says.
 */
export function makeDirectory(path: string): string[] {
  if (existsSync(path)) return [];
  const made = makeDirectory(dirname(path));
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if (hasCode(error, "EEXIST")) return made;
    // Somebody has removed the parent in between.
    if (hasCode(error, "ENOENT") && !existsSync(dirname(path))) return [...made, ...makeDirectory(path)];
    throw error;
  }
  return [...made, path];
}

/** rm -rf, also of directories that a pod has made unreadable for their owner. */
export function removeTree(dir: string): void {
  try {
    rmSync(dir, { recursive: true, force: true });
  } catch (error) {
    if (!hasCode(error, "EACCES", "EPERM", "ENOTEMPTY")) throw error;
    makeRemovable(dir);
    rmSync(dir, { recursive: true, force: true });
  }
}

function makeRemovable(dir: string): void {
  if (!lstatSync(dir).isDirectory()) return;
  chmodSync(dir, 0o700);
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (entry.isDirectory()) makeRemovable(join(dir, entry.name));
  }
}
