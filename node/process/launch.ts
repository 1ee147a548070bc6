// Real processes in a pod: own PID namespace, the container's root, the pod's name and network. Knows processes and
// namespaces, nothing of pods' life cycles.

import type { ChildProcess, StdioOptions } from "node:child_process";
import { accessSync, constants, fchownSync, readFileSync } from "node:fs";
import type { Readable, Writable } from "node:stream";
import { type Cgroup, closeAll } from "../../dataplane/kernel/cgroups.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import { openPty, type Pty } from "../streams/pty.js";
import type { ContainerRoot } from "./container-root.js";
import { MountKin } from "./mount-kin.js";
import { closeWriters, type OutputPipes, openOutputPipes } from "./output-pipes.js";
import { type Privileges, setprivOptions } from "./privileges.js";
import { launchScript } from "./script.js";
import { mapsOneUser } from "./user-ns.js";

export interface ExitStatus {
  /** 128 + signal number when a signal ended it, as shells and container runtimes count. */
  exitCode: number;
  /** Number of the signal that ended it. */
  signal?: number;
}

/** Why a process never became the command it was to be. */
export class LaunchError extends Error {
  override readonly name = "LaunchError";
  /** missing: no such command on this machine; setup: its namespaces could not be made ready. */
  readonly kind: "missing" | "setup";

  constructor(kind: "missing" | "setup", message: string) {
    super(message);
    this.kind = kind;
  }
}

export interface LaunchOptions {
  ns: NetNs;
  root: ContainerRoot;
  hostname: string;
  argv: readonly string[];
  privileges: Privileges;
  env: Record<string, string>;
  cwd?: string;
  /** A pipe to write to; false: /dev/null. Ignored with `tty`. */
  stdin: boolean;
  tty?: boolean;
  /** Join the mount and PID namespaces of this process (an exec into a running container) instead of new ones. */
  join?: number;
  /** Join the PID namespace of this process, and no other: what it leaves behind there ends with it. */
  sharePid?: number;
  /** The control group that its processes live in. */
  cgroup?: Cgroup | undefined;
  warn(message: string): void;
}

/** A started process: either three streams or a terminal. */
export interface LaunchedProcess {
  /** Process id of the launcher on this machine. */
  readonly pid: number;
  readonly stdin: Writable | null;
  readonly stdout: Readable;
  /** Null with a terminal. */
  readonly stderr: Readable | null;
  /** Resolves when namespaces and mounts are ready and the command takes over; rejects with LaunchError. */
  readonly started: Promise<void>;
  /** After the end of the process and of its output. */
  readonly exited: Promise<ExitStatus>;
  /** Process id of the command itself, first of its PID namespace, on this machine; undefined when gone. */
  commandPid(): number | undefined;
  /** Sends a signal to the command; SIGKILL ends everything in its PID namespace. */
  signal(name: NodeJS.Signals): void;
  resize(columns: number, rows: number): void;
}

const TOOL_DIRECTORIES = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
const tools = new Map<string, string | undefined>();

/** Absolute path of a program of util-linux, looked up once. */
function tool(name: string): string | undefined {
  if (!tools.has(name)) {
    tools.set(
      name,
      TOOL_DIRECTORIES.map((directory) => `${directory}/${name}`).find((path) => {
        try {
          accessSync(path, constants.X_OK);
          return true;
        } catch {
          return false;
        }
      }),
    );
  }
  return tools.get(name);
}

function needTool(name: string): string {
  const path = tool(name);
  if (!path) {
    throw new LaunchError("setup", `${name} (util-linux) is not in ${TOOL_DIRECTORIES.join(", ")}`);
  }
  return path;
}

/**
 * Variables for every process. Where there is one user (a lab without root) tar must not try to give files to others,
 * though it runs as root: `kubectl cp` would fail on every file.
 */
const environment = (): Record<string, string> => (mapsOneUser() ? { TAR_OPTIONS: "--no-same-owner" } : {});

/** The first descriptor that is no standard stream and no report. */
const FIRST_FD = 4;

