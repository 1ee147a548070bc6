// HTTP servers on unix sockets for tests of clients, and the answers of an API server. Knows nothing of what is served.

import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { Status } from "../../common/k8s.js";

/** Of this test file, gone at its end. */
export const directory = mkdtempSync(join(tmpdir(), "kp-client-"));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));

let sockets = 0;
/** A path for a socket that nobody has yet. */
export function freeSocket(): string {
  return join(directory, `${++sockets}.sock`);
}

/** An HTTP server on a unix socket of its own, gone with the test. */
export async function serve(
  test: { teardown(fn: () => unknown): unknown },
  handler: (req: IncomingMessage, res: ServerResponse, body: string) => void,
): Promise<{ server: Server; socketPath: string }> {
  const socketPath = freeSocket();
  const server = createServer((req, res) => {
    const chunks: Buffer[] = [];
    req.on("data", (chunk: Buffer) => chunks.push(chunk));
    req.on("end", () => handler(req, res, Buffer.concat(chunks).toString()));
  });
  server.listen(socketPath);
  await once(server, "listening");
  test.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { server, socketPath };
}

/** Answers with JSON, or with text as it is. */
export function reply(
  res: ServerResponse,
  code: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  res.writeHead(code, { "content-type": "application/json", ...headers });
  res.end(typeof body === "string" ? body : JSON.stringify(body));
}

/** What an API server says of a request that failed. */
export function failure(code: number, reason: string, message: string): Status {
  return { apiVersion: "v1", kind: "Status", metadata: {}, status: "Failure", reason, message, code };
}
