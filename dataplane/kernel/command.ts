// Runs a command to its end and, when it fails, says everything that one needs to understand why.
// Knows processes, nothing of what the commands do.

import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";

export interface RunOptions {
  /** Written to the command's standard input. */
  input?: string;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Milliseconds; then SIGKILL and a CommandError with timedOut. */
  timeout?: number;
}

export interface CommandResult {
  stdout: string;
  stderr: string;
}

/** A command that could not be started, exited non-zero, was killed or took too long. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  readonly argv: readonly string[];
  readonly where: string;
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly timedOut: boolean;

  constructor(facts: {
    argv: readonly string[];
    where: string;
    exitCode: number | null;
    signal: NodeJS.Signals | null;
    stdout: string;
    stderr: string;
    timedOut: boolean;
    cause?: unknown;
  }) {
    const { argv, where, exitCode, signal, stderr, timedOut, cause } = facts;
    const how = timedOut
      ? "timed out"
      : cause instanceof Error
        ? `could not be started: ${cause.message}`
        : signal
          ? `was ended by ${signal}`
          : `exited with ${exitCode}`;
    const said = stderr.trim().split("\n").slice(0, 5).join("\n");
    super(`${argv.join(" ")} (in ${where}) ${how}${said ? `: ${said}` : ""}`, { cause });
    this.argv = argv;
    this.where = where;
    this.exitCode = exitCode;
    this.signal = signal;
    this.stdout = facts.stdout;
    this.stderr = stderr;
    this.timedOut = timedOut;
  }
}

type Spawner = (command: string, args: readonly string[], options: SpawnOptions) => ChildProcess;

/** Resolves with the output of a command that exited 0; else rejects with {@link CommandError}. */
export function runCommand(
  command: string,
  args: readonly string[],
  options: RunOptions & { where?: string; spawner?: Spawner } = {},
): Promise<CommandResult> {
  const { input, env, cwd, timeout, where = "this process", spawner = spawn } = options;
  const argv = [command, ...args];
  return new Promise((resolve, reject) => {
    const child = spawner(command, args, {
      env: env ?? process.env,
      cwd,
      stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    });
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    let timedOut = false;
    child.stdout?.on("data", (chunk: Buffer) => stdout.push(chunk));
    child.stderr?.on("data", (chunk: Buffer) => stderr.push(chunk));
    const timer = timeout
      ? setTimeout(() => {
          timedOut = true;
          child.kill("SIGKILL");
        }, timeout)
      : undefined;
    const finish = (exitCode: number | null, signal: NodeJS.Signals | null, cause?: unknown) => {
      clearTimeout(timer);
      const out = { stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() };
      if (exitCode === 0 && !cause) resolve(out);
      else reject(new CommandError({ argv, where, exitCode, signal, ...out, timedOut, cause }));
    };
    child.once("error", (error) => finish(null, null, error));
    child.once("close", finish);
    if (input !== undefined) {
      // EPIPE: the command ended before it had read everything; its exit code tells the story.
      child.stdin?.on("error", () => {});
      child.stdin?.end(input);
    }
  });
}
