// SPDY/3.1: frames by their bytes, header compression over many blocks, and connections between two of our own ends
// and against raw bytes. Needs no privileges.

import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net, { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Duplex, type Readable } from "node:stream";
import { constants, createDeflate, createInflate, type Deflate, type Inflate } from "node:zlib";
import t, { type Test } from "tap";
import { ResizeReader } from "../../node/streams/remote-channels.js";
import { SpdyConnection, type SpdyStream } from "../../node/streams/spdy/connection.js";
import { DICTIONARY } from "../../node/streams/spdy/dictionary.js";
import { type Frame, FrameReader, FrameWriter, RESET, SpdyError } from "../../node/streams/spdy/frames.js";
import {
  HeaderCompressor,
  HeaderDecompressor,
  type Headers,
  headersFromBytes,
  headersToBytes,
} from "../../node/streams/spdy/headers.js";
import { random } from "../helpers/random.js";

const stream = (streamId: number, headers: Headers): Frame => ({
  type: "SYN_STREAM",
  streamId,
  fin: false,
  unidirectional: false,
  priority: 0,
  headers,
});

const portForward = (id: number): Headers => ({
  port: ["80"],
  requestid: [String(id)],
  streamtype: [id % 2 ? "data" : "error"],
});

/** All frames of the bytes, the pieces of one data frame put together again. */
function framesOf(chunks: Iterable<Buffer>): Frame[] {
  const reader = new FrameReader();
  const frames: Frame[] = [];
  let open = false;
  for (const chunk of chunks) {
    for (const frame of reader.read(chunk)) {
      const last = frames.at(-1);
      if (frame.type === "DATA" && last?.type === "DATA" && open && last.streamId === frame.streamId) {
        frames[frames.length - 1] = { ...frame, data: Buffer.concat([last.data, frame.data]) };
      } else frames.push(frame.type === "DATA" ? { ...frame, data: Buffer.from(frame.data) } : frame);
      open = frame.type === "DATA" && !frame.fin;
    }
  }
  return frames;
}

t.test("the dictionary is the protocol's", async (t) => {
  let [a, b] = [1, 0];
  for (const byte of DICTIONARY) {
    a = (a + byte) % 65_521;
    b = (b + a) % 65_521;
  }
  t.equal(DICTIONARY.length, 1423);
  t.equal(((b << 16) | a) >>> 0, 0xe3c6a7c2, "Adler-32");
});

t.test("frames as bytes, by hand", async (t) => {
  const writer = new FrameWriter();
  const hex = (frame: Frame) => writer.bytes(frame).toString("hex");
  t.equal(hex({ type: "PING", id: 7 }), "8003000600000004" + "00000007");
  t.equal(hex({ type: "RST_STREAM", streamId: 5, status: 3 }), "8003000300000008" + "00000005" + "00000003");
  t.equal(hex({ type: "GOAWAY", lastStreamId: 9, status: 1 }), "8003000700000008" + "00000009" + "00000001");
  t.equal(
    hex({ type: "WINDOW_UPDATE", streamId: 1, delta: 65_536 }),
    "8003000900000008" + "0000000100010000",
  );
  const settings = [{ id: 7, value: 1024 }];
  t.equal(hex({ type: "SETTINGS", settings }), "800300040000000c" + "00000001" + "0000000700000400");
  t.equal(
    hex({ type: "DATA", streamId: 3, fin: true, data: Buffer.from("hi") }),
    "0000000301000002" + "6869",
  );
  t.equal(
    hex(stream(1, { streamtype: ["data"] })).slice(0, 36),
    "8003000100000025" + "00000001" + "00000000" + "0000",
    "a header block follows",
  );

  const bytes = Buffer.from(
    "800300040000000c00000001" +
      "0100000700000400" +
      "8003000a00000002" +
      "ffff" +
      "0000000300000000" +
      "8003000600000004" +
      "00000002",
    "hex",
  );
  t.same(
    framesOf([bytes]),
    [
      { type: "SETTINGS", settings },
      { type: "DATA", streamId: 3, fin: false, data: Buffer.alloc(0) },
      { type: "PING", id: 2 },
    ],
    "flags of a setting and frames of unknown type are passed over",
  );
});

