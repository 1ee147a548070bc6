// Brings the files of an installation onto a machine and takes them away, and has systemd take note. Knows files and
// systemctl.

import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { type InstallFile, installedPaths, type Role, unitName } from "./files.js";

/** sd_booted(3). */
export const systemdRuns = (): boolean => existsSync("/run/systemd/system");

/** Writes what differs; the paths that it wrote. `root`: of another system's file tree. */
export function writeFiles(files: ReadonlyMap<string, InstallFile>, root: string): string[] {
  const changed: string[] = [];
  for (const [name, { text, mode = 0o644 }] of files) {
    const path = join(root, name);
    if (isAsWanted(path, text, mode)) continue;
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(`${path}.tmp`, text, { mode });
    chmodSync(`${path}.tmp`, mode);
    renameSync(`${path}.tmp`, path);
    changed.push(name);
  }
  return changed;
}

function isAsWanted(path: string, text: string | Buffer, mode: number): boolean {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat !== undefined && (stat.mode & 0o777) === mode && readFileSync(path).equals(Buffer.from(text));
}

/** Removes the role's files, and directories of ours that are empty then; the paths that were there. */
export function removeFiles(role: Role, root: string): string[] {
  const removed = installedPaths(role).filter((name) => existsSync(join(root, name)));
  for (const name of removed) rmSync(join(root, name));
  removeIfEmpty(join(root, "/etc/kubeplumb"));
  return removed;
}

export function removeIfEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (!["ENOENT", "ENOTEMPTY", "EEXIST"].includes(code)) throw error;
  }
}

/** @throws Error with what systemctl says. */
export function systemctl(...words: string[]): void {
  execFileSync("systemctl", words, { stdio: ["ignore", "ignore", "pipe"] });
}

/** Has the service run with its new files; modules and settings of the kernel first. */
export function startService(role: Role, changed: readonly string[]): void {
  systemctl("daemon-reload");
  if (role === "node" && changed.length > 0)
    systemctl("restart", "systemd-modules-load.service", "systemd-sysctl.service");
  systemctl("enable", unitName(role));
  // Not waited for: a node starts for as long as its control plane is away.
  systemctl("--no-block", changed.length > 0 ? "restart" : "start", unitName(role));
}

/** Also of a service that is not there any more. */
export function stopService(role: Role): void {
  systemctl("disable", "--now", unitName(role));
}