/** The whole command line: namespaces, the script, the command. `groups`: descriptors of control groups to join. */
function commandLine(options: LaunchOptions, groups: readonly number[]): string[] {
  const { hostname, cwd = "/", tty = false, join, sharePid, argv, privileges } = options;
  const setpriv = needTool("setpriv");
  // Without it a killed agent outside a PID namespace of its own would leave its containers behind.
  const prefix = [setpriv, "--pdeathsig", "KILL"];
  const own = { cwd, tty, groups, protect: privileges.capabilities !== "all" };
  // nsenter takes nobody along when it is killed.
  const deathSignal = sharePid === undefined ? "keep" : "KILL";
  const rest = { ...own, prefix: [setpriv, ...setprivOptions(privileges, mapsOneUser(), deathSignal), "--"] };
  const shell = (script: string) => ["/bin/sh", "-c", script, "sh", ...argv];
  if (join !== undefined) {
    const enter = [needTool("nsenter"), "--target", String(join), "--mount", "--uts", "--pid", "--root"];
    // Else nsenter goes back to where it was started, which is no place below the other root.
    return [...prefix, ...enter, `--wd=/proc/${join}/root`, ...shell(launchScript(rest))];
  }
  // A mount namespace for its own /proc.
  const unshare = [needTool("unshare"), "--mount", "--uts"];
  const fork = ["--fork", "--kill-child=KILL"];
  let entry: string[];
  if (sharePid === undefined) entry = [...unshare, "--pid", ...fork];
  // Where the agent is already, nobody has to be let in.
  else if (sharePid === process.pid) entry = [...unshare, ...fork];
  else entry = [needTool("nsenter"), "--target", String(sharePid), "--pid", ...unshare];
  return [...prefix, ...entry, ...shell(launchScript({ ...rest, hostname: hostname.slice(0, 63) }))];
}

/**
 * Starts a command as a container's process.
 * @throws LaunchError kind "setup" when a program of util-linux is missing.
 */
export function launch(options: LaunchOptions): LaunchedProcess {
  const { ns, root, env, tty = false, stdin, join } = options;
  const groups = options.cgroup?.open() ?? [];
  const [program = "", ...args] = commandLine(
    options,
    groups.map((_, at) => FIRST_FD + at),
  );
  const owner = mapsOneUser() ? undefined : options.privileges;
  const output = tty ? openPty(root.path("/dev/pts/ptmx")) : openOutputPipes(owner);
  const pty = "slave" in output ? output : undefined;
  try {
    const input = stdin ? "pipe" : "ignore";
    if (pty && owner) fchownSync(pty.slave, owner.uid, owner.gid);
    const child = (join === undefined ? root : ns).spawn(program, args, {
      env: { ...environment(), ...env },
      cwd: "/",
      // A process group of its own: `kill 0` in it, which PID namespaces do not hold up, would be the agent's end.
      detached: true,
      stdio: [
        ...("slave" in output ? [output.slave, output.slave, output.slave] : [input, ...output.writers]),
        "pipe",
        ...groups,
      ] as StdioOptions,
    });
    return new Launched(child, output, options);
  } catch (error) {
    pty?.close();
    throw error;
  } finally {
    if ("slave" in output) output.closeSlave();
    else closeWriters(output);
    closeAll(groups);
  }
}

class Launched implements LaunchedProcess {
  readonly pid: number;
  readonly stdin: Writable | null;
  readonly stdout: Readable;
  readonly stderr: Readable | null;
  readonly started: Promise<void>;
  readonly exited: Promise<ExitStatus>;
  readonly #child: ChildProcess;
  readonly #pty: Pty | undefined;
  readonly #joined: boolean;
  /** Of a container whose PID namespace is not its own. */
  #kin: MountKin | undefined;

