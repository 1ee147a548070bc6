// Cuts a stream of bytes into lines. Knows bytes only.

const NEWLINE = 0x0a;

/**
 * Collects chunks and gives out complete lines, decoded as UTF-8 line by line: neither a line nor a character is
 * hurt by where the chunks were cut. Each byte is looked at once.
 */
export class LineSplitter {
  #pending: Uint8Array[] = [];

  /** The lines that `chunk` completes, without their newline. */
  push(chunk: Uint8Array): string[] {
    const lines: string[] = [];
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      this.#pending.push(chunk.subarray(start, end));
      lines.push(this.rest());
      start = end + 1;
    }
    if (start < chunk.length) this.#pending.push(chunk.subarray(start));
    return lines;
  }

  /** What came after the last newline; empties it. */
  rest(): string {
    const text = Buffer.concat(this.#pending).toString("utf8");
    this.#pending = [];
    return text;
  }
}
