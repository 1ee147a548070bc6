// The bearer token of a connection: fixed, or in a file that its issuer renews (a service account's token).
// Knows files and time, no connection.

import { readFileSync } from "node:fs";
import type { ServerOptions } from "./kubeconfig.js";

/** client-go looks at a token file once a minute; a token lives an hour. */
const REREAD_MS = 60_000;

/**
 * Gives the token to send now; undefined when the connection has none. A file that cannot be read later leaves the
 * token that was read before, and before that `token`.
 * @throws Error ENOENT, EACCES when the file cannot be read at the start and there is no `token`.
 */
export function tokenSource(
  { token, tokenFile }: Pick<ServerOptions, "token" | "tokenFile">,
  now: () => number = Date.now,
): (() => string | undefined) | undefined {
  if (!tokenFile) return token ? () => token : undefined;
  let current = token;
  let readAt = Number.NEGATIVE_INFINITY;
  const read = () => {
    readAt = now();
    try {
      current = readFileSync(tokenFile, "utf8").trim() || current;
    } catch (error) {
      if (current === undefined) throw error;
    }
    return current;
  };
  read();
  return () => (now() - readAt >= REREAD_MS ? read() : current);
}
