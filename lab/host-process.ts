// Processes in a host: its network, its /run, its /etc/hosts and host name, as after a login there. A host's mount
// and UTS namespaces are made at the first use and entered by setns(2) around the fork, which costs no helper
// process. Knows namespaces and files of one host.

import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { constants } from "node:os";
import * as libc from "../dataplane/kernel/libc.js";
import { MountNs } from "../dataplane/kernel/mountns.js";
import type { NetNs } from "../dataplane/kernel/netns.js";
import { openPty } from "../node/streams/pty.js";
import type { RemoteCommandOptions, RemoteProcess } from "../node/streams/remote-command.js";
import { UpgradeError } from "../node/streams/upgrade.js";

export interface HostFiles {
  /** Shown at /run. */
  runDir: string;
  /** Files of the host shown over those of the machine: "/etc/hosts" → path. */
  files: Readonly<Record<string, string>>;
}

/** The inside of one host for processes. */
export class HostShell implements Disposable {
  readonly #ns: NetNs;
  readonly #hostname: string;
  readonly #files: HostFiles;
  #namespaces: MountNs | undefined;

  constructor(ns: NetNs, hostname: string, files: HostFiles) {
    this.#ns = ns;
    this.#hostname = hostname;
    this.#files = files;
  }

  /** child_process.spawn in the host. Throws SyscallError when its namespaces cannot be made. */
  spawn(command: string, args: readonly string[], options: SpawnOptions): ChildProcess {
    return this.#ns.run(() => {
      this.#namespaces ??= MountNs.create(
        () => {
          libc.sethostname(this.#hostname);
          this.#mountFiles();
        },
        { uts: true },
      );
      return this.#namespaces.run(() => spawn(command, args, options));
    });
  }

  #mountFiles(): void {
    for (const [target, source] of Object.entries(this.#files.files)) {
      // A file that the machine has not got cannot be covered, and making it would change the machine.
      if (existsSync(target)) libc.mount(source, target, null, libc.MS_BIND);
    }
    try {
      // /sys/class/net then lists this host's interfaces.
      libc.mount("sysfs", "/sys", "sysfs", 0);
    } catch (error) {
      // Where parts of the machine's /sys are hidden (a container) the kernel refuses; only `ls /sys` differs.
      if (!(error instanceof libc.SyscallError && error.code === "EPERM")) throw error;
    }
    libc.mount(this.#files.runDir, "/run", null, libc.MS_BIND | libc.MS_REC);
  }

  [Symbol.dispose](): void {
    this.#namespaces?.close();
    this.#namespaces = undefined;
  }
}

/**
 * Starts a remote command in the host.
 * @throws UpgradeError 400 for an empty command.
 */
export async function launchInHost(
  shell: HostShell,
  options: RemoteCommandOptions,
  environment: Record<string, string>,
): Promise<RemoteProcess> {
  const [program, ...args] = options.command;
  if (!program) throw new UpgradeError(400, "BadRequest", "you must specify a command");
  const pty = options.tty ? openPty() : undefined;
  const input = options.stdin ? "pipe" : "ignore";
  try {
    const [command, argv] = pty ? ["setsid", ["--ctty", program, ...args]] : [program, args];
    const child = shell.spawn(command, argv, {
      cwd: "/",
      env: pty ? { TERM: "xterm-256color", ...environment } : environment,
      stdio: pty ? [pty.slave, pty.slave, pty.slave] : [input, "pipe", "pipe"],
      // A group of its own: an abandoned command is ended with what it has started. setsid(1) makes one itself.
      detached: !pty,
    });
    await started(child, program);
    return remoteProcess(child, pty);
  } catch (error) {
    pty?.close();
    throw error;
  } finally {
    pty?.closeSlave();
  }
}

function started(child: ChildProcess, program: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", (error: NodeJS.ErrnoException) => {
      const why = error.code === "ENOENT" ? "executable file not found in $PATH" : error.message;
      reject(new Error(`exec: ${JSON.stringify(program)}: ${why}`));
    });
  });
}

function remoteProcess(child: ChildProcess, pty: ReturnType<typeof openPty> | undefined): RemoteProcess {
  const { stdin, stdout, stderr } = pty ? { stdin: pty.stdin, stdout: pty.stdout, stderr: null } : child;
  // A writer may go on after the process has ended; the exit code tells the story.
  stdin?.on("error", () => {});
  return {
    stdin,
    stdout,
    stderr,
    ...(pty ? { resize: (columns: number, rows: number) => pty.resize(columns, rows) } : {}),
    exited: exitOf(child, pty),
    abandon: () => {
      pty?.close();
      killGroup(child);
      child.stdout?.destroy();
      child.stderr?.destroy();
    },
  };
}

function exitOf(
  child: ChildProcess,
  pty: ReturnType<typeof openPty> | undefined,
): Promise<{ exitCode: number }> {
  return new Promise((resolve) => {
    child.once("exit", (code, signal) => {
      const exitCode = code ?? 128 + (constants.signals[signal ?? "SIGKILL"] ?? 9);
      // As with ssh: a background process that keeps the output open keeps the command open.
      if (pty) void pty.drained().then(() => resolve({ exitCode }));
      else if (isClosed(child)) resolve({ exitCode });
      else child.once("close", () => resolve({ exitCode }));
    });
  });
}

function isClosed(child: ChildProcess): boolean {
  return [child.stdin, child.stdout, child.stderr].every((stream) => !stream || stream.destroyed);
}

function killGroup(child: ChildProcess): void {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
