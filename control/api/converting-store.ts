// The store as a second version of a kind sees it: the same keys and revisions, each value converted on its way in
// and out. Knows no kind.

import type { Stored } from "../../common/k8s.js";
import type { Conversion } from "../resources/types.js";
import type { Entry, RangeOptions, RangeResult, Store, Turn, Watch, WatchSink } from "../store/store.js";

/** What the verbs do with the objects of a kind. */
export type KindStore = Pick<Store<Stored>, "revision" | "get" | "range" | "put" | "delete" | "watch">;

export class ConvertingStore implements KindStore {
  readonly #store: KindStore;
  readonly #conversion: Conversion;

  constructor(store: KindStore, conversion: Conversion) {
    this.#store = store;
    this.#conversion = conversion;
  }

  #shown(entry: Entry<Stored>): Entry<Stored> {
    return { ...entry, value: this.#conversion.fromStored(entry.value) };
  }

  revision(): Promise<number> {
    return this.#store.revision();
  }

  async get(key: string): Promise<Entry<Stored> | undefined> {
    const entry = await this.#store.get(key);
    return entry && this.#shown(entry);
  }

  async range(prefix: string, options?: RangeOptions): Promise<RangeResult<Stored>> {
    const result = await this.#store.range(prefix, options);
    return { ...result, entries: result.entries.map((entry) => this.#shown(entry)) };
  }

  async put(key: string, value: Stored, expected?: number, turn?: Turn): Promise<Entry<Stored>> {
    return this.#shown(await this.#store.put(key, this.#conversion.toStored(value), expected, turn));
  }

  async delete(key: string, expected?: number): Promise<Entry<Stored>> {
    return this.#shown(await this.#store.delete(key, expected));
  }

  watch(prefix: string, from: number, sink: WatchSink<Stored>): Promise<Watch> {
    const { fromStored } = this.#conversion;
    return this.#store.watch(prefix, from, {
      event: ({ previous, ...event }) =>
        sink.event({
          ...event,
          value: fromStored(event.value),
          ...(previous ? { previous: fromStored(previous) } : {}),
        }),
      end: (error) => sink.end(error),
    });
  }
}
