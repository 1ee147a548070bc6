// The log file of one run of one container: written in batches, rotated by size, read and followed by the kubelet
// API. Knows files, nothing of containers.

import { appendFileSync, mkdirSync, readFileSync, renameSync, statSync } from "node:fs";
import { dirname } from "node:path";
import {
  formatEntry,
  LineSplitter,
  type LogEntry,
  type LogOptions,
  logTime,
  renderEntry,
  type StreamName,
  selectEntries,
  wanted,
} from "./log-format.js";

/** The kubelet's containerLogMaxSize: 10 Mi. One older file is kept beside it. */
const LARGEST_BYTES = 10 * 1024 * 1024;
/** How long lines may wait in memory for others to share a write. */
const BATCH_MS = 20;

export class ContainerLog {
  readonly path: string;
  readonly #failed: (error: Error) => void;
  readonly #splitters: Record<StreamName, LineSplitter>;
  readonly #followers = new Set<(entry: LogEntry) => void>();
  readonly #ended = new Set<() => void>();
  #batch = "";
  #timer: NodeJS.Timeout | undefined;
  #bytes: number | undefined;
  #closed = false;

  /** `failed` hears of lines that could not be written: a full disk costs lines, not the agent with all its pods. */
  constructor(path: string, failed: (error: Error) => void) {
    this.path = path;
    this.#failed = failed;
    const splitter = (stream: StreamName) =>
      new LineSplitter((text, tag) => this.#append({ time: logTime(new Date()), stream, tag, text }));
    this.#splitters = { stdout: splitter("stdout"), stderr: splitter("stderr") };
  }

  /** Bytes that the container wrote. */
  write(stream: StreamName, chunk: Buffer | string): void {
    this.#splitters[stream].write(chunk);
  }

  #append(entry: LogEntry): void {
    if (this.#closed) return;
    this.#batch += formatEntry(entry);
    this.#timer ??= setTimeout(() => this.flush(), BATCH_MS);
    for (const follower of this.#followers) follower(entry);
  }

  /** Brings what waits to the file. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (!this.#batch) return;
    const batch = this.#batch;
    this.#batch = "";
    try {
      this.#write(batch);
    } catch (error) {
      // The directory may have been taken away: it is made again for the next lines.
      this.#bytes = undefined;
      this.#failed(error as Error);
    }
  }

  #write(batch: string): void {
    if (this.#bytes === undefined) {
      mkdirSync(dirname(this.path), { recursive: true });
      this.#bytes = statSync(this.path, { throwIfNoEntry: false })?.size ?? 0;
    }
    if (this.#bytes > LARGEST_BYTES) {
      renameSync(this.path, `${this.path}.1`);
      this.#bytes = 0;
    }
    appendFileSync(this.path, batch);
    this.#bytes += Buffer.byteLength(batch);
  }

  /** The container has ended: nothing more comes. */
  close(): void {
    this.#splitters.stdout.end();
    this.#splitters.stderr.end();
    this.flush();
    this.#closed = true;
    for (const ended of this.#ended) ended();
    this.#ended.clear();
    this.#followers.clear();
  }

  /** The chosen lines so far, as a client gets them. */
  read(options: LogOptions): string {
    this.flush();
    return readLog(this.path, options);
  }

  /**
   * Gives every later line to `entry` and calls `end` when the container has ended (at once when it has already).
   * Nothing is lost between a {@link read} and this when both happen in one tick.
   */
  follow(options: LogOptions, entry: (text: string) => void, end: () => void): () => void {
    if (this.#closed) {
      end();
      return () => {};
    }
    const follower = (one: LogEntry) => {
      if (wanted(one, options)) entry(renderEntry(one, options.timestamps ?? false));
    };
    this.#followers.add(follower);
    this.#ended.add(end);
    return () => {
      this.#followers.delete(follower);
      this.#ended.delete(end);
    };
  }
}

/** The chosen lines of a log file; "" when there is none (a container that wrote nothing). */
export function readLog(path: string, options: LogOptions): string {
  const parts = [`${path}.1`, path].map((file) => {
    try {
      return readFileSync(file, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
      throw error;
    }
  });
  return selectEntries(parts.join(""), options)
    .map((entry) => renderEntry(entry, options.timestamps ?? false))
    .join("");
}
