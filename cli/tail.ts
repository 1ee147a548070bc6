// The end of a growing file, and what is added to it. Knows files.

import { type FileHandle, open, stat } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { LineSplitter } from "../client/lines.js";

const BLOCK_BYTES = 64 * 1024;
const POLL_MS = 100;

export interface TailOptions {
  /** How many of the last lines; default all. */
  lines?: number;
  /** Go on with what is added, until `signal` aborts. */
  follow?: boolean;
  signal: AbortSignal;
}

/**
 * Lines of a file. A file that is shortened or replaced while it is followed is read from its beginning.
 * @throws ENOENT when there is none.
 */
export async function* tailFile(path: string, options: TailOptions): AsyncGenerator<string> {
  const { lines, follow = false, signal } = options;
  let handle = await open(path, "r");
  try {
    let position = lines === undefined ? 0 : await startOfLastLines(handle, lines);
    let splitter = new LineSplitter();
    const block = Buffer.alloc(BLOCK_BYTES);
    while (!signal.aborted) {
      const { bytesRead } = await handle.read(block, 0, block.length, position);
      if (bytesRead > 0) {
        position += bytesRead;
        yield* splitter.push(Uint8Array.prototype.slice.call(block, 0, bytesRead));
        continue;
      }
      if (!follow) break;
      await pause(signal);
      const replaced = await replacement(path, handle, position);
      if (!replaced) continue;
      await handle.close();
      handle = replaced;
      position = 0;
      splitter = new LineSplitter();
    }
    const rest = splitter.rest();
    if (rest && !signal.aborted) yield rest;
  } finally {
    await handle.close();
  }
}

async function pause(signal: AbortSignal): Promise<void> {
  try {
    await sleep(POLL_MS, undefined, { signal });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

/** The file newly opened, when it is another one or shorter than what was read. */
async function replacement(
  path: string,
  handle: FileHandle,
  position: number,
): Promise<FileHandle | undefined> {
  try {
    const [now, opened] = await Promise.all([stat(path), handle.stat()]);
    return now.ino !== opened.ino || now.size < position ? await open(path, "r") : undefined;
  } catch (error) {
    // Gone for the moment: another may come.
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** Reads backwards, block by block: a long log costs no more than its end. */
async function startOfLastLines(handle: FileHandle, lines: number): Promise<number> {
  const { size } = await handle.stat();
  if (lines === 0) return size;
  const block = Buffer.alloc(BLOCK_BYTES);
  let missing = lines;
  for (let end = size; end > 0; ) {
    const start = Math.max(0, end - BLOCK_BYTES);
    await handle.read(block, 0, end - start, start);
    for (let index = end - start - 1; index >= 0; index--) {
      // The newline at the very end closes the last line, it begins none.
      if (block[index] !== 0x0a || start + index === size - 1) continue;
      missing -= 1;
      if (missing === 0) return start + index + 1;
    }
    end = start;
  }
  return 0;
}
