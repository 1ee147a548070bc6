// The store in one machine: LMDB holds every kept revision as one record (an append to its B-tree), a journal makes
// a write survive kill -9 before LMDB has committed it, and decoded current values stay in memory for readers.

import { mkdirSync } from "node:fs";
import { type Database, open, type RootDatabase } from "lmdb";
import { Journal, readJournal } from "./journal.js";
import { lockDirectory, type Unlock } from "./lock.js";
import { formatRecord, type HistoryRecord, parseRecord } from "./record.js";
import { type FlushedWrite, openRecords, recover } from "./recovery.js";
import { SortedMap } from "./sorted-map.js";
import {
  type Codec,
  CompactedError,
  type Entry,
  FutureRevisionError,
  type RangeOptions,
  type RangeResult,
  RevisionMismatch,
  type Store,
  type StoreEvent,
  type Watch,
  type WatchSink,
} from "./store.js";

export interface LmdbStoreOptions<V> {
  /** A directory of this store's own; made with mode 0700. */
  path: string;
  codec: Codec<V>;
  /** Milliseconds for which history is kept. */
  historyMs?: number;
  /** Revisions kept at most, whatever their age. */
  historyLimit?: number;
}

const FORMAT = "kubeplumb/1";
const COMPACT_INTERVAL_MS = 15_000;
/** Revisions compacted between two turns of the event loop. */
const COMPACT_STEP = 1000;

/** Writes after which the event loop gets a turn. */
const BURST = 32;

interface OpenWatch<V> extends Watch {
  readonly prefix: string;
  readonly sink: WatchSink<V>;
  progress: number;
}

export class LmdbStore<V> implements Store<V> {
  readonly #root: RootDatabase<string, string>;
  readonly #records: Database<string, number>;
  readonly #journal: Journal;
  readonly #unlock: Unlock;
  readonly #codec: Codec<V>;
  readonly #historyMs: number;
  readonly #historyLimit: number;
  readonly #entries = new SortedMap<Entry<V>>();
  /** Records that LMDB has not committed yet: its readers do not see them. */
  readonly #uncommitted = new Map<number, string>();
  readonly #watches = new Set<OpenWatch<V>>();
  readonly #flushing = new Set<Promise<unknown>>();
  readonly #timer: NodeJS.Timeout;
  #checkpoints: { at: number; revision: number }[] = [];
  #revision: number;
  #compacted: number;
  #burst = 0;
  #failure: Error | undefined;
  #closed = false;

  private constructor(
    root: RootDatabase<string, string>,
    options: LmdbStoreOptions<V>,
    journal: Journal,
    unlock: Unlock,
  ) {
    this.#unlock = unlock;
    this.#root = root;
    this.#records = openRecords(root);
    this.#journal = journal;
    this.#codec = options.codec;
    this.#historyMs = options.historyMs ?? 5 * 60_000;
    this.#historyLimit = options.historyLimit ?? 20_000;
    // An empty store is at revision 1, as in etcd, and has no record of it.
    this.#compacted = Math.max(1, Number(root.get("compacted") ?? "0"));
    this.#revision = Math.max(1, Number(root.get("revision") ?? "0"));
    this.#load();
    this.#checkpoints.push({ at: Date.now(), revision: this.#revision });
    this.#timer = setInterval(() => this.#age(), COMPACT_INTERVAL_MS);
    this.#timer.unref();
  }

  /**
   * Opens or creates the store.
   * @throws Error when the directory holds something else, cannot be used, or is in use by another process.
   */
  static async open<V>(options: LmdbStoreOptions<V>): Promise<LmdbStore<V>> {
    mkdirSync(options.path, { recursive: true, mode: 0o700 });
    const unlock = await lockDirectory(options.path);
    try {
      return await LmdbStore.#openLocked(options, unlock);
    } catch (error) {
      await unlock();
      throw error;
    }
  }

