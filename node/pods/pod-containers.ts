// The containers of one pod as a set: made from its spec, found by name, ended together. When, others decide; it knows
// only whether what they are about to say of themselves is worth the wait.

import type { Container } from "../../common/k8s.js";
import { PodContainer } from "./container.js";
import type { ContainerKind, ContainerOwner } from "./container-setup.js";
import type { LeftPod } from "./runtime.js";

/** Where the kinds of containers stand in the spec. */
export const FIELDS: Readonly<Record<ContainerKind, string>> = {
  init: "initContainers",
  sidecar: "initContainers",
  ephemeral: "ephemeralContainers",
  main: "containers",
};

/** How long a status waits for the first result of a probe, so that one write says running and ready. */
const FIRST_PROBE_MS = 250;
/**
 * How long the status of a program that runs once waits for its end: most are over at once, and nobody can attach to
 * them then. A real kubelet, which looks once a second, often never says that they ran.
 */
const FIRST_EXIT_MS = 300;

export class PodContainers {
  readonly init: PodContainer[];
  readonly main: PodContainer[];
  /** Grows while the pod lives. */
  readonly ephemeral: PodContainer[] = [];
  readonly #owner: ContainerOwner;
  readonly #left: LeftPod["containers"] | undefined;

  /** `left`: what a former life of the agent has left running, or ended, of them. */
  constructor(owner: ContainerOwner, left: LeftPod["containers"] | undefined) {
    this.#owner = owner;
    this.#left = left;
    const { initContainers = [], containers = [] } = owner.pod.spec ?? {};
    this.init = initContainers.map((one) =>
      this.#make(one, one.restartPolicy === "Always" ? "sidecar" : "init"),
    );
    this.main = containers.map((one) => this.#make(one, "main"));
    this.#addEphemeral();
  }

  #make(spec: Container, kind: ContainerKind): PodContainer {
    const { status } = this.#owner.pod;
    const former = [
      ...(status?.initContainerStatuses ?? []),
      ...(status?.containerStatuses ?? []),
      ...(status?.ephemeralContainerStatuses ?? []),
    ].find(({ name }) => name === spec.name);
    return new PodContainer(spec, kind, this.#owner, former, this.#left?.get(spec.name));
  }

  #addEphemeral(): void {
    for (const spec of this.#owner.pod.spec?.ephemeralContainers ?? [])
      if (!this.find(spec.name)) this.ephemeral.push(this.#make(spec, "ephemeral"));
  }

  get all(): PodContainer[] {
    return [...this.init, ...this.main, ...this.ephemeral];
  }

  find(name: string): PodContainer | undefined {
    return this.all.find((one) => one.name === name);
  }

  /** The pod's spec has changed. */
  update(): void {
    const { initContainers = [], containers = [] } = this.#owner.pod.spec ?? {};
    for (const spec of [...initContainers, ...containers]) this.find(spec.name)?.update(spec);
    this.#addEphemeral();
  }

  /** Milliseconds that a status of the pod had better wait for what is about to happen. */
  statusDelay(): number | undefined {
    if ([...this.init, ...this.main].some((one) => one.resultDue)) return FIRST_PROBE_MS;
    return this.#justStarted() ? FIRST_EXIT_MS : undefined;
  }

  /** Whether a process that runs only once has begun a moment ago. */
  #justStarted(): boolean {
    const isOnce = this.#owner.pod.spec?.restartPolicy === "Never";
    const once = isOnce ? [...this.main, ...this.ephemeral] : this.ephemeral;
    const since = Date.now() - FIRST_EXIT_MS;
    return once.some(({ run }) => run?.pid !== undefined && run.startedAt > since);
  }

  /** Ends them all, until `deadline` (epoch milliseconds). */
  async stop(deadline: number): Promise<void> {
    await Promise.all([...this.main, ...this.ephemeral].map((one) => one.stop(deadline)));
    // Sidecars last, in the reverse of the order in which they were started.
    for (const one of [...this.init].reverse()) await one.stop(deadline);
  }
}
