// SPDY/3.1 frames as data: bytes to frames and back. Pure, but for the header compression of each direction.
// Source: SPDY protocol drafts 3 and 3.1 (chromium.org).

import { HeaderCompressor, HeaderDecompressor, type Headers, SpdyError } from "./headers.js";

export { type Headers, SpdyError };

export type Frame =
  | {
      type: "SYN_STREAM";
      streamId: number;
      fin: boolean;
      unidirectional: boolean;
      /** 0 the highest, 7 the lowest. */
      priority: number;
      headers: Headers;
    }
  | { type: "SYN_REPLY" | "HEADERS"; streamId: number; fin: boolean; headers: Headers }
  | { type: "RST_STREAM"; streamId: number; status: number }
  | { type: "SETTINGS"; settings: readonly { id: number; value: number }[] }
  | { type: "PING"; id: number }
  | { type: "GOAWAY"; lastStreamId: number; status: number }
  /** streamId 0: the whole connection. */
  | { type: "WINDOW_UPDATE"; streamId: number; delta: number }
  /** A reader gives out a long frame in pieces as they come; only the last one has `fin`. */
  | { type: "DATA"; streamId: number; fin: boolean; data: Buffer };

/** Of RST_STREAM. */
export const RESET = {
  PROTOCOL_ERROR: 1,
  INVALID_STREAM: 2,
  REFUSED_STREAM: 3,
  CANCEL: 5,
  INTERNAL_ERROR: 6,
  FLOW_CONTROL_ERROR: 7,
} as const;

/** Of GOAWAY. */
export const GOAWAY = { OK: 0, PROTOCOL_ERROR: 1 } as const;

/** Of SETTINGS. */
export const SETTING = { MAX_CONCURRENT_STREAMS: 4, INITIAL_WINDOW_SIZE: 7 } as const;

const VERSION = 3;
const CONTROL_BIT = 0x8000_0000;
const ID_MASK = 0x7fff_ffff;
const FLAG_FIN = 1;
const FLAG_UNIDIRECTIONAL = 2;
const HEADER_BYTES = 8;
/** A control frame is taken whole: a peer that announces a larger one is cut off. */
const LARGEST_CONTROL_FRAME = 64 << 10;
/** What the 24 bits of a length can say. */
export const LARGEST_DATA_FRAME = 0xff_ffff;

const TYPES = {
  SYN_STREAM: 1,
  SYN_REPLY: 2,
  RST_STREAM: 3,
  SETTINGS: 4,
  PING: 6,
  GOAWAY: 7,
  HEADERS: 8,
  WINDOW_UPDATE: 9,
} as const;
const NAMES = new Map(Object.entries(TYPES).map(([name, type]) => [type, name as keyof typeof TYPES]));

/** One direction of a connection, to be read. */
export class FrameReader {
  readonly #headers = new HeaderDecompressor();
  #rest: Buffer = Buffer.alloc(0);
  /** The data frame whose bytes are coming. */
  #data: { streamId: number; fin: boolean; left: number } | undefined;

  /**
   * The frames that the bytes so far complete, in order; of a data frame what has come of it. Frames of unknown type
   * are left out.
   * @throws SpdyError at the first frame that breaks the protocol; nothing may be read after that.
   */
  *read(chunk: Buffer): Generator<Frame> {
    this.#rest = this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    for (;;) {
      if (this.#data) {
        const piece = this.#piece(this.#data);
        if (!piece) return;
        yield piece;
      } else if (this.#rest.length < HEADER_BYTES) return;
      else if (this.#rest.readUInt32BE() >= CONTROL_BIT) {
        const length = this.#rest.readUIntBE(5, 3);
        if (length > LARGEST_CONTROL_FRAME) throw new SpdyError(`control frame of ${length} bytes`);
        if (this.#rest.length < HEADER_BYTES + length) return;
        const frame = this.#control(this.#take(HEADER_BYTES + length));
        if (frame) yield frame;
      } else this.#begin(this.#take(HEADER_BYTES));
    }
  }

  #take(length: number): Buffer {
    const bytes = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(length);
    return bytes;
  }

