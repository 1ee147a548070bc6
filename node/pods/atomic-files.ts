// A directory of files that changes as a whole, by the kubelet's AtomicWriter: the files are in a directory of their
// own, `..data` is a link to it, and what users open are links through `..data`. Renaming that one link is the change.

import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, relative } from "node:path";

/** Path below the directory → its file. */
export type Payload = ReadonlyMap<string, { data: Buffer; mode: number }>;

/**
 * Makes `directory` hold these files and no others; returns whether that was a change. Readers see the old set or
 * the new one. Modes are as given, whatever the umask.
 */
export function writeAtomically(directory: string, payload: Payload): boolean {
  const current = join(directory, "..data");
  if (holds(current, payload)) return false;
  const made = mkdtempSync(join(directory, `..${new Date().toISOString().replace(/[^\d]/g, "_")}`));
  chmodSync(made, 0o755);
  for (const [path, { data, mode }] of payload) {
    const file = join(made, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, data);
    chmodSync(file, mode);
  }
  symlinkSync(relative(directory, made), join(directory, "..data_tmp"));
  renameSync(join(directory, "..data_tmp"), current);
  const tops = new Set([...payload.keys()].map((path) => path.split("/")[0] ?? path));
  for (const name of readdirSync(directory)) {
    const old = name.startsWith("..") ? name !== "..data" && join(directory, name) !== made : !tops.has(name);
    if (old) rmSync(join(directory, name), { recursive: true });
    tops.delete(name);
  }
  for (const name of tops) symlinkSync(`..data/${name}`, join(directory, name));
  return true;
}

function holds(link: string, payload: Payload): boolean {
  if (!lstatSync(link, { throwIfNoEntry: false })) return false;
  const directory = join(dirname(link), readlinkSync(link));
  const files = readdirSync(directory, { recursive: true, withFileTypes: true }).filter((one) =>
    one.isFile(),
  );
  if (files.length !== payload.size) return false;
  return [...payload].every(([path, { data, mode }]) => {
    const facts = lstatSync(join(directory, path), { throwIfNoEntry: false });
    return facts && (facts.mode & 0o7777) === mode && readFileSync(join(directory, path)).equals(data);
  });
}
