// SPDY/3.1 connections between two of our own ends and against raw bytes: streams, windows, limits, and how they end.
// Needs no privileges.

import { once } from "node:events";
import net, { createServer, type Socket } from "node:net";
import { join } from "node:path";
import type { Duplex, Readable } from "node:stream";
import t from "tap";
import { ResizeReader } from "../../node/streams/remote-channels.js";
import { SpdyConnection, type SpdyStream } from "../../node/streams/spdy/connection.js";
import { type Frame, FrameReader, FrameWriter, RESET, SpdyError } from "../../node/streams/spdy/frames.js";
import { random } from "../helpers/random.js";
import { tempDir } from "../helpers/temp-dir.js";
import { becomes } from "../helpers/until.js";
import { portForward, stream, wire } from "./helpers/spdy-wire.js";

interface Ends {
  client: SpdyConnection;
  server: SpdyConnection;
  accepted: SpdyStream[];
}

/** A server on one end of a wire, and the other end. */
function serveStreams(onStream: (stream: SpdyStream) => void = (one) => one.reply()) {
  const [near, far] = wire();
  const accepted: SpdyStream[] = [];
  const server = new SpdyConnection({
    transport: far,
    side: "server",
    onStream: (one) => {
      accepted.push(one);
      onStream(one);
    },
  });
  return { near, server, accepted };
}

function connect(onStream?: (stream: SpdyStream) => void): Ends {
  const { near, server, accepted } = serveStreams(onStream);
  const client = new SpdyConnection({ transport: near, side: "client" });
  return { client, server, accepted };
}

/** Not by `for await`, which destroys a stream whose other side is still open. */
function textOf(readable: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  readable.on("data", (chunk: Buffer) => chunks.push(chunk));
  return new Promise((resolve, reject) => {
    readable.once("end", () => resolve(Buffer.concat(chunks).toString()));
    readable.once("close", () => reject(new Error("closed before its end")));
  });
}

const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

t.test("streams: data, half-close both ways, many at once", async (t) => {
  const { client, server } = connect((one) => {
    one.reply();
    // Upper case back, and only after the other side has said all it has.
    void textOf(one).then((text) => one.end(text.toUpperCase()));
  });
  const texts = await Promise.all(
    Array.from({ length: 100 }, async (_, i) => {
      const one = client.open(portForward(i));
      one.end(`stream ${i} ${"x".repeat(i * 100)}`);
      return await textOf(one);
    }),
  );
  for (const [i, text] of texts.entries())
    if (text !== `STREAM ${i} ${"X".repeat(i * 100)}`) t.fail(`stream ${i}`);
  t.equal(client.streams + server.streams, 0, "nothing is kept of them");
  client.close();
  t.same(await Promise.all([client.closed, server.closed]), [undefined, undefined]);
});

t.test("a slow reader holds back its stream, not the others", async (t) => {
  const { client, accepted } = connect();
  const slow = client.open({ name: ["slow"] });
  const size = 3 << 20;
  let written = 0;
  slow.end(Buffer.alloc(size, "s"), () => {
    written = size;
  });
  const quick = client.open({ name: ["quick"] });
  quick.end("here");
  await becomes(t, "both are there", () => accepted.length === 2);
  const [far, other] = accepted as [SpdyStream, SpdyStream];
  t.equal(await textOf(other), "here");
  await turn();
  t.equal(written, 0);
  t.ok(far.unreadBytes <= 256 << 10, `${far.unreadBytes} bytes wait at the reader`);
  t.equal((await textOf(far)).length, size, "read, all of it comes");
  await becomes(t, "and the writer hears of it", () => written === size);
  client.destroy();
});

/** A client that speaks by bytes, as kubectl's library does: no windows, no settings. */
function rawClient(onStream?: (stream: SpdyStream) => void): {
  server: SpdyConnection;
  accepted: SpdyStream[];
  end: Duplex;
  frames: Frame[];
  send(frame: Frame): void;
} {
  const { near, server, accepted } = serveStreams(onStream);
  const [reader, writer] = [new FrameReader(), new FrameWriter()];
  const frames: Frame[] = [];
  near.on("data", (chunk: Buffer) => frames.push(...reader.read(chunk)));
  near.on("error", () => {});
  return { server, accepted, end: near, frames, send: (frame) => void near.write(writer.bytes(frame)) };
}

t.test("a client without windows, like kubectl", async (t) => {
  const { accepted, end, frames, send, server } = rawClient();
  send(stream(1, { streamtype: ["data"] }));
  send({ type: "PING", id: 1 });
  await becomes(t, "the ping comes back", () => frames.some((one) => one.type === "PING" && one.id === 1));
  t.match(
    frames.find((one) => one.type === "SYN_REPLY"),
    { streamId: 1 },
  );
  const [one] = accepted as [SpdyStream];
  one.write(Buffer.alloc(1 << 20, "d"));
  const received = () =>
    frames.reduce((sum, frame) => sum + (frame.type === "DATA" ? frame.data.length : 0), 0);
  await becomes(t, "it gets more than a window that it never opens", () => received() === 1 << 20);

  let taken = 0;
  const total = 4 << 20;
  const piece = Buffer.alloc(32 << 10, "u");
  const write = async () => {
    const writer = new FrameWriter();
    for (let at = 0; at < total; at += piece.length)
      if (!end.write(writer.bytes({ type: "DATA", streamId: 1, fin: false, data: piece })))
        await once(end, "drain");
  };
  const writing = write();
  await turn();
  t.ok(one.unreadBytes < 400 << 10, `${one.unreadBytes} bytes wait: the rest is not read`);
  one.on("data", (chunk: Buffer) => {
    taken += chunk.length;
  });
  await writing;
  await becomes(t, "read, all of it comes", () => taken === total);
  send({ type: "RST_STREAM", streamId: 1, status: RESET.CANCEL });
  await becomes(t, "a reset ends the stream", () => one.destroyed);
  t.equal(server.streams, 0);
  end.destroy();
  await server.closed;
});

