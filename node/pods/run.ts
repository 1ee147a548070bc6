// One run of one container: the workload behind it (emulated, or a real process), its log and its output. Knows how
// to start and stop it, not when.

import { randomBytes } from "node:crypto";
import { basename } from "node:path";
import type { Writable } from "node:stream";
import type { Container, Pod, Stored } from "../../common/k8s.js";
import type { Cgroups } from "../../dataplane/kernel/cgroups.js";
import type { ContainerContext, ResolvedImage, Workload } from "../images/index.js";
import { ContainerLog } from "../kubelet/container-log.js";
import { LaunchError, type LaunchedProcess, launch } from "../process/launch.js";
import type { Privileges } from "../process/privileges.js";
import type { BindMount } from "../process/root-plan.js";
import { standIn } from "../process/stand-in.js";
import { ContainerUsage } from "../stats/container-usage.js";
import type { RemoteProcess } from "../streams/remote-command.js";
import type { Env } from "./env.js";
import type { PodEnvironment } from "./environment.js";
import { inClusterClient } from "./in-cluster.js";
import { RunLimits } from "./run-limits.js";
import { type OutputListener, RunOutput } from "./run-output.js";
import { attachRemote, execRemote } from "./run-remote.js";
import { RunRoot } from "./run-root.js";
import type { Ending, PodSandbox, Run } from "./runtime.js";
import { ShownProcess } from "./shown-process.js";
import { makeTerminationLog, terminationMessage } from "./termination.js";
import { throughMounts } from "./volumes.js";

export interface RunOptions {
  pod: Stored<Pod>;
  container: Container;
  image: ResolvedImage;
  /** The spec's own words, references expanded. */
  command?: string[];
  args?: string[];
  /** The whole command line. */
  argv: string[];
  env: Env;
  privileges: Privileges;
  /** The restart count that it has. */
  runNumber: number;
  /** Of volumes; the sandbox adds its own. */
  mounts: BindMount[];
  /** To be called before a process sees the mounts. @throws VolumeError */
  completeVolumes(): Promise<void>;
  /** Whose processes the container sees: a process of its pod or of its target. Of the emulated runtime. */
  sharePid?: number;
  /** The run's whose processes the container sees (an ephemeral container's target). */
  targetID?: string;
  sandbox: PodSandbox;
  environment: PodEnvironment;
  logPath: string;
  /** The file of this machine that the container has at its terminationMessagePath. */
  terminationLog?: string;
  warn(message: string): void;
}

const OOM_KILLED: Ending = { exitCode: 137, signal: 9, reason: "OOMKilled" };

/** What a run has whatever runs in it. */
interface Base {
  id: string;
  log: ContainerLog;
  output: RunOutput;
  root: RunRoot;
  limits: RunLimits;
}

export class ContainerRun implements Run {
  readonly id: string;
  readonly startedAt: number;
  readonly log: ContainerLog;
  readonly exited: Promise<Ending>;
  /** The terminal or pipe of a container with stdin: true. */
  readonly stdin: Writable | null;
  readonly usage: ContainerUsage;
  readonly #options: RunOptions;
  readonly #workload: Workload;
  readonly #process: LaunchedProcess | undefined;
  readonly #output: RunOutput;
  readonly #base: Base;
  readonly #shown: ShownProcess | undefined;

  private constructor(
    options: RunOptions,
    base: Base,
    workload: Workload,
    process: LaunchedProcess | undefined,
  ) {
    const { id, log, output, root, limits } = base;
    this.#options = options;
    this.#base = base;
    this.id = id;
    this.log = log;
    this.#output = output;
    this.#workload = workload;
    this.#process = process;
    this.stdin = process?.stdin ?? null;
    this.usage = new ContainerUsage(workload.usage?.bind(workload));
    this.#shown = process ? undefined : new ShownProcess(workload, (signalled) => this.#standIn(signalled));
    if (process) this.#has(process);
    this.startedAt = Date.now();
    this.exited = workload.exited.then((status) => {
      log.close();
      root.close();
      if (!limits.end()) return status;
      this.#tellOfMemory();
      // All of it ended, whichever process had asked for too much: as with the kubelet since 1.28.
      return OOM_KILLED;
    });
  }

