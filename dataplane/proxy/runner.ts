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
  /** One sync; a rejection means that it must be tried again. */
  work: () => Promise<void>;
  /** Milliseconds from the end of one sync to the start of the next. */
  minIntervalMs: number;
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
  #failures = 0;
  #stopped = false;

  constructor(options: RunnerOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
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
    let delay = this.#options.minIntervalMs;
    try {
      await this.#options.work();
      this.#failures = 0;
    } catch {
      // The work has said why; here it only means: again, and not at once.
      delay = Math.max(delay, Math.min(longest, first * 2 ** this.#failures++));
      this.#wanted = true;
    }
    this.#earliest = this.#clock.now() + delay;
    this.#running = undefined;
    if (this.#wanted && !this.#stopped) this.#schedule();
  }
}