t.test("a client that goes while it is not read from is missed all the same", async (t) => {
  const directory = tempDir(t);
  const listener = createServer({ allowHalfOpen: true });
  await new Promise<void>((resolve) => listener.listen(join(directory, "sock"), resolve));
  const client = net.connect(join(directory, "sock"));
  const [transport] = (await once(listener, "connection")) as [Socket];
  const accepted: SpdyStream[] = [];
  const server = new SpdyConnection({
    transport,
    side: "server",
    onStream: (one) => {
      one.reply();
      accepted.push(one);
    },
  });
  const writer = new FrameWriter();
  client.on("error", () => {});
  client.write(writer.bytes(stream(1, {})));
  for (let i = 0; i < 64; i++)
    client.write(writer.bytes({ type: "DATA", streamId: 1, fin: false, data: Buffer.alloc(32 << 10) }));
  await becomes(t, "not read from", () => transport.isPaused());
  client.destroy();
  await server.closed;
  t.ok(accepted[0]?.destroyed);
  listener.close();
});

t.test("limits", async (t) => {
  const { frames, send, server, end } = rawClient();
  for (let i = 0; i < 2001; i++) send(stream(1 + 2 * i, {}));
  await becomes(t, "the stream beyond the limit is refused", () =>
    frames.some(
      (one) => one.type === "RST_STREAM" && one.streamId === 4001 && one.status === RESET.REFUSED_STREAM,
    ),
  );
  t.equal(server.streams, 2000);
  end.destroy();
  await server.closed;
  t.equal(server.streams, 0, "with the connection all of them are gone");

  const windows = rawClient();
  windows.send(stream(1, {}));
  windows.send({ type: "WINDOW_UPDATE", streamId: 1, delta: 0x7fff_ffff });
  await becomes(t, "a window that overflows", () =>
    windows.frames.some((one) => one.type === "RST_STREAM" && one.status === RESET.FLOW_CONTROL_ERROR),
  );
  windows.send({ type: "WINDOW_UPDATE", streamId: 0, delta: 0x7fff_ffff });
  t.match(await windows.server.closed, { message: "window of the connection overflows" });

  const pings = rawClient();
  pings.end.pause();
  const writer = new FrameWriter();
  const many = Buffer.concat(Array.from({ length: 100_000 }, () => writer.bytes({ type: "PING", id: 1 })));
  pings.end.write(many);
  pings.end.write(many);
  t.match(await pings.server.closed, { message: /does not read/ }, "answers that nobody takes");
});

t.test("garbage ends the connection, not the process", async (t) => {
  const below = random(5);
  for (let round = 0; round < 30; round++) {
    const { end, server, send, accepted } = rawClient();
    send(stream(1, portForward(1)));
    await becomes(t, "open", () => accepted.length === 1);
    // The first byte makes it a control frame of an unheard-of version.
    end.write(Buffer.from(Array.from({ length: 50 }, (_, i) => (i === 0 ? 0x81 : below(256)))));
    t.type(await server.closed, SpdyError);
    t.ok(accepted[0]?.destroyed);
  }
  const { server, send } = rawClient();
  send(stream(2, {}));
  t.match(await server.closed, { message: "stream id 2" }, "an id of the other side");
});

t.test("a connection that breaks ends its streams", async (t) => {
  const { client, server, accepted } = connect();
  const one = client.open({});
  await becomes(t, "open", () => accepted.length === 1);
  server.destroy();
  await client.closed;
  t.ok(one.destroyed && accepted[0]?.destroyed);
  one.write("into nothing");
  await turn();
});

t.test("close lets the streams end first", async (t) => {
  const { client, server, accepted } = connect();
  const one = client.open({});
  await becomes(t, "open", () => accepted.length === 1);
  server.close();
  accepted[0]?.end("last words");
  t.equal(await textOf(one), "last words");
  let gone = false;
  void server.closed.then(() => {
    gone = true;
  });
  await turn();
  t.notOk(gone, "the client's side is still open");
  one.end();
  t.equal(await server.closed, undefined);
});

t.test("sizes of a terminal, in pieces and several at once", async (t) => {
  const reader = new ResizeReader();
  t.same(reader.read('{"Width":80,"Hei'), []);
  t.same(reader.read('ght":24}\n{"Width":100000,"Height":1}\n'), [
    { columns: 80, rows: 24 },
    { columns: 65_535, rows: 1 },
  ]);
  t.same(reader.read("}{nonsense}{}"), []);
  t.same(reader.read('{"Width":1,"Height":2}'), [{ columns: 1, rows: 2 }]);
});
