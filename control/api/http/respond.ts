// Writing answers: JSON or YAML documents, Status errors, and long lists piece by piece so that ten thousand objects
// do not stop the process.

import type { IncomingMessage, ServerResponse } from "node:http";
import { stringify } from "yaml";
import { StatusError } from "../../../common/client.js";
import type { Logger } from "../../../common/log.js";
import { StoreUnavailable } from "../../store/store.js";
import { textOf } from "../codec.js";
import { internalError, serviceUnavailable } from "../status.js";

/** Objects turned into text between two turns of the event loop. */
const CHUNK = 250;

export interface Reply {
  res: ServerResponse;
  format: "json" | "yaml";
  pretty: boolean;
}

/** RFC 7234 warn-text: quotes and backslashes escaped, nothing outside of printable ASCII in a header. */
function warningHeader(text: string): string {
  const safe = text.replace(/[^\x20-\x7e]/g, "?").replace(/["\\]/g, "\\$&");
  return `299 - "${safe}"`;
}

/** Tells the client, beside what the answer will be. */
export function warn(res: ServerResponse, warnings: readonly string[]): void {
  if (warnings.length > 0) res.appendHeader("Warning", warnings.map(warningHeader));
}

export function render(value: unknown, format: "json" | "yaml", pretty: boolean): string {
  if (format === "yaml") return stringify(value, { aliasDuplicateObjects: false });
  if (pretty || typeof value !== "object" || value === null)
    return `${JSON.stringify(value, null, pretty ? 2 : 0)}\n`;
  return `${textOf(value)}\n`;
}

export function sendText(
  res: ServerResponse,
  code: number,
  contentType: string,
  text: string | Uint8Array,
): void {
  res.writeHead(code, {
    "Content-Type": contentType,
    "Content-Length": typeof text === "string" ? Buffer.byteLength(text) : text.length,
    "Cache-Control": "no-cache, private",
  });
  res.end(res.req?.method === "HEAD" ? undefined : text);
}

export function send(reply: Reply, code: number, value: unknown, contentType?: string): void {
  const { res, format, pretty } = reply;
  sendText(res, code, contentType ?? `application/${format}`, render(value, format, pretty));
}

/** Any error as a Status; what is not an API error is our fault, and logged. */
export function statusOf(error: unknown, log: Logger): StatusError {
  if (error instanceof StatusError) return error;
  if (error instanceof StoreUnavailable) return serviceUnavailable(error.message);
  log.error({ err: error }, "request failed");
  return internalError(error instanceof Error ? error.message : String(error));
}

export function sendError(req: IncomingMessage, res: ServerResponse, error: unknown, log: Logger): void {
  const { status } = statusOf(error, log);
  if (res.headersSent || res.destroyed) {
    // Too late for a status: a cut connection tells the client that the answer is not whole.
    res.destroy();
    return;
  }
  if (!req.complete) res.setHeader("Connection", "close");
  const after = status.details?.retryAfterSeconds;
  if (after !== undefined) res.setHeader("Retry-After", String(after));
  sendText(res, status.code, "application/json", `${JSON.stringify(status)}\n`);
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Waits until the client has taken what was written; false when it has gone away. */
async function drained(res: ServerResponse): Promise<boolean> {
  if (res.destroyed) return false;
  if (!res.writableNeedDrain) return true;
  await new Promise<void>((resolve) => {
    const done = (): void => {
      res.off("drain", done);
      res.off("close", done);
      resolve();
    };
    res.on("drain", done);
    res.on("close", done);
  });
  return !res.destroyed;
}

/** A list, streamed: `head` is the list without its items. */
export async function sendList(res: ServerResponse, head: object, items: readonly object[]): Promise<void> {
  const text = JSON.stringify(head).slice(0, -1);
  if (items.length <= CHUNK) {
    sendText(res, 200, "application/json", `${text},"items":${JSON.stringify(items)}}\n`);
    return;
  }
  res.writeHead(200, { "Content-Type": "application/json", "Cache-Control": "no-cache, private" });
  res.write(`${text},"items":[`);
  for (let i = 0; i < items.length; i += CHUNK) {
    const part = JSON.stringify(items.slice(i, i + CHUNK)).slice(1, -1);
    res.write(i === 0 ? part : `,${part}`);
    await nextTurn();
    if (!(await drained(res))) return;
  }
  res.end("]}\n");
}
