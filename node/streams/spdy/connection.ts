// A SPDY/3.1 connection over any Duplex: opens and accepts streams, answers pings, keeps windows and limits. The peer's
// mistakes end the connection, never the process. Knows nothing of what the streams are for.

import type { Duplex } from "node:stream";
import {
  type Frame,
  FrameReader,
  FrameWriter,
  GOAWAY,
  type Headers,
  RESET,
  SETTING,
  SpdyError,
} from "./frames.js";
import { SpdyStream, STREAM_WINDOW, type StreamOwner } from "./stream.js";

export { SpdyStream };

/** Draft 3: of every stream until SETTINGS says otherwise. Draft 3.1: of the connection, for ever. */
const DEFAULT_WINDOW = 64 << 10;
const LARGEST_WINDOW = 0x7fff_ffff;
/** Bytes that may wait unread in all streams. */
const CONNECTION_WINDOW = 4 << 20;
const MAX_STREAMS = 2000;
/** How often a peer that is not read from is asked whether it is still there, in milliseconds. */
const PROBE_MS = 2000;
/** Of answers that the peer asks for and does not take. */
const LARGEST_BACKLOG = 1 << 20;

export interface SpdyOptions {
  transport: Duplex;
  side: "client" | "server";
  /**
   * A stream that the peer resets is over, and no fault: Go's servers of CRI end all of theirs so. What has come before
   * is still to be read.
   */
  resetEnds?: boolean;
  /** The peer has opened a stream: to be answered with `reply` or `reset`. Without it every stream is refused. */
  onStream?: (stream: SpdyStream) => void;
}

export class SpdyConnection implements StreamOwner {
  /** Resolves when the transport is gone, with the reason if it was a fault. */
  readonly closed: Promise<Error | undefined>;
  readonly #transport: Duplex;
  readonly #side: "client" | "server";
  readonly #resetEnds: boolean;
  readonly #onStream: ((stream: SpdyStream) => void) | undefined;
  readonly #reader = new FrameReader();
  readonly #writer = new FrameWriter();
  readonly #streams = new Map<number, SpdyStream>();
  /** Streams with something to send that had to wait. */
  readonly #blocked = new Set<SpdyStream>();
  /** Streams with more unread than their window. */
  readonly #full = new Set<SpdyStream>();
  #nextId: number;
  #lastPeerId = 0;
  #unread = 0;
  #uncredited = 0;
  #sendWindow = DEFAULT_WINDOW;
  #initialWindow = DEFAULT_WINDOW;
  /**
   * Whether the peer takes part in flow control. A server's may be kubectl, whose library ignores windows, never opens
   * its own, and would be waited for for ever: it is believed when it has said so. Who sends beyond a window is held
   * back by not reading from it at all.
   */
  #hasWindows: boolean;
  #leaving = false;
  /** Runs while the transport is not read: its end would not be noticed, but writing to it fails. */
  #probe: NodeJS.Timeout | undefined;
  #fault: Error | undefined;

