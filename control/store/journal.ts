// The write-ahead journal: each write is appended here before it is acknowledged, so that it outlives the process,
// and LMDB may take its time to commit and flush in groups. Knows records of (revision, text); knows no keys.

import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { crc32 } from "node:zlib";

export interface JournalRecord {
  revision: number;
  text: string;
}

/** Bytes after which a file is left for the other one. */
const ROTATE_BYTES = 4 << 20;

/**
 * Reads the records of a journal file, up to the first that is torn or damaged: what follows was never
 * acknowledged, or was lost with the machine's power.
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
  for (let at = 0; at < data.length; ) {
    const newline = data.indexOf(10, at);
    if (newline < 0) break;
    const header = /^(\d+) (\d+) (\d+)$/.exec(data.toString("latin1", at, newline));
    if (!header) break;
    const [revision, length, sum] = [Number(header[1]), Number(header[2]), Number(header[3])];
    const body = data.subarray(newline + 1, newline + 1 + length);
    if (body.length !== length || crc32(body) !== sum) break;
    records.push({ revision, text: body.toString("utf8") });
    at = newline + 1 + length;
  }
  return records;
}

interface JournalFile {
  fd: number;
  size: number;
}

/** Two files used in turn: one is written while the other waits for LMDB to have flushed all it holds. */
export class Journal {
  readonly #files: [JournalFile, JournalFile];
  #active = 0;
  #draining = false;

  private constructor(files: [JournalFile, JournalFile]) {
    this.#files = files;
  }

  static paths(dir: string): [string, string] {
    return [`${dir}/journal-a`, `${dir}/journal-b`];
  }

  /** Starts with two empty files: what they held must have been read and flushed before. */
  static create(dir: string): Journal {
    const [a, b] = Journal.paths(dir).map((path) => ({ fd: openSync(path, "w", 0o600), size: 0 }));
    return new Journal([a as JournalFile, b as JournalFile]);
  }

  /**
   * Appends; when it returns, the record is in the kernel's hands.
   * @throws the error of write(2); then nothing of the record stays in the file.
   */
  append(revision: number, text: string): void {
    const body = Buffer.from(text, "utf8");
    const header = Buffer.from(`${revision} ${body.length} ${crc32(body)}\n`, "latin1");
    const record = Buffer.concat([header, body]);
    const file = this.#files[this.#active] as JournalFile;
    let written = 0;
    try {
      while (written < record.length)
        written += writeSync(file.fd, record, written, record.length - written, file.size + written);
    } catch (error) {
      ftruncateSync(file.fd, file.size);
      throw error;
    }
    file.size += record.length;
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
        ftruncateSync(file.fd, 0);
        file.size = 0;
      })
      .catch(() => undefined)
      .finally(() => {
        this.#draining = false;
      });
  }

  close(): void {
    for (const file of this.#files) closeSync(file.fd);
  }
}
