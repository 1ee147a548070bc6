// What one run of a container writes, given to those who are attached to it. Knows chunks, no processes.

import type { StreamName } from "../kubelet/log-format.js";

export type OutputListener = (stream: StreamName, chunk: Buffer | string) => void;

/**
 * How long, and how much of, a container's first output is kept for whoever attaches: `kubectl run --attach` comes a
 * moment after the start, and a short command would have said everything by then. A container runtime keeps nothing.
 */
const EARLY_MS = 2000;
const EARLY_BYTES = 64 << 10;

/** Output to all who are attached, and to those who come in time also what was before them. */
export class RunOutput {
  readonly #listeners = new Set<OutputListener>();
  #early: { stream: StreamName; chunk: Buffer | string }[] | undefined = [];
  #left = EARLY_BYTES;

  constructor() {
    setTimeout(() => {
      this.#early = undefined;
    }, EARLY_MS).unref();
  }

  write(stream: StreamName, chunk: Buffer | string): void {
    this.#left -= chunk.length;
    if (this.#left >= 0) this.#early?.push({ stream, chunk });
    for (const listener of this.#listeners) listener(stream, chunk);
  }

  /** What came so far is known from the log: kubectl from 1.36 on reads that before it attaches. */
  forget(): void {
    if (this.#early) this.#early = [];
  }

  listen(listener: OutputListener): () => void {
    for (const { stream, chunk } of this.#early ?? []) listener(stream, chunk);
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
