// One pod on this node, from its first sight to its end. Level-triggered: `sync` looks at the pod as it is wanted and
// at the containers as they are, does the next thing, and may be called at any time.

import { rmSync } from "node:fs";
import { isConflict, isNotFound, PODS } from "../../common/client.js";
import type { Pod, Stored } from "../../common/k8s.js";
import type { PodContainer } from "./container.js";
import { type ContainerKind, type ContainerOwner, podLogDirectory } from "./container-setup.js";
import { apiTime, type PodEnvironment } from "./environment.js";
import { FIELDS, PodContainers } from "./pod-containers.js";
import type { PodSandbox } from "./runtime.js";
import { podDirectory } from "./sandbox.js";
import { initDone, type PodFacts, podPhase, sidecarNames } from "./status.js";
import { StatusWriter } from "./status-writer.js";
import { forbiddenSysctl } from "./sysctls.js";
import { VolumeKeeper } from "./volume-keeper.js";
import { VolumeError, type Volumes } from "./volumes.js";

/** How long a status that somebody else has written stays before it is corrected. */
const CORRECTION_MS = 500;
/** Grace of a pod that was taken out of the API without asking: enough for a signal. */
const FORCED_GRACE_MS = 1000;

/** What the worker asks of whoever runs it. */
export interface WorkerHost {
  /** Have `sync` called, now or after `ms`. */
  again(uid: string, ms?: number): void;
  /** Have `report` called, now or after `ms`. */
  report(uid: string, ms?: number): void;
  /** The pod is gone from this node and from the API. */
  gone(uid: string): void;
}

export class PodWorker implements ContainerOwner {
  readonly uid: string;
  readonly hasInit: boolean;
  readonly environment: PodEnvironment;
  pod: Stored<Pod>;
  sandbox: PodSandbox | undefined;
  readonly #keeper: VolumeKeeper;
  readonly #set: PodContainers;
  readonly #host: WorkerHost;
  readonly #startTime: number;
  #removed = false;
  #warned = false;
  /** Nothing has been done yet for a pod that was running before this life of the agent. */
  #goesOn = false;
  /** The init containers have done their work in this sandbox. */
  #initialized = false;
  /** Epoch milliseconds of the next try after a sandbox or volume has failed. */
  #notBefore = 0;
  #ending: Promise<void> | undefined;
  #ended = false;
  #lastIPs: readonly string[] = [];
  #failed: { reason: string; message: string } | undefined;
  /** Nothing of it was ever begun here. */
  #rejected = false;
  readonly #status: StatusWriter;
  /** A pod that was finished before this life of the agent: there is nothing to run. */
  readonly #finishedBefore: boolean;

  constructor(pod: Stored<Pod>, environment: PodEnvironment, host: WorkerHost) {
    this.uid = pod.metadata.uid;
    this.pod = pod;
    this.environment = environment;
    this.#keeper = new VolumeKeeper(environment);
    this.#host = host;
    const { spec, status } = pod;
    this.#finishedBefore = status?.phase === "Succeeded" || status?.phase === "Failed";
    this.#ended = this.#finishedBefore;
    this.#lastIPs = (status?.podIPs ?? []).flatMap(({ ip }) => ip ?? []);
    const started = Date.parse(status?.startTime ?? "");
    this.#startTime = Number.isNaN(started) ? Date.now() : started;
    this.hasInit = (spec?.initContainers?.length ?? 0) > 0;
    const news = () =>
      this.#removed || this.#finishedBefore ? undefined : { pod: this.pod, facts: this.#facts() };
    this.#status = new StatusWriter(environment.client, news);
    const left = environment.runtime.left(pod, () => host.again(this.uid));
    this.#set = new PodContainers(this, left?.containers);
    if (left) this.#goOn(left.sandbox);
  }

  /** The pod has outlived a former life of the agent, and its processes have read their volumes. */
  #goOn(sandbox: PodSandbox): void {
    this.sandbox = sandbox;
    this.#goesOn = true;
    this.#lastIPs = sandbox.ips;
    this.#warned = true;
    for (const one of this.#set.all) one.resume();
  }

