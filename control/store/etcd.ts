// The store in an etcd (v3) that several API servers may share: writes are etcd's transactions, current values are read
// from a cache fed by one watch once it has come as far as etcd has, the past is read from etcd.

import { setTimeout as sleep } from "node:timers/promises";
import { EtcdClient, type EtcdTls, EtcdUnreachable } from "./etcd-client.js";
import { EtcdPast } from "./etcd-past.js";
import {
  EtcdError,
  EtcdWire,
  isOwn,
  type RawRange,
  type RawTxn,
  type RawWatch,
  ROOT,
  revisionOf,
  turnKey,
} from "./etcd-wire.js";
import {
  type Codec,
  CompactedError,
  type Entry,
  FutureRevisionError,
  type RangeOptions,
  type RangeResult,
  RevisionMismatch,
  type Store,
  StoreWriteError,
  type Turn,
  type Watch,
  type WatchSink,
} from "./store.js";
import { WatchCache } from "./watch-cache.js";

export interface EtcdStoreOptions<V> {
  /** URLs of the members, each with a port. */
  endpoints: readonly string[];
  tls?: EtcdTls | undefined;
  /** Stands before every key, so that clusters can share an etcd; default none: keys are /registry/…. */
  prefix?: string | undefined;
  codec: Codec<V>;
  /** Milliseconds in which etcd must answer. Default 5000. */
  timeoutMs?: number | undefined;
  /** Milliseconds between two compactions, by whichever server; what is older than this goes. Default 5 minutes. */
  compactIntervalMs?: number | undefined;
}

/** Keys asked for at a time when all are loaded. */
const PAGE = 1000;
/** How long the watch may be behind a read before something is written for it to show: others' keys move the revision. */
const BEHIND_MS = 50;
const CHECK_MS = 2000;
const FAILED_CHECK_MS = 200;
const RECONNECT_MS = 100;

const UNKNOWN = "whether this write was kept is not known";
const EXHAUSTED = "compact and defragment it, or raise its quota";

