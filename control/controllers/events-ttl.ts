// Removes Events an hour after they last happened, as the TTL of kube-apiserver does (--event-ttl).
// Knows the Event type.

import { EVENTS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type Event, keyOf, type Stored } from "../../common/k8s.js";
import type { ControllerContext } from "./context.js";
import { deleteIfPresent } from "./objects.js";
import type { Sweeper } from "./reconcile.js";
import { parseTime } from "./time.js";

const TTL_MS = 3_600_000;

/** When an Event last happened, in milliseconds since the epoch. */
function lastHappened(event: Stored<Event>): number {
  const times = [
    event.metadata.creationTimestamp,
    event.lastTimestamp,
    event.eventTime,
    event.series?.lastObservedTime,
  ];
  return Math.max(0, ...times.map((time) => parseTime(time) ?? 0));
}

export class EventTtlController implements Sweeper {
  readonly periodMs = 60_000;
  readonly #context: ControllerContext;
  readonly #events: Informer<Event>;

  constructor(context: ControllerContext) {
    this.#context = context;
    this.#events = context.informers.get(EVENTS);
  }

  /** Removes what is too old now; one that cannot be removed stays until the next sweep. */
  async sweep(): Promise<void> {
    const before = this.#context.now() - TTL_MS;
    for (const event of this.#events.list()) {
      if (lastHappened(event) > before) continue;
      try {
        await deleteIfPresent(this.#context.client, EVENTS, event);
      } catch (error) {
        this.#context.log.warn({ err: error, event: keyOf(event) }, "an old event could not be removed");
      }
    }
  }
}
