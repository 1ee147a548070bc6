// Who waits until what is queued now is in the kernel.
// Knows sequence numbers: each change raises one, each successful sync has reached the one it started at.

export class FlushWaiters {
  #queued = 0;
  #reached = 0;
  #waiting: { sequence: number; resolve: () => void; reject: (error: Error) => void }[] = [];

  /** A change was queued. */
  queued(): void {
    this.#queued++;
  }

  /** The number that a sync starting now will have reached when it succeeds. */
  get sequence(): number {
    return this.#queued;
  }

  reached(sequence: number): void {
    this.#reached = Math.max(this.#reached, sequence);
    const done = this.#waiting.filter((waiter) => waiter.sequence <= this.#reached);
    this.#waiting = this.#waiting.filter((waiter) => waiter.sequence > this.#reached);
    for (const { resolve } of done) resolve();
  }

  wait(): Promise<void> {
    if (this.#queued <= this.#reached) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#waiting.push({ sequence: this.#queued, resolve, reject });
    });
  }

  fail(error: Error): void {
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}
