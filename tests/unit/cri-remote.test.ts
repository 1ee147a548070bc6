// The streams of exec and attach against a server that ends them as Go's do: data, a status, a reset of every stream.

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex, Readable } from "node:stream";
import { text } from "node:stream/consumers";
import t from "tap";
import { openRemote } from "../../node/cri/remote.js";
import type { SpdyStream } from "../../node/streams/spdy/connection.js";
import { acceptSpdy } from "../../node/streams/upgrade.js";

type Streams = Map<string, SpdyStream>;

/** Serves one remote command at the URL, when `count` streams are open. */
async function serve(
  count: number,
  command: (streams: Streams) => void,
): Promise<{ url: string; end(): void }> {
  const server = createServer((_req, res) => res.writeHead(404).end("unknown token"));
  const sockets = new Set<Duplex>();
  server.on("upgrade", (req, socket, head) => {
    sockets.add(socket);
    const streams: Streams = new Map();
    acceptSpdy(socket, head, String(req.headers["x-stream-protocol-version"]), (stream) => {
      stream.reply();
      streams.set(stream.header("streamtype") ?? "", stream);
      if (streams.size === count) command(streams);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const end = () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  };
  return { url: `http://127.0.0.1:${port}/exec/token`, end };
}

/** As httpstream's Connection.Close. */
function close(streams: Streams): void {
  for (const stream of streams.values()) stream.reset();
}

function tell(streams: Streams, status: object): void {
  streams.get("error")?.write(JSON.stringify(status), () => close(streams));
}

const read = (stream: Readable | null): Promise<string> => (stream ? text(stream) : Promise.resolve(""));

t.test("output, input to its end, and an exit code", async (t) => {
  const failed = { status: "Failure", details: { causes: [{ reason: "ExitCode", message: "7" }] } };
  const server = await serve(4, (streams) => {
    const stdin = streams.get("stdin");
    if (!stdin) return;
    void text(stdin).then((typed) => {
      streams.get("stderr")?.write("warned");
      streams.get("stdout")?.write(`heard ${typed}`, () => tell(streams, failed));
    });
  });
  t.teardown(server.end);
  const process = await openRemote(server.url, { stdin: true, tty: false });
  const outputs = Promise.all([read(process.stdout), read(process.stderr)]);
  process.stdin?.end("hello");
  t.same(await process.exited, { exitCode: 7 });
  t.same(await outputs, ["heard hello", "warned"]);
});

t.test("what came before the streams were reset is read, however late and however much", async (t) => {
  const much = "x".repeat(1 << 20);
  const server = await serve(3, (streams) => {
    streams.get("stdout")?.write(much, () => tell(streams, { status: "Success" }));
  });
  t.teardown(server.end);
  const process = await openRemote(server.url, { stdin: false, tty: false });
  await new Promise((wake) => setTimeout(wake, 50));
  t.equal((await read(process.stdout)).length, much.length);
  t.same(await process.exited, { exitCode: 0 });
  t.equal(await read(process.stderr), "");
});

t.test("a terminal: one output, and its size", async (t) => {
  let size = "";
  const server = await serve(3, (streams) => {
    t.notOk(streams.has("stderr"));
    streams.get("resize")?.once("data", (chunk: Buffer) => {
      size = chunk.toString();
      tell(streams, { status: "Success" });
    });
  });
  t.teardown(server.end);
  const process = await openRemote(server.url, { stdin: false, tty: true });
  t.equal(process.stderr, null);
  process.resize?.(99, 33);
  await process.exited;
  t.same(JSON.parse(size), { Width: 99, Height: 33 });
});

t.test("what never ran, what is refused, and what TLS would need", async (t) => {
  const server = await serve(3, (streams) =>
    tell(streams, { status: "Failure", message: "no such program" }),
  );
  t.teardown(server.end);
  const process = await openRemote(server.url, { stdin: false, tty: false });
  await t.rejects(process.exited, { message: "no such program" });
  const refusing = createServer((_req, res) => res.writeHead(404).end("unknown token"));
  await new Promise<void>((resolve) => refusing.listen(0, "127.0.0.1", resolve));
  t.teardown(() => refusing.close());
  const { port } = refusing.address() as AddressInfo;
  const streams = { stdin: false, tty: false };
  await t.rejects(openRemote(`http://127.0.0.1:${port}/`, streams), { message: /404 unknown token/ });
  await t.rejects(openRemote("https://127.0.0.1:1/", streams), { message: /TLS/ });
});
