// The current values of a store that is elsewhere, fed by one watch of it: entries, the newest events, the watches of this
// process, and who waits for a revision to arrive. A data structure; knows neither etcd nor a connection.

import { SortedMap } from "./sorted-map.js";
import type { Entry, StoreEvent, Watch, WatchSink } from "./store.js";

/** Events kept for watches that go on where they were cut. */
const WINDOW = 10_000;

interface OpenWatch<V> extends Watch {
  readonly prefix: string;
  readonly sink: WatchSink<V>;
  progress: number;
}

export class WatchCache<V> {
  readonly entries = new SortedMap<Entry<V>>();
  readonly #watches = new Set<OpenWatch<V>>();
  #waiting: { revision: number; resolve: (reached: boolean) => void }[] = [];
  #window: StoreEvent<V>[] = [];
  #windowFrom: number;
  #revision: number;

  /** @param entries all there are at `revision`, in key order */
  constructor(entries: Iterable<Entry<V>>, revision: number) {
    for (const entry of entries) this.entries.set(entry.key, entry);
    this.#revision = revision;
    this.#windowFrom = revision;
  }

  /** Of which the entries are the state. */
  get revision(): number {
    return this.#revision;
  }

  /** Every event after this revision is kept here. */
  get windowFrom(): number {
    return this.#windowFrom;
  }

  /** The value that a key has got, or lost. One that has come already is left out. */
  put(entry: Entry<V>): void {
    if (entry.revision <= this.#revision) return;
    const previous = this.entries.get(entry.key);
    this.entries.set(entry.key, entry);
    this.#dispatch({ type: "put", ...entry, ...(previous ? { previous: previous.value } : {}) });
  }

  /** @param stamp makes the last value that of the delete */
  delete(key: string, revision: number, stamp: (value: V, revision: number) => V): void {
    const previous = this.entries.get(key);
    if (revision <= this.#revision || !previous) return;
    this.entries.delete(key);
    const { createRevision, value } = previous;
    this.#dispatch({
      type: "delete",
      key,
      revision,
      createRevision,
      value: stamp(value, revision),
      previous: value,
    });
  }

  #dispatch(event: StoreEvent<V>): void {
    this.#window.push(event);
    if (this.#window.length > 2 * WINDOW) {
      this.#window = this.#window.slice(-WINDOW);
      this.#windowFrom = (this.#window[0] as StoreEvent<V>).revision - 1;
    }
    for (const watch of this.#watches) if (event.key.startsWith(watch.prefix)) watch.sink.event(event);
  }

  /** Drops events up to `revision`. */
  forget(revision: number): void {
    if (revision <= this.#windowFrom) return;
    this.#window = this.#window.filter((event) => event.revision > revision);
    this.#windowFrom = revision;
  }

  /** All events up to `revision` have been given. */
  reach(revision: number): void {
    if (revision <= this.#revision) return;
    this.#revision = revision;
    for (const watch of this.#watches) watch.progress = revision;
    const reached = this.#waiting.filter((waiter) => waiter.revision <= revision);
    if (reached.length === 0) return;
    this.#waiting = this.#waiting.filter((waiter) => waiter.revision > revision);
    for (const { resolve } of reached) resolve(true);
  }

  /** Resolves to whether `revision` has come within `timeoutMs`. */
  async reached(revision: number, timeoutMs: number): Promise<boolean> {
    if (revision <= this.#revision) return true;
    return await new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#waiting = this.#waiting.filter((other) => other !== waiter);
        resolve(false);
      }, timeoutMs);
      const waiter = {
        revision,
        resolve: (reached: boolean) => {
          clearTimeout(timer);
          resolve(reached);
        },
      };
      this.#waiting.push(waiter);
    });
  }

  /**
   * Opens a watch; gives `older`, which are all events up to revision `covered`, and the kept ones after them first.
   */
  watch(
    prefix: string,
    from: number,
    older: readonly StoreEvent<V>[],
    sink: WatchSink<V>,
    covered = from,
  ): Watch {
    const watch: OpenWatch<V> = {
      prefix,
      sink,
      progress: from,
      close: () => void this.#watches.delete(watch),
    };
    let first = this.#window.length;
    while (first > 0 && (this.#window[first - 1] as StoreEvent<V>).revision > covered) first -= 1;
    for (const event of [...older, ...this.#window.slice(first)])
      if (event.key.startsWith(prefix)) sink.event(event);
    watch.progress = this.#revision;
    this.#watches.add(watch);
    return watch;
  }

  /** Ends all watches, and lets nobody wait any longer. */
  end(error?: Error): void {
    const watches = [...this.#watches];
    this.#watches.clear();
    for (const { resolve } of this.#waiting.splice(0)) resolve(false);
    for (const watch of watches) watch.sink.end(error);
  }
}
