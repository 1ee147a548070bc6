// The steps of `up`, timed: turns starts and ends into the events a progress display wants.

import type { StepEvent } from "./types.js";

type StepId = StepEvent["id"];

export class Steps {
  readonly #open = new Map<StepId, { title: string; since: number }>();
  readonly #listener: ((event: StepEvent) => void) | undefined;

  constructor(listener?: (event: StepEvent) => void) {
    this.#listener = listener;
  }

  start(id: StepId, title: string): void {
    this.#open.set(id, { title, since: performance.now() });
    this.#listener?.({ id, title, state: "start" });
  }

  done(id: StepId): void {
    this.#end(id, "done");
  }

  /** Whatever is still under way has failed. */
  fail(detail: string): void {
    for (const id of [...this.#open.keys()]) this.#end(id, "failed", detail);
  }

  #end(id: StepId, state: "done" | "failed", detail?: string): void {
    const step = this.#open.get(id);
    if (!step) return;
    this.#open.delete(id);
    const ms = Math.round(performance.now() - step.since);
    this.#listener?.({ id, title: step.title, state, ms, ...(detail === undefined ? {} : { detail }) });
  }
}
