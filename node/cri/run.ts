// One run of a container that a container runtime holds: followed until it ends, stopped, entered by exec and attach.
// Knows the runtime's calls for one container.

import { setTimeout as sleep } from "node:timers/promises";
import type { ContainerStateTerminated } from "kubernetes-types/core/v1.js";
import type { Container } from "../../common/k8s.js";
import type { LogOptions } from "../kubelet/log-format.js";
import { apiTime } from "../pods/environment.js";
import type { Ending, Run } from "../pods/runtime.js";
import { terminationMessage } from "../pods/termination.js";
import { LaunchError } from "../process/launch.js";
import { ContainerUsage } from "../stats/container-usage.js";
import type { RemoteProcess } from "../streams/remote-command.js";
import { type CriClient, isNotThere } from "./client.js";
import { GrpcError, STATUS } from "./grpc.js";
import { LogFile } from "./log-file.js";
import { CONTAINER_STATE } from "./messages.js";
import { openRemote } from "./remote.js";
import type { CriWatcher } from "./watcher.js";

const RETRY_MS = 1000;
const ROTATION_MS = 10_000;
/** The agent itself sends SIGKILL when the grace is over: the runtime need not. */
const LONG_SECONDS = 86_400;
/** When nobody can say how it ended. */
const UNKNOWN: Ending = { exitCode: 137, reason: "ContainerStatusUnknown" };

export type Status = NonNullable<Awaited<ReturnType<CriClient["containerStatus"]>>["status"]>;

export interface CriRunFacts {
  client: CriClient;
  watcher: CriWatcher;
  /** containerd */
  runtimeName: string;
  status: Status;
  /** Undefined when it has ended already. */
  pid: number | undefined;
  container: Container;
  podIP: string;
  logPath: string;
  terminationLog: string | undefined;
}

export class CriRun implements Run {
  readonly id: string;
  readonly containerID: string;
  readonly image: string;
  readonly imageID: string;
  readonly startedAt: number;
  readonly podIP: string;
  /** The runtime knows the image's own. */
  readonly stopSignal = "SIGTERM";
  readonly usage = new ContainerUsage();
  readonly exited: Promise<Ending>;
  readonly #facts: CriRunFacts;
  readonly #log: LogFile;
  #over = false;

  constructor(facts: CriRunFacts) {
    const { status, runtimeName, container, pid, watcher } = facts;
    this.id = status.id;
    this.containerID = `${runtimeName}://${status.id}`;
    this.image = container.image ?? "";
    this.imageID = status.imageRef;
    this.startedAt = milliseconds(status.startedAt) || Date.now();
    this.podIP = facts.podIP;
    this.#facts = facts;
    this.#log = new LogFile(facts.logPath);
    this.exited = new Promise<void>((resolve) => {
      if (status.state === CONTAINER_STATE.running) watcher.watch(this.id, resolve);
      else resolve();
    }).then(() => this.#ending());
    if (pid !== undefined)
      this.usage.add({ commandPid: () => (this.#over ? undefined : pid), exited: this.exited });
    const rotation = setInterval(() => void this.#rotate(), ROTATION_MS).unref();
    void this.exited.then(() => clearInterval(rotation));
  }

  get pid(): number | undefined {
    return this.#over ? undefined : this.#facts.pid;
  }

  /** Asked until the runtime answers: how a container ended is not to be guessed. */
  async #ending(): Promise<Ending> {
    for (;;) {
      try {
        const { status } = await this.#facts.client.containerStatus(this.id);
        if (status?.state === CONTAINER_STATE.exited) {
          this.#over = true;
          return endingOf(status);
        }
        // It has lost sight of it, or was wrong for a moment.
        await this.#facts.client.stopContainer(this.id, 0);
      } catch (error) {
        if (isNotThere(error)) {
          this.#over = true;
          return UNKNOWN;
        }
        await sleep(RETRY_MS, undefined, { ref: false });
      }
    }
  }

  signal(name: NodeJS.Signals): void {
    void this.#stop(name === "SIGKILL" ? 0 : LONG_SECONDS);
  }

  /** A stop that a runtime did not hear of, because it was away, is asked for again. */
  async #stop(seconds: number): Promise<void> {
    while (!this.#over) {
      try {
        await this.#facts.client.stopContainer(this.id, seconds);
        await this.#facts.watcher.look();
        return;
      } catch (error) {
        if (isNotThere(error)) return;
        await sleep(RETRY_MS, undefined, { ref: false });
      }
    }
  }

  async #rotate(): Promise<void> {
    try {
      if (this.#log.rotate()) await this.#facts.client.reopenLog(this.id);
    } catch {
      // It goes on in the old file, and grows until the next time.
    }
  }

  terminationMessage(exitCode: number): string | undefined {
    const { container, terminationLog } = this.#facts;
    return terminationMessage(container, exitCode, terminationLog, this.#log);
  }

  readLog(options: LogOptions): string {
    return this.#log.read(options);
  }

  followLog(options: LogOptions, entry: (text: string) => void, end: () => void): () => void {
    return this.#log.follow(options, this.exited, entry, end);
  }

  async check(
    argv: string[],
    timeoutMs = 0,
  ): Promise<{ exitCode: number; output: string; timedOut: boolean }> {
    try {
      const { stdout, stderr, exitCode } = await this.#facts.client.execSync(
        this.id,
        argv,
        Math.ceil(timeoutMs / 1000),
      );
      return { exitCode, output: Buffer.concat([stdout, stderr]).toString(), timedOut: false };
    } catch (error) {
      const isLate = error instanceof GrpcError && error.status === STATUS.deadlineExceeded;
      if (!isLate) throw error;
      return { exitCode: 137, output: "", timedOut: true };
    }
  }

  async exec(cmd: string[], { stdin, tty }: { stdin: boolean; tty: boolean }): Promise<RemoteProcess> {
    if (this.#over) throw new LaunchError("setup", "cannot exec in a stopped container");
    const url = await this.#facts.client.exec({ id: this.id, cmd, tty, stdin, stdout: true, stderr: !tty });
    return openRemote(url, { stdin, tty });
  }

  async attach(wanted: { stdin: boolean }): Promise<RemoteProcess> {
    const { tty = false, stdin: hasStdin = false } = this.#facts.container;
    const stdin = wanted.stdin && hasStdin;
    const request = { id: this.id, tty, stdin, stdout: true, stderr: !tty };
    return openRemote(await this.#facts.client.attach(request), { stdin, tty });
  }
}

function endingOf({ exitCode, reason }: Status): Ending {
  const plain = ["", "Completed", "Error"].includes(reason);
  return { exitCode, ...(plain ? {} : { reason }) };
}

/** How a container that had ended before this life of the agent is told of. `finishedAt` in epoch milliseconds. */
export function endedStatus(
  status: Status,
  runtimeName: string,
  message: string | undefined,
): { info: ContainerStateTerminated; finishedAt: number } {
  const { exitCode, reason = exitCode === 0 ? "Completed" : "Error" } = endingOf(status);
  const finishedAt = milliseconds(status.finishedAt) || Date.now();
  const info = {
    exitCode,
    reason,
    ...(message === undefined ? {} : { message }),
    startedAt: apiTime(milliseconds(status.startedAt)),
    finishedAt: apiTime(finishedAt),
    containerID: `${runtimeName}://${status.id}`,
  };
  return { info, finishedAt };
}

/** CRI counts nanoseconds since the epoch. */
const milliseconds = (nanoseconds: number): number => Math.floor(nanoseconds / 1e6);
