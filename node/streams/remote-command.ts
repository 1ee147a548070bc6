// The server end of `kubectl exec` and `attach` over a WebSocket: subprotocols v5.channel.k8s.io and
// v4.channel.k8s.io, each message one byte of channel and then data (KEP-4006; k8s.io/apimachinery
// remotecommand). Knows streams, nothing of pods or hosts.

import type { IncomingMessage } from "node:http";
import type { Duplex, Readable, Writable } from "node:stream";
import { type RawData, type WebSocket, WebSocketServer } from "ws";
import type { Status } from "../../common/k8s.js";

const STDIN = 0;
const STDOUT = 1;
const STDERR = 2;
const ERROR = 3;
const RESIZE = 4;
/** v5 only: the byte after it names the channel that its sender has closed. */
const CLOSE = 255;

const PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"] as const;
/** Bytes waiting for a slow reader before we stop reading from the process. */
const HIGH_WATER_MARK = 1 << 20;

/** What runs behind a remote command. */
export interface RemoteProcess {
  stdin: Writable | null;
  stdout: Readable | null;
  /** Null with a terminal: everything comes by stdout then. */
  stderr: Readable | null;
  resize?(columns: number, rows: number): void;
  /** Resolves after the process has ended and all its output has been given to the streams. */
  exited: Promise<{ exitCode: number }>;
  /** The other side has gone: end the process. */
  abandon(): void;
}

export interface RemoteCommandOptions {
  command: string[];
  tty: boolean;
  stdin: boolean;
}

/** An error with an HTTP status, answered as a meta/v1 Status instead of the upgrade. */
export class RemoteCommandError extends Error {
  override readonly name = "RemoteCommandError";
  readonly code: number;
  readonly reason: string;

  constructor(code: number, reason: string, message: string) {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}

export interface RemoteCommandQuery {
  command: string[];
  stdin: boolean;
  stdout: boolean;
  stderr: boolean;
  tty: boolean;
}

const flag = (value: string | null): boolean => value === "1" || value?.toLowerCase() === "true";

/** The query of an exec or attach request (PodExecOptions); `tty` excludes `stderr`, as in the kubelet. */
export function parseRemoteCommandQuery(url: string): RemoteCommandQuery {
  const query = new URL(url, "http://kubelet").searchParams;
  const tty = flag(query.get("tty"));
  return {
    command: query.getAll("command"),
    stdin: flag(query.get("stdin")),
    stdout: flag(query.get("stdout")),
    stderr: flag(query.get("stderr")) && !tty,
    tty,
  };
}

/** The message of channel 3 that tells a client how the command ended. */
export function exitStatusMessage(exitCode: number): Partial<Status> {
  if (exitCode === 0) return { metadata: {}, status: "Success" };
  return {
    metadata: {},
    status: "Failure",
    message: `command terminated with non-zero exit code: exit status ${exitCode}`,
    reason: "NonZeroExitCode",
    details: { causes: [{ reason: "ExitCode", message: String(exitCode) }] },
  };
}

function failureMessage(message: string): Partial<Status> {
  return { metadata: {}, status: "Failure", reason: "InternalError", message, code: 500 };
}

const server = new WebSocketServer({
  noServer: true,
  perMessageDeflate: false,
  handleProtocols: (offered) => PROTOCOLS.find((protocol) => offered.has(protocol)) ?? false,
});

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

/**
 * Serves one exec or attach. `launch` is called when the request is known to be good; what it throws is answered
 * as a Status: {@link RemoteCommandError} with its own code, anything else after the upgrade on the error channel.
 * A client that goes away abandons the process.
 */
export function serveRemoteCommand(
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  launch: (options: RemoteCommandOptions) => RemoteProcess | Promise<RemoteProcess>,
): void {
  const query = parseRemoteCommandQuery(req.url ?? "/");
  const offered = String(req.headers["sec-websocket-protocol"] ?? "")
    .split(",")
    .map((protocol) => protocol.trim());
  if (req.headers.upgrade?.toLowerCase() !== "websocket") {
    const message = `upgrade "${req.headers.upgrade ?? ""}" is not supported: kubeplumb speaks WebSocket (${PROTOCOLS.join(", ")}); kubectl 1.31 or newer does so by default`;
    refuseUpgrade(socket, 400, "BadRequest", message);
    return;
  }
  if (!PROTOCOLS.some((protocol) => offered.includes(protocol))) {
    const message = `subprotocol "${offered.join(", ")}" is not supported; supported: ${PROTOCOLS.join(", ")}`;
    refuseUpgrade(socket, 403, "Forbidden", message);
    return;
  }
  if (!query.stdin && !query.stdout && !query.stderr) {
    const message = "you must specify at least 1 of stdin, stdout, stderr";
    refuseUpgrade(socket, 400, "BadRequest", message);
    return;
  }
  void start(req, socket, head, query, launch);
}

async function start(
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  query: RemoteCommandQuery,
  launch: (options: RemoteCommandOptions) => RemoteProcess | Promise<RemoteProcess>,
): Promise<void> {
  const gone = () => socket.destroy();
  socket.on("error", gone);
  let remote: RemoteProcess | Error;
  try {
    remote = await launch({ command: query.command, tty: query.tty, stdin: query.stdin });
  } catch (error) {
    remote = error instanceof Error ? error : new Error(String(error));
  }
  socket.off("error", gone);
  if (remote instanceof RemoteCommandError) {
    return refuseUpgrade(socket, remote.code, remote.reason, remote.message);
  }
  const process = remote;
  if (socket.destroyed) {
    if (!(process instanceof Error)) process.abandon();
    return;
  }
  server.handleUpgrade(req, socket, head, (ws) => {
    if (process instanceof Error) {
      ws.send(frame(ERROR, JSON.stringify(failureMessage(process.message))));
      ws.close(1000);
    } else {
      new Session(ws, process, query);
    }
  });
}

function frame(channel: number, data: string | Buffer): Buffer {
  const body = typeof data === "string" ? Buffer.from(data) : data;
  return Buffer.concat([Buffer.of(channel), body]);
}

/** One connection: frames to streams and back, until the process has ended. */
class Session {
  readonly #ws: WebSocket;
  readonly #process: RemoteProcess;
  readonly #stdin: Writable | null;

