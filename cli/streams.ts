// Where a command reads and writes: the process's own streams, or a test's. Knows no command.

import type { Readable, Writable } from "node:stream";

/** What of a terminal an output may have. */
export type Output = Writable & { isTTY?: boolean; columns?: number; rows?: number };
export type Input = Readable & { isTTY?: boolean; setRawMode?(raw: boolean): unknown };

export interface Streams {
  stdin: Input;
  /** Results only: what a script would read. */
  stdout: Output;
  /** Progress, hints, errors. */
  stderr: Output;
  env: NodeJS.ProcessEnv;
}

export function processStreams(): Streams {
  const { stdin, stdout, stderr, env } = process;
  return { stdin, stdout, stderr, env };
}

/** Whether the output may be redrawn and coloured: a real terminal, and nobody asked for plain text. */
export function isInteractive(output: Output, env: NodeJS.ProcessEnv): boolean {
  return output.isTTY === true && env.TERM !== "dumb" && !env.CI;
}

/** https://no-color.org: any value that is not empty says no. */
export function hasColor(output: Output, env: NodeJS.ProcessEnv): boolean {
  return isInteractive(output, env) && !env.NO_COLOR;
}
