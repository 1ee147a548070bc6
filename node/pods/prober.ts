// The probes of one run of one container: makes the attempts in time and tells what they come to. The first attempt
// of a probe comes right after its initial delay, without the kubelet's jitter.

import type { Container, Probe } from "../../common/k8s.js";
import { attempt, type ProbeTarget } from "./probe-actions.js";
import { type ProbeKind, ProbeState, type ProbeTiming, probeTiming } from "./probe-state.js";

export interface ProberHandlers {
  /** Readiness or startup changed, or a readiness probe has given its first result. */
  changed(): void;
  unhealthy(kind: ProbeKind, message: string): void;
  /** A liveness or startup probe has failed for good. Called at most once. */
  restart(kind: ProbeKind): void;
}

const TITLES: Record<ProbeKind, string> = {
  startup: "Startup",
  readiness: "Readiness",
  liveness: "Liveness",
};

class OneProbe {
  readonly state: ProbeState;
  readonly timing: ProbeTiming;
  readonly #probe: Probe;
  readonly #prober: Prober;
  #timer: NodeJS.Timeout | undefined;
  #attempts = 0;
  #stopped = false;

  constructor(kind: ProbeKind, probe: Probe, prober: Prober) {
    this.#probe = probe;
    this.#prober = prober;
    this.timing = probeTiming(probe);
    this.state = new ProbeState(kind, this.timing);
  }

  get attempted(): boolean {
    return this.#attempts > 0;
  }

  /** The first attempt `sinceStartMs` after the start of the container, unless the initial delay is longer. */
  begin(sinceStartMs: number): void {
    if (this.#timer || this.#stopped) return;
    const wait = Math.max(0, this.timing.initialDelayMs - sinceStartMs);
    this.#timer = setTimeout(() => void this.#attempt(), wait);
  }

  async #attempt(): Promise<void> {
    const begun = Date.now();
    const outcome = await attempt(this.#probe, this.#prober.target, this.timing.timeoutMs);
    if (this.#stopped) return;
    this.#attempts++;
    this.#timer = setTimeout(
      () => void this.#attempt(),
      Math.max(0, begun + this.timing.periodMs - Date.now()),
    );
    this.#prober.result(this, outcome.success, outcome.message);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }
}

export class Prober {
  readonly target: ProbeTarget;
  readonly #handlers: ProberHandlers;
  readonly #probes = new Map<ProbeKind, OneProbe>();
  readonly #startedAt = Date.now();

  constructor(container: Container, target: ProbeTarget, handlers: ProberHandlers) {
    this.target = target;
    this.#handlers = handlers;
    const { startupProbe, readinessProbe, livenessProbe } = container;
    if (startupProbe) this.#probes.set("startup", new OneProbe("startup", startupProbe, this));
    if (readinessProbe) this.#probes.set("readiness", new OneProbe("readiness", readinessProbe, this));
    if (livenessProbe) this.#probes.set("liveness", new OneProbe("liveness", livenessProbe, this));
    this.#begin();
  }

  /** No startup probe, or it has passed. */
  get started(): boolean {
    return this.#probes.get("startup")?.state.passed ?? true;
  }

  /** No readiness probe, or it stands at passed. */
  get ready(): boolean {
    return this.started && (this.#probes.get("readiness")?.state.passed ?? true);
  }

  /** A first result is due at once: whoever reports the status may wait a moment for it. */
  get firstResultDue(): boolean {
    const first = this.#probes.get("startup") ?? this.#probes.get("readiness");
    return first !== undefined && !first.attempted && first.timing.initialDelayMs === 0;
  }

  #begin(): void {
    const sinceStart = Date.now() - this.#startedAt;
    if (!this.started) this.#probes.get("startup")?.begin(sinceStart);
    else {
      this.#probes.get("readiness")?.begin(sinceStart);
      this.#probes.get("liveness")?.begin(sinceStart);
    }
  }

  result(probe: OneProbe, success: boolean, message: string): void {
    const { kind } = probe.state;
    const wasStarted = this.started;
    const { changed, restart } = probe.state.record(success);
    if (!success) this.#handlers.unhealthy(kind, `${TITLES[kind]} probe failed: ${message}`);
    if (restart) {
      this.stopping();
      this.#handlers.restart(kind);
      return;
    }
    if (!wasStarted && this.started) {
      probe.stop();
      this.#begin();
    }
    if (changed || kind !== "liveness") this.#handlers.changed();
  }

  /** The container is being ended: its readiness still matters to those it serves, nothing else does. */
  stopping(): void {
    this.#probes.get("startup")?.stop();
    this.#probes.get("liveness")?.stop();
  }

  stop(): void {
    for (const probe of this.#probes.values()) probe.stop();
  }
}