  #begin(header: Buffer): void {
    const streamId = header.readUInt32BE();
    if (streamId === 0) throw new SpdyError("data for stream 0");
    this.#data = { streamId, fin: (header.readUInt8(4) & FLAG_FIN) !== 0, left: header.readUIntBE(5, 3) };
  }

  #piece(frame: { streamId: number; fin: boolean; left: number }): Frame | undefined {
    if (frame.left > 0 && this.#rest.length === 0) return undefined;
    const data = this.#take(Math.min(frame.left, this.#rest.length));
    frame.left -= data.length;
    if (frame.left === 0) this.#data = undefined;
    return { type: "DATA", streamId: frame.streamId, fin: frame.fin && frame.left === 0, data };
  }

  #control(bytes: Buffer): Frame | undefined {
    const version = bytes.readUInt16BE() & 0x7fff;
    if (version !== VERSION) throw new SpdyError(`SPDY version ${version}`);
    const type = NAMES.get(bytes.readUInt16BE(2) as (typeof TYPES)[keyof typeof TYPES]);
    const flags = bytes.readUInt8(4);
    const body = bytes.subarray(HEADER_BYTES);
    return type && this.#parse(type, flags, body);
  }

  #parse(type: keyof typeof TYPES, flags: number, body: Buffer): Frame {
    const fin = (flags & FLAG_FIN) !== 0;
    const number = (at: number): number => body.readUInt32BE(at);
    switch (type) {
      case "SYN_STREAM": {
        needs(type, body.length > 10);
        const unidirectional = (flags & FLAG_UNIDIRECTIONAL) !== 0;
        const priority = body.readUInt8(8) >> 5;
        const headers = this.#headers.decompress(body.subarray(10));
        return { type, streamId: streamId(type, body), fin, unidirectional, priority, headers };
      }
      case "SYN_REPLY":
      case "HEADERS":
        needs(type, body.length > 4);
        return {
          type,
          streamId: streamId(type, body),
          fin,
          headers: this.#headers.decompress(body.subarray(4)),
        };
      case "RST_STREAM":
        needs(type, body.length === 8);
        return { type, streamId: streamId(type, body), status: number(4) };
      case "SETTINGS":
        return { type, settings: settings(body) };
      case "PING":
        needs(type, body.length === 4);
        return { type, id: number(0) };
      case "GOAWAY":
        needs(type, body.length === 8);
        return { type, lastStreamId: number(0) & ID_MASK, status: number(4) };
      case "WINDOW_UPDATE": {
        needs(type, body.length === 8);
        const delta = number(4) & ID_MASK;
        needs(type, delta > 0);
        return { type, streamId: number(0) & ID_MASK, delta };
      }
    }
  }
}

function needs(type: string, good: boolean): void {
  if (!good) throw new SpdyError(`malformed ${type} frame`);
}

function streamId(type: string, body: Buffer): number {
  const id = body.readUInt32BE() & ID_MASK;
  if (id === 0) throw new SpdyError(`${type} for stream 0`);
  return id;
}

function settings(body: Buffer): { id: number; value: number }[] {
  needs("SETTINGS", body.length >= 4 && body.length === 4 + 8 * body.readUInt32BE());
  const count = body.readUInt32BE();
  // The first byte of an id is flags: what may be remembered for the next connection.
  return Array.from({ length: count }, (_, i) => ({
    id: body.readUIntBE(5 + 8 * i, 3),
    value: body.readUInt32BE(8 + 8 * i),
  }));
}

/** One direction of a connection, to be written. */
export class FrameWriter {
  readonly #headers = new HeaderCompressor();

  /** @throws RangeError for more data than a frame can hold. */
  bytes(frame: Frame): Buffer {
    if (frame.type === "DATA") return dataFrame(frame);
    const fin = "fin" in frame && frame.fin ? FLAG_FIN : 0;
    switch (frame.type) {
      case "SYN_STREAM": {
        const fixed = numbers(frame.streamId, 0, 0);
        fixed.writeUInt8(frame.priority << 5, 8);
        const flags = fin | (frame.unidirectional ? FLAG_UNIDIRECTIONAL : 0);
        const block = this.#headers.compress(frame.headers);
        return control(frame.type, flags, [fixed.subarray(0, 10), block]);
      }
      case "SYN_REPLY":
      case "HEADERS":
        return control(frame.type, fin, [numbers(frame.streamId), this.#headers.compress(frame.headers)]);
      case "RST_STREAM":
        return control(frame.type, 0, [numbers(frame.streamId, frame.status)]);
      case "SETTINGS": {
        const pairs = frame.settings.flatMap(({ id, value }) => [id, value]);
        return control(frame.type, 0, [numbers(frame.settings.length, ...pairs)]);
      }
      case "PING":
        return control(frame.type, 0, [numbers(frame.id)]);
      case "GOAWAY":
        return control(frame.type, 0, [numbers(frame.lastStreamId, frame.status)]);
      case "WINDOW_UPDATE":
        return control(frame.type, 0, [numbers(frame.streamId, frame.delta)]);
    }
  }
}

function numbers(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) bytes.writeUInt32BE(value, 4 * i);
  return bytes;
}

function control(type: keyof typeof TYPES, flags: number, body: Buffer[]): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt16BE(0x8000 | VERSION);
  header.writeUInt16BE(TYPES[type], 2);
  header.writeUInt8(flags, 4);
  const length = body.reduce((sum, part) => sum + part.length, 0);
  header.writeUIntBE(length, 5, 3);
  return Buffer.concat([header, ...body]);
}

function dataFrame({ streamId, fin, data }: Extract<Frame, { type: "DATA" }>): Buffer {
  if (data.length > LARGEST_DATA_FRAME) throw new RangeError(`a data frame cannot hold ${data.length} bytes`);
  const header = numbers(streamId, data.length);
  header.writeUInt8(fin ? FLAG_FIN : 0, 4);
  return Buffer.concat([header, data]);
}
