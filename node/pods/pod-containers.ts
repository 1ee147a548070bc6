// The containers of one pod as a set: made from its spec, found by name, ended together. Decides nothing about when.

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

  /** Ends them all, until `deadline` (epoch milliseconds). */
  async stop(deadline: number): Promise<void> {
    await Promise.all([...this.main, ...this.ephemeral].map((one) => one.stop(deadline)));
    // Sidecars last, in the reverse of the order in which they were started.
    for (const one of [...this.init].reverse()) await one.stop(deadline);
  }
}
