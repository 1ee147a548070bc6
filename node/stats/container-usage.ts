// What one run of a container uses: its process tree or its emulation, and the commands executed in it. Knows where
// the figures come from; keeps the counter from running backwards.

import type { Usage } from "../images/meter.js";
import type { LaunchedProcess } from "../process/launch.js";
import { treeResident, treeUsage } from "./process-tree.js";

export class ContainerUsage {
  readonly #emulated: (() => Usage) | undefined;
  /** How to find the root of a process tree (undefined: it is not there now) → its CPU time when last seen. */
  readonly #roots = new Map<() => number | undefined, number>();
  /** Of trees that have ended, as last seen. */
  #ended = 0;

  constructor(emulated?: () => Usage) {
    this.#emulated = emulated;
  }

  /** This process counts until it has exited. */
  add(process: Pick<LaunchedProcess, "commandPid" | "exited">): void {
    const root = () => process.commandPid();
    this.#roots.set(root, 0);
    void process.exited.then(() => {
      this.#ended += this.#roots.get(root) ?? 0;
      this.#roots.delete(root);
    });
  }

  /** CPU time only grows; what a process used since it was last seen is lost when it ends. */
  read(): Usage {
    const own = this.#emulated?.() ?? { cpuNanoseconds: 0, memoryBytes: 0 };
    let { cpuNanoseconds, memoryBytes } = own;
    for (const [root, before] of this.#roots) {
      const pid = root();
      const now = pid === undefined ? { cpuNanoseconds: 0, memoryBytes: 0 } : treeUsage(pid);
      const cpu = Math.max(before, now.cpuNanoseconds);
      this.#roots.set(root, cpu);
      cpuNanoseconds += cpu;
      memoryBytes += now.memoryBytes;
    }
    return { cpuNanoseconds: cpuNanoseconds + this.#ended, memoryBytes };
  }

  /** Whether its processes hold more memory than that. What they share is only counted apart when it matters. */
  holdsMoreThan(bytes: number): boolean {
    const pids = [...this.#roots.keys()].flatMap((root) => root() ?? []);
    const sum = (of: (pid: number) => number) => pids.reduce((all, pid) => all + of(pid), 0);
    return sum(treeResident) > bytes && sum((pid) => treeUsage(pid).memoryBytes) > bytes;
  }
}
