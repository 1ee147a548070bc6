// What an emulated process uses, being sockets of the lab's own: the CPU time of the thread while its handlers run,
// with the promises that are settled by then, and an estimate of memory. Knows clocks, nothing of what is served.

import { threadCpuNanoseconds } from "../../dataplane/kernel/thread-clock.js";

/** Cumulative CPU time and present memory of a container. */
export interface Usage {
  cpuNanoseconds: number;
  memoryBytes: number;
}

/**
 * Bytes of this process' resident memory that one of them adds, as measured over a thousand servers and three hundred
 * connections with Node 20; the record of an emulated process itself is counted as a page.
 */
export const MEMORY = { process: 4096, server: 9 << 10, connection: 10 << 10 } as const;

let total = 0;

/** CPU time of all emulated processes of this one, the ended ones included, in nanoseconds. */
export const emulatedCpuNanoseconds = (): number => total;

/**
 * Counts the CPU time of handlers. What a handler does later (after a file was read, say) is not seen, nor what the
 * kernel and Node do with a connection before and after it: the figure is a lower bound, about half of what a small
 * HTTP answer costs.
 */
export class CpuMeter {
  #nanoseconds = 0;
  #open = false;

  get nanoseconds(): number {
    return this.#nanoseconds;
  }

  /** Runs `work` and counts from its beginning until all that it has left for right after itself is done. */
  run<T>(work: () => T): T {
    if (this.#open) return work();
    this.#open = true;
    const began = threadCpuNanoseconds();
    // A tick that a microtask asks for comes when the last microtask has run.
    process.nextTick(() => queueMicrotask(() => process.nextTick(() => this.#close(began))));
    return work();
  }

  #close(began: number): void {
    this.#open = false;
    const used = threadCpuNanoseconds() - began;
    this.#nanoseconds += used;
    total += used;
  }
}