t.test("what breaks the protocol is an SpdyError, whatever it is", async (t) => {
  const cases: Record<string, string> = {
    "another version": "8002000600000004" + "00000002",
    "a control frame too large": "80030004" + "00ffffff",
    "data for stream 0": "0000000000000001" + "00",
    "reset of stream 0": "8003000300000008" + "00000000" + "00000003",
    "a short ping": "8003000600000002" + "0000",
    "a window that grows by nothing": "8003000900000008" + "0000000100000000",
    "settings that are not there": "8003000400000004" + "00000005",
    "headers that are not compressed": "800300010000000e" + "00000001" + "00000000" + "0000" + "00000000",
    "no header block at all": "800300020000000400000001",
  };
  for (const [name, hex] of Object.entries(cases))
    t.throws(() => framesOf([Buffer.from(hex, "hex")]), SpdyError, name);

  const blocks: Record<string, Buffer> = {
    "a name in upper case": headersToBytes({ port: ["80"] }),
    "a text longer than the block": headersToBytes({ port: ["80"] }).subarray(0, -1),
    "bytes after the last header": Buffer.concat([headersToBytes({ port: ["80"] }), Buffer.of(0)]),
    "a name twice": Buffer.concat([
      headersToBytes({ port: ["80"] }),
      headersToBytes({ port: ["80"] }).subarray(4),
    ]),
  };
  blocks["a name in upper case"]?.write("PORT", 8);
  blocks["a name twice"]?.writeUInt32BE(2);
  for (const [name, block] of Object.entries(blocks))
    t.throws(() => headersFromBytes(block), SpdyError, name);

  const bomb = new HeaderCompressor().compress({ x: ["0".repeat(1 << 20)] });
  t.ok(bomb.length < 4000);
  t.throws(() => new HeaderDecompressor().decompress(bomb), SpdyError, "small, and large when inflated");
});

/** What a zlib that keeps its state makes of a block: the way Go, and so kubectl, does it. */
async function through(zlib: Deflate | Inflate, bytes: Buffer): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const collect = (chunk: Buffer) => chunks.push(chunk);
  zlib.on("data", collect);
  await new Promise<void>((resolve, reject) => {
    zlib.once("error", reject);
    zlib.write(bytes);
    zlib.flush(constants.Z_SYNC_FLUSH, () => {
      zlib.off("error", reject);
      resolve();
    });
  });
  zlib.off("data", collect);
  return Buffer.concat(chunks);
}

t.test("header compression over many streams, against zlib's own streams", async (t) => {
  const [deflate, inflate] = [
    createDeflate({ dictionary: DICTIONARY }),
    createInflate({ dictionary: DICTIONARY }),
  ];
  const [compressor, decompressor] = [new HeaderCompressor(), new HeaderDecompressor()];
  for (let i = 0; i < 1500; i++) {
    // Some larger than others: 1,500 blocks go beyond the window of 32 KiB.
    const headers = { ...portForward(i), ...(i % 100 === 0 ? { note: ["x".repeat(i), `é${i}`] } : {}) };
    const plain = headersToBytes(headers);
    const sent = compressor.compress(headers);
    if (!(await through(inflate, sent)).equals(plain)) t.fail(`block ${i} as zlib reads it`);
    const read = decompressor.decompress(await through(deflate, plain));
    if (JSON.stringify(read) !== JSON.stringify(headers)) t.fail(`block ${i} as zlib wrote it`);
    if (i === 1400) t.ok(sent.length < plain.length / 2, "still compressed by what went before");
  }
});

