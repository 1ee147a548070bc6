// Logs: one pino logger a process, a child for each part. JSON lines to stderr or a file; nothing is pretty here.

import { openSync, writeSync } from "node:fs";
import { type Logger, pino } from "pino";

export type { Logger };

export interface LogOptions {
  /** trace, debug, info, warn, error, silent. Default: $KUBEPLUMB_LOG_LEVEL, else info. */
  level?: string;
  /** A file to append to; default stderr. Written synchronously, so that a crash loses nothing. */
  file?: string;
  /** What a line of JSON is written as; default as it is. */
  format?: (line: string) => string;
}

/** The root logger of a process; parts take `log.child({ part: "proxy", node: "node-1" })`. */
export function createLogger(name: string, options: LogOptions = {}): Logger {
  const level = options.level ?? process.env.KUBEPLUMB_LOG_LEVEL ?? "info";
  const fd = options.file === undefined ? 2 : openSync(options.file, "a", 0o600);
  const { format } = options;
  const writer = lineWriter(fd);
  const write = format ? (line: string) => writer(format(line)) : writer;
  return pino({ name, level, timestamp: pino.stdTimeFunctions.isoTime }, { write });
}

/**
 * A full disk or a closed pipe drops lines: none is worth the process. One that was begun is ended later, so that all
 * that is there is whole.
 */
function lineWriter(fd: number): (line: string) => void {
  let rest = new Uint8Array();
  const flush = () => {
    while (rest.length > 0) rest = rest.subarray(writeSync(fd, rest));
  };
  return (line) => {
    try {
      flush();
      rest = Buffer.from(line);
      flush();
    } catch {
      // There is nowhere to say it.
    }
  };
}

export const silentLogger: Logger = pino({ level: "silent" });
