// What runs pods, as their workers see it: sandboxes, images, runs of containers. One is in this room (emulated.ts), one
// speaks to a container runtime of the machine (../cri/runtime.ts). Types only.

import type { ContainerStateTerminated } from "kubernetes-types/core/v1.js";
import type { Pod, Stored } from "../../common/k8s.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import type { ResolvedImage } from "../images/index.js";
import type { Usage } from "../images/meter.js";
import type { LogOptions } from "../kubelet/log-format.js";
import type { ExitStatus } from "../process/launch.js";
import type { Privileges } from "../process/privileges.js";
import type { BindMount } from "../process/root-plan.js";
import type { RemoteProcess } from "../streams/remote-command.js";
import type { Env } from "./env.js";
import type { PodEnvironment } from "./environment.js";
import type { RunOptions } from "./run.js";

/** A pod's place: its network, and the files that its containers share. */
export interface PodSandbox {
  readonly id: string;
  /** Connections of port-forward are made in it. */
  readonly ns: NetNs;
  /** At least one, the primary one first. */
  readonly ips: readonly string[];
  /** The primary address. */
  readonly ip: string;
  readonly hostname: string;
  /** Of the pod, on this machine. */
  readonly directory: string;
  /** It has ended by itself: what ran in it is to be ended too, and started again in a new one. */
  readonly lost: boolean;
  /** What every container has of it, written when first asked for. */
  files(): BindMount[];
  /** Leaves the network and lets go of everything. @throws the plugin's or the runtime's error; may be called again. */
  remove(): Promise<void>;
  /** Lets go of what this process holds of it, and leaves the rest as it is. */
  leave(): void;
}

/** How a run ended. */
export interface Ending extends ExitStatus {
  /** In place of Completed and Error: OOMKilled. */
  reason?: string;
}

/** One run of one container. */
export interface Run {
  readonly id: string;
  /** As in a status: with the name of the runtime. */
  readonly containerID: string;
  /** The reference that it was made from. */
  readonly image: string;
  readonly imageID: string;
  /** Epoch milliseconds. */
  readonly startedAt: number;
  /** The pod's primary address. */
  readonly podIP: string;
  readonly stopSignal: NodeJS.Signals;
  /** The process of this machine, when it is one: its namespaces are the container's. */
  readonly pid: number | undefined;
  readonly usage: { read(): Usage };
  readonly exited: Promise<Ending>;
  signal(name: NodeJS.Signals): void;
  /** What the ended run has left to be told; undefined when nothing. */
  terminationMessage(exitCode: number): string | undefined;
  /** The log so far. */
  readLog(options: LogOptions): string;
  /** Lines from now on, until its end; the result stops it. Nothing is lost after a {@link readLog} of the same tick. */
  followLog(options: LogOptions, entry: (text: string) => void, end: () => void): () => void;
  /** A command in the container to its end (probes, hooks); what it prints on both streams. */
  check(argv: string[], timeoutMs?: number): Promise<{ exitCode: number; output: string; timedOut: boolean }>;
  /** @throws LaunchError when it cannot be started. */
  exec(argv: string[], options: { stdin: boolean; tty: boolean }): Promise<RemoteProcess>;
  /** Its own input and output. */
  attach(options: { stdin: boolean }): Promise<RemoteProcess>;
}

/** Images that a runtime has, and how it gets others. */
export interface ImageSource {
  /** Undefined when it is not here; "invalid" when the text is no reference. */
  find(reference: string, hasCommand: boolean): Promise<ResolvedImage | "invalid" | undefined>;
  /** The image itself, or why it cannot be had. @throws Error */
  pull(reference: string, hasCommand: boolean): Promise<{ image: ResolvedImage; bytes: number }>;
}

/** A container that outlived the agent: it runs, or how it ended. */
export interface LeftContainer {
  readonly restartCount: number;
  readonly imageID: string;
  readonly run?: Run;
  readonly ended?: { info: ContainerStateTerminated; finishedAt: number };
}

/** What a former life of the agent has left of a pod. */
export interface LeftPod {
  readonly sandbox: PodSandbox;
  /** The newest run of each, by the container's name. */
  readonly containers: ReadonlyMap<string, LeftContainer>;
}

export interface ContainerRuntime {
  /** status.nodeInfo.containerRuntimeVersion */
  readonly version: string;
  /** Its containers go on when the agent stops, and are found again by {@link takeOver}. */
  readonly outlivesAgent: boolean;
  readonly images: ImageSource;
  /** Why pods cannot be started now; undefined when they can. */
  notReady(): string | undefined;
  /** Looks at what a former life has left, and gives back what is of no pod of `pods`. Called before the first worker. */
  takeOver(pods: readonly Stored<Pod>[], environment: PodEnvironment): Promise<void>;
  /** Of a pod of {@link takeOver}. `lost`: as of {@link createSandbox}. */
  left(pod: Stored<Pod>, lost: () => void): LeftPod | undefined;
  /** Names of fields that the pod sets and that change nothing here. */
  ignoredFields(pod: Stored<Pod>): string[];
  /** `lost` is called when {@link PodSandbox.lost} becomes true. @throws Error; nothing is left then. */
  createSandbox(pod: Stored<Pod>, environment: PodEnvironment, lost: () => void): Promise<PodSandbox>;
  /** What a process has in its environment that no spec asks for, and that references may name. */
  baseEnv(image: ResolvedImage, privileges: Privileges, sandbox: PodSandbox): Env;
  /** @throws LaunchError when the command cannot be started. */
  start(options: RunOptions): Promise<Run>;
  /** Looks after nothing any more. */
  close(): void | Promise<void>;
}