export class EtcdStore<V> implements Store<V> {
  readonly shared = { turn: (name: string) => this.#takesTurn(name) };
  readonly #client: EtcdClient;
  readonly #wire: EtcdWire;
  readonly #past: EtcdPast<V>;
  readonly #codec: Codec<V>;
  readonly #timeoutMs: number;
  readonly #closing = new AbortController();
  #cache: WatchCache<V>;
  #stream = new AbortController();
  #failure: Error | undefined;
  #asking: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;
  #turn = { number: 0, revision: 0 };
  #running: Promise<unknown> = Promise.resolve();

  private constructor({ endpoints, tls, prefix = "", codec, timeoutMs = 5000 }: EtcdStoreOptions<V>) {
    this.#client = new EtcdClient({ endpoints, tls, timeoutMs });
    this.#wire = new EtcdWire(prefix);
    this.#past = new EtcdPast(this.#client, this.#wire, codec, timeoutMs);
    this.#codec = codec;
    this.#timeoutMs = timeoutMs;
    this.#cache = new WatchCache<V>([], 0);
  }

  /**
   * Reads all there is and begins to watch it.
   * @throws StoreUnavailable when no member answers; Error when the keys hold something else than our values
   */
  static async open<V>(options: EtcdStoreOptions<V>): Promise<EtcdStore<V>> {
    const store = new EtcdStore(options);
    try {
      store.#cache = await store.#load();
    } catch (error) {
      await store.#client.close();
      throw error;
    }
    const { compactIntervalMs = 5 * 60_000 } = options;
    store.#running = Promise.all([
      store.#repeat(() => store.#follow().catch(() => RECONNECT_MS)),
      store.#repeat(() => store.#check(), CHECK_MS),
      store.#repeat(async () => {
        // What cannot be compacted now is compacted the next time.
        await store.#takeTurn().catch(() => undefined);
        return compactIntervalMs;
      }, compactIntervalMs),
    ]);
    return store;
  }

  get #closed(): boolean {
    return this.#closing.signal.aborted;
  }

  /** Works until the store is closed, with as many milliseconds between as each turn says. */
  async #repeat(work: () => Promise<number>, firstMs = 0): Promise<void> {
    for (let pause = firstMs; !this.#closed; pause = await work())
      await sleep(pause, undefined, { signal: this.#closing.signal, ref: false }).catch(() => undefined);
  }

  async #load(): Promise<WatchCache<V>> {
    const entries: Entry<V>[] = [];
    for (let after = "", revision = 0; ; ) {
      const body = await this.#past.page(ROOT, { limit: PAGE, after, revision });
      revision ||= revisionOf(body);
      const kvs = (body.kvs ?? []).map((raw) => this.#wire.kv(raw));
      for (const kv of kvs) if (!isOwn(kv.key)) entries.push(this.#past.entryOf(kv));
      if (kvs.length < PAGE) return new WatchCache(entries, revision);
      after = kvs.at(-1)?.key ?? "";
    }
  }

  // ------------------------------------------------------------------------------------------ the cache

  /** Feeds the cache from one watch, for as long as that goes well. */
  async #follow(): Promise<number> {
    this.#stream = new AbortController();
    // A store of an earlier state (restored from a backup, or another one) has events that are not news to us.
    if ((await this.#linearizable()) < this.#cache.revision)
      await this.#reload(new Error("the store has gone back to an earlier state"));
    const { revision } = this.#cache;
    for await (const message of this.#client.watch(this.#wire.watch(revision), this.#stream.signal)) {
      const { result } = message;
      if (result?.compact_revision) {
        await this.#reload(new CompactedError(revision, Number(result.compact_revision)));
        break;
      }
      if (result?.canceled) break;
      if (!result?.created) this.#take(message);
    }
    return RECONNECT_MS;
  }

  #take(message: RawWatch): void {
    const events = this.#wire.events(message);
    for (const { type, kv } of events) {
      if (isOwn(kv.key)) continue;
      if (type === "put") this.#cache.put(this.#past.entryOf(kv));
      else this.#cache.delete(kv.key, kv.revision, this.#codec.stamp);
    }
    // Beside events stands the store's revision, which more events may be due to; alone it says that none are.
    this.#cache.reach(events.at(-1)?.kv.revision ?? revisionOf(message.result ?? {}));
  }

  /** Begins anew where events are missing: what is gone by now, no watch could be told. */
  async #reload(why: Error): Promise<void> {
    const old = this.#cache;
    this.#cache = await this.#load();
    old.end(why);
  }

  async #linearizable(): Promise<number> {
    return revisionOf((await this.#client.post<RawRange>("/v3/kv/range", this.#wire.count())).body);
  }

  /**
   * Waits until the cache has all that was written before this call. While etcd does not answer it is as it is:
   * writes are refused then, and expectations keep what is written later from resting on what was read here.
   */
  #current(): Promise<void> {
    // Who asks while an answer is on its way cannot know whether it is new enough: all those share the next one.
    this.#next ??= this.#asking.then(() => {
      this.#next = undefined;
      this.#asking = this.#ask();
      return this.#asking;
    });
    return this.#next;
  }

  async #ask(): Promise<void> {
    if (this.#failure || this.#closed) return;
    try {
      await this.#catchUp();
    } catch (error) {
      this.#failure = error as Error;
    }
  }

  /** @throws Error when etcd does not answer, or the watch does not bring what is written */
  async #catchUp(): Promise<void> {
    const revision = await this.#linearizable();
    if (await this.#cache.reached(revision, BEHIND_MS)) return;
    await this.#past.fence();
    if (await this.#cache.reached(revision, this.#timeoutMs)) return;
    this.#stream.abort();
    if (this.#closed) return;
    throw new Error(`etcd: the watch is behind: at revision ${this.#cache.revision} of ${revision}`);
  }

  async #check(): Promise<number> {
    try {
      await this.#catchUp();
      const { body } = await this.#client.post<{ errors?: string[] }>("/v3/maintenance/status", {});
      if (body.errors?.length) throw new Error(`etcd: ${body.errors.join(", ")}`);
      this.#failure = undefined;
      return CHECK_MS;
    } catch (error) {
      this.#failure = error as Error;
      return FAILED_CHECK_MS;
    }
  }

  // ---------------------------------------------------------------------------------------------- reads

  async revision(): Promise<number> {
    await this.#current();
    return this.#cache.revision;
  }

  failure(): Error | undefined {
    return this.#failure;
  }

  async get(key: string): Promise<Entry<V> | undefined> {
    await this.#current();
    return this.#cache.entries.get(key);
  }

  #checkOpen(): void {
    if (this.#closed) throw new Error("the store is closed");
  }

  async range(prefix: string, options: RangeOptions = {}): Promise<RangeResult<V>> {
    this.#checkOpen();
    const { limit = 0, after, revision } = options;
    if (revision === undefined || revision > this.#cache.revision) await this.#current();
    const { revision: current, entries } = this.#cache;
    if (revision !== undefined && revision > current) throw new FutureRevisionError(revision, current);
    if (revision !== undefined && revision < current)
      return await this.#past.range(prefix, revision, options);
    const keys = entries.keys(prefix, after);
    const taken = limit > 0 ? keys.slice(0, limit) : keys;
    return {
      entries: taken.map((key) => entries.get(key) as Entry<V>),
      revision: current,
      remaining: keys.length - taken.length,
    };
  }

  async watch(prefix: string, from: number, sink: WatchSink<V>): Promise<Watch> {
    this.#checkOpen();
    await this.#current();
    for (;;) {
      const cache = this.#cache;
      if (from > cache.revision) throw new FutureRevisionError(from, cache.revision);
      if (from >= cache.windowFrom) return cache.watch(prefix, from, [], sink);
      const to = cache.revision;
      const events = await this.#past.events(prefix, from, to);
      this.#checkOpen();
      if (cache === this.#cache && to >= cache.windowFrom) return cache.watch(prefix, from, events, sink, to);
    }
  }

  // --------------------------------------------------------------------------------------------- writes

  async #takesTurn(name: string): Promise<Turn> {
    const { body } = await this.#client.post<RawRange>("/v3/kv/range", this.#wire.turn(name));
    const expected = Number(body.kvs?.[0]?.mod_revision ?? 0);
    if (!(await this.#cache.reached(expected, this.#timeoutMs)))
      throw new EtcdUnreachable(
        `etcd: the watch is behind: at ${this.#cache.revision} of ${expected}`,
        false,
      );
    return { key: turnKey(name), expected };
  }

  async put(key: string, value: V, expected?: number, turn?: Turn): Promise<Entry<V>> {
    const text = this.#codec.encode(value);
    const { body, repeated } = await this.#write(this.#wire.put(key, text, expected, turn));
    const found = this.#wire.found(body);
    // Of a write that was sent again, the first may have been done: then what is found is what was to be written.
    const ours = repeated && found?.text === text;
    if (!body.succeeded && !ours) {
      const actual = found?.revision ?? 0;
      // Where the key is as expected, it is the turn that is not.
      if (turn && actual === expected) throw new RevisionMismatch(turn.key, turn.expected, revisionOf(body));
      throw new RevisionMismatch(key, expected ?? 0, actual);
    }
    const revision = ours ? found.revision : revisionOf(body);
    const createRevision = (ours ? found : this.#wire.replaced(body))?.createRevision ?? revision;
    await this.#cache.reached(revision, this.#timeoutMs);
    const entry = this.#cache.entries.get(key);
    if (entry?.revision === revision) return entry;
    return { key, revision, createRevision, value: this.#codec.stamp(value, revision) };
  }

  async delete(key: string, expected?: number): Promise<Entry<V>> {
    const { body } = await this.#write(this.#wire.delete(key, expected));
    const old = this.#wire.replaced(body);
    if (!old) throw new RevisionMismatch(key, expected ?? 0, this.#wire.found(body)?.revision ?? 0);
    const revision = revisionOf(body);
    await this.#cache.reached(revision, this.#timeoutMs);
    return {
      key,
      revision,
      createRevision: old.createRevision,
      value: this.#codec.stamp(this.#past.decode(old), revision),
    };
  }

  async #write(request: object): Promise<{ body: RawTxn; repeated: boolean }> {
    this.#checkOpen();
    if (this.#failure) throw new StoreWriteError(this.#failure, "it was not tried");
    try {
      return await this.#client.post<RawTxn>("/v3/kv/txn", request);
    } catch (error) {
      const exhausted = error instanceof EtcdError && error.exhausted;
      if (!exhausted && !(error instanceof EtcdUnreachable)) throw error;
      this.#failure = error;
      if (error instanceof EtcdError) throw new StoreWriteError(error, EXHAUSTED);
      throw new StoreWriteError(error, error.maybeDone ? UNKNOWN : "nothing was sent");
    }
  }

  // ----------------------------------------------------------------------------------------- compaction

  async compact(revision: number): Promise<void> {
    if (revision > this.#cache.revision) await this.#current();
    const { revision: current } = this.#cache;
    if (revision > current) throw new FutureRevisionError(revision, current);
    try {
      await this.#client.post("/v3/kv/compaction", { revision: String(revision) });
    } catch (error) {
      if (!(error instanceof EtcdError && error.compacted)) throw error;
    }
    this.#cache.forget(revision);
  }

  /**
   * As kube-apiserver's compactor: of all servers the one that counts the turn on compacts, to where the store was at
   * the turn before; the others learn the number.
   */
  async #takeTurn(): Promise<void> {
    const { number, revision } = this.#turn;
    const { body } = await this.#client.post<RawTxn>("/v3/kv/txn", this.#wire.takeTurn(number, revision));
    const now = revisionOf(body);
    if (!body.succeeded) {
      this.#turn = { number: this.#wire.found(body)?.version ?? 0, revision: now };
      return;
    }
    this.#turn = { number: number + 1, revision: now };
    if (revision > 0) await this.compact(revision);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closing.abort();
    this.#stream.abort();
    this.#cache.end();
    await this.#client.close();
    await this.#running;
  }
}
