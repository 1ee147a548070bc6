// What a series of probe results means (kubelet prober): thresholds, and what counts before the first result.
// Pure: makes no probe, keeps no clock.

import type { Probe } from "../../common/k8s.js";

export type ProbeKind = "startup" | "readiness" | "liveness";

/** Timings in milliseconds with the API's defaults filled in. */
export interface ProbeTiming {
  initialDelayMs: number;
  periodMs: number;
  timeoutMs: number;
  successThreshold: number;
  failureThreshold: number;
}

export function probeTiming(probe: Probe): ProbeTiming {
  return {
    initialDelayMs: (probe.initialDelaySeconds ?? 0) * 1000,
    periodMs: (probe.periodSeconds || 10) * 1000,
    timeoutMs: (probe.timeoutSeconds || 1) * 1000,
    successThreshold: probe.successThreshold || 1,
    failureThreshold: probe.failureThreshold || 3,
  };
}

/**
 * The standing result of one probe of one run of a container. Before its first result a readiness or startup probe
 * counts as failed, a liveness probe as passed.
 */
export class ProbeState {
  readonly kind: ProbeKind;
  readonly #timing: ProbeTiming;
  #result: boolean;
  #last: boolean | undefined;
  #run = 0;

  constructor(kind: ProbeKind, timing: ProbeTiming) {
    this.kind = kind;
    this.#timing = timing;
    this.#result = kind === "liveness";
  }

  /** The standing result. */
  get passed(): boolean {
    return this.#result;
  }

  /**
   * Takes one outcome.
   * @returns changed: the standing result is another one; restart: the container has failed its liveness or
   * startup probe for good and is to be killed; further results of this run mean nothing.
   */
  record(success: boolean): { changed: boolean; restart: boolean } {
    this.#run = this.#last === success ? this.#run + 1 : 1;
    this.#last = success;
    const needed = success ? this.#timing.successThreshold : this.#timing.failureThreshold;
    if (this.#run < needed) return { changed: false, restart: false };
    const changed = this.#result !== success;
    this.#result = success;
    return { changed, restart: !success && this.kind !== "readiness" };
  }
}
