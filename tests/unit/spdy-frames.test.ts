// SPDY/3.1 without connections: the dictionary, frames by their bytes, header compression over many blocks, and what
// damaged bytes give. Needs no privileges.

import { constants, createDeflate, createInflate, type Deflate, type Inflate } from "node:zlib";
import t from "tap";
import { DICTIONARY } from "../../node/streams/spdy/dictionary.js";
import { type Frame, FrameReader, FrameWriter, RESET, SpdyError } from "../../node/streams/spdy/frames.js";
import {
  HeaderCompressor,
  HeaderDecompressor,
  headersFromBytes,
  headersToBytes,
} from "../../node/streams/spdy/headers.js";
import { random } from "../helpers/random.js";
import { portForward, stream } from "./helpers/spdy-wire.js";

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
