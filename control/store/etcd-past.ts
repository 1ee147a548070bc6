// What only etcd still knows of a store: values as they were at a revision, and the events since one. Knows etcd's messages
// and the codec, nothing of what is current.

import { type EtcdClient, EtcdUnreachable } from "./etcd-client.js";
import {
  EtcdError,
  type EtcdWire,
  FENCE,
  type Kv,
  type KvEvent,
  type RawRange,
  type RawTxn,
  type RawWatch,
  revisionOf,
} from "./etcd-wire.js";
import {
  type Codec,
  CompactedError,
  type Entry,
  type RangeOptions,
  type RangeResult,
  type StoreEvent,
} from "./store.js";

export class EtcdPast<V> {
  readonly #client: EtcdClient;
  readonly #wire: EtcdWire;
  readonly #codec: Codec<V>;
  readonly #timeoutMs: number;

  constructor(client: EtcdClient, wire: EtcdWire, codec: Codec<V>, timeoutMs: number) {
    this.#client = client;
    this.#wire = wire;
    this.#codec = codec;
    this.#timeoutMs = timeoutMs;
  }

  /** As etcd answers; at `options.revision`, or now. @throws EtcdError, EtcdUnreachable */
  async page(prefix: string, options: RangeOptions): Promise<RawRange> {
    return (await this.#client.post<RawRange>("/v3/kv/range", this.#wire.range(prefix, options))).body;
  }

  /** @throws Error for what another program has written */
  decode({ key, text, revision }: Kv): V {
    try {
      return this.#codec.stamp(this.#codec.decode(text, revision), revision);
    } catch (cause) {
      throw new Error(`etcd: ${key} holds no value of ours: is this another cluster's etcd?`, { cause });
    }
  }

  entryOf(kv: Kv): Entry<V> {
    const { key, revision, createRevision } = kv;
    return { key, revision, createRevision, value: this.decode(kv) };
  }

  /** Writes something that the watch will show, and all before it. */
  async fence(): Promise<number> {
    return revisionOf((await this.#client.post<RawTxn>("/v3/kv/txn", this.#wire.put(FENCE, ""))).body);
  }

  /** The state at a revision that is not the current one. @throws CompactedError; StoreUnavailable */
  async range(prefix: string, revision: number, options: RangeOptions): Promise<RangeResult<V>> {
    if (revision < 1) throw new CompactedError(revision, await this.#oldest());
    try {
      const body = await this.page(prefix, options);
      const entries = (body.kvs ?? []).map((raw) => this.entryOf(this.#wire.kv(raw)));
      return { entries, revision, remaining: Number(body.count ?? 0) - entries.length };
    } catch (error) {
      if (error instanceof EtcdError && error.compacted)
        throw new CompactedError(revision, await this.#oldest());
      throw error;
    }
  }

  /** The revision up to which etcd has compacted: only a watch that comes too late is told. */
  async #oldest(): Promise<number> {
    for await (const { result } of this.#replay(1)) {
      if (result?.compact_revision) return Number(result.compact_revision);
      if (!result?.created) break;
    }
    return 1;
  }

  /** A watch of what has been, that is to end soon. @throws EtcdUnreachable when it says nothing for too long */
  async *#replay(from: number): AsyncGenerator<RawWatch> {
    const done = new AbortController();
    const timer = setTimeout(() => done.abort(), this.#timeoutMs);
    try {
      for await (const message of this.#client.watch(
        this.#wire.watch(from, { history: true }),
        done.signal,
      )) {
        timer.refresh();
        yield message;
      }
    } catch (error) {
      if (error instanceof EtcdError) throw error;
      throw new EtcdUnreachable(`etcd: history could not be read: ${(error as Error).message}`, false);
    } finally {
      clearTimeout(timer);
      done.abort();
    }
  }

  /** All events after `from`, up to revision `to`. @throws CompactedError; StoreUnavailable */
  async events(prefix: string, from: number, to: number): Promise<StoreEvent<V>[]> {
    if (from < 1) throw new CompactedError(from, await this.#oldest());
    // Without it a watch of a store in which nothing is written would not show that there is no more.
    const last = await this.fence();
    const events: StoreEvent<V>[] = [];
    for await (const message of this.#replay(from)) {
      const compacted = Number(message.result?.compact_revision ?? 0);
      if (compacted > 0) throw new CompactedError(from, compacted);
      const news = this.#wire.events(message);
      for (const event of news)
        if (event.kv.revision > from && event.kv.revision <= to && event.kv.key.startsWith(prefix))
          events.push(this.#eventOf(event));
      if ((news.at(-1)?.kv.revision ?? 0) >= last) return events;
    }
    throw new EtcdUnreachable("etcd: the watch ended before its time", false);
  }

  #eventOf({ type, kv, previous: old }: KvEvent): StoreEvent<V> {
    const { key, revision } = kv;
    const previous = old ? { previous: this.decode(old) } : {};
    if (type === "put")
      return { type, key, revision, createRevision: kv.createRevision, value: this.decode(kv), ...previous };
    const value = this.#codec.stamp(previous.previous as V, revision);
    return { type, key, revision, createRevision: old?.createRevision ?? 0, value, ...previous };
  }
}
