// Remote commands over a WebSocket: subprotocols v5.channel.k8s.io and v4.channel.k8s.io, each message one byte of
// channel and then data (KEP-4006; k8s.io/apimachinery remotecommand). Knows channels, nothing of processes.

import { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { RawData, WebSocket } from "ws";
import type { Status } from "../../common/k8s.js";
import { type RemoteChannels, ResizeReader, type WantedStreams } from "./remote-channels.js";

const STDIN = 0;
const STDOUT = 1;
const STDERR = 2;
const ERROR = 3;
const RESIZE = 4;
/** v5 only: the byte after it names the channel that its sender has closed. */
const CLOSE = 255;

const V5 = "v5.channel.k8s.io";
export const WEBSOCKET_PROTOCOLS = [V5, "v4.channel.k8s.io"] as const;

function frame(channel: number, data: string | Buffer): Buffer {
  const body = typeof data === "string" ? Buffer.from(data) : data;
  return Buffer.concat([Buffer.of(channel), body]);
}

export class WebSocketChannels implements RemoteChannels {
  readonly stdin: Readable | null;
  readonly stdout: Writable | null;
  readonly stderr: Writable | null;
  readonly gone: Promise<void>;
  readonly #ws: WebSocket;
  /** Resolves when the client can be expected to listen; nothing that matters is sent before. */
  readonly #listens: Promise<void>;
  readonly #sizes = new ResizeReader();
  #resize: (columns: number, rows: number) => void = () => {};
  #stdinEnded = false;

  /** @param patience Milliseconds that the client gets until it must listen. */
  constructor(ws: WebSocket, wanted: WantedStreams, patience = 0) {
    this.#ws = ws;
    this.#listens = patience > 0 ? sleep(patience) : Promise.resolve();
    this.stdin = wanted.stdin ? new Readable({ read: () => ws.resume() }) : null;
    this.stdout = wanted.stdout ? this.#output(STDOUT) : null;
    this.stderr = wanted.stderr ? this.#output(STDERR) : null;
    ws.binaryType = "nodebuffer";
    ws.on("message", (data: RawData) => this.#receive(data as Buffer));
    ws.on("error", () => ws.terminate());
    this.gone = new Promise((resolve) =>
      ws.once("close", () => {
        this.#endStdin();
        resolve();
      }),
    );
    // The kubelet's first frame is empty: clients take it as the sign that the streams are open.
    ws.send(Buffer.of(wanted.stdout ? STDOUT : wanted.stderr ? STDERR : ERROR));
  }

  onResize(listener: (columns: number, rows: number) => void): void {
    this.#resize = listener;
  }

  finish(status: Partial<Status>): void {
    void this.#listens.then(() => {
      if (this.#ws.readyState !== this.#ws.OPEN) return;
      this.#ws.send(frame(ERROR, JSON.stringify(status)));
      this.#ws.close(1000);
    });
  }

  /** A chunk is done when it has left this process: a slow client slows down the command. */
  #output(channel: number): Writable {
    const ws = this.#ws;
    const listens = this.#listens;
    return new Writable({
      write(chunk: Buffer, _encoding, done) {
        void listens.then(() => {
          if (ws.readyState === ws.OPEN) ws.send(frame(channel, chunk), () => done());
          else done();
        });
      },
    });
  }

  #receive(message: Buffer): void {
    const data = message.subarray(1);
    switch (message[0]) {
      case STDIN:
        if (!this.stdin || this.#stdinEnded || data.length === 0) return;
        if (!this.stdin.push(data)) this.#ws.pause();
        return;
      case RESIZE:
        for (const { columns, rows } of this.#sizes.read(data.toString())) this.#resize(columns, rows);
        return;
      case CLOSE:
        if (data[0] === STDIN && this.#ws.protocol === V5) this.#endStdin();
    }
  }

  #endStdin(): void {
    if (!this.#stdinEnded) this.stdin?.push(null);
    this.#stdinEnded = true;
  }
}
