// Events about objects: recorded without waiting, repeats counted in one Event, a flood about one object held back.
// Knows the Event type and the KubeClient; no other kind.

import { EVENTS, isNotFound, type KubeClient, StatusError } from "../../common/client.js";
import type { Event, KubeObject, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import { WorkQueue } from "../../common/workqueue.js";
import { timestamp } from "./time.js";

/** How many different Events about one subject and reason are kept apart before they are shown as one. */
const SIMILAR_LIMIT = 10;
const SIMILAR_WINDOW_MS = 600_000;
/** Events about one object from one component: so many at once, then one in so many milliseconds (client-go's). */
const BURST = 25;
const REFILL_MS = 300_000;
const REMEMBERED = 4096;
const LONGEST_MESSAGE = 1024;

export type EventType = "Normal" | "Warning";

/** What a component tells about objects. */
export interface EventRecorder {
  /** Never throws and never waits: an Event that cannot be written is logged and lost. */
  event(subject: Stored<KubeObject>, type: EventType, reason: string, message: string): void;
}

/** One Event as it should be, and whether the API has it. */
interface Known {
  event: Event;
  namespace: string;
  created: boolean;
  dirty: boolean;
}

interface Similar {
  messages: Set<string>;
  since: number;
}

interface Bucket {
  tokens: number;
  at: number;
}

/** Writes the Events of all components of the process. */
export class EventBroadcaster {
  readonly #client: KubeClient;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #queue: WorkQueue;
  readonly #known = new Map<string, Known>();
  readonly #similar = new Map<string, Similar>();
  readonly #buckets = new Map<string, Bucket>();
  #sequence = 0;

  constructor(options: { client: KubeClient; log: Logger; now?: () => number }) {
    this.#client = options.client;
    this.#log = options.log.child({ controller: "events" });
    this.#now = options.now ?? Date.now;
    this.#queue = new WorkQueue({
      name: "events",
      worker: (key) => this.#write(key),
      concurrency: 16,
      log: this.#log,
    });
  }

  start(): void {
    this.#queue.start();
  }

  stop(): Promise<void> {
    return this.#queue.stop();
  }

  /** Resolves when everything recorded so far has been written. */
  idle(): Promise<void> {
    return this.#queue.idle();
  }

  recorder(component: string): EventRecorder {
    return {
      event: (subject, type, reason, message) => this.#record(component, subject, type, reason, message),
    };
  }

  #record(component: string, subject: Stored<KubeObject>, type: EventType, reason: string, text: string) {
    const { uid } = subject.metadata;
    if (!this.#takeToken(`${component}\0${uid}`)) return;
    const message = this.#combine([component, uid, type, reason].join("\0"), text.slice(0, LONGEST_MESSAGE));
    const key = [component, uid, type, reason, message.combined ? "" : message.text].join("\0");
    const now = timestamp(this.#now());
    const known = this.#known.get(key);
    if (known) {
      const { event } = known;
      known.event = { ...event, message: message.text, count: (event.count ?? 1) + 1, lastTimestamp: now };
      known.dirty = true;
      remember(this.#known, key, known);
    } else {
      const namespace = subject.metadata.namespace ?? "default";
      const event = this.#event(component, subject, type, reason, message.text, namespace, now);
      remember(this.#known, key, { event, namespace, created: false, dirty: true });
    }
    this.#queue.add(key);
  }

  #event(
    component: string,
    subject: Stored<KubeObject>,
    type: EventType,
    reason: string,
    message: string,
    namespace: string,
    now: string,
  ): Event {
    const { name, uid, resourceVersion } = subject.metadata;
    this.#sequence = (this.#sequence + 1) % 1_000_000;
    const suffix = (BigInt(this.#now()) * 1_000_000n + BigInt(this.#sequence)).toString(16);
    return {
      apiVersion: "v1",
      kind: "Event",
      metadata: { name: `${name}.${suffix}`, namespace },
      involvedObject: {
        apiVersion: subject.apiVersion,
        kind: subject.kind,
        ...(subject.metadata.namespace ? { namespace: subject.metadata.namespace } : {}),
        name,
        uid,
        resourceVersion,
      },
      reason,
      message,
      source: { component },
      firstTimestamp: now,
      lastTimestamp: now,
      count: 1,
      type,
      reportingComponent: component,
    };
  }

  #takeToken(key: string): boolean {
    const now = this.#now();
    const bucket = this.#buckets.get(key) ?? { tokens: BURST, at: now };
    bucket.tokens = Math.min(BURST, bucket.tokens + (now - bucket.at) / REFILL_MS);
    bucket.at = now;
    remember(this.#buckets, key, bucket);
    if (bucket.tokens < 1) return false;
    bucket.tokens -= 1;
    return true;
  }

  #combine(key: string, text: string): { text: string; combined: boolean } {
    const now = this.#now();
    let similar = this.#similar.get(key);
    if (!similar || now - similar.since > SIMILAR_WINDOW_MS) similar = { messages: new Set(), since: now };
    if (similar.messages.size < SIMILAR_LIMIT) similar.messages.add(text);
    remember(this.#similar, key, similar);
    if (similar.messages.has(text)) return { text, combined: false };
    return { text: `(combined from similar events): ${text}`, combined: true };
  }

  async #write(key: string): Promise<void> {
    const known = this.#known.get(key);
    if (!known?.dirty) return;
    known.dirty = false;
    const { event, namespace } = known;
    try {
      if (known.created) {
        const { count, lastTimestamp, message } = event;
        const patch = { count, lastTimestamp, message };
        await this.#client.patch(EVENTS, event.metadata.name ?? "", "merge", patch, { namespace });
      } else {
        await this.#client.create(EVENTS, event, { namespace });
        known.created = true;
      }
    } catch (error) {
      if (known.created && isNotFound(error)) {
        // Its hour was over: begin a new one.
        known.created = false;
        known.event = { ...event, firstTimestamp: event.lastTimestamp ?? timestamp(this.#now()), count: 1 };
        known.dirty = true;
        this.#queue.add(key);
        return;
      }
      this.#known.delete(key);
      // A namespace that is going away takes no Events; that is nobody's fault.
      const expected = error instanceof StatusError && (error.code === 403 || error.code === 404);
      this.#log[expected ? "debug" : "warn"]({ err: error, event }, "event lost");
    }
  }
}

/** Puts an entry last in a map of bounded size: the one used longest ago is forgotten. */
function remember<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  map.set(key, value);
  if (map.size <= REMEMBERED) return;
  const oldest = map.keys().next();
  if (!oldest.done) map.delete(oldest.value);
}