  /** @throws LaunchError when a real process cannot be started; the error of an emulation when that cannot. */
  static async start(options: RunOptions, cgroups: Cgroups): Promise<ContainerRun> {
    const { environment, logPath, pod, container, warn } = options;
    const log = new ContainerLog(logPath, (error) =>
      environment.log.warn({ err: error, pod: pod.metadata.name, logPath }, "container log not written"),
    );
    const outputs = new RunOutput();
    const root = new RunRoot(options);
    const id = randomBytes(32).toString("hex");
    const limits = new RunLimits({ id, container, cgroups, warn });
    const base = { id, log, output: outputs, root, limits };
    const output: OutputListener = (stream, chunk) => {
      log.write(stream, chunk);
      outputs.write(stream, chunk);
    };
    try {
      if (options.terminationLog) makeTerminationLog(options.terminationLog);
      const emulation = options.image.image.program?.(options.argv);
      if (emulation) {
        const workload = await emulation(emulationContext(options, base, options.argv, output));
        const run = new ContainerRun(options, base, workload, undefined);
        // Others may look at it at any time.
        if (options.sharePid !== undefined) await run.show();
        return run;
      }
      await options.completeVolumes();
      const { stdin = false, tty = false } = container;
      const process = launch({
        ...launchBase(options, base),
        ...sharing(options),
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
      limits.end();
      throw error;
    }
  }

  get containerID(): string {
    return `kubeplumb://${this.id}`;
  }

  get image(): string {
    return this.#options.container.image ?? "";
  }

  get imageID(): string {
    return this.#options.image.imageID;
  }

  get podIP(): string {
    return this.#options.sandbox.ip;
  }

  get stopSignal(): NodeJS.Signals {
    return this.#options.image.image.stopSignal ?? "SIGTERM";
  }

  terminationMessage(exitCode: number): string | undefined {
    const { container, terminationLog } = this.#options;
    return terminationMessage(container, exitCode, terminationLog, this.log);
  }

  get pid(): number | undefined {
    return this.#process?.commandPid() ?? this.#shown?.pid;
  }

  /** Makes sure that there is a process to be seen, where that can be, and tells its id. @throws LaunchError */
  async show(): Promise<number | undefined> {
    if (!this.#shown) return this.pid;
    await this.#options.completeVolumes();
    return this.#shown.show();
  }

  async #standIn(signalled: (name: NodeJS.Signals) => void): Promise<LaunchedProcess | undefined> {
    const { image, argv } = this.#options;
    const titles = image.image.processes?.(argv) ?? [argv.join(" ")];
    const process = await standIn(
      { ...launchBase(this.#options, this.#base), ...sharing(this.#options) },
      titles,
      signalled,
    );
    if (process) this.#has(process);
    return process;
  }

  /** One more process, whose use counts and is limited. */
  #has(process: LaunchedProcess): void {
    this.usage.add(process);
    this.#base.limits.watch({
      holdsMoreThan: (bytes) => this.usage.holdsMoreThan(bytes),
      exceeded: () => this.signal("SIGKILL"),
    });
  }

  /** In the words of the kernel, on its Node. */
  #tellOfMemory(): void {
    const { environment, argv } = this.#options;
    const { nodeName: name, events } = environment;
    const message = `Memory cgroup out of memory: Killed process ${this.#process?.pid ?? ""} (${basename(argv[0] ?? "")})`;
    events.record({ kind: "Node", apiVersion: "v1", name, uid: name }, "Warning", "OOMKilling", message);
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

  followLog(...args: Parameters<ContainerLog["follow"]>): ReturnType<ContainerLog["follow"]> {
    return this.log.follow(...args);
  }

  async check(argv: string[], timeoutMs?: number): ReturnType<typeof runToEnd> {
    return runToEnd(await this.launch(argv, { stdin: false, tty: false }), timeoutMs);
  }

  /** A command that the image emulates (`/agnhost connect …`) runs as such. @throws LaunchError, VolumeError */
  exec(argv: string[], options: { stdin: boolean; tty: boolean }): Promise<RemoteProcess> {
    return execRemote(this, argv, options);
  }

  async attach(): Promise<RemoteProcess> {
    const { tty = false, stdinOnce = false } = this.#options.container;
    return attachRemote(this, { tty, stdinOnce });
  }

  /**
   * A command in the container's namespaces with its environment and files.
   * @throws LaunchError when the process has just ended; VolumeError.
   */
  async launch(argv: string[], options: { stdin: boolean; tty: boolean }): Promise<LaunchedProcess> {
    await this.#options.completeVolumes();
    const pid = await this.show();
    if (this.#process && pid === undefined) {
      throw new LaunchError("setup", "cannot exec in a stopped container");
    }
    const process = launch({
      ...launchBase(this.#options, this.#base),
      ...(pid === undefined ? sharing(this.#options) : { join: pid }),
      argv,
      ...options,
      env: options.tty ? { TERM: "xterm", ...this.#options.env } : this.#options.env,
    });
    this.#has(process);
    return process;
  }

  /** The image's own emulation of a command (`/agnhost connect …`), if it has one. */
  emulate(argv: string[], output: OutputListener): Promise<Workload> | undefined {
    const emulation = this.#options.image.image.program?.(argv);
    return emulation?.(emulationContext(this.#options, this.#base, argv, output));
  }
}

const sharing = ({ sharePid }: RunOptions) => (sharePid === undefined ? {} : { sharePid });

function launchBase(
  { sandbox, env, container, image, privileges, warn }: RunOptions,
  { root, limits }: Pick<Base, "root" | "limits">,
) {
  const cwd = container.workingDir || image.image.workingDir || "/";
  return {
    privileges,
    ns: sandbox.ns,
    root: root.get(),
    cgroup: limits.cgroup,
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
  base: Pick<Base, "root" | "limits">,
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
      const process = launch({ ...launchBase(options, base), argv: command, stdin: false });
      const { exitCode, output: text } = await runToEnd(process);
      return { exitCode, output: text };
    },
    // The sandbox's files are not made before somebody asks for one of them.
    hostPath: (path) =>
      throughMounts(path, mounts) ??
      (path.startsWith("/etc/") ? throughMounts(path, sandbox.files()) : undefined) ??
      base.root.made?.path(path),
    api: async (userAgent) => {
      await options.completeVolumes();
      return inClusterClient({ ns: sandbox.ns, env, mounts, userAgent });
    },
  };
}
