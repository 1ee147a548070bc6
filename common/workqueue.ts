// A controller's queue of keys: each key once, never twice at the same time, again with growing delay after a
// failure. Knows keys and time, nothing of what the keys name.

import { isConflict } from "./client.js";
import type { Logger } from "./log.js";

/** setTimeout(3) fires at once beyond this; firing early is harmless, a worker looks at the state as it is. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export interface WorkQueueOptions {
  /** For logs. */
  name: string;
  /** Brings the world for one key in order; called again later when it throws. */
  worker: (key: string) => Promise<void>;
  /** Of keys that wait, the one with the highest rank goes first; default: all have the same. */
  rank?: (key: string) => number;
  /** How many keys at the same time; default 1. */
  concurrency?: number;
  /** Delay after the first failure of a key, in milliseconds; doubles with each; default 5. */
  baseDelayMs?: number;
  /** The longest such delay in milliseconds; default 30 000. */
  maxDelayMs?: number;
  log: Logger;
}

/** Keys by rank, those of one rank in the order in which they came. */
class Waiting {
  readonly #rank: (key: string) => number;
  readonly #ranks = new Map<string, number>();
  readonly #keys = new Map<number, Set<string>>();

  constructor(rank: (key: string) => number) {
    this.#rank = rank;
  }

  get size(): number {
    return this.#ranks.size;
  }

  add(key: string): void {
    if (this.#ranks.has(key)) return;
    const rank = this.#rank(key);
    this.#ranks.set(key, rank);
    const same = this.#keys.get(rank);
    if (same) same.add(key);
    else this.#keys.set(rank, new Set([key]));
  }

  /** Takes the first one out. */
  take(): string | undefined {
    if (this.size === 0) return undefined;
    const rank = this.#keys.size === 1 ? [...this.#keys.keys()][0] : Math.max(...this.#keys.keys());
    const keys = this.#keys.get(rank ?? 0);
    const [key] = keys ?? [];
    if (key === undefined || !keys) return undefined;
    keys.delete(key);
    if (keys.size === 0) this.#keys.delete(rank ?? 0);
    this.#ranks.delete(key);
    return key;
  }

  clear(): void {
    this.#ranks.clear();
    this.#keys.clear();
  }
}

/**
 * Level-triggered work: what is queued is "look at this key", so adding a key twice is adding it once, and a key
 * added while its worker runs is run once more afterwards.
 */
export class WorkQueue {
  readonly #name: string;
  readonly #worker: (key: string) => Promise<void>;
  readonly #concurrency: number;
  readonly #baseDelayMs: number;
  readonly #maxDelayMs: number;
  readonly #log: Logger;
  readonly #queued: Waiting;
  readonly #running = new Set<string>();
  readonly #againAfterRun = new Set<string>();
  readonly #failures = new Map<string, number>();
  readonly #retries = new Map<string, NodeJS.Timeout>();
  readonly #scheduled = new Map<string, { at: number; timer: NodeJS.Timeout }>();
  #idleWaiters: (() => void)[] = [];
  #drainWaiters: (() => void)[] = [];
  #state: "new" | "started" | "stopped" = "new";

  /** @throws RangeError when concurrency or a delay is not positive. */
  constructor(options: WorkQueueOptions) {
    const { name, worker, concurrency = 1, baseDelayMs = 5, maxDelayMs = 30_000, log } = options;
    const { rank = () => 0 } = options;
    if (!(concurrency >= 1)) throw new RangeError(`concurrency of queue ${name}: ${concurrency} is below 1`);
    if (!(baseDelayMs > 0))
      throw new RangeError(`baseDelayMs of queue ${name}: ${baseDelayMs} is not above 0`);
    if (!(maxDelayMs >= baseDelayMs)) {
      throw new RangeError(`maxDelayMs of queue ${name}: ${maxDelayMs} is below baseDelayMs ${baseDelayMs}`);
    }
    this.#queued = new Waiting(rank);
    this.#name = name;
    this.#worker = worker;
    this.#concurrency = concurrency;
    this.#baseDelayMs = baseDelayMs;
    this.#maxDelayMs = maxDelayMs;
    this.#log = log;
  }

