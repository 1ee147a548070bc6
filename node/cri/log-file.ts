// The log of a container that a runtime writes: read, followed while it grows, and given a new file when it has grown
// large. Knows files in the CRI format, no runtime.

import { closeSync, fstatSync, openSync, readFileSync, readSync, renameSync, statSync } from "node:fs";
import { type LogOptions, parseEntry, renderEntry, selectEntries, wanted } from "../kubelet/log-format.js";

/** The kubelet's containerLogMaxSize: 10 Mi. One older file is kept beside it. */
const LARGEST_BYTES = 10 * 1024 * 1024;
/** How often a log that is followed is looked at. */
const LOOK_MS = 100;
const CHUNK = 64 << 10;
const NEWLINE = 10;

/** Up to where a file has been read: the file itself may be another one by now. */
interface Place {
  inode: number;
  bytes: number;
}

export class LogFile {
  readonly path: string;
  #read: Place = { inode: 0, bytes: 0 };

  constructor(path: string) {
    this.path = path;
  }

  /** The chosen lines so far; "" while the runtime has made no file. */
  read(options: LogOptions): string {
    const older = contents(`${this.path}.1`);
    const newer = contents(this.path);
    this.#read = newer.place;
    return selectEntries(older.text + newer.text, options)
      .map((entry) => renderEntry(entry, options.timestamps ?? false))
      .join("");
  }

  /** Every line after the last {@link read}; `end` is called when all is told after `over` has resolved. */
  follow(
    options: LogOptions,
    over: Promise<unknown>,
    entry: (text: string) => void,
    end: () => void,
  ): () => void {
    const tail = new Tail(this.path, this.#read);
    let stopped = false;
    const look = () => {
      for (const line of tail.lines()) {
        const one = parseEntry(line);
        if (!stopped && one && wanted(one, options)) entry(renderEntry(one, options.timestamps ?? false));
      }
    };
    const timer = setInterval(look, LOOK_MS);
    const stop = () => {
      stopped = true;
      clearInterval(timer);
      tail.close();
    };
    void over.then(() => {
      if (stopped) return;
      look();
      stop();
      end();
    });
    return stop;
  }

  /** Puts a log that has grown large aside; true: the runtime is to open a new one. */
  rotate(): boolean {
    const size = statSync(this.path, { throwIfNoEntry: false })?.size ?? 0;
    if (size <= LARGEST_BYTES) return false;
    renameSync(this.path, `${this.path}.1`);
    return true;
  }
}

/** Whole lines only: what follows has no end yet. */
function contents(path: string): { text: string; place: Place } {
  try {
    const fd = openSync(path, "r");
    try {
      const bytes = readFileSync(fd);
      const end = bytes.lastIndexOf(NEWLINE) + 1;
      const place = { inode: fstatSync(fd).ino, bytes: end };
      return { text: bytes.subarray(0, end).toString("utf8"), place };
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return { text: "", place: { inode: 0, bytes: 0 } };
  }
}

/** Reads on in a file, and in the one that takes its place. */
class Tail {
  readonly #path: string;
  #fd: number | undefined;
  #at = 0;
  #rest = Buffer.alloc(0);

  constructor(path: string, from: Place) {
    this.#path = path;
    for (const candidate of [path, `${path}.1`]) {
      this.#fd = opened(candidate);
      if (this.#fd !== undefined && isFile(this.#fd, from.inode)) {
        this.#at = from.bytes;
        return;
      }
      this.close();
    }
  }

  /** Those that have come since the last time. */
  *lines(): Generator<string> {
    yield* this.#linesOfOpen();
    const now = statSync(this.#path, { throwIfNoEntry: false });
    if (!now || (this.#fd !== undefined && isFile(this.#fd, now.ino))) return;
    // What was written between the look and the change of the file.
    yield* this.#linesOfOpen();
    this.close();
    this.#fd = opened(this.#path);
    this.#at = 0;
    yield* this.#linesOfOpen();
  }

  *#linesOfOpen(): Generator<string> {
    if (this.#fd === undefined) return;
    const chunk = Buffer.alloc(CHUNK);
    for (let n = readSync(this.#fd, chunk, 0, CHUNK, this.#at); n > 0; ) {
      this.#at += n;
      this.#rest = Buffer.concat([this.#rest, chunk.subarray(0, n)]);
      const end = this.#rest.lastIndexOf(NEWLINE);
      if (end >= 0) {
        yield* this.#rest.subarray(0, end).toString("utf8").split("\n");
        this.#rest = this.#rest.subarray(end + 1);
      }
      // A reader may have stopped it between two lines.
      if (this.#fd === undefined) return;
      n = readSync(this.#fd, chunk, 0, CHUNK, this.#at);
    }
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

function opened(path: string): number | undefined {
  try {
    return openSync(path, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return undefined;
  }
}

const isFile = (fd: number, inode: number): boolean => fstatSync(fd).ino === inode;
