// Brings the store's writes into LMDB in their order and in groups, and once more when LMDB could not take them (a full
// disk): until it has, they stay in memory for readers and in the journal for the next start. Knows records by revision,
// no keys.

import { statfsSync } from "node:fs";
import type { Database, RootDatabase } from "lmdb";
import { type FlushedWrite, openRecords, reasonOf } from "./recovery.js";

const RETRY_MS = 1000;

/**
 * Bytes that must be free for a write. LMDB is not to meet a full disk: where write(2) fails, lmdb 3.5.6 puts a message
 * of more than 100 characters into 100 bytes (mdb_page_flush), and the process may end of it.
 */
const RESERVE = 4 << 20;
/** Of a record: in the journal, in LMDB, and the pages that LMDB copies on the way to it. */
const COPIES = 4;
/** How long an answer of statfs(2) is good for. */
const ROOM_MS = 10;
/**
 * A transaction of LMDB costs as much as a small request, in its thread and in ours: what comes in so many milliseconds
 * shares one, unless it is as long as this. What waits is not seen in the space that is free: well below the RESERVE.
 */
const GROUP_MS = 50;
const GROUP_LENGTH = 256 << 10;

/** Bytes free on the disk of `path`. */
export function freeSpace(path: string): number {
  const { bavail, bsize } = statfsSync(path);
  return bavail * bsize;
}

/** @throws Error when there is no space for a write of so many bytes. */
export function checkSpace(free: number, bytes = 0): void {
  if (free < RESERVE + COPIES * bytes)
    throw new Error(
      `no space left on device: ${free} bytes are free, ${RESERVE + COPIES * bytes} are needed`,
    );
}

type Setting = "compacted" | "revision";

export class RecordWriter {
  readonly #path: string;
  readonly #root: RootDatabase<string, string>;
  readonly #records: Database<string, number>;
  /** What LMDB has not committed, so that its readers do not see it; undefined: a record to be removed. */
  readonly #pending = new Map<number, string | undefined>();
  /** Of the pending ones, those that are not yet on their way. */
  #group: number[] = [];
  #groupLength = 0;
  #groupTimer: NodeJS.Timeout | undefined;
  readonly #settings = new Map<Setting, string>();
  readonly #flushing = new Set<Promise<unknown>>();
  #newest: Promise<unknown> = Promise.resolve();
  #failure: Error | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Bytes free, as far as known, and when that was asked. */
  #room = { bytes: 0, at: Number.NEGATIVE_INFINITY };

  /** `path` is a directory on the disk that LMDB writes to. */
  constructor(path: string, root: RootDatabase<string, string>) {
    this.#path = path;
    this.#root = root;
    this.#records = openRecords(root);
  }

  /** Why LMDB took no writes the last time; undefined when it has taken all. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** The text of a record, undefined when there is none. */
  get(revision: number): string | undefined {
    if (this.#pending.has(revision)) return this.#pending.get(revision);
    const text = this.#records.get(revision);
    if (text !== undefined) return text;
    // LMDB's reader may still stand on the snapshot of before the newest commit.
    this.#root.resetReadTxn();
    return this.#records.get(revision);
  }

  /** Before a write of so many bytes. @throws Error when there is no space for it. */
  checkSpace(bytes = 0): void {
    const now = performance.now();
    if (now - this.#room.at > ROOM_MS) this.#room = { bytes: freeSpace(this.#path), at: now };
    checkSpace(this.#room.bytes, bytes);
    this.#room.bytes -= COPIES * bytes;
  }

  put(revision: number, text: string): void {
    this.#send(revision, text);
  }

  remove(revision: number): void {
    this.#send(revision, undefined);
  }

  /** After the records so far, and before those to come. */
  set(name: Setting, value: string): void {
    this.#sendGroup();
    this.#settings.set(name, value);
    const write = this.#root.put(name, value);
    this.#follow(write, () => this.#settings.get(name) === value && this.#settings.delete(name));
  }

  #send(revision: number, text: string | undefined): void {
    this.#pending.set(revision, text);
    this.#group.push(revision);
    this.#groupLength += text?.length ?? 0;
    if (this.#groupLength > GROUP_LENGTH) this.#sendGroup();
    else this.#groupTimer ??= setTimeout(() => this.#sendGroup(), GROUP_MS);
  }

  #sendGroup(): void {
    clearTimeout(this.#groupTimer);
    this.#groupTimer = undefined;
    const group = this.#group.splice(0).map((revision) => ({ revision, text: this.#pending.get(revision) }));
    this.#groupLength = 0;
    if (group.length === 0) return;
    const write = this.#root.batch(() => {
      for (const { revision, text } of group)
        if (text === undefined) this.#records.remove(revision);
        else this.#records.put(revision, text);
    });
    this.#follow(write, () => {
      for (const { revision, text } of group)
        if (this.#pending.get(revision) === text) this.#pending.delete(revision);
    });
  }

  /**
   * Follows a write of LMDB until its thread has nothing more to do. Waiting only for the database's own `flushed`
   * is not enough before a close: it names the newest batch, and the thread of an earlier one may still be running.
   */
  #follow(write: Promise<boolean>, committed: () => void): void {
    this.#newest = write;
    const { flushed } = write as FlushedWrite;
    const known = flushed === undefined || this.#flushing.has(flushed);
    if (!known) {
      this.#flushing.add(flushed);
      flushed.then(() => this.#flushing.delete(flushed));
    }
    write.then(committed, (error: Error) => {
      // Of a batch that was not committed nothing is flushed, ever.
      if (flushed) this.#flushing.delete(flushed);
      this.#fail(error);
      void reasonOf(error).then((reason) => {
        if (this.#failure === error) this.#failure = reason;
      });
    });
  }

  /** Resolves when all writes so far are committed. Throws why they cannot be. */
  async committed(): Promise<void> {
    this.#sendGroup();
    await this.#newest.catch(() => undefined);
    if (this.#failure) throw this.#failure;
  }

  /** Resolves when all writes so far are on disk. Throws why they cannot be. */
  async flushed(): Promise<void> {
    this.#sendGroup();
    const flushing = [...this.#flushing];
    await this.committed();
    await Promise.all(flushing);
  }

  #fail(error: Error): void {
    this.#failure = error;
    this.#timer ??= setTimeout(() => void this.#retry(), RETRY_MS).unref();
  }

  /** All of it again, in order: what LMDB has taken meanwhile is no longer pending. */
  async #retry(): Promise<void> {
    if (freeSpace(this.#path) < RESERVE) {
      this.#timer = setTimeout(() => void this.#retry(), RETRY_MS).unref();
      return;
    }
    this.#group = [];
    for (const [revision, text] of this.#pending) this.#send(revision, text);
    for (const [name, value] of this.#settings) this.set(name, value);
    this.#sendGroup();
    await this.#newest.catch(() => undefined);
    this.#timer = undefined;
    if (this.#pending.size === 0 && this.#settings.size === 0) this.#failure = undefined;
    else if (this.#failure) this.#fail(this.#failure);
  }

  /** Lets go of LMDB when its threads are done; what could not be written is in the journal. */
  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#sendGroup();
    await this.#newest.catch(() => undefined);
    await Promise.all(this.#flushing);
    await this.#root.close();
  }
}
