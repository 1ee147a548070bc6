// The wire format of netlink (netlink(7)): messages made of a header, a fixed part and attributes that may nest.
// Knows bytes and alignment; what a message means is in links.ts, addresses.ts, routes.ts and neighbors.ts.

import { endianness } from "node:os";
import { bytesToIp } from "../../../common/ip.js";

if (endianness() !== "LE") throw new Error("kubeplumb's netlink codec is for little-endian machines only");

const HEADER = 16;
/** Set on an attribute whose payload is attributes: demanded by strict parsers. */
const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;

const align = (n: number): number => (n + 3) & ~3;

/** Builds one message into one growing buffer; reused from request to request. */
export class MessageWriter {
  #buffer = Buffer.alloc(1024);
  #length = 0;

  /** Starts a message; `length` counts the header from now on. */
  begin(type: number, flags: number, seq: number): this {
    this.#buffer.fill(0, 0, HEADER);
    this.#buffer.writeUInt16LE(type, 4);
    this.#buffer.writeUInt16LE(flags, 6);
    this.#buffer.writeUInt32LE(seq, 8);
    this.#length = HEADER;
    return this;
  }

  /** The fixed part that follows a header (ifinfomsg, rtmsg, …), zero where `fill` writes nothing. */
  fixed(size: number, fill: (at: Buffer) => void): this {
    const at = this.#reserve(size);
    this.#buffer.fill(0, at, at + size);
    fill(this.#buffer.subarray(at, at + size));
    return this;
  }

  u8(type: number, value: number): this {
    const at = this.#attribute(type, 1);
    this.#buffer.writeUInt8(value, at);
    return this;
  }

  u16be(type: number, value: number): this {
    const at = this.#attribute(type, 2);
    this.#buffer.writeUInt16BE(value, at);
    return this;
  }

  u32(type: number, value: number): this {
    const at = this.#attribute(type, 4);
    this.#buffer.writeUInt32LE(value, at);
    return this;
  }

  u32be(type: number, value: number): this {
    const at = this.#attribute(type, 4);
    this.#buffer.writeInt32BE(value | 0, at);
    return this;
  }

  u64be(type: number, value: bigint): this {
    const at = this.#attribute(type, 8);
    this.#buffer.writeBigUInt64BE(value, at);
    return this;
  }

  bytes(type: number, value: Uint8Array): this {
    const at = this.#attribute(type, value.length);
    this.#buffer.set(value, at);
    return this;
  }

  /** A NUL-terminated string. */
  string(type: number, value: string): this {
    const length = Buffer.byteLength(value);
    const at = this.#attribute(type, length + 1);
    this.#buffer.write(value, at);
    this.#buffer[at + length] = 0;
    return this;
  }

  nest(type: number, fill: (writer: this) => void): this {
    return this.list(type | NLA_F_NESTED, fill);
  }

  /** Attributes inside an attribute without the mark of {@link nest}: the way in which nf_tables prints its own. */
  list(type: number, fill: (writer: this) => void): this {
    const start = this.#length;
    this.#attribute(type, 0);
    fill(this);
    this.#buffer.writeUInt16LE(this.#length - start, start);
    return this;
  }

  /** The message, valid until the next {@link begin}. */
  end(): Buffer {
    this.#buffer.writeUInt32LE(this.#length, 0);
    return this.#buffer.subarray(0, this.#length);
  }

  #attribute(type: number, length: number): number {
    const at = this.#reserve(4 + length);
    this.#buffer.writeUInt16LE(4 + length, at);
    this.#buffer.writeUInt16LE(type, at + 2);
    return at + 4;
  }

  #reserve(size: number): number {
    const at = this.#length;
    this.#length = align(at + size);
    if (this.#length > this.#buffer.length) {
      const larger = Buffer.alloc(Math.max(this.#length, this.#buffer.length * 2));
      this.#buffer.copy(larger, 0, 0, at);
      this.#buffer = larger;
    }
    // The payload is written over by whoever asked; a native fill for three bytes of padding would cost more than it.
    for (let i = at + size; i < this.#length; i++) this.#buffer[i] = 0;
    return at;
  }
}

/** One received message; `body` starts after the header and is only valid until the next receive. */
export interface NetlinkMessage {
  type: number;
  flags: number;
  seq: number;
  body: Buffer;
}

/** The messages of one datagram. Throws RangeError when the lengths do not add up. */
export function* parseMessages(datagram: Buffer): Generator<NetlinkMessage, void, undefined> {
  let at = 0;
  while (at + HEADER <= datagram.length) {
    const length = datagram.readUInt32LE(at);
    if (length < HEADER || at + length > datagram.length) {
      throw new RangeError(`netlink message of ${length} bytes in a datagram of ${datagram.length} at ${at}`);
    }
    yield {
      type: datagram.readUInt16LE(at + 4),
      flags: datagram.readUInt16LE(at + 6),
      seq: datagram.readUInt32LE(at + 8),
      body: datagram.subarray(at + HEADER, at + length),
    };
    at += align(length);
  }
}

/** Attributes by type; of a type that occurs twice the last counts, as in the kernel's nla_parse. */
export type Attributes = Map<number, Buffer>;

export function parseAttributes(payload: Buffer, offset = 0): Attributes {
  const out: Attributes = new Map();
  let at = offset;
  while (at + 4 <= payload.length) {
    const length = payload.readUInt16LE(at);
    if (length < 4 || at + length > payload.length) break;
    out.set(payload.readUInt16LE(at + 2) & NLA_TYPE_MASK, payload.subarray(at + 4, at + length));
    at += align(length);
  }
  return out;
}

export function readString(value: Buffer): string {
  const end = value.indexOf(0);
  return value.toString("utf8", 0, end < 0 ? value.length : end);
}

/** "aa:bb:cc:dd:ee:ff", lower case as the kernel's tools print it. */
export function formatMac(value: Uint8Array): string {
  return Array.from(value, (byte) => byte.toString(16).padStart(2, "0")).join(":");
}

/** @throws RangeError naming the value. */
export function parseMac(text: string): Uint8Array {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) {
    throw new RangeError(`${JSON.stringify(text)} is not a MAC address (like 0a:58:0a:f4:01:02)`);
  }
  return Uint8Array.from(text.split(":"), (byte) => Number.parseInt(byte, 16));
}

export const readIp = (value: Buffer): string => bytesToIp(value);