  constructor({ transport, side, resetEnds = false, onStream }: SpdyOptions) {
    this.#resetEnds = resetEnds;
    this.#transport = transport;
    this.#side = side;
    this.#onStream = onStream;
    this.#nextId = side === "client" ? 1 : 2;
    this.#hasWindows = side === "client";
    this.closed = new Promise((resolve) => {
      transport.once("close", () => {
        clearInterval(this.#probe);
        for (const stream of [...this.#streams.values()]) stream.abort("the connection is closed");
        resolve(this.#fault);
      });
    });
    transport.on("error", (error) => {
      this.#fault ??= error;
      transport.destroy();
    });
    transport.on("data", (chunk: Buffer) => this.#receive(chunk));
    // The peer has no more to say, and what we could say nobody hears.
    transport.once("end", () => this.destroy());
    transport.on("drain", () => this.#unblock());
    this.send({
      type: "SETTINGS",
      settings: [
        { id: SETTING.MAX_CONCURRENT_STREAMS, value: MAX_STREAMS },
        { id: SETTING.INITIAL_WINDOW_SIZE, value: STREAM_WINDOW },
      ],
    });
    this.send({ type: "WINDOW_UPDATE", streamId: 0, delta: CONNECTION_WINDOW - DEFAULT_WINDOW });
  }

  /** Streams that are open in at least one direction. */
  get streams(): number {
    return this.#streams.size;
  }

  /** A new stream. The peer's SYN_REPLY is not waited for; its refusal destroys the stream. */
  open(headers: Headers): SpdyStream {
    const id = this.#nextId;
    this.#nextId += 2;
    const stream = new SpdyStream(this, id, headers, this.#initialWindow);
    this.#streams.set(id, stream);
    this.send({ type: "SYN_STREAM", streamId: id, fin: false, unidirectional: false, priority: 0, headers });
    return stream;
  }

  /**
   * Says goodbye and closes when no stream is left. While the peer keeps one open it is the one to close: our end of
   * the connection would take from kubectl what it has not read yet.
   */
  close(): void {
    if (this.#leaving || this.#transport.destroyed) return;
    this.#leaving = true;
    this.send({ type: "GOAWAY", lastStreamId: this.#lastPeerId, status: GOAWAY.OK });
    this.#endWhenEmpty();
  }

  #endWhenEmpty(): void {
    if (this.#leaving && this.#streams.size === 0) this.#transport.end();
  }

  /** Cuts the connection and all streams. */
  destroy(fault?: Error): void {
    this.#fault ??= fault;
    this.#transport.destroy();
  }

  send(frame: Frame): void {
    if (this.#transport.destroyed || this.#transport.writableEnded) return;
    if (frame.type === "DATA") {
      this.#sendWindow -= frame.data.length;
      const stream = this.#streams.get(frame.streamId);
      if (stream) stream.sendWindow -= frame.data.length;
    }
    this.#transport.write(this.#writer.bytes(frame));
  }

  allowance(stream: SpdyStream): number {
    const windows = this.#hasWindows
      ? Math.min(this.#sendWindow, stream.sendWindow)
      : Number.POSITIVE_INFINITY;
    if (windows > 0 && !this.#transport.writableNeedDrain) return windows;
    this.#blocked.add(stream);
    return 0;
  }

  consumed(bytes: number): void {
    this.#unread -= bytes;
    this.#uncredited += bytes;
    if (this.#uncredited >= CONNECTION_WINDOW / 2) {
      this.send({ type: "WINDOW_UPDATE", streamId: 0, delta: this.#uncredited });
      this.#uncredited = 0;
    }
    this.#resume();
  }

  waiting(stream: SpdyStream): void {
    if (stream.unreadBytes > STREAM_WINDOW) this.#full.add(stream);
    else this.#full.delete(stream);
    this.#resume();
  }

  forget(stream: SpdyStream): void {
    this.#streams.delete(stream.id);
    this.#blocked.delete(stream);
    this.#endWhenEmpty();
  }

  #unblock(): void {
    for (const stream of [...this.#blocked]) {
      if (this.#transport.writableNeedDrain) return;
      this.#blocked.delete(stream);
      stream.flush();
    }
  }

  #receive(chunk: Buffer): void {
    try {
      for (const frame of this.#reader.read(chunk)) {
        this.#handle(frame);
        if (this.#transport.destroyed) return;
      }
    } catch (error) {
      if (!(error instanceof SpdyError)) throw error;
      this.#refuse(error);
      return;
    }
    if (this.#overfull()) this.#pause();
    if (this.#transport.writableLength > LARGEST_BACKLOG)
      this.#refuse(new SpdyError("the peer does not read what it asks for"));
  }

  #overfull(): boolean {
    return this.#full.size > 0 || this.#unread > CONNECTION_WINDOW;
  }

  #pause(): void {
    this.#transport.pause();
    const id = this.#side === "server" ? 2 : 1;
    this.#probe ??= setInterval(() => this.send({ type: "PING", id }), PROBE_MS);
  }

  #resume(): void {
    if (!this.#probe || this.#overfull()) return;
    clearInterval(this.#probe);
    this.#probe = undefined;
    this.#transport.resume();
  }

  #refuse(error: SpdyError): void {
    this.#fault ??= error;
    this.send({ type: "GOAWAY", lastStreamId: this.#lastPeerId, status: GOAWAY.PROTOCOL_ERROR });
    this.#transport.destroy();
  }

  #handle(frame: Frame): void {
    switch (frame.type) {
      case "SYN_STREAM":
        this.#accept(frame);
        break;
      case "SYN_REPLY":
      case "HEADERS":
        if (frame.fin) this.#streams.get(frame.streamId)?.receive(Buffer.alloc(0), true);
        break;
      case "DATA":
        this.#data(frame);
        break;
      case "RST_STREAM":
        if (this.#resetEnds) this.#streams.get(frame.streamId)?.finish();
        else this.#streams.get(frame.streamId)?.abort("the stream was reset by the peer");
        break;
      case "PING":
        // Whoever made the id has it back: clients make odd ones.
        if (frame.id % 2 === (this.#side === "server" ? 1 : 0)) this.send(frame);
        break;
      case "SETTINGS":
        for (const { id, value } of frame.settings)
          if (id === SETTING.INITIAL_WINDOW_SIZE) this.#setInitialWindow(value);
        break;
      case "WINDOW_UPDATE":
        this.#enlarge(frame.streamId, frame.delta);
        break;
      case "GOAWAY":
      // It opens no more streams; those that are there go on to their end.
    }
  }

  #accept(frame: Extract<Frame, { type: "SYN_STREAM" }>): void {
    const { streamId } = frame;
    const isPeers = streamId % 2 === (this.#side === "server" ? 1 : 0);
    if (!isPeers || streamId <= this.#lastPeerId) throw new SpdyError(`stream id ${streamId}`);
    this.#lastPeerId = streamId;
    if (this.#leaving || !this.#onStream || this.#streams.size >= MAX_STREAMS) {
      this.send({ type: "RST_STREAM", streamId, status: RESET.REFUSED_STREAM });
      return;
    }
    const stream = new SpdyStream(this, streamId, frame.headers, this.#initialWindow, frame.fin);
    this.#streams.set(streamId, stream);
    this.#onStream(stream);
  }

  #data({ streamId, data, fin }: Extract<Frame, { type: "DATA" }>): void {
    this.#unread += data.length;
    const stream = this.#streams.get(streamId);
    if (!stream) {
      this.consumed(data.length);
      // Data that crossed our reset is no mistake.
      if (streamId > this.#lastPeerId && streamId >= this.#nextId)
        this.send({ type: "RST_STREAM", streamId, status: RESET.INVALID_STREAM });
      return;
    }
    stream.receive(data, fin);
  }

  #setInitialWindow(value: number): void {
    this.#hasWindows = true;
    for (const stream of this.#streams.values()) stream.sendWindow += value - this.#initialWindow;
    this.#initialWindow = value;
    this.#unblock();
  }

  #enlarge(streamId: number, delta: number): void {
    this.#hasWindows = true;
    const stream = this.#streams.get(streamId);
    if (streamId === 0) {
      this.#sendWindow += delta;
      if (this.#sendWindow > LARGEST_WINDOW) throw new SpdyError("window of the connection overflows");
    } else if (stream) {
      stream.sendWindow += delta;
      if (stream.sendWindow > LARGEST_WINDOW) stream.reset(RESET.FLOW_CONTROL_ERROR);
    }
    this.#unblock();
  }
}
