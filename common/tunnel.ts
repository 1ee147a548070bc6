// Two TCP connections made one, and TCP inside an upgraded HTTP/1.1 connection: both ends of it. Knows sockets only.

import { connect, type Socket } from "node:net";
import { dialError } from "./dial-error.js";

/**
 * Copies both directions, each ending on its own: a half-closed connection stays half open (the sockets must have
 * been made with allowHalfOpen). What breaks one side breaks the other.
 */
export function join(a: Socket, b: Socket): void {
  for (const [one, other] of [
    [a, b],
    [b, a],
  ] as const) {
    one.on("error", () => other.destroy());
    // After an orderly end the other side may still have something to send off: then it closes by itself.
    one.once("close", () => {
      if (!one.readableEnded) other.destroy();
    });
    one.pipe(other);
  }
}

export interface TunnelOptions {
  /** Until the other end must have answered; default for ever. */
  timeoutMs?: number | undefined;
  /** Who is asked, for messages. */
  where: string;
}

/**
 * Asks for a tunnel by `GET path` with an upgrade; resolves, paused, with the same socket when it is one.
 * @throws Error with what the other end says in X-Error, or its status line; that of the socket.
 */
export function openTunnel(
  socket: Socket,
  path: string,
  { timeoutMs, where }: TunnelOptions,
): Promise<Socket> {
  return new Promise((resolve, reject) => {
    let head = Buffer.alloc(0);
    const fail = (error: Error) => {
      clearTimeout(timer);
      socket.destroy();
      reject(error);
    };
    const late = () => fail(new Error(`${path}: no answer in ${timeoutMs} ms`));
    const timer = timeoutMs === undefined ? undefined : setTimeout(late, timeoutMs);
    const early = () => fail(new Error(`${where} closed the connection for ${path}`));
    const read = (chunk: Buffer) => {
      head = Buffer.concat([head, chunk]);
      const end = head.indexOf("\r\n\r\n");
      if (end < 0) return;
      socket.pause();
      socket.off("data", read).off("error", fail).off("end", early);
      const problem = refusal(head.subarray(0, end).toString("latin1"));
      if (problem) return fail(new Error(problem));
      clearTimeout(timer);
      if (head.length > end + 4) socket.unshift(head.subarray(end + 4));
      resolve(socket);
    };
    socket.on("data", read).on("error", fail).on("end", early);
    socket.write(`GET ${path} HTTP/1.1\r\nHost: kubeplumb\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n`);
  });
}

/** What an answer other than 101 says, undefined for 101. */
function refusal(head: string): string | undefined {
  const [status = "", ...lines] = head.split("\r\n");
  if (/^HTTP\/1\.1 101 /.test(status)) return undefined;
  const reason = lines.find((line) => line.toLowerCase().startsWith("x-error:"));
  return reason ? reason.slice("x-error:".length).trim() : status;
}

const DIAL_TIMEOUT_MS = 10_000;

/** Connections from inside a host. */
export interface HostDialer {
  connect(ip: string, port: number): Socket;
}

/**
 * The other end: connects and answers the upgrade. `head` is what came after the request; `host` connects in a network
 * of its own.
 */
export function acceptDial(client: Socket, head: Buffer, ip: string, port: number, host?: HostDialer): void {
  const upstream = host?.connect(ip, port) ?? connect({ host: ip, port });
  upstream.allowHalfOpen = true;
  upstream.setNoDelay(true);
  const late = Object.assign(new Error(`${ip}:${port} timed out`), { code: "ETIMEDOUT" });
  const timer = setTimeout(() => upstream.destroy(late), DIAL_TIMEOUT_MS);
  const refuse = (error: Error) => {
    clearTimeout(timer);
    const text = dialError(error, ip, port).replaceAll(/[\r\n]+/g, " ");
    client.end(
      `HTTP/1.1 502 Bad Gateway\r\nX-Error: ${text}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`,
    );
  };
  const gone = () => upstream.destroy();
  client.once("close", gone).on("error", gone);
  upstream.once("error", refuse);
  upstream.once("connect", () => {
    clearTimeout(timer);
    upstream.off("error", refuse);
    client.off("close", gone).off("error", gone);
    client.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n");
    if (head.length > 0) upstream.write(head);
    join(client, upstream);
  });
}
