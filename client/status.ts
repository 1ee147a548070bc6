// Turns an error answer into a StatusError: the Status the server sent, or one made of what it sent instead.
// Knows HTTP status codes and meta/v1 Status. Pure.

import { STATUS_CODES } from "node:http";
import { StatusError } from "../common/client.js";
import type { Status } from "../common/k8s.js";

/** meta/v1 StatusReason by HTTP status, for answers that carry no Status (a proxy's, another server's). */
const REASONS: Record<number, string> = {
  400: "BadRequest",
  401: "Unauthorized",
  403: "Forbidden",
  404: "NotFound",
  405: "MethodNotAllowed",
  406: "NotAcceptable",
  409: "Conflict",
  410: "Gone",
  413: "RequestEntityTooLarge",
  415: "UnsupportedMediaType",
  422: "Invalid",
  429: "TooManyRequests",
  500: "InternalError",
  503: "ServiceUnavailable",
  504: "Timeout",
};

/** How much of an unexpected body is shown. */
const SHOWN_CHARACTERS = 200;

/** Whether `value` is a meta/v1 Status. */
export function isStatus(value: unknown): value is Status {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "Status";
}

/** @param what the request, for the message of an answer without Status: "GET /api/v1/pods". */
export function statusError(what: string, code: number, body: string): StatusError {
  let parsed: unknown;
  try {
    parsed = JSON.parse(body);
  } catch {
    // Not JSON: told below, with the text itself.
  }
  if (isStatus(parsed)) return new StatusError({ ...parsed, code: parsed.code ?? code });
  const text = body.trim().replaceAll(/\s+/g, " ");
  const shown = text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)}…` : text;
  return new StatusError({
    apiVersion: "v1",
    kind: "Status",
    metadata: {},
    status: "Failure",
    reason: REASONS[code] ?? "Unknown",
    message: `${what}: HTTP ${code} ${STATUS_CODES[code] ?? ""}`.trimEnd() + (shown ? `: ${shown}` : ""),
    code,
  });
}
