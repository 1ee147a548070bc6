// What all controllers have in common, so that each one's file holds only what it decides: a queue of keys and its
// workers, or a sweep now and then; starting, stopping, retrying. Knows errors and informer events, no kind.

import { isNotFound } from "../../common/client.js";
import type { InformerHandler } from "../../common/informer.js";
import type { KubeObject, Stored } from "../../common/k8s.js";
import { WorkQueue } from "../../common/workqueue.js";
import type { Controller, ControllerContext } from "./context.js";

/** What a controller decides that acts on one key (mostly an object's) at a time. */
export interface Reconciler {
  /** Subscribes to informers and queues the keys a change may touch. Called once, when every informer has synced. */
  watch(): void;
  /**
   * Brings the world for one key in order. When it throws it is called again, with growing delay. NotFound is no
   * failure: what was to be written to is gone, and the event of that comes or has come.
   */
  reconcile(key: string): Promise<void>;
  /** Ends timers of its own. */
  close?(): void;
  /** Of keys that wait, the one with the highest rank goes first; default: all have the same. */
  rank?(key: string): number;
}

/**
 * A controller of a queue and the reconciler made for it, of which as many keys as `concurrency` run at a time.
 * Stopping it waits for what runs.
 */
export function queueController<R extends Reconciler>(
  context: ControllerContext,
  name: string,
  concurrency: number,
  make: (queue: WorkQueue) => R,
): Controller & { readonly reconciler: R } {
  const queue: WorkQueue = new WorkQueue({
    name,
    worker: async (key) => {
      try {
        await reconciler.reconcile(key);
      } catch (error) {
        if (!isNotFound(error)) throw error;
      }
    },
    concurrency,
    rank: (key) => reconciler.rank?.(key) ?? 0,
    log: context.log.child({ controller: name }),
  });
  const reconciler = make(queue);
  return {
    name,
    reconciler,
    start() {
      reconciler.watch();
      queue.start();
    },
    stop() {
      reconciler.close?.();
      return queue.stop();
    },
  };
}

/** What a controller decides that looks at everything now and then. */
export interface Sweeper {
  readonly periodMs: number;
  watch?(): void;
  /** Never begins while it still runs. What it throws is logged: the next sweep comes. */
  sweep(): Promise<void>;
}

/** A controller that sweeps at its start and from then on every `periodMs`. Stopping it waits for a sweep that runs. */
export function sweepController(context: ControllerContext, name: string, sweeper: Sweeper): Controller {
  const log = context.log.child({ controller: name });
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> | undefined;
  const sweep = async () => {
    try {
      await sweeper.sweep();
    } catch (error) {
      log.error({ err: error }, "the sweep failed");
    }
    running = undefined;
  };
  const run = () => {
    running ??= sweep();
  };
  return {
    name,
    start() {
      sweeper.watch?.();
      timer = setInterval(run, sweeper.periodMs);
      run();
    },
    async stop() {
      clearInterval(timer);
      await running;
    },
  };
}

/** A subscriber to which it is all one whether an object came, changed or went. */
export function onChange<T extends KubeObject>(look: (object: Stored<T>) => void): InformerHandler<T> {
  return { add: look, update: (_old, now) => look(now), delete: look };
}

/** A subscriber that looks at objects that came or changed. */
export function onSight<T extends KubeObject>(look: (object: Stored<T>) => void): InformerHandler<T> {
  return { add: look, update: (_old, now) => look(now) };
}
