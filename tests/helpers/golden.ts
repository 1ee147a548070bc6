// Golden files: expected text kept beside the tests, for people to read. KUBEPLUMB_UPDATE_GOLDEN=1 writes them anew;
// what changed is then for `git diff` and a reader to judge.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The project's folder, wherever the tests were compiled to. */
export function projectRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
  return folder;
}

/** The text of tests/golden/NAME; "" when there is no such file yet. `actual` takes its place when that is asked for. */
export function golden(name: string, actual: string): string {
  const path = join(projectRoot(), "tests/golden", name);
  if (process.env.KUBEPLUMB_UPDATE_GOLDEN) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, actual);
  }
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

/** The text of a file of the project, by its path in it. */
export function projectFile(path: string): string {
  return readFileSync(join(projectRoot(), path), "utf8");
}

/** Names of the files in a folder of the project, sorted. */
export function projectFiles(folder: string): string[] {
  return readdirSync(join(projectRoot(), folder)).sort();
}

/** Names of the golden files in a folder, sorted. */
export function goldenFiles(folder: string): string[] {
  return projectFiles(join("tests/golden", folder));
}