  /** Queues `key`; nothing happens when it is queued already or the queue has stopped. */
  add(key: string): void {
    if (this.#state === "stopped") return;
    if (this.#running.has(key)) this.#againAfterRun.add(key);
    else this.#queued.add(key);
    this.#dispatch();
  }

  /** Queues `key` in `ms` milliseconds; of several such wishes for one key the earliest holds. */
  addAfter(key: string, ms: number): void {
    if (this.#state === "stopped") return;
    if (!(ms > 0)) {
      this.add(key);
      return;
    }
    const at = Date.now() + ms;
    const present = this.#scheduled.get(key);
    if (present && present.at <= at) return;
    if (present) clearTimeout(present.timer);
    const timer = setTimeout(
      () => {
        this.#scheduled.delete(key);
        this.add(key);
      },
      Math.min(ms, LONGEST_TIMER_MS),
    );
    this.#scheduled.set(key, { at, timer });
  }

  /** Begins to work; what was added before is done first. Once only. */
  start(): void {
    if (this.#state !== "new") return;
    this.#state = "started";
    this.#dispatch();
  }

  /** No further key is begun; resolves when the running ones have ended. */
  async stop(): Promise<void> {
    this.#state = "stopped";
    this.#queued.clear();
    this.#againAfterRun.clear();
    for (const timer of this.#retries.values()) clearTimeout(timer);
    for (const { timer } of this.#scheduled.values()) clearTimeout(timer);
    this.#retries.clear();
    this.#scheduled.clear();
    if (this.#running.size > 0) await new Promise<void>((resolve) => this.#drainWaiters.push(resolve));
    this.#settle();
  }

  /**
   * Resolves when no key is queued, running or waiting for its next attempt after a failure. Keys that
   * {@link addAfter} keeps for later do not count.
   */
  idle(): Promise<void> {
    if (this.#isIdle()) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  #isIdle(): boolean {
    return this.#queued.size === 0 && this.#running.size === 0 && this.#retries.size === 0;
  }

  #dispatch(): void {
    while (this.#state === "started" && this.#running.size < this.#concurrency) {
      const next = this.#queued.take();
      if (next === undefined) return;
      this.#running.add(next);
      void this.#run(next);
    }
  }

  async #run(key: string): Promise<void> {
    this.#clearRetry(key);
    try {
      await this.#worker(key);
      this.#failures.delete(key);
    } catch (error) {
      this.#failed(key, error);
    }
    this.#running.delete(key);
    // What was asked for meanwhile goes before the retry: it carries newer knowledge than the failure.
    if (this.#againAfterRun.delete(key)) {
      this.#clearRetry(key);
      this.#queued.add(key);
    }
    this.#dispatch();
    this.#settle();
  }

  #failed(key: string, error: unknown): void {
    const failures = (this.#failures.get(key) ?? 0) + 1;
    this.#failures.set(key, failures);
    const facts = { queue: this.#name, key, failures, err: error };
    if (this.#state === "stopped") {
      this.#log.debug(facts, "failed while stopping");
      return;
    }
    const delay = Math.min(this.#baseDelayMs * 2 ** (failures - 1), this.#maxDelayMs);
    // Somebody else wrote first: the next run sees the newer object. Ordinary, hence quiet.
    if (isConflict(error)) this.#log.debug({ ...facts, retryInMs: delay }, "conflict, will retry");
    else this.#log.warn({ ...facts, retryInMs: delay }, "failed, will retry");
    this.#retries.set(
      key,
      setTimeout(() => {
        this.#retries.delete(key);
        this.add(key);
      }, delay),
    );
  }

  #clearRetry(key: string): void {
    clearTimeout(this.#retries.get(key));
    this.#retries.delete(key);
  }

  #settle(): void {
    if (this.#running.size === 0) {
      const waiters = this.#drainWaiters;
      this.#drainWaiters = [];
      for (const resolve of waiters) resolve();
    }
    if (!this.#isIdle()) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const resolve of waiters) resolve();
  }
}
