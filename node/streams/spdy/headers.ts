// Header blocks: names and values as bytes, and the one zlib stream of a connection's direction that all its blocks
// go through. Pure, but for that stream's state.

import { constants, deflateRawSync, deflateSync, inflateRawSync, inflateSync } from "node:zlib";
import { DICTIONARY } from "./dictionary.js";

/** Lower-case names; a name may have several values. */
export type Headers = Readonly<Record<string, readonly string[]>>;

/** The peer broke the protocol: the connection cannot go on. */
export class SpdyError extends Error {
  override readonly name = "SpdyError";
}

/** Of one block, inflated. kubectl's are below 100 bytes. */
const LARGEST_BLOCK = 64 << 10;
/** How far back a compressed block may point (RFC 1951). */
const WINDOW = 32 << 10;

export function headersToBytes(headers: Headers): Buffer {
  const entries = Object.entries(headers);
  const parts = [uint32(entries.length)];
  for (const [name, values] of entries) {
    for (const text of [name.toLowerCase(), values.join("\0")]) {
      const bytes = Buffer.from(text, "utf8");
      parts.push(uint32(bytes.length), bytes);
    }
  }
  return Buffer.concat(parts);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** @throws SpdyError when the bytes are no header block: too short, too long, a name twice or in upper case. */
export function headersFromBytes(block: Buffer): Headers {
  let at = 0;
  const number = (): number => {
    if (at + 4 > block.length) throw new SpdyError("header block is too short");
    at += 4;
    return block.readUInt32BE(at - 4);
  };
  const text = (): string => {
    const length = number();
    if (at + length > block.length) throw new SpdyError("header block is too short");
    at += length;
    return block.toString("utf8", at - length, at);
  };
  const headers = new Map<string, string[]>();
  for (let left = number(); left > 0; left--) {
    const name = text();
    if (name === "" || name !== name.toLowerCase())
      throw new SpdyError(`header name ${JSON.stringify(name)}`);
    if (headers.has(name)) throw new SpdyError(`header ${name} comes twice`);
    headers.set(name, text().split("\0"));
  }
  if (at < block.length) throw new SpdyError("header block is too long");
  return Object.fromEntries(headers);
}

/**
 * Each block is ended by a sync flush, as all SPDY implementations do it: then the stream is at the start of a byte and
 * of a deflate block, so the next one needs nothing of the last but its text. That lets zlib's synchronous functions
 * do, with that text as their dictionary.
 */
class BlockStream {
  #window: Buffer = DICTIONARY;
  #begun = false;

  /** Only the first block has zlib's own header, with the checksum of the dictionary. */
  get begun(): boolean {
    return this.#begun;
  }

  get options() {
    return { dictionary: this.#window, finishFlush: constants.Z_SYNC_FLUSH };
  }

  passed(plain: Buffer): void {
    this.#begun = true;
    this.#window = Buffer.concat([this.#window, plain]).subarray(-WINDOW);
  }
}

export class HeaderCompressor {
  readonly #stream = new BlockStream();

  compress(headers: Headers): Buffer {
    const plain = headersToBytes(headers);
    const { begun, options } = this.#stream;
    const bytes = begun ? deflateRawSync(plain, options) : deflateSync(plain, options);
    this.#stream.passed(plain);
    return bytes;
  }
}

export class HeaderDecompressor {
  readonly #stream = new BlockStream();

  /** @throws SpdyError; the direction cannot be read any more then. */
  decompress(block: Buffer): Headers {
    const plain = this.#inflate(block);
    this.#stream.passed(plain);
    return headersFromBytes(plain);
  }

  #inflate(block: Buffer): Buffer {
    const { begun } = this.#stream;
    const options = { ...this.#stream.options, maxOutputLength: LARGEST_BLOCK };
    try {
      return begun ? inflateRawSync(block, options) : inflateSync(block, options);
    } catch (error) {
      throw new SpdyError(`header block cannot be inflated: ${(error as Error).message}`);
    }
  }
}
