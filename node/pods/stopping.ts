// Life-cycle hooks, and the graceful end of one run of a container: preStop hook, stop signal, SIGKILL when the grace
// is over. Knows one run, not why it ends.

import type { LifecycleHandler } from "kubernetes-types/core/v1.js";
import { attempt, type ProbeOutcome, type ProbeTarget } from "./probe-actions.js";
import type { Run } from "./runtime.js";

/** What a container still gets after its preStop hook has used up the grace: the kubelet's minimum. */
const LEAST_GRACE_MS = 2000;
/** setTimeout fires at once beyond this. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Runs a postStart or preStop hook to its end, for `withinMs` at most. */
export async function runHook(
  hook: LifecycleHandler,
  target: ProbeTarget,
  withinMs: number,
): Promise<ProbeOutcome> {
  const timeout = Math.max(1, Math.min(withinMs, LONGEST_TIMER_MS));
  // Newer than the published types: Kubernetes 1.29.
  const { sleep } = hook as { sleep?: { seconds: number } };
  if (!sleep) return attempt(hook, target, timeout);
  await new Promise((resolve) => setTimeout(resolve, Math.min(sleep.seconds * 1000, timeout)).unref());
  return { success: true, message: "" };
}

export interface StoppingOptions {
  preStop: LifecycleHandler | undefined;
  target: ProbeTarget;
  hookFailed(why: string): void;
}

/** The end of one run, begun by the constructor. */
export class Stopping {
  /** Resolves when the run has ended. */
  readonly done: Promise<void>;
  readonly #run: Run;
  /** Epoch milliseconds of SIGKILL. */
  #deadline: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(run: Run, deadline: number, options: StoppingOptions) {
    this.#run = run;
    this.#deadline = deadline;
    this.#arm();
    this.done = this.#stop(options);
  }

  /** The end may come sooner than was said, never later. */
  noLaterThan(deadline: number): void {
    if (deadline >= this.#deadline) return;
    this.#deadline = deadline;
    this.#arm();
  }

  #arm(): void {
    clearTimeout(this.#timer);
    const wait = Math.min(Math.max(0, this.#deadline - Date.now()), LONGEST_TIMER_MS);
    this.#timer = setTimeout(() => this.#run.signal("SIGKILL"), wait);
  }

  async #stop({ preStop, target, hookFailed }: StoppingOptions): Promise<void> {
    const run = this.#run;
    if (preStop) {
      const grace = this.#deadline - Date.now();
      // The hook's time counts, but the signal is to be heard in any case.
      clearTimeout(this.#timer);
      const outcome = await Promise.race([runHook(preStop, target, grace), run.exited.then(() => undefined)]);
      if (outcome && !outcome.success) hookFailed(outcome.message);
      this.#deadline = Math.max(this.#deadline, Date.now() + Math.min(grace, LEAST_GRACE_MS));
      this.#arm();
    }
    run.signal(run.stopSignal);
    await run.exited;
    clearTimeout(this.#timer);
  }
}
