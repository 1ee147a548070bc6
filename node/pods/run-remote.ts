// exec and attach of emulated containers: their streams as a remote command has them. Knows runs, nothing of requests.

import { PassThrough } from "node:stream";
import { held, type RemoteProcess } from "../streams/remote-command.js";
import type { ContainerRun } from "./run.js";

/** Bytes of output that wait for an attached client. */
const LARGEST_ATTACH_BACKLOG = 16 << 20;

/** A command in the container. @throws LaunchError, VolumeError; Error when this machine has no such program. */
export async function execRemote(
  run: ContainerRun,
  command: string[],
  options: { stdin: boolean; tty: boolean },
): Promise<RemoteProcess> {
  const emulated = await emulatedExec(run, command);
  if (emulated) return emulated;
  const process = await run.launch(command, options);
  // At once: it may be over before it is known to have started.
  const [stdout, stderr] = [held(process.stdout), held(process.stderr)];
  // A command that this machine lacks is an error of its own, not an exit code.
  await process.started.catch((error: Error) => {
    throw new Error(`failed to exec in container: ${error.message}`);
  });
  return {
    stdin: process.stdin,
    stdout,
    stderr,
    resize: (columns, rows) => process.resize(columns, rows),
    exited: process.exited,
    abandon: () => process.signal("SIGKILL"),
  };
}

/** A command that the image emulates (`/agnhost connect …`) runs as such. */
async function emulatedExec(run: ContainerRun, command: string[]): Promise<RemoteProcess | undefined> {
  const stdout = new PassThrough();
  const stderr = new PassThrough();
  const workload = await run.emulate(command, (stream, chunk) => {
    const output = stream === "stdout" ? stdout : stderr;
    // What still was on its way when the command ended is lost with it.
    if (output.writable) output.write(chunk);
  });
  if (!workload) return undefined;
  // As a process in the container's PID namespace ends with its first one.
  void run.exited.then(() => workload.signal("SIGKILL"));
  const exited = workload.exited.then((status) => {
    stdout.end();
    stderr.end();
    return status;
  });
  return { stdin: null, stdout, stderr, exited, abandon: () => workload.signal("SIGKILL") };
}

/** The container's own streams, as they are from now on. */
export function attachRemote(
  run: ContainerRun,
  { tty, stdinOnce }: { tty: boolean; stdinOnce: boolean },
): RemoteProcess {
  const stdout = new PassThrough();
  const stderr = tty ? null : new PassThrough();
  const detach = run.listen((stream, chunk) => {
    const output = stream === "stdout" ? stdout : (stderr ?? stdout);
    output.write(chunk);
    // The container goes on for all its readers: one that does not follow is left behind.
    if (output.writableLength + output.readableLength > LARGEST_ATTACH_BACKLOG) end();
  });
  const end = () => {
    detach();
    stdout.end();
    stderr?.end();
  };
  const stdin = run.stdin ? new PassThrough() : null;
  if (stdin && run.stdin) {
    stdin.pipe(run.stdin, { end: stdinOnce });
    stdin.on("error", () => {});
  }
  return {
    stdin,
    stdout,
    stderr,
    resize: (columns, rows) => run.resize(columns, rows),
    // How the container itself ended is in the pod's status; the attachment as such went well.
    exited: run.exited.then(() => {
      end();
      return { exitCode: 0 };
    }),
    abandon: end,
  };
}
