// Container log lines in the CRI format (kubernetes/cri-api: "time stream tag text") and the selections that
// `kubectl logs` makes from them. Pure.

/** F: a full line; P: a piece of one, the rest follows. */
export type Tag = "F" | "P";
export type StreamName = "stdout" | "stderr";

export interface LogEntry {
  /** RFC 3339 with nanoseconds. */
  time: string;
  stream: StreamName;
  tag: Tag;
  text: string;
}

/** RFC 3339 with the nine decimals that the CRI format has; the clock gives three of them. */
export function logTime(now: Date): string {
  return now.toISOString().replace("Z", "000000Z");
}

export function formatEntry(entry: LogEntry): string {
  return `${entry.time} ${entry.stream} ${entry.tag} ${entry.text}\n`;
}

/** One line of a log file; undefined when it is no such line. */
export function parseEntry(line: string): LogEntry | undefined {
  const match = /^(\S+) (stdout|stderr) ([FP])(?::\S+)? (.*)$/s.exec(line);
  if (!match) return undefined;
  const [, time = "", stream = "stdout", tag = "F", text = ""] = match;
  return { time, stream: stream as StreamName, tag: tag as Tag, text };
}

/** PodLogOptions, as far as they choose lines. */
export interface LogOptions {
  /** The last so many lines. */
  tailLines?: number;
  /** Epoch milliseconds: lines from then on. */
  since?: number;
  timestamps?: boolean;
  limitBytes?: number;
  stream?: StreamName;
}

/** What a reader gets for an entry. */
export function renderEntry(entry: LogEntry, timestamps: boolean): string {
  return `${timestamps ? `${entry.time} ` : ""}${entry.text}${entry.tag === "F" ? "\n" : ""}`;
}

/** Whether an entry is wanted by time and stream. */
export function wanted(entry: LogEntry, options: LogOptions): boolean {
  if (options.stream && entry.stream !== options.stream) return false;
  return options.since === undefined || Date.parse(entry.time) >= options.since;
}

/** The lines of a whole file that `options` choose, oldest first; limitBytes is the writer's business. */
export function selectEntries(file: string, options: LogOptions): LogEntry[] {
  const entries = file.split("\n").flatMap((line) => {
    const entry = parseEntry(line);
    return entry && wanted(entry, options) ? [entry] : [];
  });
  if (options.tailLines === undefined) return entries;
  let lines = 0;
  let from = entries.length;
  while (from > 0) {
    // A line may come in pieces: it is counted at its last one.
    const entry = entries[from - 1];
    if (entry?.tag === "F" || from === entries.length) lines++;
    if (lines > options.tailLines) break;
    from--;
  }
  return entries.slice(from);
}

/** Cuts a byte stream into lines; what has no newline yet is kept, and handed out as P at the end or at 16 KiB. */
export class LineSplitter {
  #rest = "";
  readonly #decoder = new TextDecoder();
  readonly #emit: (text: string, tag: Tag) => void;
  static readonly LONGEST = 16 * 1024;

  constructor(emit: (text: string, tag: Tag) => void) {
    this.#emit = emit;
  }

  write(chunk: Buffer | string): void {
    const text = typeof chunk === "string" ? chunk : this.#decoder.decode(chunk, { stream: true });
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#line(line);
    while (this.#rest.length > LineSplitter.LONGEST) {
      this.#emit(this.#rest.slice(0, LineSplitter.LONGEST), "P");
      this.#rest = this.#rest.slice(LineSplitter.LONGEST);
    }
  }

  #line(line: string): void {
    let from = 0;
    for (; line.length - from > LineSplitter.LONGEST; from += LineSplitter.LONGEST) {
      this.#emit(line.slice(from, from + LineSplitter.LONGEST), "P");
    }
    this.#emit(line.slice(from), "F");
  }

  end(): void {
    if (this.#rest) this.#emit(this.#rest, "P");
    this.#rest = "";
  }
}

const DECIMAL = /^\d+$/;

/**
 * The query of /containerLogs, checked.
 * @throws RangeError naming parameter, value and what is allowed.
 */
export function parseLogQuery(
  query: URLSearchParams,
  now: number,
): LogOptions & { follow: boolean; previous: boolean } {
  const number = (name: string, least: number): number | undefined => {
    const value = query.get(name);
    if (value === null || value === "") return undefined;
    if (!DECIMAL.test(value) || Number(value) < least) {
      throw new RangeError(`${name}: "${value}" is not a whole number of at least ${least}`);
    }
    return Number(value);
  };
  const flag = (name: string): boolean => ["1", "true"].includes(query.get(name)?.toLowerCase() ?? "");
  const sinceSeconds = number("sinceSeconds", 1);
  const sinceTime = query.get("sinceTime");
  if (sinceTime && sinceSeconds !== undefined) {
    throw new RangeError("at most one of sinceTime or sinceSeconds may be specified");
  }
  const sinceAt = sinceTime ? Date.parse(sinceTime) : undefined;
  if (Number.isNaN(sinceAt)) throw new RangeError(`sinceTime: "${sinceTime}" is not an RFC 3339 time`);
  return {
    tailLines: number("tailLines", 0),
    limitBytes: number("limitBytes", 1),
    since: sinceSeconds === undefined ? sinceAt : now - sinceSeconds * 1000,
    timestamps: flag("timestamps"),
    follow: flag("follow"),
    previous: flag("previous"),
  };
}
