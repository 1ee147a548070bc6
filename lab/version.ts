// The version of this package, from its package.json.

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

let known: string | undefined;

/** Version in package.json. Throws when the package's files were taken apart. */
export function packageVersion(): string {
  known ??= find(dirname(fileURLToPath(import.meta.url)));
  return known;
}

function find(dir: string): string {
  const path = join(dir, "package.json");
  if (existsSync(path)) {
    const { name, version } = JSON.parse(readFileSync(path, "utf8")) as { name?: string; version?: string };
    if (name === "kubeplumb" && version) return version;
  }
  if (dir === dirname(dir)) throw new Error("package.json of kubeplumb is not above its own code");
  return find(dirname(dir));
}
