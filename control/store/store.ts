// The storage interface of the control plane, in the words of etcd: one revision counter for everything, writes with
// an expected revision, ranges at an old revision, watches from one. Knows keys and revisions, nothing of Kubernetes.

/** A key's current (or former) value. Values are immutable and shared between all readers. */
export interface Entry<V> {
  readonly key: string;
  readonly value: V;
  /** Revision of the write that made this value (etcd's mod_revision). */
  readonly revision: number;
  /** Revision of the write that made the key (etcd's create_revision). */
  readonly createRevision: number;
}

export interface StoreEvent<V> {
  readonly type: "put" | "delete";
  readonly key: string;
  readonly revision: number;
  /** The new value; for a delete the last one, stamped with the revision of the delete. */
  readonly value: V;
  readonly createRevision: number;
  /** What was there before; absent for a key that is new. */
  readonly previous?: V;
}

export interface RangeOptions {
  /** At most so many entries; 0 or absent: all. */
  limit?: number;
  /** Only keys greater than this one. */
  after?: string;
  /** The state as it was at this revision; absent: now. */
  revision?: number;
}

export interface RangeResult<V> {
  /** In key order. */
  entries: Entry<V>[];
  /** The revision that this is the state of. */
  revision: number;
  /** Keys of the range after the last entry given. */
  remaining: number;
}

export interface WatchSink<V> {
  /**
   * Called once for each event, in the order of revisions; those of the past before `watch` has returned. Must
   * only take the event down: it runs inside the writer's call.
   */
  event(event: StoreEvent<V>): void;
  /** The watch is over: the store was closed. */
  end(error?: Error): void;
}

export interface Watch {
  /** Every event up to and including this revision has been given to the sink. */
  readonly progress: number;
  /** No event is given after this call. */
  close(): void;
}

/** How values become text and back; `stamp` writes a revision into a value (a copy, frozen). */
export interface Codec<V> {
  encode(value: V): string;
  decode(text: string, revision: number): V;
  stamp(value: V, revision: number): V;
}

/** A right to write what rests on all that has been written; see {@link SharedStore.turn}. */
export interface Turn {
  readonly key: string;
  readonly expected: number;
}

export interface Store<V> {
  /** Present when other processes may write to it too. */
  readonly shared?: SharedStore;
  /** The revision of the newest write. */
  revision(): Promise<number>;
  get(key: string): Promise<Entry<V> | undefined>;
  /** @throws CompactedError when that revision is no longer kept, FutureRevisionError when it has not come yet. */
  range(prefix: string, options?: RangeOptions): Promise<RangeResult<V>>;
  /**
   * Writes; `expected` is the revision that the key must have (0: must not exist; absent: any).
   * Resolved means kept, also when the process is killed in the next moment. With `turn` it also ends that turn.
   * @throws RevisionMismatch; StoreWriteError when it cannot be kept now (a full disk)
   */
  put(key: string, value: V, expected?: number, turn?: Turn): Promise<Entry<V>>;
  /** @returns what was deleted, stamped with the revision of the delete. Throws as {@link put}. */
  delete(key: string, expected?: number): Promise<Entry<V>>;
  /**
   * Events after `from`, for keys that begin with `prefix`.
   * @throws CompactedError, FutureRevisionError
   */
  watch(prefix: string, from: number, sink: WatchSink<V>): Promise<Watch>;
  /** Forgets history up to `revision`; ranges and watches before it then throw CompactedError. */
  compact(revision: number): Promise<void>;
  /** Undefined while the store can be written to; else why not. Reads and watches go on meanwhile. */
  failure(): Error | undefined;
  close(): Promise<void>;
}

export interface SharedStore {
  /**
   * For what is decided from more than the key that is written (an address that nobody else has): of several puts with
   * the same turn one is done, the others throw RevisionMismatch with the turn's key. When it resolves, everything that
   * was put with the turns before has been given to this process's watches.
   */
  turn(name: string): Promise<Turn>;
}

/** The key does not have the revision that the writer expected. */
export class RevisionMismatch extends Error {
  override readonly name = "RevisionMismatch";

  constructor(
    readonly key: string,
    readonly expected: number,
    /** The revision it has; 0 when it does not exist. */
    readonly actual: number,
  ) {
    super(`${key}: expected revision ${expected}, found ${actual}`);
  }
}

/** The store cannot be asked now; the same may work later. */
export class StoreUnavailable extends Error {
  override readonly name: string = "StoreUnavailable";
}

/**
 * The write could not be kept: the same may work later, when there is space on the disk again. Nothing of it is kept,
 * unless the message says that this is not known (a store on another machine that did not answer).
 */
export class StoreWriteError extends StoreUnavailable {
  override readonly name = "StoreWriteError";

  constructor(cause: Error, hint = "is its disk full?") {
    super(`the store cannot be written to: ${cause.message}; ${hint}`, { cause });
  }
}

/** The revision asked for is older than the history that is kept. */
export class CompactedError extends Error {
  override readonly name = "CompactedError";

  constructor(
    readonly revision: number,
    /** The oldest revision that can be asked for. */
    readonly compacted: number,
  ) {
    super(`revision ${revision} has been compacted, the oldest kept is ${compacted}`);
  }
}

/** The revision asked for is newer than the newest write. */
export class FutureRevisionError extends Error {
  override readonly name = "FutureRevisionError";

  constructor(
    readonly revision: number,
    readonly current: number,
  ) {
    super(`revision ${revision} is in the future, the current one is ${current}`);
  }
}
