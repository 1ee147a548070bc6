// Standard output and error of a container's process: pipes, which its programs can open again by /dev/stdout and
// /proc/1/fd/1. What Node would give them are sockets, which nobody can.

import { closeSync, fchownSync } from "node:fs";
import { Socket } from "node:net";
import type { Readable } from "node:stream";
import { pipe } from "../../dataplane/kernel/posix-spawn.js";

export interface OutputPipes {
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** For the process: to be closed here when it has them. */
  readonly writers: readonly [number, number];
  /** All that was written has been read; nobody can write any more. */
  drained(): Promise<void>;
}

function reader(fd: number): { stream: Socket; closed: Promise<void> } {
  const stream = new Socket({ fd, readable: true, writable: false });
  // What was read until an error is all there is.
  stream.on("error", () => stream.destroy());
  return { stream, closed: new Promise((resolve) => stream.once("close", () => resolve())) };
}

/** @param owner who may open them by path: the user of the process. @throws SyscallError */
export function openOutputPipes(owner: { uid: number; gid: number } | undefined): OutputPipes {
  const [[out, outWriter], [err, errWriter]] = [pipe(), pipe()];
  if (owner) for (const fd of [outWriter, errWriter]) fchownSync(fd, owner.uid, owner.gid);
  const [stdout, stderr] = [reader(out), reader(err)];
  return {
    stdout: stdout.stream,
    stderr: stderr.stream,
    writers: [outWriter, errWriter],
    async drained() {
      for (const { stream } of [stdout, stderr]) stream.resume();
      await Promise.all([stdout.closed, stderr.closed]);
    },
  };
}

export function closeWriters({ writers }: OutputPipes): void {
  for (const fd of writers) closeSync(fd);
}
