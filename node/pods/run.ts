// One run of one container: the workload behind it (emulated, or a real process), its log and its output. Knows how
// to start and stop it, not when.

import { randomBytes } from "node:crypto";
import type { Writable } from "node:stream";
import type { Container, Pod, Stored } from "../../common/k8s.js";
import type { ContainerContext, ResolvedImage, Workload } from "../images/index.js";
import { ContainerLog } from "../kubelet/container-log.js";
import { type ExitStatus, LaunchError, type LaunchedProcess, launch } from "../process/launch.js";
import type { Privileges } from "../process/privileges.js";
import type { BindMount } from "../process/root-plan.js";
import { ContainerUsage } from "../stats/container-usage.js";
import type { Env } from "./env.js";
import type { PodEnvironment } from "./environment.js";
import { inClusterClient } from "./in-cluster.js";
import { type OutputListener, RunOutput } from "./run-output.js";
import { RunRoot } from "./run-root.js";
import type { Sandbox } from "./sandbox.js";
import { makeTerminationLog, terminationMessage } from "./termination.js";
import { throughMounts } from "./volumes.js";

export interface RunOptions {
  pod: Stored<Pod>;
  container: Container;
  image: ResolvedImage;
  /** The whole command line, references expanded. */
  argv: string[];
  env: Env;
  privileges: Privileges;
  /** Of volumes; the sandbox adds its own. */
  mounts: BindMount[];
  /** To be called before a process sees the mounts. @throws VolumeError */
  completeVolumes(): Promise<void>;
  /** Whose processes the container sees: a process of another container. */
  sharePid?: number;
  sandbox: Sandbox;
  environment: PodEnvironment;
  logPath: string;
  /** The file of this machine that the container has at its terminationMessagePath. */
  terminationLog?: string;
  warn(message: string): void;
}

export class ContainerRun {
  readonly id = randomBytes(32).toString("hex");
  readonly startedAt: number;
  readonly log: ContainerLog;
  readonly exited: Promise<ExitStatus>;
  /** The terminal or pipe of a container with stdin: true. */
  readonly stdin: Writable | null;
  readonly usage: ContainerUsage;
  readonly #options: RunOptions;
  readonly #workload: Workload;
  readonly #process: LaunchedProcess | undefined;
  readonly #output: RunOutput;
  readonly #root: RunRoot;

  private constructor(
    options: RunOptions,
    { log, output, root }: { log: ContainerLog; output: RunOutput; root: RunRoot },
    workload: Workload,
    process: LaunchedProcess | undefined,
  ) {
    this.#options = options;
    this.#root = root;
    this.log = log;
    this.#output = output;
    this.#workload = workload;
    this.#process = process;
    this.stdin = process?.stdin ?? null;
    this.usage = new ContainerUsage(workload.usage?.bind(workload));
    if (process) this.usage.add(process);
    this.startedAt = Date.now();
    this.exited = workload.exited.then((status) => {
      log.close();
      root.close();
      return status;
    });
  }

  /** @throws LaunchError when a real process cannot be started; the error of an emulation when that cannot. */
  static async start(options: RunOptions): Promise<ContainerRun> {
    const { environment, logPath, pod } = options;
    const log = new ContainerLog(logPath, (error) =>
      environment.log.warn({ err: error, pod: pod.metadata.name, logPath }, "container log not written"),
    );
    const outputs = new RunOutput();
    const root = new RunRoot(options);
    const base = { log, output: outputs, root };
    const output: OutputListener = (stream, chunk) => {
      log.write(stream, chunk);
      outputs.write(stream, chunk);
    };
    try {
      if (options.terminationLog) makeTerminationLog(options.terminationLog);
      const emulation = options.image.image.program?.(options.argv);
      if (emulation) {
        const workload = await emulation(emulationContext(options, root, options.argv, output));
        return new ContainerRun(options, base, workload, undefined);
      }
      await options.completeVolumes();
      const { sharePid } = options;
      const { stdin = false, tty = false } = options.container;
      const process = launch({
        ...launchBase(options, root),
        ...(sharePid === undefined ? {} : { sharePid }),
        argv: options.argv,
        stdin,
        tty,
      });
      process.stdout.on("data", (chunk: Buffer) => output("stdout", chunk));
      process.stderr?.on("data", (chunk: Buffer) => output("stderr", chunk));
      await process.started;
      return new ContainerRun(options, base, process, process);
    } catch (error) {
      log.close();
      root.close();
      throw error;
    }
  }

  get options(): RunOptions {
    return this.#options;
  }

