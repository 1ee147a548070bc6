// Two ends of a connection in memory, and frames in short, for tests of SPDY.

import { Duplex } from "node:stream";
import type { Frame } from "../../../node/streams/spdy/frames.js";
import type { Headers } from "../../../node/streams/spdy/headers.js";

/** A SYN_STREAM that opens a stream for both directions. */
export const stream = (streamId: number, headers: Headers): Frame => ({
  type: "SYN_STREAM",
  streamId,
  fin: false,
  unidirectional: false,
  priority: 0,
  headers,
});

/** Headers of the stream `id`, as kubectl port-forward has them. */
export const portForward = (id: number): Headers => ({
  port: ["80"],
  requestid: [String(id)],
  streamtype: [id % 2 ? "data" : "error"],
});

/** Two ends of a connection in memory. `highWaterMark`: bytes that one holds for the other. */
export function wire(highWaterMark = 16 << 10): [Duplex, Duplex] {
  const ends: Duplex[] = [];
  const make = (other: 0 | 1): Duplex => {
    let more: (() => void) | undefined;
    const end = new Duplex({
      highWaterMark,
      read: () => more?.(),
      write(chunk: Buffer, _encoding, done) {
        const peer = ends[other] as Duplex & { give(chunk: Buffer | null, done: () => void): void };
        peer.give(chunk, done);
      },
      final(done) {
        const peer = ends[other] as Duplex & { give(chunk: Buffer | null, done: () => void): void };
        peer.give(null, done);
      },
      destroy(error, done) {
        setImmediate(() => ends[other]?.destroy());
        done(error);
      },
    });
    return Object.assign(end, {
      give(chunk: Buffer | null, done: () => void): void {
        if (end.destroyed || end.push(chunk)) done();
        else
          more = () => {
            more = undefined;
            done();
          };
      },
    });
  };
  ends.push(make(1), make(0));
  return ends as [Duplex, Duplex];
}
