// Remote commands over SPDY/3.1, as kubectl before 1.31 speaks it: a stream for each of error, stdin, stdout, stderr
// and resize, told apart by the header streamType (k8s.io/kubelet streaming/remotecommand). Knows streams, nothing of
// processes.

import type { Duplex, Readable, Writable } from "node:stream";
import type { Status } from "../../common/k8s.js";
import { type RemoteChannels, ResizeReader, type WantedStreams } from "./remote-channels.js";
import type { SpdyConnection, SpdyStream } from "./spdy/connection.js";
import { RESET } from "./spdy/frames.js";
import { acceptSpdy } from "./upgrade.js";

const V1 = "channel.k8s.io";
const V2 = "v2.channel.k8s.io";
const V4 = "v4.channel.k8s.io";
export const SPDY_PROTOCOLS = [V4, "v3.channel.k8s.io", V2, V1] as const;

/** The kubelet's streamCreationTimeout. */
const CREATION_TIMEOUT_MS = 30_000;

/** The streams that a client opens, in its own order. */
function expectedStreams(wanted: WantedStreams, protocol: string): string[] {
  const resizes = wanted.tty && protocol !== V1 && protocol !== V2;
  return [
    "error",
    ...(wanted.stdin ? ["stdin"] : []),
    ...(wanted.stdout ? ["stdout"] : []),
    ...(wanted.stderr ? ["stderr"] : []),
    ...(resizes ? ["resize"] : []),
  ];
}

/**
 * Answers the upgrade and waits for the client's streams.
 * @throws Error when they do not come in time; the connection is closed then.
 */
export function acceptSpdyChannels(
  socket: Duplex,
  head: Buffer,
  protocol: string,
  wanted: WantedStreams,
): Promise<RemoteChannels> {
  const expected = expectedStreams(wanted, protocol);
  const streams = new Map<string, SpdyStream>();
  return new Promise((resolve, reject) => {
    const fail = (why: string) => {
      clearTimeout(timer);
      connection.destroy();
      reject(new Error(why));
    };
    const late = () => fail("timed out waiting for client to create streams");
    const timer = setTimeout(late, CREATION_TIMEOUT_MS);
    const connection = acceptSpdy(socket, head, protocol, (stream) => {
      const type = stream.header("streamtype") ?? "";
      if (!expected.includes(type) || streams.has(type)) {
        stream.reset(RESET.REFUSED_STREAM);
        return;
      }
      stream.reply();
      streams.set(type, stream);
      if (streams.size < expected.length) return;
      clearTimeout(timer);
      resolve(new SpdyChannels(connection, streams, protocol));
    });
    void connection.closed.then(() => fail("the client has closed the connection"));
  });
}

class SpdyChannels implements RemoteChannels {
  readonly stdin: Readable | null;
  readonly stdout: Writable | null;
  readonly stderr: Writable | null;
  readonly gone: Promise<void>;
  readonly #connection: SpdyConnection;
  readonly #streams: ReadonlyMap<string, SpdyStream>;
  readonly #protocol: string;

  constructor(connection: SpdyConnection, streams: ReadonlyMap<string, SpdyStream>, protocol: string) {
    this.#connection = connection;
    this.#streams = streams;
    this.#protocol = protocol;
    this.stdin = streams.get("stdin") ?? null;
    this.stdout = streams.get("stdout") ?? null;
    this.stderr = streams.get("stderr") ?? null;
    this.gone = connection.closed.then(() => {});
    // What a client says where it should only listen is read and dropped: its end of the stream, mostly.
    for (const name of ["error", "stdout", "stderr"]) streams.get(name)?.resume();
  }

  onResize(listener: (columns: number, rows: number) => void): void {
    const sizes = new ResizeReader();
    this.#streams.get("resize")?.on("data", (data: Buffer) => {
      for (const { columns, rows } of sizes.read(data.toString())) listener(columns, rows);
    });
  }

  finish(status: Partial<Status>): void {
    const text = this.#statusText(status);
    const ended = (["stdout", "stderr", "error"] as const).map((name) => {
      const stream = this.#streams.get(name);
      if (!stream || stream.writableFinished || stream.destroyed) return Promise.resolve();
      if (!stream.writableEnded) stream.end(name === "error" ? text : undefined);
      return new Promise<void>((resolve) => stream.once("finish", resolve).once("close", resolve));
    });
    void Promise.all(ended).then(() => this.#connection.close());
  }

  /** Before v4 an error is only a text, and success is none. */
  #statusText(status: Partial<Status>): string {
    if (this.#protocol === V4) return JSON.stringify(status);
    return status.status === "Success" ? "" : (status.message ?? "");
  }
}
