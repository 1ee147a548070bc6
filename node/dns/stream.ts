// DNS over TCP: each message with its length before it (RFC 1035, 4.2.2). Pure.

/** A message as it goes through TCP. */
export function withLength(message: Buffer): Buffer {
  const out = Buffer.alloc(message.length + 2);
  out.writeUInt16BE(message.length, 0);
  message.copy(out, 2);
  return out;
}

/** Bytes as they come, messages as they were. */
export class MessageReader {
  readonly #take: (message: Buffer) => void;
  #rest: Buffer = Buffer.alloc(0);

  constructor(take: (message: Buffer) => void) {
    this.#take = take;
  }

  push(chunk: Buffer): void {
    this.#rest = this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    while (this.#rest.length >= 2) {
      const end = 2 + this.#rest.readUInt16BE(0);
      if (this.#rest.length < end) return;
      const message = this.#rest.subarray(2, end);
      this.#rest = this.#rest.subarray(end);
      this.#take(message);
    }
  }
}
