// Logs: one pino logger a process, a child for each part. JSON lines to stderr or a file; nothing is pretty here.

import { type DestinationStream, type Logger, pino } from "pino";

export type { Logger };

export interface LogOptions {
  /** trace, debug, info, warn, error, silent. Default: $KUBEPLUMB_LOG_LEVEL, else info. */
  level?: string;
  /** A file to append to; default stderr. Written synchronously, so that a crash loses nothing. */
  file?: string;
}

/** The root logger of a process; parts take `log.child({ part: "proxy", node: "node-1" })`. */
export function createLogger(name: string, options: LogOptions = {}): Logger {
  const level = options.level ?? process.env.KUBEPLUMB_LOG_LEVEL ?? "info";
  const destination: DestinationStream = pino.destination({
    dest: options.file ?? 2,
    sync: true,
    mkdir: true,
  });
  return pino({ name, level, timestamp: pino.stdTimeFunctions.isoTime }, destination);
}

export const silentLogger: Logger = pino({ level: "silent" });