  constructor(child: ChildProcess, output: Pty | OutputPipes, options: LaunchOptions) {
    const pty = "slave" in output ? output : undefined;
    this.#child = child;
    this.#joined = options.join !== undefined || options.sharePid !== undefined;
    this.#pty = pty;
    this.pid = child.pid ?? -1;
    this.stdout = output.stdout;
    this.stdin = pty ? pty.stdin : child.stdin;
    this.stderr = "stderr" in output ? output.stderr : null;
    // A writer may go on after the process has ended; its exit status tells the story.
    this.stdin?.on("error", () => {});
    this.started = report(child, options);
    this.started.then(
      () => this.#begun(options),
      () => {},
    );
    if (options.sharePid !== undefined) child.once("exit", () => this.#endKin());
    this.exited = new Promise((resolve) => {
      child.once("error", () => resolve({ exitCode: 128 }));
      child.once("exit", (code, signal) => {
        void output.drained().then(() => resolve(exitStatus(code, signal)));
      });
    });
  }

  #begun({ sharePid }: LaunchOptions): void {
    const pid = sharePid === undefined ? undefined : this.commandPid();
    if (pid !== undefined) this.#kin = MountKin.of(pid);
  }

  /** In a PID namespace of its own the kernel does it. */
  #endKin(): void {
    this.#kin?.kill();
    this.#kin?.close();
    this.#kin = undefined;
  }

  commandPid(): number | undefined {
    return this.#child.exitCode === null && this.#child.signalCode === null
      ? firstChild(this.pid)
      : undefined;
  }

  signal(name: NodeJS.Signals): void {
    // unshare --kill-child takes its child along, and its own end by SIGKILL is what gets reported; killing the
    // child would be reported as an exit. nsenter takes nobody along.
    if (name === "SIGKILL" && !this.#joined) {
      this.#child.kill("SIGKILL");
      return;
    }
    const target = this.commandPid();
    try {
      if (target !== undefined) process.kill(target, name);
      if (name !== "SIGKILL") return;
      this.#kin?.kill();
      this.#child.kill("SIGKILL");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }

  resize(columns: number, rows: number): void {
    this.#pty?.resize(columns, rows);
  }
}

/** The children of a process; the launcher has one, the first of the new PID namespace. */
function firstChild(pid: number): number | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
    return text ? Number(text.split(" ")[0]) : undefined;
  } catch {
    // Gone between two looks; "no such process" is the answer.
    return undefined;
  }
}

/** Follows descriptor 3 until the script says that the command takes over, or why it cannot. */
function report(child: ChildProcess, options: LaunchOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    const pipe = child.stdio[3] as Readable | null | undefined;
    child.once("error", (error) => reject(new LaunchError("setup", error.message)));
    if (!pipe) return;
    let text = "";
    pipe.setEncoding("utf8");
    const judge = () => {
      const outcome = judgeReport(text, options.warn);
      if (outcome) reject(outcome);
      else resolve();
      pipe.destroy();
    };
    pipe.on("data", (chunk: string) => {
      text += chunk;
      if (/^ready$/m.test(text)) judge();
    });
    pipe.on("error", reject);
    pipe.once("end", judge);
  });
}

/** Passes the script's warnings on and returns why the launch failed, if it did. */
function judgeReport(text: string, warn: (message: string) => void): LaunchError | undefined {
  const lines = text.split("\n").filter(Boolean);
  const of = (kind: string) =>
    lines.filter((line) => line.startsWith(`${kind} `)).map((line) => line.slice(kind.length + 1));
  for (const message of of("warn")) warn(message);
  if (lines.includes("ready")) return undefined;
  const [missing] = of("missing");
  if (missing) {
    const why = missing.includes("/")
      ? `stat ${missing}: no such file or directory`
      : "executable file not found in $PATH";
    return new LaunchError("missing", `exec: "${missing}": ${why}`);
  }
  const [failed = "the namespaces of the process could not be made"] = of("fail");
  const detail = lines.filter((line) => !/^(warn|missing|fail) /.test(line)).join("; ");
  return new LaunchError("setup", detail ? `${failed}: ${detail}` : failed);
}

const SIGNALS: Partial<Record<NodeJS.Signals, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGABRT: 6,
  SIGBUS: 7,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGSEGV: 11,
  SIGUSR2: 12,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
};

/** What a container runtime reports for an ended process. */
export function exitStatus(code: number | null, signal: NodeJS.Signals | null): ExitStatus {
  if (code !== null) return { exitCode: code };
  const number = (signal && SIGNALS[signal]) ?? 9;
  return { exitCode: 128 + number, signal: number };
}
