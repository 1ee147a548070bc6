// The group that a pod's volumes belong to (fsGroup), as the kubelet gives it. Knows files, no pods.

import { chmodSync, lchownSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";

/** What the group may do with files, and with directories: what is made in those belongs to it too. */
const MODES = {
  readWrite: { file: 0o660, directory: 0o2770 },
  readOnly: { file: 0o440, directory: 0o2550 },
} as const;

/** Gives `path`, a directory, and all below it to group `gid`; what others may do stays. @throws the error of chown(2). */
export function giveToGroup(path: string, gid: number, access: keyof typeof MODES): void {
  lchownSync(path, -1, gid);
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const at = join(path, entry.name);
    if (entry.isDirectory()) giveToGroup(at, gid, access);
    else lchownSync(at, -1, gid);
    if (entry.isFile()) addMode(at, MODES[access].file);
  }
  addMode(path, MODES[access].directory);
}

function addMode(path: string, bits: number): void {
  chmodSync(path, statSync(path).mode | bits);
}
