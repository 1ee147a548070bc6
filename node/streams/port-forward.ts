// The server end of `kubectl port-forward`: SPDY/3.1, plain (kubectl before 1.31) or tunnelled in binary WebSocket
// messages (KEP-4006), and on it a data and an error stream for each connection. Words of failures as the kubelet's
// (k8s.io/kubelet streaming/portforward). Knows streams and sockets, nothing of pods.

import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { createWebSocketStream } from "ws";
import { SpdyConnection, type SpdyStream } from "./spdy/connection.js";
import { RESET } from "./spdy/frames.js";
import { acceptSpdy, acceptWebSocket, agree, refuseUpgrade, UpgradeError } from "./upgrade.js";

const PROTOCOL = "portforward.k8s.io";
const PROTOCOLS = { webSocket: [`SPDY/3.1+${PROTOCOL}`], spdy: [PROTOCOL] };
/** The kubelet's streamCreationTimeout: for the second stream of a connection, in milliseconds. */
const CREATION_TIMEOUT_MS = 30_000;

/** Where connections go. */
export interface PortForwardTarget {
  /** How messages name the pod. */
  readonly id: string;
  /** A connected socket. Rejects with an error whose message is for the user. */
  connect(port: number): Promise<Socket>;
}

/** Serves one port-forward until the client goes. What is wrong with the request is answered as a Status. */
export function servePortForward(
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  target: PortForwardTarget,
): void {
  serve(req, socket, head, target).catch((error: Error) => {
    if (error instanceof UpgradeError) refuseUpgrade(socket, error.code, error.reason, error.message);
    else socket.destroy();
  });
}

async function serve(
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  target: PortForwardTarget,
): Promise<void> {
  const { kind, protocol } = agree(req, PROTOCOLS);
  const pairs = new Pairs(target);
  const onStream = (stream: SpdyStream) => pairs.add(stream);
  if (kind === "spdy") {
    acceptSpdy(socket, head, protocol, onStream);
    return;
  }
  const ws = await acceptWebSocket(req, socket, head, protocol);
  if (!ws) return;
  const transport = createWebSocketStream(ws);
  new SpdyConnection({ transport, side: "server", onStream });
}

interface Pair {
  data?: SpdyStream;
  error?: SpdyStream;
  timer: NodeJS.Timeout;
}

/** Finds the two streams of a connection, which come in any order and with others between them. */
class Pairs {
  readonly #target: PortForwardTarget;
  readonly #waiting = new Map<string, Pair>();

  constructor(target: PortForwardTarget) {
    this.#target = target;
  }

  add(stream: SpdyStream): void {
    const type = stream.header("streamtype");
    const id = stream.header("requestid");
    const port = Number(stream.header("port"));
    const known = (type === "data" || type === "error") && id !== undefined;
    if (!known || !Number.isInteger(port) || port < 1 || port > 65_535) {
      stream.reset(RESET.REFUSED_STREAM);
      return;
    }
    const pair = this.#waiting.get(id) ?? { timer: setTimeout(() => this.#late(id), CREATION_TIMEOUT_MS) };
    if (pair[type]) {
      stream.reset(RESET.REFUSED_STREAM);
      return;
    }
    stream.reply();
    pair[type] = stream;
    this.#waiting.set(id, pair);
    stream.once("close", () => this.#drop(id, pair));
    const { data, error } = pair;
    if (!data || !error) return;
    this.#drop(id, pair);
    void forward(data, error, port, this.#target);
  }

  #drop(id: string, pair: Pair): void {
    clearTimeout(pair.timer);
    if (this.#waiting.get(id) === pair) this.#waiting.delete(id);
  }

  #late(id: string): void {
    const { data, error } = this.#waiting.get(id) ?? {};
    error?.end("timed out waiting for streams");
    data?.reset();
    this.#waiting.delete(id);
  }
}

/** One connection. Each direction ends on its own; a fault is told on the error stream, which ends with the answer. */
async function forward(
  data: SpdyStream,
  error: SpdyStream,
  port: number,
  target: PortForwardTarget,
): Promise<void> {
  // The client closes its side of it at once: to be read, so that the stream can end.
  error.resume();
  const failed = (why: string) => {
    error.end(`error forwarding port ${port} to pod ${target.id}, uid : ${why}`);
    data.end();
    data.resume();
  };
  let socket: Socket;
  try {
    socket = await target.connect(port);
  } catch (cause) {
    failed((cause as Error).message);
    return;
  }
  socket.allowHalfOpen = true;
  socket.setNoDelay(true);
  socket.on("error", (cause) => failed(cause.message));
  socket.once("end", () => error.end());
  socket.once("close", () => {
    error.end();
    // Nobody reads what the client may still send.
    if (!data.readableEnded) data.reset();
  });
  data.once("close", () => {
    error.end();
    if (!data.readableEnded) socket.destroy();
  });
  if (data.destroyed) {
    socket.destroy();
    return;
  }
  data.pipe(socket);
  socket.pipe(data);
}
