// The start of an upgraded connection, as the kubelet does it: WebSocket (RFC 6455), or SPDY/3.1 after an HTTP 101.
// Knows handshakes, nothing of what is spoken afterwards.

import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";
import { SpdyConnection, type SpdyStream } from "./spdy/connection.js";

/** Client and server agree by it on what is spoken over the streams; one header for each that the client knows. */
const STREAM_PROTOCOL = "x-stream-protocol-version";

/** An error with an HTTP status, answered as a meta/v1 Status instead of the upgrade. */
export class UpgradeError extends Error {
  override readonly name = "UpgradeError";
  readonly code: number;
  readonly reason: string;

  constructor(code: number, reason: string, message: string) {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}

/** Answers a request that came to be upgraded with an error instead, and ends the connection. */
export function refuseUpgrade(socket: Duplex, code: number, reason: string, message: string): void {
  const body = JSON.stringify({
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Failure",
    message,
    reason,
    code,
  });
  socket.on("error", () => socket.destroy());
  socket.end(
    `HTTP/1.1 ${code} ${reason}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}

/** Protocols of a server, the best first, by way of the connection. */
export interface Protocols {
  webSocket: readonly string[];
  spdy: readonly string[];
}

/** What is to be spoken after the upgrade. */
export interface Agreement {
  kind: keyof Protocols;
  protocol: string;
}

/** @throws UpgradeError 400 for another upgrade than these two, 403 when no protocol is known to both. */
export function agree(req: IncomingMessage, supported: Protocols): Agreement {
  const upgrade = req.headers.upgrade?.toLowerCase() ?? "";
  if (upgrade !== "websocket" && upgrade !== "spdy/3.1") {
    const message = `unable to upgrade: unsupported upgrade ${JSON.stringify(upgrade)}; supported: websocket, SPDY/3.1`;
    throw new UpgradeError(400, "BadRequest", message);
  }
  const kind = upgrade === "websocket" ? "webSocket" : "spdy";
  const header = kind === "webSocket" ? "sec-websocket-protocol" : STREAM_PROTOCOL;
  const offered = String(req.headers[header] ?? "")
    .split(",")
    .map((protocol) => protocol.trim());
  const protocol = supported[kind].find((one) => offered.includes(one));
  if (protocol !== undefined) return { kind, protocol };
  const message = `unable to upgrade: unable to negotiate protocol: client supports ${list(offered)}, server accepts ${list(supported[kind])}`;
  throw new UpgradeError(403, "Forbidden", message);
}

const list = (protocols: readonly string[]): string => `[${protocols.join(" ")}]`;

/** The largest message. kubectl's carry 32 KiB; `ws` holds one in memory until it is whole. */
const LARGEST_MESSAGE = 16 << 20;

/** Accepts a WebSocket with the protocol that was agreed on; undefined when the handshake itself is broken. */
export function acceptWebSocket(
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  protocol: string,
): Promise<WebSocket | undefined> {
  const server = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: LARGEST_MESSAGE,
    handleProtocols: () => protocol,
  });
  return new Promise((resolve) => {
    socket.once("close", () => resolve(undefined));
    server.handleUpgrade(req, socket, head, resolve);
  });
}

/** Accepts SPDY/3.1 with the protocol that was agreed on. */
export function acceptSpdy(
  socket: Duplex,
  head: Buffer,
  protocol: string,
  onStream: (stream: SpdyStream) => void,
): SpdyConnection {
  socket.write(
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n" +
      `X-Stream-Protocol-Version: ${protocol}\r\n\r\n`,
  );
  if (head.length > 0) socket.unshift(head);
  return new SpdyConnection({ transport: socket, side: "server", onStream });
}
