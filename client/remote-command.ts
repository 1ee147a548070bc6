// Runs a command in a pod or a host over a WebSocket, as kubectl exec does: standard streams, window size, exit code.
// Knows the protocol v5.channel.k8s.io (and v4), no command and no terminal.
// Source: kubernetes KEP-4006; k8s.io/apimachinery/pkg/util/remotecommand (channel numbers, close signal).

import { connect } from "node:net";
import type { Readable, Writable } from "node:stream";
import WebSocket from "ws";
import { StatusError } from "../common/client.js";
import type { Status } from "../common/k8s.js";
import { withQuery } from "./paths.js";
import { statusError } from "./status.js";

const PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const STDIN = 0;
const STDOUT = 1;
const STDERR = 2;
const ERROR = 3;
const RESIZE = 4;
/** v5 only: the payload names the channel that ends. */
const CLOSE = 255;

/** Standard input is not read further while more than this is on its way. */
const HIGH_WATER_BYTES = 1024 * 1024;

export interface RemoteCommandOptions {
  socketPath: string;
  /** Of the endpoint, with or without query: /hosts/node-1/exec. */
  path: string;
  /** Arguments, the program first; a shell is not involved. */
  command: readonly string[];
  stdin?: Readable;
  stdout: Writable;
  /** Unused with `tty`: a terminal has one output. */
  stderr: Writable;
  tty?: boolean;
  /** The window now; sent at the start and after each `onResize`. */
  size?: () => { cols: number; rows: number };
  /** Registers a listener for changes of the window; returns how to take it back. */
  onResize?: (listener: () => void) => () => void;
  /** Aborting ends the connection, and with it the command. */
  signal?: AbortSignal;
}

/**
 * Resolves with the exit code of the command.
 * @throws StatusError when the server refuses (no such pod, no such program); Error when the connection breaks
 *   before the command has ended; the signal's reason when it aborts; the stream's error when stdout or stderr fails.
 */
export async function remoteCommand(options: RemoteCommandOptions): Promise<number> {
  options.signal?.throwIfAborted();
  const { socketPath, command, stdin, tty = false } = options;
  const path = withQuery(options.path, {
    command,
    stdin: stdin ? true : undefined,
    stdout: true,
    stderr: tty ? undefined : true,
    tty: tty || undefined,
  });
  const socket = new WebSocket(`ws://localhost${path}`, PROTOCOLS, {
    createConnection: () => connect({ path: socketPath }),
    perMessageDeflate: false,
  });
  const session = new Session(socket, options);
  return await session.outcome;
}

interface Settle {
  resolve: (code: number) => void;
  reject: (error: unknown) => void;
}

/** One connection: everything that must be undone at its end is in #cleanups. */
class Session {
  readonly outcome: Promise<number>;
  readonly #socket: WebSocket;
  readonly #options: RemoteCommandOptions;
  #settle: Settle | undefined;
  #cleanups: (() => void)[] = [];
  #exitCode: number | undefined;
  readonly #blocked = new Set<Writable>();

