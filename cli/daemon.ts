// What the long-running commands (control, node) have in common: a log for people, signs to systemd, an orderly end.

import { createLogger, type Logger } from "../common/log.js";
import { sdNotify } from "../dataplane/kernel/sd-notify.js";
import type { Context } from "./command.js";
import { formatLogLine } from "./log-format.js";

/** Lines as `kubeplumb logs` shows them, to stderr: the journal's, under systemd. */
export function daemonLog(name: string, { noteStyle }: Context): Logger {
  return createLogger(name, { format: (line) => `${formatLogLine(line.trimEnd(), noteStyle)}\n` });
}

/**
 * Tells systemd that the service is ready, waits until it is asked to end or `failed` rejects, and tells that it ends.
 * @throws what `failed` rejects with.
 */
export async function serveUntilAsked(
  { signal }: Context,
  log: Logger,
  failed: Promise<never> = new Promise(() => {}),
): Promise<void> {
  sdNotify("READY=1");
  try {
    await Promise.race([failed, aborted(signal)]);
    log.info({ reason: (signal.reason as Error).message }, "ending");
  } finally {
    sdNotify("STOPPING=1");
  }
}

export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((done) => signal.addEventListener("abort", () => done(), { once: true }));
}
