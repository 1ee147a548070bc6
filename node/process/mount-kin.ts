// The processes of a container that has no PID namespace of its own, found by their mount namespace, which it always has.
// Knows /proc.

import { closeSync, openSync, readdirSync, readlinkSync } from "node:fs";

function nameOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    // The process is gone, or not ours to see.
    return undefined;
  }
}

/** Held open: the kernel gives the name of a namespace that is gone to the next one. */
export class MountKin {
  readonly #fd: number;
  readonly #name: string | undefined;

  private constructor(fd: number) {
    this.#fd = fd;
    this.#name = nameOf(`/proc/self/fd/${fd}`);
  }

  /** Of a process; undefined when it is gone. To be closed. */
  static of(pid: number): MountKin | undefined {
    try {
      return new MountKin(openSync(`/proc/${pid}/ns/mnt`, "r"));
    } catch {
      return undefined;
    }
  }

  /** SIGKILL to all of them, and to those that they have started meanwhile; never to whoever is in our own namespace. */
  kill(): void {
    if (this.#name === undefined || this.#name === nameOf("/proc/self/ns/mnt")) return;
    const killed = new Set<string>();
    for (let before = -1; before < killed.size; ) {
      before = killed.size;
      for (const pid of readdirSync("/proc")) {
        if (!/^\d+$/.test(pid) || killed.has(pid) || nameOf(`/proc/${pid}/ns/mnt`) !== this.#name) continue;
        killed.add(pid);
        kill(Number(pid));
      }
    }
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
