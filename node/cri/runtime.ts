// A container runtime of the machine as what runs pods: sandboxes and containers by CRI, found again by their labels after
// an end of the agent. Knows the runtime's calls and what containers are made from, no pod's life.

import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Container, Pod, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import { logPath, podLogDirectory, terminationLogPath } from "../pods/container-setup.js";
import type { PodEnvironment } from "../pods/environment.js";
import { podDns, withinLimits } from "../pods/files.js";
import { quantity } from "../pods/resource-field.js";
import type { RunOptions } from "../pods/run.js";
import type { ContainerRuntime, LeftContainer, LeftPod, PodSandbox, Run } from "../pods/runtime.js";
import { makeTerminationLog, terminationMessage } from "../pods/termination.js";
import { LaunchError } from "../process/launch.js";
import { type CriClient, unlessGone } from "./client.js";
import { containerConfigOf, graceOf, LABEL, sandboxConfigOf } from "./config.js";
import type { RuntimeConfig } from "./connect.js";
import { CriImages } from "./images.js";
import { LogFile } from "./log-file.js";
import { CONTAINER_STATE, type SandboxConfig } from "./messages.js";
import { resourcesOf } from "./resources.js";
import { CriRun, endedStatus } from "./run.js";
import { CriSandbox, pidOf, removeSandbox } from "./sandbox.js";
import { CriWatcher } from "./watcher.js";

export interface CriRuntimeFacts {
  node: string;
  log: Logger;
  runtimeName: string;
  runtimeVersion: string;
  config: RuntimeConfig;
}

export class CriRuntime implements ContainerRuntime {
  readonly version: string;
  readonly outlivesAgent = true;
  readonly images: CriImages;
  readonly #client: CriClient;
  readonly #facts: CriRuntimeFacts;
  readonly #watcher: CriWatcher;
  /** By the pod's uid. */
  readonly #left = new Map<string, { sandbox: CriSandbox; containers: Map<string, LeftContainer> }>();

  constructor(client: CriClient, facts: CriRuntimeFacts) {
    this.#client = client;
    this.#facts = facts;
    this.version = `${facts.runtimeName}://${facts.runtimeVersion}`;
    this.images = new CriImages(client);
    this.#watcher = new CriWatcher(client, facts.node, facts.log);
    this.#watcher.start();
  }

  notReady(): string | undefined {
    return this.#watcher.notReady();
  }

  ignoredFields({ spec }: Stored<Pod>): string[] {
    const volumes = (spec?.volumes ?? []).flatMap(({ name, emptyDir }) =>
      (["medium", "sizeLimit"] as const)
        .filter((field) => emptyDir?.[field])
        .map((field) => `spec.volumes{${name}}.emptyDir.${field}`),
    );
    return [
      ...(spec?.runtimeClassName ? ["spec.runtimeClassName"] : []),
      ...(spec?.imagePullSecrets?.length ? ["spec.imagePullSecrets"] : []),
      ...volumes,
    ];
  }

  /** The runtime gives a process what its image says, PATH and HOSTNAME. */
  baseEnv(): Record<string, string> {
    return {};
  }