t.test(
  "any cuts of a byte stream give the same frames; any damage gives frames or an SpdyError",
  async (t) => {
    const below = random(11);
    const writer = new FrameWriter();
    const frames: Frame[] = [];
    for (let i = 0; i < 200; i++) {
      const streamId = 1 + 2 * below(100);
      const kinds: Frame[] = [
        stream(streamId, portForward(i)),
        { type: "SYN_REPLY", streamId, fin: false, headers: {} },
        { type: "HEADERS", streamId, fin: true, headers: { a: ["1", "2"] } },
        { type: "RST_STREAM", streamId, status: RESET.CANCEL },
        { type: "SETTINGS", settings: [{ id: 7, value: below(1000) }] },
        { type: "PING", id: i + 1 },
        { type: "GOAWAY", lastStreamId: i, status: 0 },
        { type: "WINDOW_UPDATE", streamId, delta: 1 + below(1000) },
        { type: "DATA", streamId, fin: true, data: Buffer.alloc(below(400), i) },
      ];
      frames.push(kinds[below(kinds.length)] as Frame);
    }
    const bytes = Buffer.concat(frames.map((frame) => writer.bytes(frame)));
    t.same(framesOf([bytes]), frames);
    for (let round = 0; round < 60; round++) {
      const chunks: Buffer[] = [];
      for (let at = 0; at < bytes.length; ) {
        const size = 1 + below(round === 0 ? 1 : 300);
        chunks.push(bytes.subarray(at, at + size));
        at += size;
      }
      t.same(framesOf(chunks), frames);
    }
    let refused = 0;
    for (let round = 0; round < 400; round++) {
      const damaged = Buffer.from(bytes);
      for (let n = 1 + below(4); n > 0; n--) damaged[below(damaged.length)] = below(256);
      try {
        framesOf([damaged]);
      } catch (error) {
        if (!(error instanceof SpdyError)) throw error;
        refused++;
      }
    }
    t.ok(refused > 50, `${refused} of 400 are seen`);
  },
);

/** Two ends of a connection in memory. `highWaterMark`: bytes that one holds for the other. */
function wire(highWaterMark = 16 << 10): [Duplex, Duplex] {
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

interface Ends {
  client: SpdyConnection;
  server: SpdyConnection;
  accepted: SpdyStream[];
}

function connect(onStream: (stream: SpdyStream) => void = (one) => one.reply()): Ends {
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

async function until(t: Test, what: string, condition: () => boolean): Promise<void> {
  for (const end = Date.now() + 60_000; !condition() && Date.now() < end; ) await turn();
  t.ok(condition(), what);
}

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
  await until(t, "both are there", () => accepted.length === 2);
  const [far, other] = accepted as [SpdyStream, SpdyStream];
  t.equal(await textOf(other), "here");
  await turn();
  t.equal(written, 0);
  t.ok(far.unreadBytes <= 256 << 10, `${far.unreadBytes} bytes wait at the reader`);
  t.equal((await textOf(far)).length, size, "read, all of it comes");
  await until(t, "and the writer hears of it", () => written === size);
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
  const [near, far] = wire();
  const accepted: SpdyStream[] = [];
  const server = new SpdyConnection({
    transport: far,
    side: "server",
    onStream: (one) => {
      accepted.push(one);
      onStream ? onStream(one) : one.reply();
    },
  });
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
  await until(t, "the ping comes back", () => frames.some((one) => one.type === "PING" && one.id === 1));
  t.match(
    frames.find((one) => one.type === "SYN_REPLY"),
    { streamId: 1 },
  );
  const [one] = accepted as [SpdyStream];
  one.write(Buffer.alloc(1 << 20, "d"));
  const received = () =>
    frames.reduce((sum, frame) => sum + (frame.type === "DATA" ? frame.data.length : 0), 0);
  await until(t, "it gets more than a window that it never opens", () => received() === 1 << 20);

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
  await until(t, "read, all of it comes", () => taken === total);
  send({ type: "RST_STREAM", streamId: 1, status: RESET.CANCEL });
  await until(t, "a reset ends the stream", () => one.destroyed);
  t.equal(server.streams, 0);
  end.destroy();
  await server.closed;
});

t.test("a client that goes while it is not read from is missed all the same", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "kubeplumb-spdy-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
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
  await until(t, "not read from", () => transport.isPaused());
  client.destroy();
  await server.closed;
  t.ok(accepted[0]?.destroyed);
  listener.close();
});

t.test("limits", async (t) => {
  const { frames, send, server, end } = rawClient();
  for (let i = 0; i < 2001; i++) send(stream(1 + 2 * i, {}));
  await until(t, "the stream beyond the limit is refused", () =>
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
  await until(t, "a window that overflows", () =>
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
    await until(t, "open", () => accepted.length === 1);
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
  await until(t, "open", () => accepted.length === 1);
  server.destroy();
  await client.closed;
  t.ok(one.destroyed && accepted[0]?.destroyed);
  one.write("into nothing");
  await turn();
});

t.test("close lets the streams end first", async (t) => {
  const { client, server, accepted } = connect();
  const one = client.open({});
  await until(t, "open", () => accepted.length === 1);
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
