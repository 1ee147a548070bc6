// Runs a command to its end and, when it fails, says everything that one needs to understand why.
// Knows processes, nothing of what the commands do.

import { posixSpawn, type Spawned } from "./posix-spawn.js";

export interface RunOptions {
  /** Written to the command's standard input. */
  input?: string;
  env?: NodeJS.ProcessEnv;
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

/**
 * Resolves with the output of a command that exited 0; else rejects with {@link CommandError}. `inside` starts it in
 * another place: it calls its argument there.
 */
export async function runCommand(
  command: string,
  args: readonly string[],
  options: RunOptions & { where?: string; inside?: <T>(start: () => T) => T } = {},
): Promise<CommandResult> {
  const { input, env, timeout, where = "this process", inside = (start) => start() } = options;
  const facts = { argv: [command, ...args], where, exitCode: null, signal: null, timedOut: false };
  let running: Spawned;
  try {
    running = inside(() => posixSpawn(command, args, { input, env }));
  } catch (cause) {
    throw new CommandError({ ...facts, stdout: "", stderr: "", cause });
  }
  let timedOut = false;
  const timer = timeout
    ? setTimeout(() => {
        timedOut = true;
        process.kill(running.pid, "SIGKILL");
      }, timeout)
    : undefined;
  // Not waited for yet, so the number cannot have become another process's by the time the timer fires.
  const ended = await running.ended.finally(() => clearTimeout(timer));
  if (ended.exitCode !== 0) throw new CommandError({ ...facts, ...ended, timedOut });
  return { stdout: ended.stdout, stderr: ended.stderr };
}
