// Events about objects, as client-go's recorder makes them: repeated ones are counted, writing never holds up the
// work they tell of. Knows the Event kind, nothing of pods.

import { EVENTS, isNotFound, type KubeClient, StatusError } from "../../common/client.js";
import type { Event } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";

/** The object an event is about. */
export interface EventTarget {
  kind: string;
  apiVersion: string;
  name: string;
  namespace?: string;
  uid: string;
  /** spec.containers{web} */
  fieldPath?: string;
}

/** Events remembered for counting. */
const REMEMBERED = 1024;
/** Events waiting to be written; more are dropped, oldest first, as client-go's full channel does. */
const LARGEST_QUEUE = 5000;
const WRITERS = 2;
/** While the API server cannot be reached; client-go's recorder gives an event twelve tries. */
const TRIES = 12;
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 10_000;

interface Pending {
  key: string;
  target: EventTarget;
  type: "Normal" | "Warning";
  reason: string;
  message: string;
  time: string;
  tries: number;
}

export class EventRecorder {
  readonly #client: KubeClient;
  readonly #component: string;
  readonly #host: string;
  readonly #log: Logger;
  readonly #known = new Map<string, { name: string; count: number }>();
  readonly #queue: Pending[] = [];
  #writers = 0;
  #dropped = 0;
  #stopped = false;
  #serial = 0;

  constructor(options: { client: KubeClient; component: string; host: string; log: Logger }) {
    this.#client = options.client;
    this.#component = options.component;
    this.#host = options.host;
    this.#log = options.log;
  }

  record(target: EventTarget, type: "Normal" | "Warning", reason: string, message: string): void {
    if (this.#stopped) return;
    const key = JSON.stringify([target.uid, target.fieldPath, type, reason, message]);
    this.#queue.push({ key, target, type, reason, message, time: new Date().toISOString(), tries: 0 });
    if (this.#queue.length > LARGEST_QUEUE) {
      this.#queue.shift();
      if (this.#dropped++ % 100 === 0)
        this.#log.warn({ dropped: this.#dropped }, "events dropped: the API is too slow");
    }
    if (this.#writers < WRITERS) {
      this.#writers++;
      // After what is being done now: a status is worth more than the event that tells of it.
      setImmediate(() => void this.#write());
    }
  }

  /** What is queued is written no more. */
  stop(): void {
    this.#stopped = true;
    this.#queue.length = 0;
  }

  async #write(): Promise<void> {
    for (let next = this.#queue.shift(); next; next = this.#queue.shift()) {
      try {
        await this.#put(next);
      } catch (error) {
        // An answer is the last word; no answer is worth another try.
        if (!(error instanceof StatusError) && !this.#stopped && ++next.tries < TRIES) {
          await pause(Math.min(FIRST_RETRY_MS * 2 ** (next.tries - 1), LAST_RETRY_MS));
          if (!this.#stopped) this.#queue.unshift(next);
        } else if (!this.#stopped) this.#log.warn({ err: error, reason: next.reason }, "event not written");
      }
    }
    this.#writers--;
  }

  async #put(event: Pending): Promise<void> {
    const known = this.#known.get(event.key);
    const namespace = event.target.namespace || "default";
    if (known) {
      known.count++;
      try {
        const patch = { count: known.count, lastTimestamp: seconds(event.time) };
        await this.#client.patch(EVENTS, known.name, "merge", patch, { namespace });
        return;
      } catch (error) {
        // Events live for an hour: the old one has expired, this is a new one.
        if (!isNotFound(error)) throw error;
      }
    }
    const name = `${event.target.name}.${Date.now().toString(16)}${(this.#serial++ % 4096).toString(16).padStart(3, "0")}`;
    this.#remember(event.key, name);
    await this.#client.create(EVENTS, this.#object(event, name, namespace), { namespace });
  }

  #remember(key: string, name: string): void {
    this.#known.delete(key);
    this.#known.set(key, { name, count: 1 });
    const [oldest] = this.#known.keys();
    if (this.#known.size > REMEMBERED && oldest !== undefined) this.#known.delete(oldest);
  }

  #object(event: Pending, name: string, namespace: string): Event {
    const { target, type, reason, message, time } = event;
    return {
      apiVersion: "v1",
      kind: "Event",
      metadata: { name, namespace },
      involvedObject: { ...target },
      type,
      reason,
      message: message.slice(0, 1024),
      source: { component: this.#component, host: this.#host },
      firstTimestamp: seconds(time),
      lastTimestamp: seconds(time),
      count: 1,
      reportingComponent: this.#component,
      reportingInstance: this.#host,
    };
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms).unref());

const seconds = (iso: string): string => `${iso.slice(0, 19)}Z`;
