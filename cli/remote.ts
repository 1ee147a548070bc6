// Runs a command in a host or a pod with this process's own streams: standard input, terminal, window size, exit code.
// Knows terminals and the remote-command client, no cluster.

import { remoteCommand } from "../client/remote-command.js";
import { StatusError } from "../common/client.js";
import type { Target } from "./clusters.js";
import type { Input, Output, Streams } from "./streams.js";

/** As POSIX shells report them: found but not to be executed, not found. */
const CANNOT_EXECUTE = 126;
const NOT_FOUND = 127;

export interface RemoteOptions {
  command: readonly string[];
  /** Pass standard input on. Default: when it is no terminal. */
  stdin?: boolean;
  tty?: boolean;
  signal: AbortSignal;
}

/** Resolves with the command's exit code; 126 or 127, said on stderr, when it cannot be started. */
export async function runRemote(target: Target, streams: Streams, options: RemoteOptions): Promise<number> {
  const { stdin, stdout, stderr } = streams;
  const { command, tty = false, signal } = options;
  const passStdin = options.stdin ?? stdin.isTTY !== true;
  const restore = tty ? rawMode(stdin) : () => {};
  try {
    return await remoteCommand({
      socketPath: target.socketPath,
      path: target.path,
      command,
      stdin: passStdin ? stdin : undefined,
      stdout,
      stderr,
      tty,
      size: () => ({ cols: stdout.columns ?? 80, rows: stdout.rows ?? 24 }),
      onResize: (listener) => onResize(stdout, listener),
      signal,
    });
  } catch (error) {
    const code = startFailure(error);
    if (code === undefined) throw error;
    stderr.write(`error: ${(error as Error).message}\n`);
    return code;
  } finally {
    restore();
  }
}

/** Keys go to the far side as they are, Ctrl-C too. Returns how to take it back. */
function rawMode(stdin: Input): () => void {
  if (!stdin.isTTY || !stdin.setRawMode) return () => {};
  stdin.setRawMode(true);
  return () => {
    stdin.setRawMode?.(false);
  };
}

function onResize(stdout: Output, listener: () => void): () => void {
  stdout.on("resize", listener);
  return () => stdout.off("resize", listener);
}

/** The runtime's words for execve(2)'s ENOENT and EACCES; there is no field for it in a Status. */
function startFailure(error: unknown): number | undefined {
  // Everything else (no such pod, no such container) is refused with another reason, before the upgrade.
  if (!(error instanceof StatusError) || error.reason !== "InternalError") return undefined;
  if (/ENOENT|no such file|not found/i.test(error.message)) return NOT_FOUND;
  if (/EACCES|permission denied/i.test(error.message)) return CANNOT_EXECUTE;
  return undefined;
}
