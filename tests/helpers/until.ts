// Waiting in tests until something holds, with a bound that no loaded machine reaches.

import { setTimeout as sleep } from "node:timers/promises";

/** Resolves when `condition` holds. The limit is only there to name the place where a test hangs. */
export async function until(condition: () => boolean): Promise<void> {
  for (const deadline = performance.now() + 60_000; !condition(); await sleep(2)) {
    if (performance.now() > deadline) throw new Error(`never came true: ${condition}`);
  }
}
