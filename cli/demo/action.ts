// One command of the demo: the line a person would type, and running it with its output caught. Knows processes and
// remote commands.

import { spawn } from "node:child_process";
import { Writable } from "node:stream";
import { remoteCommand } from "../../client/remote-command.js";

export interface Outcome {
  exitCode: number;
  /** What came on stdout and stderr, in the order it came. */
  output: string;
}

export interface Action {
  /** As a user would type it. */
  line: string;
  run(signal: AbortSignal): Promise<Outcome>;
}

/** A program of this machine. */
export function localAction(
  line: string,
  argv: readonly [string, ...string[]],
  env: NodeJS.ProcessEnv,
): Action {
  const [program, ...args] = argv;
  return {
    line,
    run: (signal) =>
      new Promise((resolve, reject) => {
        const child = spawn(program, args, { env, signal, stdio: ["ignore", "pipe", "pipe"] });
        const output: Buffer[] = [];
        child.stdout.on("data", (chunk: Buffer) => output.push(chunk));
        child.stderr.on("data", (chunk: Buffer) => output.push(chunk));
        child.once("error", reject);
        child.once("close", (code, killed) => {
          if (killed && !signal.aborted) output.push(Buffer.from(`ended by ${killed}\n`));
          resolve({ exitCode: code ?? 1, output: Buffer.concat(output).toString("utf8") });
        });
      }),
  };
}

/** A command in a host or a pod. */
export function remoteAction(
  line: string,
  target: { socketPath: string; path: string },
  command: readonly string[],
): Action {
  return {
    line,
    async run(signal) {
      const output: Buffer[] = [];
      const sink = new Writable({
        write(chunk: Buffer, _encoding, done) {
          output.push(chunk);
          done();
        },
      });
      const exitCode = await remoteCommand({ ...target, command, stdout: sink, stderr: sink, signal });
      return { exitCode, output: Buffer.concat(output).toString("utf8") };
    },
  };
}