  constructor(socket: WebSocket, options: RemoteCommandOptions) {
    this.#socket = socket;
    this.#options = options;
    this.outcome = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    const { signal, stdout, stderr } = options;
    this.#on(signal, "abort", () => this.#fail(signal?.reason));
    for (const output of new Set([stdout, stderr])) {
      const failed = (error: Error) => this.#fail(error);
      output.on("error", failed);
      this.#cleanups.push(() => output.off("error", failed));
    }
    socket.binaryType = "nodebuffer";
    socket.on("open", () => this.#opened());
    socket.on("message", (data: Buffer, binary: boolean) => this.#received(data, binary));
    socket.on("unexpected-response", (request, response) => {
      const body: Buffer[] = [];
      response.on("data", (chunk: Buffer) => body.push(chunk));
      response.on("error", (error) => this.#fail(error));
      response.on("end", () => {
        const code = response.statusCode ?? 500;
        this.#fail(statusError(`exec ${options.path.split("?")[0]}`, code, Buffer.concat(body).toString()));
        request.destroy();
      });
    });
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", (code, reason) => this.#closed(code, reason.toString()));
  }

  #on(target: AbortSignal | undefined, event: string, listener: () => void): void {
    target?.addEventListener(event, listener);
    this.#cleanups.push(() => target?.removeEventListener(event, listener));
  }

  #opened(): void {
    const { stdin, tty, size, onResize } = this.#options;
    if (tty && size) {
      const send = () => {
        const { cols, rows } = size();
        this.#send(RESIZE, Buffer.from(JSON.stringify({ Width: cols, Height: rows })));
      };
      send();
      if (onResize) this.#cleanups.push(onResize(send));
    }
    if (stdin) this.#forward(stdin);
  }

  #forward(stdin: Readable): void {
    const socket = this.#socket;
    const onData = (chunk: Buffer | string) => {
      this.#send(STDIN, typeof chunk === "string" ? Buffer.from(chunk) : chunk, () => {
        if (stdin.isPaused() && socket.bufferedAmount <= HIGH_WATER_BYTES / 2) stdin.resume();
      });
      if (socket.bufferedAmount > HIGH_WATER_BYTES) stdin.pause();
    };
    const onEnd = () => {
      // v4 has no way to say that the input is over.
      if (socket.protocol === PROTOCOLS[0]) this.#send(CLOSE, Buffer.of(STDIN));
    };
    const onError = (error: Error) => this.#fail(error);
    stdin.on("data", onData).on("end", onEnd).on("error", onError);
    this.#cleanups.push(() => {
      stdin.off("data", onData).off("end", onEnd).off("error", onError);
      stdin.pause();
    });
    if (stdin.readableEnded) onEnd();
  }

  #send(channel: number, payload: Uint8Array, sent?: () => void): void {
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    const frame = Buffer.allocUnsafe(payload.length + 1);
    frame[0] = channel;
    frame.set(payload, 1);
    this.#socket.send(frame, { binary: true }, (error) => {
      // A broken connection is reported by its own events.
      if (!error) sent?.();
    });
  }

  #received(data: Buffer, binary: boolean): void {
    if (!binary || data.length === 0) return;
    const payload = data.subarray(1);
    if (data[0] === STDOUT) this.#write(this.#options.stdout, payload);
    else if (data[0] === STDERR) this.#write(this.#options.stderr, payload);
    else if (data[0] === ERROR) this.#ended(payload.toString("utf8"));
  }

  /** Takes nothing more from the network while somebody downstream is slow. */
  #write(output: Writable, payload: Buffer): void {
    if (payload.length === 0 || output.write(payload) || this.#blocked.has(output)) return;
    // Frames that had come already are still given out after the pause: one listener for all of them.
    this.#blocked.add(output);
    this.#socket.pause();
    output.once("drain", () => {
      this.#blocked.delete(output);
      if (this.#blocked.size === 0) this.#socket.resume();
    });
  }

  #ended(text: string): void {
    let status: unknown;
    try {
      status = JSON.parse(text);
    } catch {
      // Told below, with the text itself.
    }
    if (!isOutcome(status)) {
      this.#fail(new Error(`the command ended with an answer that is no Status: ${text.slice(0, 200)}`));
      return;
    }
    if (status.status === "Success") {
      this.#exitCode = 0;
    } else {
      const cause = status.details?.causes?.find(({ reason }) => reason === "ExitCode");
      const code = Number(cause?.message);
      if (status.reason !== "NonZeroExitCode" || !cause || !Number.isInteger(code)) {
        this.#fail(new StatusError(status));
        return;
      }
      this.#exitCode = code;
    }
    this.#socket.close(1000);
  }

  #closed(code: number, reason: string): void {
    if (this.#exitCode !== undefined) {
      this.#finish()?.resolve(this.#exitCode);
      return;
    }
    const why = reason ? `: ${reason}` : "";
    this.#fail(new Error(`the connection ended (${code}) before the command did${why}`));
  }

  #fail(error: unknown): void {
    const settle = this.#finish();
    if (!settle) return;
    this.#socket.terminate();
    settle.reject(error);
  }

  /** Undoes everything once; what remains to be said is said by the caller. */
  #finish(): Settle | undefined {
    const settle = this.#settle;
    this.#settle = undefined;
    for (const cleanup of this.#cleanups) cleanup();
    this.#cleanups = [];
    return settle;
  }
}

/** The Status of the error channel comes without kind and apiVersion. */
function isOutcome(value: unknown): value is Status {
  if (typeof value !== "object" || value === null || !("status" in value)) return false;
  return value.status === "Success" || value.status === "Failure";
}
