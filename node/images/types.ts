// What an image is to the node agent, and what an emulated workload may use. Knows no pods, only what a process
// in a container would see.

import type { KubeClient } from "../../common/client.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import type { ExitStatus } from "../process/launch.js";
import type { Usage } from "./meter.js";

/** What a cluster's configuration may put behind an image name: a known image, or a command of this machine. */
export type ImageSpec =
  | string
  | { image?: string; command?: string[]; args?: string[]; env?: Record<string, string> };

/** What an emulated process can see and do, as far as a real one could. */
export interface ContainerContext {
  readonly podName: string;
  readonly podNamespace: string;
  /** The pod's addresses, the primary one first. */
  readonly podIPs: readonly string[];
  readonly nodeName: string;
  readonly hostname: string;
  readonly image: string;
  /** Tag of the image, "latest" when none was given. */
  readonly tag: string;
  readonly ns: NetNs;
  /** The whole command line. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  stdout(text: string): void;
  stderr(text: string): void;
  /** Runs a command of this machine in the pod to its end, as a child process of the workload. */
  exec(argv: string[]): Promise<{ exitCode: number; output: string }>;
  /**
   * Where a path of the container is on this machine, whether something is there or not. Undefined while no process has
   * been in the container and no volume holds it: then it is what the image has.
   */
  hostPath(path: string): string | undefined;
  /**
   * The API as a program in the pod reaches it: through the pod's own network at KUBERNETES_SERVICE_HOST, with the
   * token of its service account (client-go's InClusterConfig). Close it when the program ends.
   * @throws Error when the pod has no token or the environment names no API server.
   */
  api(userAgent: string): Promise<KubeClient & { close(): Promise<void> }>;
}

/** A running emulated process. */
export interface Workload {
  /** What it uses, when it is no process of this machine. */
  usage?(): Usage;
  readonly exited: Promise<ExitStatus>;
  /** As kill(2) to the first process of a container. */
  signal(name: NodeJS.Signals): void;
}

/** Starts an emulated process; rejects only for faults of the emulator itself. */
export type Emulation = (context: ContainerContext) => Promise<Workload>;

/** An image that this node "has". */
export interface Image {
  /** Canonical names without registry defaults and tag, for people. */
  readonly names: readonly string[];
  /** Tags that exist; undefined: any. */
  readonly tags?: readonly string[] | RegExp;
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly workingDir?: string;
  /** Directories of its own that no volume and no file make: absolute paths, parents first. */
  readonly directories?: readonly string[];
  /** What an emulated image of this tag has of its own for people to look at and to change, by absolute path. */
  files?(tag: string): Readonly<Record<string, string>>;
  /** Programs of this machine that the image has at other places: path in the image → path here. */
  readonly programs?: Readonly<Record<string, string>>;
  /** The program of this machine that comes nearest to the image's /bin/sh; default: the machine's own. */
  readonly shell?: string;
  /** USER, as far as it is a number; default root. A name says nothing of who that is. */
  readonly user?: { uid: number } | { name: string };
  /** What `ps` shows of an emulated program: its first process and those that it starts; default: the command line. */
  processes?(argv: readonly string[]): readonly string[];
  /** STOPSIGNAL; default SIGTERM. */
  readonly stopSignal?: NodeJS.Signals;
  /** What the image is instead when volumes are mounted at these paths; undefined: itself. */
  mounted?(targets: readonly string[]): Image | undefined;
  /** What to say when this machine lacks the program that the image runs by itself; undefined when all is there. */
  missing?(): string | undefined;
  /** The emulation of a command line, when this image has one for it; else it runs as a process of this machine. */
  program?(argv: readonly string[]): Emulation | undefined;
}

/** An image reference resolved to what to run. */
export interface ResolvedImage {
  /** As in the pod's spec. */
  readonly reference: string;
  /** Repository digest for status.imageID. */
  readonly imageID: string;
  readonly tag: string;
  readonly image: Image;
}