  async takeOver(pods: readonly Stored<Pod>[], environment: PodEnvironment): Promise<void> {
    const { network, rootDir, log } = environment;
    try {
      await network.giveBackOwn();
    } catch (error) {
      log.warn({ err: error }, "addresses of a former life could not all be given back");
    }
    const known = new Map(pods.map((pod) => [pod.metadata.uid, pod]));
    const sandboxes = await this.#client.listSandboxes({ [LABEL.node]: this.#facts.node });
    // The newest first: older ones of a pod are what a crash has left.
    sandboxes.sort((a, b) => b.createdAt - a.createdAt);
    for (const { id, labels } of sandboxes) {
      const uid = labels[LABEL.podUid] ?? "";
      const pod = known.get(uid);
      if (!pod) void this.#removeOrphan(id);
      else if (this.#left.has(uid)) await removeSandbox(this.#client, id);
      else this.#left.set(uid, await this.#find(pod, environment, id));
    }
    for (const name of entries(join(rootDir, "pods")))
      if (!this.#left.has(name)) rmSync(join(rootDir, "pods", name), { recursive: true, force: true });
  }

  /** Of a pod that was taken out of the API while the agent was away: its containers have their grace. */
  async #removeOrphan(sandboxId: string): Promise<void> {
    try {
      const containers = await this.#client.listContainers({ [LABEL.node]: this.#facts.node });
      const running = containers.filter(
        (one) => one.sandboxId === sandboxId && one.state === CONTAINER_STATE.running,
      );
      const stop = async (id: string) => {
        const { status } = await this.#client.containerStatus(id);
        await this.#client.stopContainer(id, graceOf(status?.annotations ?? {}));
      };
      await Promise.all(running.map(({ id }) => stop(id).catch(unlessGone)));
      await removeSandbox(this.#client, sandboxId);
    } catch (error) {
      this.#facts.log.warn(
        { err: error, sandbox: sandboxId },
        "a sandbox of a deleted pod could not be removed",
      );
    }
  }

  async #find(pod: Stored<Pod>, environment: PodEnvironment, id: string) {
    const [client, watcher] = [this.#client, this.#watcher];
    const config = this.#sandboxConfig(pod, environment, 0);
    const sandbox = await CriSandbox.find(pod, environment, { client, watcher, id, config });
    const found = (await client.listContainers({ [LABEL.podUid]: pod.metadata.uid })).filter(
      (one) => one.sandboxId === id,
    );
    const { initContainers = [], containers = [], ephemeralContainers = [] } = pod.spec ?? {};
    const left = new Map<string, LeftContainer>();
    for (const spec of [...initContainers, ...containers, ...(ephemeralContainers as Container[])]) {
      const runs = found.filter(({ metadata }) => metadata?.name === spec.name);
      const newest = runs.sort((a, b) => (b.metadata?.attempt ?? 0) - (a.metadata?.attempt ?? 0))[0];
      const one = newest && (await this.#leftContainer(pod, spec, newest.id, sandbox, environment));
      if (one) left.set(spec.name, one);
    }
    return { sandbox, containers: left };
  }

  /** Undefined when it was made and never started. */
  async #leftContainer(
    pod: Stored<Pod>,
    container: Container,
    id: string,
    sandbox: CriSandbox,
    { rootDir }: PodEnvironment,
  ): Promise<LeftContainer | undefined> {
    const { status, info } = await this.#client.containerStatus(id);
    if (!status || status.state === CONTAINER_STATE.created) return undefined;
    const restartCount = status.metadata?.attempt ?? 0;
    const terminationLog = container.terminationMessagePath
      ? terminationLogPath(sandbox.directory, container.name, restartCount)
      : undefined;
    const path = logPath(rootDir, pod, container.name, restartCount);
    const common = { restartCount, imageID: status.imageRef };
    const isOver = status.state === CONTAINER_STATE.exited;
    if (isOver) {
      const message = terminationMessage(container, status.exitCode, terminationLog, new LogFile(path));
      return { ...common, ended: endedStatus(status, this.#facts.runtimeName, message) };
    }
    const run = new CriRun({
      ...this.#shared(),
      status,
      pid: pidOf(info),
      container,
      podIP: sandbox.ip,
      logPath: path,
      terminationLog,
    });
    return { ...common, run };
  }

  #shared() {
    const { runtimeName } = this.#facts;
    return { client: this.#client, watcher: this.#watcher, runtimeName };
  }

  left(pod: Stored<Pod>, lost: () => void): LeftPod | undefined {
    const found = this.#left.get(pod.metadata.uid);
    this.#left.delete(pod.metadata.uid);
    found?.sandbox.watch(lost);
    return found;
  }

  #sandboxConfig(pod: Stored<Pod>, environment: PodEnvironment, attempt: number): SandboxConfig {
    const { nodeName: node, rootDir, clusterDNS, clusterDomain, nodeDns } = environment;
    const { dns } = withinLimits(podDns(pod, { clusterDNS, clusterDomain, node: nodeDns }));
    return sandboxConfigOf(pod, { node, rootDir, attempt, dns, cgroupParent: this.#cgroupParent() });
  }

  /** As the runtime's cgroup driver names it. */
  #cgroupParent(): string {
    const { defaultRuntimeName = "runc", runtimes = {} } = this.#facts.config.containerd ?? {};
    return runtimes[defaultRuntimeName]?.options?.SystemdCgroup ? "/kubepods.slice" : "/kubepods";
  }

  async createSandbox(pod: Stored<Pod>, environment: PodEnvironment, lost: () => void): Promise<PodSandbox> {
    const [client, watcher] = [this.#client, this.#watcher];
    // A runtime has one sandbox of a name and attempt: one that failed half-way may be there.
    const older = await client.listSandboxes({ [LABEL.podUid]: pod.metadata.uid });
    for (const { id } of older) await removeSandbox(client, id);
    const attempts = older.map(({ metadata }) => metadata?.attempt ?? 0);
    const config = this.#sandboxConfig(pod, environment, Math.max(-1, ...attempts) + 1);
    mkdirSync(podLogDirectory(environment.rootDir, pod), { recursive: true });
    const id = await client.runSandbox(config);
    try {
      const sandbox = await CriSandbox.find(pod, environment, { client, watcher, id, config });
      if (sandbox.ips.length === 0)
        throw new Error("the network of the container runtime gave the pod no address");
      sandbox.watch(lost);
      return sandbox;
    } catch (error) {
      await removeSandbox(client, id).catch((second: Error) =>
        environment.log.warn({ err: second }, "half a sandbox could not be removed"),
      );
      throw error;
    }
  }

  async start(options: RunOptions): Promise<Run> {
    const { pod, container, sandbox, environment, runNumber, terminationLog } = options;
    const client = this.#client;
    if (terminationLog) makeTerminationLog(terminationLog);
    await options.completeVolumes();
    await this.#removeEnded(pod, container.name);
    const capacity = quantity(environment.allocatable.memory ?? "0");
    const config = containerConfigOf(pod, container, {
      node: this.#facts.node,
      rootDir: environment.rootDir,
      runNumber,
      logPath: options.logPath,
      image: options.image.imageID.includes("@") ? options.image.reference : options.image.imageID,
      user: options.image.image.user ?? { uid: 0 },
      command: options.command,
      args: options.args,
      env: options.env,
      mounts: mountsOf(options),
      privileges: options.privileges,
      resources: resourcesOf(pod, container, capacity),
      targetId: options.targetID,
    });
    const id = await client.createContainer(sandbox.id, config, (sandbox as CriSandbox).config);
    try {
      await client.startContainer(id);
    } catch (error) {
      await client.removeContainer(id).catch(unlessGone);
      throw new LaunchError("missing", (error as Error).message);
    }
    const { status, info } = await client.containerStatus(id);
    if (!status) throw new Error(`the container runtime has lost container ${id}`);
    const isRunning = status.state === CONTAINER_STATE.running;
    return new CriRun({
      ...this.#shared(),
      status,
      pid: isRunning ? pidOf(info) : undefined,
      container,
      podIP: sandbox.ip,
      logPath: options.logPath,
      terminationLog,
    });
  }

  /** Runs of the container that are over: what they have left to be told is told. */
  async #removeEnded({ metadata }: Stored<Pod>, container: string): Promise<void> {
    const labels = { [LABEL.podUid]: metadata.uid, [LABEL.container]: container };
    for (const { id, state } of await this.#client.listContainers(labels))
      if (state !== CONTAINER_STATE.running) await this.#client.removeContainer(id).catch(unlessGone);
  }

  close(): void {
    this.#watcher.stop();
    this.#client.close();
  }
}

function mountsOf({ sandbox, mounts, container, terminationLog }: RunOptions) {
  const { terminationMessagePath: target } = container;
  const termination = terminationLog && target ? [{ source: terminationLog, target, file: true }] : [];
  // A volume may be mounted where the pod's own files are.
  const own = sandbox.files().filter((file) => !mounts.some((mount) => mount.target === file.target));
  return [...own, ...mounts, ...termination];
}

function entries(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
