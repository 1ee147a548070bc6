// Where this package is, and its version, from its package.json.

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

interface Package {
  root: string;
  version: string;
}

let known: Package | undefined;

/** Version in package.json. Throws when the package's files were taken apart. */
export const packageVersion = (): string => found().version;

/** Absolute. Throws as {@link packageVersion} does. */
export const packageRoot = (): string => found().root;

function found(): Package {
  known ??= find(dirname(fileURLToPath(import.meta.url)));
  return known;
}

function find(dir: string): Package {
  const path = join(dir, "package.json");
  if (existsSync(path)) {
    const { name, version } = JSON.parse(readFileSync(path, "utf8")) as { name?: string; version?: string };
    if (name === "kubeplumb" && version) return { root: dir, version };
  }
  if (dir === dirname(dir)) throw new Error("package.json of kubeplumb is not above its own code");
  return find(dirname(dir));
}
