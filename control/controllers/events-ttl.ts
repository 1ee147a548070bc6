// Removes Events an hour after they last happened, as the TTL of kube-apiserver does (--event-ttl).
// Knows the Event type.

import { EVENTS, isNotFound } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type { Event, Stored } from "../../common/k8s.js";
import type { Controller, ControllerContext } from "./context.js";
import { parseTime } from "./time.js";

const TTL_MS = 3_600_000;
const PERIOD_MS = 60_000;

/** When an Event last happened, in milliseconds since the epoch. */
export function lastHappened(event: Stored<Event>): number {
  const times = [
    event.metadata.creationTimestamp,
    event.lastTimestamp,
    event.eventTime,
    event.series?.lastObservedTime,
  ];
  return Math.max(0, ...times.map((time) => parseTime(time) ?? 0));
}

export class EventTtlController implements Controller {
  readonly name = "event-ttl";
  readonly #context: ControllerContext;
  readonly #informer: Informer<Event>;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> = Promise.resolve();

  constructor(context: ControllerContext) {
    this.#context = context;
    this.#informer = context.informers.get(EVENTS);
  }

  start(): void {
    this.#timer = setInterval(() => {
      this.#running = this.#running.then(() => this.sweep());
    }, PERIOD_MS);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }

  /** Removes what is too old now. Failures are logged: the next sweep comes. */
  async sweep(): Promise<void> {
    const before = this.#context.now() - TTL_MS;
    for (const event of this.#informer.list()) {
      if (lastHappened(event) > before) continue;
      const { name, namespace } = event.metadata;
      try {
        await this.#context.client.delete(EVENTS, name, namespace ? { namespace } : {});
      } catch (error) {
        if (isNotFound(error)) continue;
        this.#context.log.warn({ err: error, event: name }, "an old event could not be removed");
      }
    }
  }
}
