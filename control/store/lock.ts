// One process at a time for a directory: two writers of one store would each think that they own its revisions.

import { createHash } from "node:crypto";
import { realpathSync } from "node:fs";
import { createServer } from "node:net";

export type Unlock = () => Promise<void>;

/**
 * Locks a directory by an abstract unix socket (unix(7)) named after it: the kernel gives it back when the process
 * ends, however it ends, and nothing stays on disk.
 * @throws Error when another store has it.
 */
export async function lockDirectory(path: string): Promise<Unlock> {
  const name = createHash("sha256").update(realpathSync(path)).digest("hex").slice(0, 32);
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) =>
      reject(error.code === "EADDRINUSE" ? new Error(`${path} is in use by another process`) : error),
    );
    server.listen(`\0kubeplumb-store-${name}`, resolve);
  });
  server.unref();
  return () =>
    new Promise((resolve) => {
      server.close(() => resolve());
    });
}
