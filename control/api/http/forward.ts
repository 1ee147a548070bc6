// One HTTP/1.1 request passed on to another server and its answer passed back, or the bytes of an upgraded connection
// both ways. Knows requests and sockets; who is asked, and what may be changed on the way, is told by the caller.

import { type IncomingMessage, type RequestOptions, request, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { Logger } from "../../../common/log.js";

const CONNECT_TIMEOUT_MS = 30_000;
/** For one side of an upgraded connection to take the rest, after the other has gone. */
const FLUSH_TIMEOUT_MS = 5000;

/** Half of what a socket buffers. */
const LARGEST_PIECE = 8 << 10;

/** Of the connection between two neighbours, not of the request (RFC 9110, 7.6.1), or meant for this server only. */
const NOT_PASSED = new Set([
  "authorization",
  "connection",
  "expect",
  "host",
  "keep-alive",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "upgrade",
]);

/** The headers of a request that go on; `connection` and `upgrade` with those that are to be upgraded. */
export function passedHeaders(
  req: IncomingMessage,
  upgrade: boolean,
): Record<string, string | readonly string[]> {
  const headers: Record<string, string | readonly string[]> = {};
  for (const [name, value] of Object.entries(req.headers)) {
    const wanted = !NOT_PASSED.has(name) || (upgrade && (name === "connection" || name === "upgrade"));
    if (wanted && value !== undefined) headers[name] = value;
  }
  return headers;
}

/** Where a request goes. */
export interface Backend {
  options: RequestOptions;
  /** What the client is told when nobody answers. */
  unreachable(error: Error): Error;
  /** Answers itself, after an answer has come; undefined when it shall be passed back as it is. */
  answer?(incoming: IncomingMessage, res: ServerResponse): Promise<void> | undefined;
  /** What the client is told when an upgrade is refused; without it the refusal is passed back as it is. */
  refused?(incoming: IncomingMessage): Promise<Error>;
}

export class Forwarder {
  readonly #log: Logger;
  readonly #open = new Set<{ destroy(): unknown }>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Cuts every stream. */
  close(): void {
    for (const stream of [...this.#open]) stream.destroy();
  }

  /** Resolves when the answer has been passed back. Rejects with what the client is to be told. */
  async request(backend: Backend, req: IncomingMessage, res: ServerResponse): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const outgoing = request({ ...backend.options, timeout: CONNECT_TIMEOUT_MS });
      outgoing.on("socket", (socket) => {
        // The timeout is for the connection: a followed log may be silent for hours.
        const connected = (): void => void outgoing.setTimeout(0);
        if (socket.connecting) socket.once("connect", connected);
        else connected();
      });
      outgoing.on("timeout", () => outgoing.destroy(new Error("timed out")));
      outgoing.on("error", (error) => reject(backend.unreachable(error)));
      outgoing.on("response", (incoming) =>
        resolve(backend.answer?.(incoming, res) ?? this.passBack(incoming, res)),
      );
      const abandon = (): void => {
        outgoing.destroy();
        resolve();
      };
      res.on("close", abandon);
      // Gone while its way was looked up.
      if (res.destroyed) abandon();
      else req.pipe(outgoing);
    });
  }

  /** Gives an answer to the client as it comes. */
  async passBack(incoming: IncomingMessage, res: ServerResponse): Promise<void> {
    res.writeHead(incoming.statusCode ?? 500, answerHeaders(incoming));
    res.flushHeaders();
    this.#open.add(incoming);
    incoming.on("close", () => this.#open.delete(incoming));
    try {
      for await (const chunk of incoming as AsyncIterable<Buffer>) await writeInPieces(res, chunk);
      res.end();
    } catch {
      // A server that goes away in the middle must look like that, not like the end of the answer.
      res.destroy();
    }
  }

  /** The backend's answer, then bytes both ways. Rejects with what the client is to be told. */
  async upgrade(backend: Backend, socket: Duplex, head: Buffer): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const outgoing = request({ ...backend.options, timeout: CONNECT_TIMEOUT_MS });
      const abandon = (): void => void outgoing.destroy();
      socket.once("close", abandon);
      outgoing.on("timeout", () => outgoing.destroy(new Error("timed out")));
      outgoing.on("error", (error) => reject(backend.unreachable(error)));
      outgoing.on("response", (incoming) => {
        if (backend.refused) backend.refused(incoming).then(reject, reject);
        else resolve(this.#refuse(incoming, socket));
      });
      outgoing.on("upgrade", (incoming, other, otherHead) => {
        socket.off("close", abandon);
        other.setTimeout(0);
        this.#join(socket, other);
        socket.write(upgradeHead(incoming));
        if (otherHead.length > 0) socket.write(otherHead);
        if (head.length > 0) other.write(head);
        resolve();
      });
      if (socket.destroyed) {
        abandon();
        resolve();
      } else outgoing.end();
    });
  }

  /** Without its framing: the end of the connection ends the body. */
  #refuse(incoming: IncomingMessage, socket: Duplex): void {
    const { statusCode = 500, statusMessage } = incoming;
    const lines = [`HTTP/1.1 ${statusCode} ${statusMessage}`];
    for (const [name, value] of Object.entries(answerHeaders(incoming)))
      for (const one of [value].flat()) lines.push(`${name}: ${one}`);
    socket.write(`${lines.join("\r\n")}\r\nconnection: close\r\n\r\n`);
    incoming.on("error", () => socket.destroy());
    incoming.pipe(socket);
  }

  #join(client: Duplex, other: Duplex): void {
    for (const [from, to] of [
      [client, other],
      [other, client],
    ] as const) {
      this.#open.add(from);
      from.on("error", (error) => {
        this.#log.debug({ err: error }, "stream cut");
        to.destroy();
      });
      from.on("close", () => {
        this.#open.delete(from);
        // What was read is still on its way to the other side, which has nobody left to answer to.
        to.end(() => to.destroy());
        const timer = setTimeout(() => to.destroy(), FLUSH_TIMEOUT_MS);
        to.once("close", () => clearTimeout(timer));
      });
      from.pipe(to);
    }
  }
}

/**
 * Resolves when all has left this process. Rejects when the client has gone. Never more at once than a socket takes
 * without asking for a pause: a connection whose next request comes during such a pause is cut off by Node
 * (`Parse Error: Paused`, seen over TLS with 20.20), although its client did nothing wrong.
 */
export async function writeInPieces(res: ServerResponse, chunk: Buffer): Promise<void> {
  for (let at = 0; at < chunk.length; at += LARGEST_PIECE) {
    await new Promise<void>((resolve, reject) => {
      const gone = (): void => reject(new Error("the client has gone"));
      if (res.destroyed) return gone();
      res.once("close", gone);
      res.write(chunk.subarray(at, at + LARGEST_PIECE), () => {
        res.off("close", gone);
        resolve();
      });
    });
  }
}

/** An answer's headers, but for those of its connection. */
export function answerHeaders(incoming: IncomingMessage): Record<string, string | string[]> {
  const { connection: _, "keep-alive": __, "transfer-encoding": ___, ...headers } = incoming.headers;
  return headers as Record<string, string | string[]>;
}

function upgradeHead(incoming: IncomingMessage): string {
  const lines = [`HTTP/1.1 ${incoming.statusCode ?? 101} ${incoming.statusMessage ?? "Switching Protocols"}`];
  for (let i = 0; i < incoming.rawHeaders.length; i += 2)
    lines.push(`${incoming.rawHeaders[i]}: ${incoming.rawHeaders[i + 1]}`);
  return `${lines.join("\r\n")}\r\n\r\n`;
}