  get containers(): readonly PodContainer[] {
    return this.#set.main;
  }

  /** Init and ephemeral ones too. */
  get allContainers(): readonly PodContainer[] {
    return this.#set.all;
  }

  async completeVolumes(): Promise<void> {
    if (await this.#keeper.complete(this.pod)) this.#host.again(this.uid, this.environment.timing.volumesMs);
  }

  get volumes(): Volumes {
    return this.#keeper.volumes ?? new Map();
  }

  /** namespace/name, for logs. */
  get key(): string {
    return `${this.pod.metadata.namespace}/${this.pod.metadata.name}`;
  }

  container(name: string): PodContainer | undefined {
    return this.#set.find(name);
  }

  update(pod: Stored<Pod>): void {
    this.#keeper.update(this.pod, pod);
    this.pod = pod;
    this.#set.update();
    this.#host.again(this.uid);
    // Somebody else may have written our status (a node that was away); what we know is the truth.
    if (this.#status.differs(pod)) {
      // Not at once: if the two can never agree, it must not become a storm of writes.
      this.#host.report(this.uid, CORRECTION_MS);
    }
  }

  /** The object was taken out of the API. */
  remove(): void {
    this.#removed = true;
    this.#host.again(this.uid);
  }

  changed(): void {
    this.#host.again(this.uid);
    this.#report();
  }

  event(
    container: { name: string; kind: ContainerKind } | undefined,
    type: "Normal" | "Warning",
    reason: string,
    message: string,
  ): void {
    const { name, namespace = "", uid } = this.pod.metadata;
    const list = container && FIELDS[container.kind];
    this.environment.events.record(
      {
        kind: "Pod",
        apiVersion: "v1",
        name,
        namespace,
        uid,
        ...(container ? { fieldPath: `spec.${list}{${container.name}}` } : {}),
      },
      type,
      reason,
      message,
    );
  }

  /** Does what is to be done next. */
  async sync(): Promise<void> {
    if (this.#removed) return this.#end(Date.now() + FORCED_GRACE_MS);
    const { deletionTimestamp, deletionGracePeriodSeconds } = this.pod.metadata;
    if (deletionTimestamp) {
      const grace = deletionGracePeriodSeconds ?? this.pod.spec?.terminationGracePeriodSeconds ?? 30;
      // From when we hear of it, by our clock; deletionTimestamp is by another's, and in whole seconds.
      return this.#end(Date.now() + grace * 1000);
    }
    if (this.#ended) return this.#letGo();
    if (this.#ending) return;
    if (this.#overdue() || this.#forbidden()) return this.#end(Date.now());
    if (this.sandbox?.lost) await this.#replaceSandbox(this.sandbox);
    // A pod whose containers ended with a former life, for good, needs no network to say so.
    const over = !this.sandbox && this.containers.every((one) => one.finished);
    if (!over && (await this.#prepare())) return;
    if (over) for (const one of this.#set.all) one.settle();
    if (!over) await this.#refreshVolumes();
    const wait = over ? undefined : await this.#advance();
    if (wait !== undefined) this.#host.again(this.uid, wait);
    this.#report();
    if (
      ["Succeeded", "Failed"].includes(podPhase(this.pod, this.#facts())) &&
      this.#set.all.every((one) => !one.run)
    ) {
      this.#ended = true;
      this.#host.again(this.uid);
    }
  }

  /** The node does not admit it. */
  #forbidden(): boolean {
    const why = this.sandbox ? undefined : forbiddenSysctl(this.pod);
    if (why === undefined) return false;
    this.#failed = { reason: "SysctlForbidden", message: `Pod was rejected: ${why}` };
    this.#rejected = true;
    this.event(undefined, "Warning", "SysctlForbidden", why);
    return true;
  }

  /** activeDeadlineSeconds. */
  #overdue(): boolean {
    const seconds = this.pod.spec?.activeDeadlineSeconds;
    if (seconds === undefined) return false;
    const left = this.#startTime + seconds * 1000 - Date.now();
    if (left > 0) {
      this.#host.again(this.uid, left);
      return false;
    }
    const message = "Pod was active on the node longer than the specified deadline";
    this.#failed = { reason: "DeadlineExceeded", message };
    this.event(undefined, "Normal", "DeadlineExceeded", message);
    return true;
  }

  /** Sandbox and volumes. Returns why not, when they are not there; another try is arranged then. */
  async #prepare(): Promise<string | undefined> {
    const wait = this.#notBefore - Date.now();
    if (wait > 0) {
      // A timer may fire a millisecond early, and other news come in between: the next try stays arranged.
      this.#host.again(this.uid, wait);
      return "waiting for the next try";
    }
    try {
      await this.#keeper.prepare(this.pod);
      if (this.#goesOn) await this.completeVolumes();
      this.#goesOn = false;
      if (!this.sandbox) {
        this.#warnOfIgnored();
        await this.#makeSandbox();
      }
      return undefined;
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      const [reason, text] =
        error instanceof VolumeError
          ? ["FailedMount", message]
          : ["FailedCreatePodSandBox", `Failed to create pod sandbox: ${message}`];
      this.event(undefined, "Warning", reason, text);
      this.environment.log.warn({ err: error, pod: this.key }, reason);
      const { retryMs } = this.environment.timing;
      this.#notBefore = Date.now() + retryMs;
      this.#host.again(this.uid, retryMs);
      this.#report();
      return message;
    }
  }

  /** Once: what a pod asks for and will not get. */
  #warnOfIgnored(): void {
    if (this.#warned) return;
    this.#warned = true;
    const fields = this.environment.runtime.ignoredFields(this.pod);
    if (fields.length === 0) return;
    this.event(undefined, "Warning", "NotHonoured", `kubeplumb does not honour: ${fields.join(", ")}`);
  }

  async #refreshVolumes(): Promise<void> {
    try {
      const wait = await this.#keeper.refresh(this.pod);
      if (wait !== undefined) this.#host.again(this.uid, wait);
    } catch (error) {
      this.environment.log.warn({ err: error, pod: this.key }, "FailedMount");
      this.event(undefined, "Warning", "FailedMount", (error as Error).message);
      this.#host.again(this.uid, this.environment.timing.volumesMs);
    }
  }

  async #makeSandbox(): Promise<void> {
    const { runtime, network } = this.environment;
    const notReady = this.pod.spec?.hostNetwork ? undefined : network.notReady();
    if (notReady) throw new Error(notReady);
    this.sandbox = await runtime.createSandbox(this.pod, this.environment, () => this.#host.again(this.uid));
    this.#lastIPs = this.sandbox.ips;
    // A new sandbox is a new network: what the init containers did in the old one must be done again.
    if (this.containers.some((one) => !one.finished)) {
      for (const one of this.#set.init) one.startOver();
    }
  }

  /** Starts what may start. Returns the shortest wait, if there is one. */
  async #advance(): Promise<number | undefined> {
    if (this.containers.every((one) => one.finished)) {
      // Sidecars have nothing to serve any more.
      void this.#set.stop(Date.now() + this.#graceMs());
      return undefined;
    }
    const waits: number[] = [];
    // First of all: they are there to find out why the others do not start.
    for (const one of this.#set.ephemeral) {
      const wait = await one.advance();
      if (wait !== undefined) waits.push(wait);
    }
    const sidecars = sidecarNames(this.pod);
    for (const one of this.#set.init) {
      if (one.kind === "init" && this.#initialized) continue;
      const wait = await one.advance();
      if (wait !== undefined) waits.push(wait);
      if (!this.#initialized && !initDone(one.facts(), sidecars)) return minimum(waits);
    }
    this.#initialized = true;
    for (const one of this.containers) {
      const wait = await one.advance();
      if (wait !== undefined) waits.push(wait);
    }
    return minimum(waits);
  }

  /** Containers do not outlive their sandbox. @throws to be retried. */
  async #replaceSandbox(sandbox: PodSandbox): Promise<void> {
    this.event(
      undefined,
      "Normal",
      "SandboxChanged",
      "Pod sandbox changed, it will be killed and re-created.",
    );
    await Promise.all(this.#set.all.map((one) => one.kill()));
    await sandbox.remove();
    this.sandbox = undefined;
    this.#initialized = false;
  }

  #graceMs(): number {
    return (this.pod.spec?.terminationGracePeriodSeconds ?? 30) * 1000;
  }

  /** Begins (or hastens) the end; does not wait for it. */
  async #end(deadline: number): Promise<void> {
    if (this.#ended) return this.#letGo();
    if (this.#ending) {
      for (const one of this.#set.all) void one.stop(deadline);
      return;
    }
    this.#ending = this.#set.stop(deadline).then(() => {
      this.#ended = true;
      this.#host.again(this.uid);
    });
  }

  /** All containers have ended: gives back network and files, and the object when it is to go. Throws to be retried. */
  async #letGo(): Promise<void> {
    const deleting = this.#removed || this.pod.metadata.deletionTimestamp !== undefined;
    const reported = this.#removed || this.#finishedBefore ? Promise.resolve() : this.report();
    if (this.sandbox) {
      await this.sandbox.remove();
      this.sandbox = undefined;
    }
    await reported;
    if (!deleting) return;
    const { name, namespace = "" } = this.pod.metadata;
    if (!this.#removed) {
      try {
        const preconditions = { uid: this.uid };
        await this.environment.client.delete(PODS, name, { namespace, gracePeriodSeconds: 0, preconditions });
      } catch (error) {
        // Gone already, or another pod of that name is there by now.
        if (!isNotFound(error) && !isConflict(error)) throw error;
      }
    }
    rmSync(podDirectory(this.environment.rootDir, this.uid), { recursive: true, force: true });
    rmSync(podLogDirectory(this.environment.rootDir, this.pod), { recursive: true, force: true });
    this.#host.gone(this.uid);
  }

  /**
   * The agent stops: ends everything within `graceMs` and leaves the network, unless that can go on without it; the
   * API's object stays.
   */
  async shutDown(graceMs: number): Promise<void> {
    if (this.environment.runtime.outlivesAgent) return this.#leave();
    await this.#set.stop(Date.now() + graceMs);
    await this.sandbox?.remove();
    this.sandbox = undefined;
  }

  /** Ends everything at once and leaves the rest to the kernel. */
  async kill(): Promise<void> {
    if (!this.environment.runtime.outlivesAgent) await Promise.all(this.#set.all.map((one) => one.kill()));
    this.#leave();
  }

  #leave(): void {
    for (const one of this.#set.all) one.leave();
    this.sandbox?.leave();
    this.sandbox = undefined;
  }

  #facts(): PodFacts {
    return {
      init: this.#rejected ? [] : this.#set.init.map((one) => one.facts()),
      containers: this.#rejected ? [] : this.containers.map((one) => one.facts()),
      ephemeral: this.#set.ephemeral.map((one) => one.facts()),
      sandboxReady: this.sandbox !== undefined && !this.#ended,
      hostIPs: this.environment.nodeIPs,
      podIPs: this.#lastIPs,
      startTime: apiTime(this.#startTime),
      ended: this.#ended,
      ...(this.#failed ? { failed: this.#failed } : {}),
    };
  }

  #report(): void {
    if (this.#removed || this.#finishedBefore) return;
    this.#host.report(this.uid, this.#set.statusDelay());
  }

  /** Brings the API's status to what is so. @throws to be retried. */
  report(): Promise<void> {
    return this.#status.report();
  }
}

function minimum(values: readonly number[]): number | undefined {
  return values.length > 0 ? Math.min(...values) : undefined;
}