  /** What the ended run has left to be told; undefined when nothing. */
  terminationMessage(exitCode: number): string | undefined {
    const { container, terminationLog } = this.#options;
    return terminationMessage(container, exitCode, terminationLog, this.log);
  }

  /** The process of this machine, when it is one: its namespaces are the container's. */
  get pid(): number | undefined {
    return this.#process?.commandPid();
  }

  signal(name: NodeJS.Signals): void {
    this.#workload.signal(name);
  }

  resize(columns: number, rows: number): void {
    this.#process?.resize(columns, rows);
  }

  /** Output from now on, and what came in the first moments if those are not over. */
  listen(listener: OutputListener): () => void {
    return this.#output.listen(listener);
  }

  /** The log so far, to somebody who may attach next: that is not to be told again. */
  readLog(options: Parameters<ContainerLog["read"]>[0]): ReturnType<ContainerLog["read"]> {
    this.#output.forget();
    return this.log.read(options);
  }

  /**
   * A command in the container's namespaces with its environment and files; when the workload is emulated, in a PID
   * namespace of its own.
   * @throws LaunchError when the process has just ended; VolumeError.
   */
  async exec(argv: string[], options: { stdin: boolean; tty: boolean }): Promise<LaunchedProcess> {
    await this.#options.completeVolumes();
    const pid = this.pid;
    if (this.#process && pid === undefined) {
      throw new LaunchError("setup", "cannot exec in a stopped container");
    }
    const process = launch({
      ...launchBase(this.#options, this.#root),
      ...(pid === undefined ? {} : { join: pid }),
      argv,
      ...options,
      env: options.tty ? { TERM: "xterm", ...this.#options.env } : this.#options.env,
    });
    this.usage.add(process);
    return process;
  }

  /** The image's own emulation of a command (`/agnhost connect …`), if it has one. */
  emulate(argv: string[], output: OutputListener): Promise<Workload> | undefined {
    const emulation = this.#options.image.image.program?.(argv);
    return emulation?.(emulationContext(this.#options, this.#root, argv, output));
  }
}

function launchBase({ sandbox, env, container, image, privileges, warn }: RunOptions, root: RunRoot) {
  const cwd = container.workingDir || image.image.workingDir || "/";
  return {
    privileges,
    ns: sandbox.ns,
    root: root.get(),
    hostname: sandbox.hostname,
    env,
    cwd,
    warn,
  };
}

/** Runs a command to its end and collects its output. */
export async function runToEnd(
  process: LaunchedProcess,
  timeoutMs?: number,
): Promise<{ exitCode: number; output: string; timedOut: boolean }> {
  const chunks: Buffer[] = [];
  process.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  process.stderr?.on("data", (chunk: Buffer) => chunks.push(chunk));
  let timedOut = false;
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(() => {
          timedOut = true;
          process.signal("SIGKILL");
        }, timeoutMs);
  try {
    // A command that is missing ends with 127 and says so by its report.
    const problem = await process.started.then(
      () => "",
      (error: Error) => error.message,
    );
    const { exitCode } = await process.exited;
    return { exitCode, output: Buffer.concat(chunks).toString() + problem, timedOut };
  } finally {
    clearTimeout(timer);
  }
}

function emulationContext(
  options: RunOptions,
  root: RunRoot,
  argv: readonly string[],
  output: OutputListener,
): ContainerContext {
  const { pod, image, env, sandbox, environment, mounts } = options;
  return {
    podName: pod.metadata.name,
    podNamespace: pod.metadata.namespace ?? "",
    podIPs: sandbox.ips,
    nodeName: environment.nodeName,
    hostname: sandbox.hostname,
    image: image.reference,
    tag: image.tag,
    ns: sandbox.ns,
    argv,
    env,
    stdout: (text) => output("stdout", text),
    stderr: (text) => output("stderr", text),
    exec: async (command) => {
      await options.completeVolumes();
      const process = launch({ ...launchBase(options, root), argv: command, stdin: false });
      const { exitCode, output: text } = await runToEnd(process);
      return { exitCode, output: text };
    },
    // The sandbox's files are not made before somebody asks for one of them.
    hostPath: (path) =>
      throughMounts(path, mounts) ??
      (path.startsWith("/etc/") ? throughMounts(path, sandbox.files()) : undefined) ??
      root.made?.path(path),
    api: async (userAgent) => {
      await options.completeVolumes();
      return inClusterClient({ ns: sandbox.ns, env, mounts, userAgent });
    },
  };
}