  constructor(ws: WebSocket, process: RemoteProcess, query: RemoteCommandQuery) {
    this.#ws = ws;
    this.#process = process;
    this.#stdin = query.stdin ? process.stdin : null;
    // Back-pressure: #type pauses the client when the process reads slowly; a process that is gone needs no more.
    for (const event of ["drain", "close"]) this.#stdin?.on(event, () => ws.resume());
    ws.binaryType = "nodebuffer";
    ws.on("message", (data: RawData) => this.#receive(data as Buffer));
    ws.on("error", () => ws.terminate());
    ws.on("close", () => {
      this.#stdin?.end();
      process.abandon();
    });
    // The kubelet's first frame is empty: clients take it as the sign that the streams are open.
    ws.send(Buffer.of(query.stdout ? STDOUT : query.stderr ? STDERR : ERROR));
    const outputs = [
      this.#copy(process.stdout, query.stdout ? STDOUT : undefined),
      this.#copy(process.stderr, query.stderr ? STDERR : undefined),
    ];
    void this.#finish(outputs);
  }

  /** Sends a stream's data; without a channel it is read and dropped, so that the process does not block. */
  #copy(stream: Readable | null, channel: number | undefined): Promise<void> {
    if (!stream) return Promise.resolve();
    if (channel === undefined) {
      stream.resume();
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      stream.on("data", (chunk: Buffer) => {
        if (this.#ws.readyState !== this.#ws.OPEN) return;
        this.#ws.send(frame(channel, chunk), () => {
          if (stream.isPaused() && this.#ws.bufferedAmount < HIGH_WATER_MARK) stream.resume();
        });
        if (this.#ws.bufferedAmount >= HIGH_WATER_MARK) stream.pause();
      });
      stream.once("end", resolve);
      stream.once("close", resolve);
      stream.once("error", () => resolve());
    });
  }

  async #finish(outputs: Promise<void>[]): Promise<void> {
    const { exitCode } = await this.#process.exited;
    await Promise.all(outputs);
    if (this.#ws.readyState !== this.#ws.OPEN) return;
    this.#ws.send(frame(ERROR, JSON.stringify(exitStatusMessage(exitCode))));
    this.#ws.close(1000);
  }

  #receive(message: Buffer): void {
    const channel = message[0];
    const data = message.subarray(1);
    if (channel === STDIN) this.#type(data);
    else if (channel === RESIZE) this.#resize(data);
    else if (channel === CLOSE && data[0] === STDIN && this.#ws.protocol === PROTOCOLS[0]) {
      this.#stdin?.end();
    }
  }

  #type(data: Buffer): void {
    const stdin = this.#stdin;
    if (data.length === 0 || !stdin || stdin.destroyed || stdin.writableEnded) return;
    if (!stdin.write(data)) this.#ws.pause();
  }

  #resize(data: Buffer): void {
    let size: { Width?: unknown; Height?: unknown };
    try {
      size = JSON.parse(data.toString()) as typeof size;
    } catch {
      // Not JSON: no size to follow, and nothing else on this channel could be meant.
      return;
    }
    const { Width, Height } = size;
    if (typeof Width !== "number" || typeof Height !== "number") return;
    this.#process.resize?.(Math.min(Width, 65_535), Math.min(Height, 65_535));
  }
}