  static async #openLocked<V>(options: LmdbStoreOptions<V>, unlock: Unlock): Promise<LmdbStore<V>> {
    const root = open<string, string>({
      path: options.path,
      encoding: "string",
      noSubdir: false,
      maxDbs: 4,
      separateFlushed: true,
    });
    const format = root.get("format");
    if (format === undefined) root.putSync("format", FORMAT);
    else if (format !== FORMAT)
      throw new Error(`${options.path}: store format is ${format}, this version reads only ${FORMAT}`);
    const paths = Journal.paths(options.path);
    const journaled = paths.flatMap((path) => readJournal(path)).sort((a, b) => a.revision - b.revision);
    await recover(root, journaled);
    return new LmdbStore(root, options, Journal.create(options.path), unlock);
  }

  #load(): void {
    const live = new Map<string, HistoryRecord>();
    for (const { key, value } of this.#records.getRange({})) {
      const record = parseRecord(key, value);
      this.#revision = Math.max(this.#revision, record.revision);
      if (record.deleted) live.delete(record.key);
      else live.set(record.key, record);
    }
    for (const record of [...live.values()].sort((a, b) => (a.key < b.key ? -1 : 1)))
      this.#entries.set(record.key, this.#entryOf(record));
  }

  #entryOf(record: HistoryRecord): Entry<V> {
    const { key, revision, createRevision, text } = record;
    return { key, revision, createRevision, value: this.#codec.decode(text, revision) };
  }

  /** A record that is kept. @throws Error when it is not there: history without a gap is what watches live on. */
  #record(revision: number): HistoryRecord {
    let data = this.#uncommitted.get(revision) ?? this.#records.get(revision);
    if (data === undefined) {
      // LMDB's reader may still stand on the snapshot of before the newest commit.
      this.#root.resetReadTxn();
      data = this.#records.get(revision);
    }
    if (data === undefined) throw new Error(`store: record ${revision} is missing`);
    return parseRecord(revision, data);
  }

  /** Records after `from`, up to `to`, in order of revision. */
  #history(from: number, to = this.#revision): HistoryRecord[] {
    const out: HistoryRecord[] = [];
    for (let revision = from + 1; revision <= to; revision++) out.push(this.#record(revision));
    return out;
  }

  #checkRevision(revision: number): void {
    if (revision > this.#revision) throw new FutureRevisionError(revision, this.#revision);
    if (revision < this.#compacted) throw new CompactedError(revision, this.#compacted);
  }

  async revision(): Promise<number> {
    return this.#revision;
  }

  failure(): Error | undefined {
    return this.#failure;
  }

  async get(key: string): Promise<Entry<V> | undefined> {
    return this.#entries.get(key);
  }

  async range(prefix: string, options: RangeOptions = {}): Promise<RangeResult<V>> {
    if (this.#closed) throw new Error("the store is closed");
    const { limit = 0, after, revision = this.#revision } = options;
    this.#checkRevision(revision);
    const now = this.#entries.keys(prefix, after);
    if (revision === this.#revision) {
      const taken = limit > 0 ? now.slice(0, limit) : now;
      const entries = taken.map((key) => this.#entries.get(key) as Entry<V>);
      return { entries, revision, remaining: now.length - taken.length };
    }
    const then = this.#rewind(prefix, revision, after);
    const keys = [...new Set([...now, ...then.keys()])].sort();
    const present = keys.filter((key) => !then.has(key) || then.get(key) !== 0);
    const taken = limit > 0 ? present.slice(0, limit) : present;
    const entries = taken.map((key) => {
      const old = then.get(key);
      return old === undefined ? (this.#entries.get(key) as Entry<V>) : this.#entryOf(this.#record(old));
    });
    return { entries, revision, remaining: present.length - taken.length };
  }

  /** For keys written after `revision`: the revision of the value they had then, 0 when they did not exist. */
  #rewind(prefix: string, revision: number, after: string | undefined): Map<string, number> {
    const then = new Map<string, number>();
    for (const record of this.#history(revision)) {
      if (!record.key.startsWith(prefix) || then.has(record.key)) continue;
      if (after === undefined || record.key > after) then.set(record.key, record.previousRevision);
    }
    return then;
  }

  /**
   * Lets the event loop turn now and then: a writer in a loop never waits for anything else, and would keep LMDB
   * from committing and everybody else from being heard.
   */
  async #breathe(): Promise<void> {
    if (++this.#burst < BURST) return;
    await new Promise<void>((resolve) => setImmediate(resolve));
    this.#burst = 0;
  }

  async put(key: string, value: V, expected?: number): Promise<Entry<V>> {
    await this.#breathe();
    const previous = this.#expect(key, expected);
    const revision = this.#revision + 1;
    const createRevision = previous?.createRevision ?? revision;
    const stamped = this.#codec.stamp(value, revision);
    this.#append({
      revision,
      key,
      createRevision,
      previousRevision: previous?.revision ?? 0,
      deleted: false,
      text: this.#codec.encode(stamped),
    });
    const entry: Entry<V> = { key, revision, createRevision, value: stamped };
    this.#entries.set(key, entry);
    this.#dispatch({ type: "put", key, revision, createRevision, value: stamped, ...before(previous) });
    return entry;
  }

  async delete(key: string, expected?: number): Promise<Entry<V>> {
    await this.#breathe();
    const previous = this.#expect(key, expected);
    if (!previous) throw new RevisionMismatch(key, expected ?? 0, 0);
    const revision = this.#revision + 1;
    const { createRevision } = previous;
    this.#append({
      revision,
      key,
      createRevision,
      previousRevision: previous.revision,
      deleted: true,
      text: "",
    });
    this.#entries.delete(key);
    const value = this.#codec.stamp(previous.value, revision);
    this.#dispatch({ type: "delete", key, revision, createRevision, value, ...before(previous) });
    return { key, revision, createRevision, value };
  }

  #expect(key: string, expected: number | undefined): Entry<V> | undefined {
    if (this.#closed) throw new Error("the store is closed");
    if (this.#failure) throw new Error("the store has failed", { cause: this.#failure });
    const entry = this.#entries.get(key);
    const actual = entry?.revision ?? 0;
    if (expected !== undefined && expected !== actual) throw new RevisionMismatch(key, expected, actual);
    return entry;
  }

  /**
   * Follows a write of LMDB until its thread has nothing more to do. Waiting only for the database's own `flushed`
   * is not enough before a close: it names the newest batch, and the thread of an earlier one may still be running.
   */
  #follow(write: Promise<boolean>): void {
    write.catch((error: Error) => this.#fail(error));
    const { flushed } = write as FlushedWrite;
    if (flushed === undefined || this.#flushing.has(flushed)) return;
    this.#flushing.add(flushed);
    flushed.then(
      () => this.#flushing.delete(flushed),
      (error: Error) => this.#fail(error),
    );
  }

  /** Resolves when all writes so far are on disk. */
  async #flushed(): Promise<void> {
    await Promise.all(this.#flushing);
  }

  /** Makes a record durable against the end of the process; throws before anything has changed. */
  #append(record: HistoryRecord): void {
    const data = formatRecord(record);
    this.#journal.append(record.revision, data);
    this.#revision = record.revision;
    this.#uncommitted.set(record.revision, data);
    const write = this.#records.put(record.revision, data);
    this.#follow(write);
    write.then(
      () => this.#uncommitted.delete(record.revision),
      // #follow has taken the error: the store has failed, and readers go on with what is in memory.
      () => undefined,
    );
    this.#journal.rotate(
      () => this.#flushed(),
      (error) => this.#fail(error),
    );
  }

  #dispatch(event: StoreEvent<V>): void {
    for (const watch of this.#watches) {
      watch.progress = event.revision;
      if (event.key.startsWith(watch.prefix)) watch.sink.event(event);
    }
  }

  async watch(prefix: string, from: number, sink: WatchSink<V>): Promise<Watch> {
    if (this.#closed) throw new Error("the store is closed");
    this.#checkRevision(from);
    const watch: OpenWatch<V> = {
      prefix,
      sink,
      progress: from,
      close: () => void this.#watches.delete(watch),
    };
    // History and registration in one turn of the event loop: no event can come between.
    for (const record of this.#history(from))
      if (record.key.startsWith(prefix)) sink.event(this.#replay(record));
    watch.progress = this.#revision;
    this.#watches.add(watch);
    return watch;
  }

  #replay(record: HistoryRecord): StoreEvent<V> {
    const { revision, key, createRevision, previousRevision, deleted } = record;
    const old = previousRevision > 0 ? this.#entryOf(this.#record(previousRevision)) : undefined;
    if (deleted) {
      const value = this.#codec.stamp((old as Entry<V>).value, revision);
      return { type: "delete", key, revision, createRevision, value, ...before(old) };
    }
    const value = this.#entryOf(record).value;
    return { type: "put", key, revision, createRevision, value, ...before(old) };
  }

  async compact(revision: number): Promise<void> {
    if (revision > this.#revision) throw new FutureRevisionError(revision, this.#revision);
    while (this.#compacted < revision && !this.#closed)
      await this.#compactStep(Math.min(revision, this.#compacted + COMPACT_STEP));
  }

  async #compactStep(revision: number): Promise<void> {
    const obsolete = this.#history(this.#compacted, revision);
    this.#compacted = revision;
    // Writes of one turn of the event loop are one transaction.
    const writes = [
      this.#root.put("compacted", String(revision)),
      // Tombstones go too, so the newest revision must be known without them.
      this.#root.put("revision", String(this.#revision)),
    ];
    for (const record of obsolete) {
      if (record.previousRevision > 0) writes.push(this.#records.remove(record.previousRevision));
      if (record.deleted) writes.push(this.#records.remove(record.revision));
    }
    for (const write of writes) this.#follow(write);
    await Promise.all(writes);
  }

  #age(): void {
    const now = Date.now();
    this.#checkpoints.push({ at: now, revision: this.#revision });
    let target = this.#revision - this.#historyLimit;
    while ((this.#checkpoints[0]?.at ?? now) < now - this.#historyMs)
      target = Math.max(target, this.#checkpoints.shift()?.revision ?? 0);
    if (!this.#failure) this.compact(target).catch((error: Error) => this.#fail(error));
  }

  #fail(error: Error): void {
    if (this.#failure || this.#closed) return;
    this.#failure = error;
    this.#endWatches(new Error("the store has failed", { cause: error }));
  }

  #endWatches(error?: Error): void {
    const watches = [...this.#watches];
    this.#watches.clear();
    for (const watch of watches) watch.sink.end(error);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#timer);
    this.#endWatches();
    if (!this.#failure) await this.#flushed();
    this.#journal.close();
    await this.#root.close();
    await this.#unlock();
  }
}

function before<V>(entry: Entry<V> | undefined): { previous?: V } {
  return entry ? { previous: entry.value } : {};
}
