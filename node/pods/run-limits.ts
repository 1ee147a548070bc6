// The limits of one run of a container on memory and CPU: a control group where one can be made. Where none can, its
// processes are looked at now and then and ended when they hold too much. Knows numbers and groups, starts nothing.

import type { Container } from "../../common/k8s.js";
import type { Cgroup, Cgroups } from "../../dataplane/kernel/cgroups.js";
import { quantity } from "./resource-field.js";

/** How often memory is looked at. */
const LOOK_MS = 500;

export interface RunLimitsOptions {
  /** Name of the group. */
  id: string;
  container: Pick<Container, "resources">;
  cgroups: Cgroups;
  warn(message: string): void;
}

/** The processes that the limits are about. */
export interface Limited {
  /** As far as can be seen from outside. */
  holdsMoreThan(bytes: number): boolean;
  /** To be ended: called once. */
  exceeded(): void;
}

export class RunLimits {
  readonly #options: RunLimitsOptions;
  readonly #memoryBytes: number | undefined;
  #cgroup: Cgroup | undefined;
  #begun = false;
  #timer: NodeJS.Timeout | undefined;
  #exceeded = false;

  constructor(options: RunLimitsOptions) {
    this.#options = options;
    this.#memoryBytes = limit(options.container, "memory");
  }

  /** The group for the container's processes, if it has limits and one can be made: with the first process. */
  get cgroup(): Cgroup | undefined {
    if (!this.#begun) this.#cgroup = this.#make();
    this.#begun = true;
    return this.#cgroup;
  }

  #make(): Cgroup | undefined {
    const { id, container, cgroups, warn } = this.#options;
    const [memoryBytes, cpus] = [this.#memoryBytes, limit(container, "cpu")];
    if (memoryBytes === undefined && cpus === undefined) return undefined;
    try {
      return cgroups.create(id, {
        ...(memoryBytes === undefined ? {} : { memoryBytes }),
        ...(cpus === undefined ? {} : { cpuMillis: cpus * 1000 }),
      });
    } catch (error) {
      warn(`no control group for the container's limits: ${(error as Error).message}`);
      return undefined;
    }
  }

  /** There is a process. Nothing to do where the kernel ends all of a group by itself. */
  watch(limited: Limited): void {
    const bytes = this.#memoryBytes;
    const cgroup = this.cgroup?.limitsMemory ? this.cgroup : undefined;
    if (this.#timer || this.#exceeded || bytes === undefined || cgroup?.endsTogether) return;
    this.#timer = setInterval(() => {
      if (!(cgroup ? cgroup.oomKilled : limited.holdsMoreThan(bytes))) return;
      clearInterval(this.#timer);
      this.#exceeded = true;
      limited.exceeded();
    }, LOOK_MS).unref();
  }

  /** The run is over. Returns whether it ended for want of memory. */
  end(): boolean {
    clearInterval(this.#timer);
    const killed = this.#cgroup?.limitsMemory === true && this.#cgroup.oomKilled;
    this.#cgroup?.remove().catch((error: Error) => this.#options.warn(error.message));
    return this.#exceeded || killed;
  }
}

/** In bytes, or CPUs; a limit of zero is none, as for the kubelet. */
function limit({ resources }: Pick<Container, "resources">, name: "memory" | "cpu"): number | undefined {
  const text = resources?.limits?.[name];
  return text === undefined ? undefined : quantity(String(text)) || undefined;
}
