// Which programs the user has, and how a command line is written. Knows $PATH and shell quoting.

import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join, sep } from "node:path";

/** The full path of a program, undefined when $PATH has none of that name. */
export function findProgram(name: string, env: NodeJS.ProcessEnv): string | undefined {
  for (const directory of (env.PATH ?? "").split(delimiter)) {
    if (directory && isExecutable(join(directory, name))) return join(directory, name);
  }
  return undefined;
}

/**
 * What to type to call us: "kubeplumb" when it is installed, else "npx kubeplumb". npm puts node_modules/.bin into
 * the $PATH of its scripts; a person's shell does not have it.
 */
export function selfCommand(env: NodeJS.ProcessEnv): string {
  const own = (env.PATH ?? "")
    .split(delimiter)
    .filter(
      (directory) =>
        !directory.endsWith(join("node_modules", ".bin")) && !directory.includes(`${sep}_npx${sep}`),
    );
  return findProgram("kubeplumb", { PATH: own.join(delimiter) }) ? "kubeplumb" : "npx kubeplumb";
}

/** A command line that a POSIX shell reads as these words. */
export function shellLine(words: readonly string[]): string {
  return words
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`))
    .join(" ");
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    // Not there or not for us: the next directory may have it.
    return false;
  }
}
