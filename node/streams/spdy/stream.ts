// One SPDY stream as a Duplex with back-pressure both ways; each side ends on its own. Knows windows and its own state;
// the frames of all streams are the connection's.

import { Duplex } from "node:stream";
import { type Frame, type Headers, RESET } from "./frames.js";

/** Bytes that may wait unread in one stream; the peer is told by SETTINGS. */
export const STREAM_WINDOW = 256 << 10;
/** Small enough that many streams share a connection fairly. */
const LARGEST_PIECE = 32 << 10;

/** What a stream asks of its connection. */
export interface StreamOwner {
  send(frame: Frame): void;
  /** How many bytes of data may be sent now; 0: `flush` is called when it is worth asking again. */
  allowance(stream: SpdyStream): number;
  /** So many bytes that were read from the peer have been taken by whoever uses the stream. */
  consumed(bytes: number): void;
  /** What waits unread has become more or less. */
  waiting(stream: SpdyStream): void;
  /** Nothing more will be sent or received. */
  forget(stream: SpdyStream): void;
}

/**
 * A stream of a connection. When the peer resets it or the connection ends, it is destroyed with an error ("close"
 * tells); errors need no listener. Destroying it resets it.
 */
export class SpdyStream extends Duplex {
  readonly id: number;
  readonly headers: Headers;
  /** What the peer lets us send; below zero when it never opened its window and does not care. */
  sendWindow: number;
  readonly #owner: StreamOwner;
  readonly #unread: Buffer[] = [];
  #unreadBytes = 0;
  #uncredited = 0;
  #wanted = false;
  #pending: { data: Buffer; done: (error?: Error | null) => void } | undefined;
  #received: boolean;
  #sent = false;
  #over = false;

  /** `finished`: the peer has ended its side together with opening the stream. */
  constructor(owner: StreamOwner, id: number, headers: Headers, sendWindow: number, finished = false) {
    super();
    this.id = id;
    this.headers = headers;
    this.sendWindow = sendWindow;
    this.#owner = owner;
    this.#received = finished;
    this.on("error", () => {});
  }

  /** The first value of a header, undefined when there is none. */
  header(name: string): string | undefined {
    return this.headers[name.toLowerCase()]?.[0];
  }

  /** Accepts a stream that the peer has opened: to be done before anything is written. */
  reply(headers: Headers = {}): void {
    this.#owner.send({ type: "SYN_REPLY", streamId: this.id, fin: false, headers });
  }

  /** Refuses or cuts the stream. */
  reset(status: number = RESET.CANCEL): void {
    if (!this.#over) this.#owner.send({ type: "RST_STREAM", streamId: this.id, status });
    this.#forget();
    this.destroy();
  }

  /** Bytes that have come and nobody has asked for. */
  get unreadBytes(): number {
    return this.#unreadBytes;
  }

  /** The connection's: data, or the end of it, from the peer. */
  receive(data: Buffer, fin: boolean): void {
    if (this.destroyed || this.#received) {
      this.#owner.consumed(data.length);
      this.reset(RESET.PROTOCOL_ERROR);
      return;
    }
    if (data.length > 0) {
      this.#unread.push(data);
      this.#unreadBytes += data.length;
    }
    if (fin) this.#received = true;
    this.#deliver();
    if (fin) this.#settle();
  }

  /** The connection's: the peer cut the stream, or the connection is gone. */
  abort(reason: string): void {
    this.#forget();
    this.destroy(new Error(reason));
  }

  /** The connection's: the peer is done with the stream, both ways; what has come is still to be read. */
  finish(): void {
    this.#received = true;
    this.#forget();
    this.#deliver();
    this.flush();
  }

  /** The connection's: there may be room again. */
  flush(): void {
    const pending = this.#pending;
    // What nobody takes any more counts as sent.
    while (pending && pending.data.length > 0 && !this.#over) {
      const size = Math.min(LARGEST_PIECE, pending.data.length, this.#owner.allowance(this));
      if (size <= 0) return;
      const data = pending.data.subarray(0, size);
      pending.data = pending.data.subarray(size);
      this.#owner.send({ type: "DATA", streamId: this.id, fin: false, data });
    }
    this.#pending = undefined;
    pending?.done();
  }

  override _write(data: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#pending = { data, done };
    this.flush();
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#sent = true;
    if (!this.#over) this.#owner.send({ type: "DATA", streamId: this.id, fin: true, data: Buffer.alloc(0) });
    this.#settle();
    done();
  }

  override _read(): void {
    this.#wanted = true;
    this.#deliver();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.#over && !(this.#sent && this.#received))
      this.#owner.send({ type: "RST_STREAM", streamId: this.id, status: RESET.CANCEL });
    this.#forget();
    this.#owner.consumed(this.#unreadBytes);
    this.#unread.length = 0;
    this.#unreadBytes = 0;
    this.#owner.waiting(this);
    this.#pending?.done(error ?? new Error("the stream was closed"));
    this.#pending = undefined;
    done(error);
  }

  #deliver(): void {
    let bytes = 0;
    while (this.#wanted) {
      const data = this.#unread.shift();
      if (!data) break;
      bytes += data.length;
      this.#wanted = this.push(data);
    }
    this.#unreadBytes -= bytes;
    if (this.#wanted && this.#received && this.#unread.length === 0) {
      this.#wanted = false;
      this.push(null);
    }
    this.#owner.waiting(this);
    if (bytes > 0) this.#credit(bytes);
  }

  #credit(bytes: number): void {
    this.#owner.consumed(bytes);
    this.#uncredited += bytes;
    if (this.#uncredited < STREAM_WINDOW / 2 || this.#received || this.#over) return;
    this.#owner.send({ type: "WINDOW_UPDATE", streamId: this.id, delta: this.#uncredited });
    this.#uncredited = 0;
  }

  #settle(): void {
    if (this.#sent && this.#received) this.#forget();
  }

  #forget(): void {
    if (this.#over) return;
    this.#over = true;
    this.#owner.forget(this);
  }
}
