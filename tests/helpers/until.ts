// Waiting in tests until something holds, with a bound that no loaded machine reaches.

import { setTimeout as sleep } from "node:timers/promises";

/** Resolves when `condition` holds. The limit is only there to name the place where a test hangs. */
export async function until(condition: () => boolean): Promise<void> {
  for (const deadline = performance.now() + 60_000; !condition(); await sleep(2)) {
    if (performance.now() > deadline) throw new Error(`never came true: ${condition}`);
  }
}

/** Asserts that `condition` comes to hold within a minute. */
export async function becomes(
  t: { ok(value: unknown, message: string): unknown },
  what: string,
  condition: () => boolean,
): Promise<void> {
  for (const end = performance.now() + 60_000; !condition() && performance.now() < end; ) await sleep(5);
  t.ok(condition(), what);
}

/**
 * Looks again until it does not throw and finds something. `withinMs` is for what another machine takes its time over.
 * @throws Error with what it last was.
 */
export async function eventually<T>(
  look: () => Promise<T>,
  { withinMs = 60_000, everyMs = 200 } = {},
): Promise<Exclude<NonNullable<T>, false>> {
  let last: unknown;
  for (const deadline = performance.now() + withinMs; performance.now() < deadline; await sleep(everyMs)) {
    try {
      last = await look();
      if (last) return last as Exclude<NonNullable<T>, false>;
    } catch (error) {
      last = error;
    }
  }
  throw new Error(`it did not come about: ${last}`, { cause: last });
}
