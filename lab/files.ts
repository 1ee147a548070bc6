// Removing directory trees, whatever has been put into them. Knows files only.

import { chmodSync, lstatSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { hasCode } from "./errors.js";

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
