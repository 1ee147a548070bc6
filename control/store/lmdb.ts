// The store in one machine: LMDB holds every kept revision as one record (an append to its B-tree), a journal makes
// a write survive kill -9 before LMDB has committed it, and decoded current values stay in memory for readers.

import { mkdirSync } from "node:fs";
import { open, type RootDatabase } from "lmdb";
import { Journal, readJournal } from "./journal.js";
import { lockDirectory, type Unlock } from "./lock.js";
import { formatRecord, type HistoryRecord, parseRecord } from "./record.js";
import { openRecords, recover } from "./recovery.js";
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
  StoreWriteError,
  type Watch,
  type WatchSink,
} from "./store.js";
import { checkSpace, freeSpace, RecordWriter } from "./writer.js";

export interface LmdbStoreOptions<V> {
  /** A directory of this store's own; made with mode 0700. */
  path: string;
  codec: Codec<V>;
  /** Milliseconds for which history is kept. */
  historyMs?: number;
  /** Revisions kept at most, whatever their age. */
  historyLimit?: number;
  /**
   * A write is acknowledged, and watchers hear of it, when it is on disk: it survives a power cut. Default false: it
   * survives the end of the process (kill -9), and costs no wait.
   */
  sync?: boolean;
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
  readonly #records: RecordWriter;
  readonly #journal: Journal;
  readonly #unlock: Unlock;
  readonly #codec: Codec<V>;
  readonly #historyMs: number;
  readonly #historyLimit: number;
  readonly #sync: boolean;
  readonly #entries = new SortedMap<Entry<V>>();
  readonly #watches = new Set<OpenWatch<V>>();
  readonly #timer: NodeJS.Timeout;
  #checkpoints: { at: number; revision: number }[] = [];
  #revision: number;
  #compacted: number;
  #burst = 0;
  #closed = false;
  /** Why the disk did not take the journal; nothing is written any more then, since nobody knows what is there. */
  #syncFailure: Error | undefined;

  private constructor(
    root: RootDatabase<string, string>,
    options: LmdbStoreOptions<V>,
    journal: Journal,
    unlock: Unlock,
  ) {
    this.#unlock = unlock;
    this.#records = new RecordWriter(options.path, root);
    this.#journal = journal;
    this.#codec = options.codec;
    this.#historyMs = options.historyMs ?? 5 * 60_000;
    this.#historyLimit = options.historyLimit ?? 20_000;
    this.#sync = options.sync ?? false;
    // An empty store is at revision 1, as in etcd, and has no record of it.
    this.#compacted = Math.max(1, Number(root.get("compacted") ?? "0"));
    this.#revision = Math.max(1, Number(root.get("revision") ?? "0"));
    this.#load(root);
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
    checkSpace(freeSpace(options.path));
    const root = open<string, string>({
      path: options.path,
      encoding: "string",
      noSubdir: false,
      maxDbs: 4,
      separateFlushed: true,
      // The instruction that begins a batch has a promise that nobody is given, and so nobody can hear reject.
      eventTurnBatching: false,
    });
    const format = root.get("format");
    if (format === undefined) root.putSync("format", FORMAT);
    else if (format !== FORMAT)
      throw new Error(`${options.path}: store format is ${format}, this version reads only ${FORMAT}`);
    const paths = Journal.paths(options.path);
    const journaled = paths.flatMap((path) => readJournal(path)).sort((a, b) => a.revision - b.revision);
    await recover(root, journaled);
    return new LmdbStore(root, options, Journal.create(options.path, { reserve: options.sync }), unlock);
  }

  #load(root: RootDatabase<string, string>): void {
    const live = new Map<string, HistoryRecord>();
    for (const { key, value } of openRecords(root).getRange({})) {
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
    const data = this.#records.get(revision);
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
    return this.#syncFailure ?? this.#records.failure;
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
    if (this.#sync) await this.#synced();
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
    if (this.#sync) await this.#synced();
    this.#dispatch({ type: "delete", key, revision, createRevision, value, ...before(previous) });
    return { key, revision, createRevision, value };
  }

  #expect(key: string, expected: number | undefined): Entry<V> | undefined {
    if (this.#closed) throw new Error("the store is closed");
    const failure = this.failure();
    if (failure) throw new StoreWriteError(failure);
    const entry = this.#entries.get(key);
    const actual = entry?.revision ?? 0;
    if (expected !== undefined && expected !== actual) throw new RevisionMismatch(key, expected, actual);
    return entry;
  }

  /** Makes a record durable against the end of the process; throws before anything has changed. */
  #append(record: HistoryRecord): void {
    const data = formatRecord(record);
    try {
      this.#records.checkSpace(data.length);
      this.#journal.append(record.revision, data);
    } catch (error) {
      throw new StoreWriteError(error as Error);
    }
    this.#revision = record.revision;
    this.#records.put(record.revision, data);
    this.#journal.rotate(() => this.#records.flushed());
  }

  /** Before a write is acknowledged. Who waits for the same moment goes on in the order of the writes. */
  #synced(): Promise<void> {
    return this.#journal.sync().catch((error: Error) => {
      this.#syncFailure = error;
      throw new StoreWriteError(error);
    });
  }

  #dispatch(event: StoreEvent<V>): void {
    for (const watch of this.#watches) {
      // A watch that began while the disk was waited for has had it as history.
      if (event.revision <= watch.progress) continue;
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
    // A record that LMDB has not taken yet is not to be forgotten: it would not be looked for in the journal.
    await this.#records.committed();
    if (this.#closed) return;
    this.#records.checkSpace();
    const obsolete = this.#history(this.#compacted, revision);
    this.#compacted = revision;
    this.#records.set("compacted", String(revision));
    // Tombstones go too, so the newest revision must be known without them.
    this.#records.set("revision", String(this.#revision));
    for (const record of obsolete) {
      // In this order: a value must never be left without the tombstone that follows it.
      if (record.previousRevision > 0) this.#records.remove(record.previousRevision);
      if (record.deleted) this.#records.remove(record.revision);
    }
    await this.#records.committed();
  }

  #age(): void {
    const now = Date.now();
    this.#checkpoints.push({ at: now, revision: this.#revision });
    let target = this.#revision - this.#historyLimit;
    while ((this.#checkpoints[0]?.at ?? now) < now - this.#historyMs)
      target = Math.max(target, this.#checkpoints.shift()?.revision ?? 0);
    // What cannot be compacted now (a full disk) is compacted the next time.
    this.compact(target).catch(() => undefined);
  }

  #endWatches(): void {
    const watches = [...this.#watches];
    this.#watches.clear();
    for (const watch of watches) watch.sink.end();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#timer);
    this.#endWatches();
    await this.#records.close();
    // A write may wait for it still; how that went is told to the writer.
    if (this.#sync) await this.#journal.sync().catch(() => undefined);
    this.#journal.close();
    await this.#unlock();
  }
}

function before<V>(entry: Entry<V> | undefined): { previous?: V } {
  return entry ? { previous: entry.value } : {};
}
