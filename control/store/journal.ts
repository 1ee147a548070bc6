// The write-ahead journal: each write is appended here before it is acknowledged, so that it outlives the process,
// and LMDB may take its time to commit and flush in groups. Knows records of (revision, text); knows no keys.

import { closeSync, fdatasync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { promisify } from "node:util";
import { crc32 } from "node:zlib";

export interface JournalRecord {
  revision: number;
  text: string;
}

/** Bytes after which a file is left for the other one. */
const ROTATE_BYTES = 4 << 20;
/** Of the longest header: three numbers of up to 16 digits. */
const HEADER_BYTES = 64;
/** Of the buffer that records are put together in; a longer record gets one of its own. */
const KEPT_BYTES = 64 << 10;

/**
 * Reads the records of a journal file, up to the first that is torn or damaged, or older than the one before it: what
 * follows was never acknowledged, was lost with the machine's power, or is of an earlier use of the file.
 */
export function readJournal(path: string): JournalRecord[] {
  let data: Buffer;
  try {
    data = readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
  const records: JournalRecord[] = [];
  let last = 0;
  for (let at = 0; at < data.length; ) {
    const newline = data.indexOf(10, at);
    if (newline < 0) break;
    const header = /^(\d+) (\d+) (\d+)$/.exec(data.toString("latin1", at, newline));
    if (!header) break;
    const [revision, length, sum] = [Number(header[1]), Number(header[2]), Number(header[3])];
    const body = data.subarray(newline + 1, newline + 1 + length);
    if (body.length !== length || crc32(body) !== sum || revision <= last) break;
    last = revision;
    records.push({ revision, text: body.toString("utf8") });
    at = newline + 1 + length;
  }
  return records;
}

interface JournalFile {
  fd: number;
  size: number;
  /** Something of it may not be on disk. */
  dirty: boolean;
}

const dataSync = promisify(fdatasync);

/** Gives an empty file its length. On a disk that is nearly full it goes without. */
function fill(fd: number): void {
  try {
    writeSync(fd, Buffer.alloc(ROTATE_BYTES), 0, ROTATE_BYTES, 0);
  } catch {
    ftruncateSync(fd, 0);
  }
}

/** Two files used in turn: one is written while the other waits for LMDB to have flushed all it holds. */
export class Journal {
  readonly #files: [JournalFile, JournalFile];
  #active = 0;
  #draining = false;
  /** The wait for the disk that is under way, and the one that comes after it. */
  #syncing: Promise<void> | undefined;
  #nextSync: Promise<void> | undefined;
  #buffer = Buffer.allocUnsafe(KEPT_BYTES);
  /** Whether files keep their length, so that a wait for the disk is for the records only. */
  readonly #reserve: boolean;

  private constructor(files: [JournalFile, JournalFile], reserve: boolean) {
    this.#files = files;
    this.#reserve = reserve;
  }

  static paths(dir: string): [string, string] {
    return [`${dir}/journal-a`, `${dir}/journal-b`];
  }

  /**
   * Starts with two empty files: what they held must have been read and flushed before. With `reserve`, for a journal
   * that is synced, they get their length now: a file that grows would make each wait one for the file system's own
   * journal too, and so for what everybody else writes.
   */
  static create(dir: string, { reserve = false } = {}): Journal {
    const [a, b] = Journal.paths(dir).map((path) => {
      const fd = openSync(path, "w", 0o600);
      if (reserve) fill(fd);
      return { fd, size: 0, dirty: false };
    });
    // The names of the files, too, are to outlive a power cut.
    const folder = openSync(dir, "r");
    fsyncSync(folder);
    closeSync(folder);
    return new Journal([a as JournalFile, b as JournalFile], reserve);
  }

  /**
   * Appends; when it returns, the record is in the kernel's hands.
   * @throws the error of write(2); then nothing of the record stays in the file.
   */
  append(revision: number, text: string): void {
    // The header is put in front of the body when the body's length and sum are known.
    const most = HEADER_BYTES + 3 * text.length;
    if (this.#buffer.length < most) this.#buffer = Buffer.allocUnsafe(most);
    const buffer = this.#buffer;
    const length = buffer.write(text, HEADER_BYTES, "utf8");
    const end = HEADER_BYTES + length;
    const header = `${revision} ${length} ${crc32(buffer.subarray(HEADER_BYTES, end))}\n`;
    const start = HEADER_BYTES - header.length;
    buffer.write(header, start, "latin1");
    const file = this.#files[this.#active] as JournalFile;
    try {
      for (let at = start; at < end; ) at += writeSync(file.fd, buffer, at, end - at, file.size + at - start);
    } catch (error) {
      ftruncateSync(file.fd, file.size);
      throw error;
    }
    file.size += end - start;
    file.dirty = true;
    if (buffer.length > KEPT_BYTES) this.#buffer = Buffer.allocUnsafe(KEPT_BYTES);
  }

  /**
   * Resolves when all records so far are on disk. Who comes while the disk is waited for shares the next wait: many
   * writers cost no more than one. Rejects with the error of fdatasync(2); what is on disk is unknown then.
   */
  sync(): Promise<void> {
    this.#nextSync ??= (this.#syncing ?? Promise.resolve()).then(() => {
      this.#syncing = this.#nextSync;
      this.#nextSync = undefined;
      return this.#syncFiles();
    });
    return this.#nextSync;
  }

  async #syncFiles(): Promise<void> {
    for (const file of this.#files) {
      if (!file.dirty) continue;
      file.dirty = false;
      await dataSync(file.fd);
    }
  }

  /**
   * Changes files when the active one is long; `flushed` tells when all records so far are safe elsewhere. If they
   * cannot be, the file keeps them, and is written on when it is its turn again.
   */
  rotate(flushed: () => Promise<unknown>): void {
    const file = this.#files[this.#active] as JournalFile;
    if (this.#draining || file.size < ROTATE_BYTES) return;
    this.#draining = true;
    this.#active ^= 1;
    flushed()
      .then(() => {
        this.#empty(file);
      })
      .catch(() => undefined)
      .finally(() => {
        this.#draining = false;
      });
  }

  #empty(file: JournalFile): void {
    if (this.#reserve) writeSync(file.fd, "\0", 0);
    ftruncateSync(file.fd, this.#reserve ? ROTATE_BYTES : 0);
    file.size = 0;
  }

  close(): void {
    for (const file of this.#files) closeSync(file.fd);
  }
}
