// What a server asks of V8, whose defaults suit a browser on many cores: code that is fast from the first requests on.
// Knows nothing but Node.

import { availableParallelism } from "node:os";
import { setFlagsFromString } from "node:v8";

/** As many as Node starts when it is not told. */
const MOST_THREADS = 4;

/**
 * Flags for the node of a server (node(1), --v8-pool-size): the threads in which V8 optimizes code and collects garbage
 * leave one of the cores to the main thread. By default there are four, and on two cores the main thread gets a third
 * of its time while they are busy, which is when it has just started.
 */
export function serverFlags(cores = availableParallelism()): string[] {
  return [`--v8-pool-size=${Math.min(Math.max(cores - 1, 1), MOST_THREADS)}`];
}

/**
 * From now on each function is compiled at its first call, and not interpreted until V8 knows that it is worth it. For
 * a server that is ready: of the code of a start most runs once, and is not.
 */
export function compileAtFirstCall(): void {
  setFlagsFromString("--always-sparkplug");
}
