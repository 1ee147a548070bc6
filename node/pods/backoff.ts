// The kubelet's back-off for restarts and image pulls (client-go flowcontrol.Backoff as the kubelet uses it): the
// first retry is immediate, then 10 s doubling to 5 min, forgotten after twice the maximum without trouble. Pure:
// the caller tells the time.

export interface BackoffOptions {
  /** Milliseconds of the first wait. */
  baseMs: number;
  /** The longest wait in milliseconds. */
  maxMs: number;
}

export const KUBELET_BACKOFF: BackoffOptions = { baseMs: 10_000, maxMs: 300_000 };

export class Backoff {
  readonly #options: BackoffOptions;
  #delayMs = 0;
  #lastUpdate = Number.NEGATIVE_INFINITY;

  constructor(options: BackoffOptions = KUBELET_BACKOFF) {
    this.#options = options;
  }

  /** The wait in force, in milliseconds; 0 when there is none. */
  get delayMs(): number {
    return this.#delayMs;
  }

  #expired(at: number): boolean {
    return at - this.#lastUpdate > 2 * this.#options.maxMs;
  }

  /** Milliseconds until a new attempt may be made after the failure at `failedAt`; 0: now. */
  remaining(failedAt: number, now: number): number {
    if (this.#delayMs === 0 || this.#expired(failedAt)) return 0;
    return Math.max(0, failedAt + this.#delayMs - now);
  }

  /** What is tried is another thing now: nothing of the past counts. */
  reset(): void {
    this.#delayMs = 0;
  }

  /** An attempt is being made after the failure at `failedAt`: the next wait is longer. */
  next(failedAt: number, now: number): void {
    const { baseMs, maxMs } = this.#options;
    this.#delayMs =
      this.#delayMs === 0 || this.#expired(failedAt) ? baseMs : Math.min(this.#delayMs * 2, maxMs);
    this.#lastUpdate = now;
  }
}

/** A duration in milliseconds as Go prints it: 10s, 2m40s, 5m0s. */
export function goDuration(ms: number): string {
  if (ms < 1000) return ms === 0 ? "0s" : `${ms}ms`;
  const seconds = ms / 1000;
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return `${hours ? `${hours}h` : ""}${hours || minutes ? `${minutes}m` : ""}${rest}s`;
}
