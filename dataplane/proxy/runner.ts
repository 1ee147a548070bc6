// When to sync: the first change at once, then never sooner than a minimum interval after the last sync ended, and
// after a failure again with a growing delay. Knows time, nothing of rules.

export interface Clock {
  now(): number;
  /** A background timer does not keep the process alive. */
  setTimeout(callback: () => void, ms: number, background?: boolean): unknown;
  clearTimeout(handle: unknown): void;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  setTimeout: (callback, ms, background) => {
    const timer = setTimeout(callback, ms);
    return background ? timer.unref() : timer;
  },
  clearTimeout: (handle) => clearTimeout(handle as NodeJS.Timeout),
};

export interface RunnerOptions {
  /**
   * One sync; a rejection means that it must be tried again. False: there was nothing to do to the kernel, which
   * counts for nothing in the intervals (an endpoint that comes before it is ready, mostly).
   */
  work: () => Promise<boolean>;
  /** Milliseconds from the end of one sync to the start of the next. */
  minIntervalMs: number;
  /**
   * Syncs that may follow each other at once after a quiet time; default 1. A new Service comes in two parts, itself
   * and a moment later its EndpointSlice: with a burst of 2 (as kube-proxy's runner had until 1.33) it does not
   * refuse connections for an interval in between.
   */
  burst?: number;
  /** Milliseconds after a failure: the first delay, doubled up to the second. */
  retryMs: readonly [first: number, longest: number];
  clock?: Clock;
}

/** Coalesces requests: any number while a sync runs or waits are one more sync. */
export class SyncRunner {
  readonly #options: RunnerOptions;
  readonly #clock: Clock;
  #timer: unknown;
  #running: Promise<void> | undefined;
  #wanted = false;
  #earliest = Number.NEGATIVE_INFINITY;
  /** Token bucket: a sync takes one, an interval gives one back. */
  #tokens: number;
  #tokensAt = 0;
  #failures = 0;
  #stopped = false;

  constructor(options: RunnerOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#tokens = options.burst ?? 1;
  }

  /** A sync is due; it starts as soon as the minimum interval allows. */
  request(): void {
    if (this.#stopped) return;
    this.#wanted = true;
    if (!this.#running) this.#schedule();
  }

  /** Starts no more syncs and resolves when the running one has ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#clock.clearTimeout(this.#timer);
    this.#timer = undefined;
    await this.#running;
  }

  /** Milliseconds until the next sync may start. */
  #takeToken(): number {
    const { minIntervalMs, burst = 1 } = this.#options;
    if (minIntervalMs <= 0) return 0;
    const now = this.#clock.now();
    const earned = (now - this.#tokensAt) / minIntervalMs;
    this.#tokens = Math.min(burst, this.#tokens + earned) - 1;
    this.#tokensAt = now;
    return Math.max(0, 1 - this.#tokens) * minIntervalMs;
  }

  #schedule(): void {
    const wait = this.#earliest - this.#clock.now();
    if (wait <= 0) {
      this.#clock.clearTimeout(this.#timer);
      this.#timer = undefined;
      this.#running = this.#run();
    } else if (this.#timer === undefined) {
      this.#timer = this.#clock.setTimeout(() => {
        this.#timer = undefined;
        if (!this.#stopped && !this.#running) this.#schedule();
      }, wait);
    }
  }

  async #run(): Promise<void> {
    // Requests of this turn of the event loop belong to the same sync.
    await Promise.resolve();
    this.#wanted = false;
    const [first, longest] = this.#options.retryMs;
    let delay = 0;
    let worked = true;
    try {
      worked = await this.#options.work();
      this.#failures = 0;
    } catch {
      // The work has said why; here it only means: again, and not at once.
      delay = Math.min(longest, first * 2 ** this.#failures++);
      this.#wanted = true;
    }
    if (worked) delay = Math.max(delay, this.#takeToken());
    this.#earliest = this.#clock.now() + delay;
    this.#running = undefined;
    if (this.#wanted && !this.#stopped) this.#schedule();
  }
}
