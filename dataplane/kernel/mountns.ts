// Mount namespaces (with UTS namespaces, where names belong to them) as handles: files, mounts and processes are made
// inside by this one process, which enters by setns(2) around the call. Knows namespaces, nothing of what is mounted in them or why.

import { closeSync, openSync } from "node:fs";
import * as libc from "./libc.js";

const OWN_MOUNTS = "/proc/thread-self/ns/mnt";
const OWN_UTS = "/proc/thread-self/ns/uts";

interface Descriptors {
  mounts: number;
  /** Undefined: UTS names are not its business. */
  uts?: number | undefined;
}

let home: Required<Descriptors> | undefined;

/** The namespaces this process lives in; taken before the first change. */
function homeNamespaces(uts: boolean): Descriptors {
  // setns(2) to a mount namespace is refused to a thread that shares root and working directory with others, as it
  // does with each thread that was started since (Node's inspector at SIGUSR1, for one).
  libc.unshare(libc.CLONE_FS);
  home ??= { mounts: openSync(OWN_MOUNTS, "r"), uts: openSync(OWN_UTS, "r") };
  return { mounts: home.mounts, uts: uts ? home.uts : undefined };
}

function enter({ mounts, uts }: Descriptors): void {
  libc.setns(mounts, libc.CLONE_NEWNS);
  if (uts !== undefined) libc.setns(uts, libc.CLONE_NEWUTS);
}

function goHome(back: Descriptors): void {
  try {
    enter(back);
  } catch (error) {
    // Elsewhere this thread would see another's files as its own.
    process.stderr.write(`kubeplumb: cannot return to the own mount namespace: ${error}\n`);
    process.abort();
  }
}

/** A mount namespace, and a UTS namespace if wanted, kept alive by open descriptors until {@link close}. */
export class MountNs implements Disposable {
  #fds: Descriptors | undefined;

  private constructor(fds: Descriptors) {
    this.#fds = fds;
  }

  /**
   * A copy of this process's own, changed by `prepare`, which runs inside: synchronous calls only. Nothing is left when
   * it throws. Mounts made inside stay inside, unless this process's own are shared with others (mount_namespaces(7)).
   * With `uts` also of the UTS namespace; this process's own must then belong to its user namespace.
   * @throws SyscallError EPERM without CAP_SYS_ADMIN in the user namespace.
   */
  static create(prepare: () => void, { uts = false } = {}): MountNs {
    const back = homeNamespaces(uts);
    libc.unshare(libc.CLONE_NEWNS | (uts ? libc.CLONE_NEWUTS : 0));
    try {
      // First: what is prepared may have no /proc.
      const mounts = openSync(OWN_MOUNTS, "r");
      const made = new MountNs({ mounts, uts: uts ? openSync(OWN_UTS, "r") : undefined });
      try {
        prepare();
      } catch (error) {
        made.close();
        throw error;
      }
      return made;
    } finally {
      goHome(back);
    }
  }

  /** Runs `fn`, synchronous, with the calling thread inside, its root and working directory at the root there. */
  run<T>(fn: () => T): T {
    const fds = this.#fds;
    if (!fds) throw new Error("the mount namespace is closed");
    const back = homeNamespaces(fds.uts !== undefined);
    try {
      enter(fds);
      return fn();
    } finally {
      goHome(back);
    }
  }

  /** Lets go; the kernel removes it when no process is inside. */
  close(): void {
    if (!this.#fds) return;
    closeSync(this.#fds.mounts);
    if (this.#fds.uts !== undefined) closeSync(this.#fds.uts);
    this.#fds = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
