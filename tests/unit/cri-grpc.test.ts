// The protobuf of messages by tables, and gRPC against a real server of HTTP/2 on a socket: what is said, what is
// refused, what is cut off.

import {
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import t from "tap";
import { silentLogger } from "../../common/log.js";
import { decode, encode, type Message } from "../../common/protobuf.js";
import { CriClient, socketOf } from "../../node/cri/client.js";
import { GrpcChannel, STATUS } from "../../node/cri/grpc.js";
import {
  CONTAINER_STATE,
  containerConfig,
  listContainers,
  listSandboxes,
  status,
} from "../../node/cri/messages.js";
import { CriWatcher } from "../../node/cri/watcher.js";
import { freeSocket } from "../helpers/unix-server.js";

const inner = { text: [1, "string"], number: [2, "int"] } as const satisfies Message;
const outer = {
  name: [1, "string"],
  count: [2, "int"],
  flag: [3, "bool"],
  raw: [4, "bytes"],
  labels: [5, "map"],
  child: [6, inner],
  children: [7, inner, "list"],
  words: [8, "string", "list"],
  numbers: [16, "int", "list"],
} as const satisfies Message;

t.test("bytes as protobuf.dev has them", async (t) => {
  t.equal(encode(outer, { count: 150 }).toString("hex"), "109601");
  t.equal(encode(outer, { name: "testing" }).toString("hex"), "0a0774657374696e67");
  t.equal(encode(outer, { numbers: [1] }).toString("hex"), "800101");
  t.equal(encode(outer, { name: "", count: 0, flag: false }).length, 0, "proto3 leaves zeros out");
  t.equal(encode(outer, { child: { number: 0 } }).toString("hex"), "3200", "a message that is there is told");
  t.equal(encode(outer, { words: ["", "a"] }).toString("hex"), "4200420161", "nothing of a list is left out");
  t.equal(encode(outer, { count: -2 }).toString("hex"), `10fe${"ff".repeat(8)}01`);
  t.same(decode(outer, Buffer.from("8201020102", "hex")).numbers, [1, 2], "numbers of a list, packed");
});

t.test("there and back", async (t) => {
  const value = {
    name: "Größe",
    count: 1_763_772_000_000_000,
    flag: true,
    raw: Buffer.from([0, 255]),
    labels: { a: "1", "": "", ["__proto__"]: "x" },
    child: { text: "t", number: -1 },
    children: [
      { text: "", number: 0 },
      { text: "u", number: 5 },
    ],
    words: ["x", ""],
    numbers: [0, 7],
  };
  t.strictSame(decode(outer, encode(outer, value)), value);
  const nothing = decode(outer, Buffer.alloc(0));
  t.match(nothing, { name: "", count: 0, flag: false, labels: {}, children: [], words: [], numbers: [] });
  t.equal(nothing.child, undefined);
  const newer = Buffer.concat([Buffer.from("a206023132", "hex"), encode(outer, { name: "n" })]);
  t.equal(decode(outer, newer).name, "n", "fields that no table has are passed over");
  for (const bad of ["0a05", "08", "3201", "0801", "0b"])
    t.throws(() => decode(outer, Buffer.from(bad, "hex")), { name: "ProtobufError" }, bad);
});

t.test("a field of a CRI message stands at its number", async (t) => {
  const bytes = encode(containerConfig, { linux: { securityContext: { noNewPrivs: true } }, logPath: "l" });
  // log_path = 11, linux = 15, security_context = 2, no_new_privs = 11
  t.equal(bytes.toString("hex"), "5a016c7a0412025801");
});

type Answer = (stream: ServerHttp2Stream, request: Buffer, headers: IncomingHttpHeaders) => void;

/** A gRPC server that answers as it is told; each answer for one path. */
async function serve(path: string, answers: Record<string, Answer>): Promise<() => Promise<void>> {
  const server: Http2Server = createServer();
  const sessions = new Set<ServerHttp2Session>();
  server.on("session", (session) => sessions.add(session));
  server.on("stream", (stream, headers) => {
    const chunks: Buffer[] = [];
    stream.on("error", () => {});
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => answers[String(headers[":path"])]?.(stream, Buffer.concat(chunks), headers));
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return () =>
    new Promise((resolve) => {
      for (const session of sessions) session.destroy();
      server.close(() => resolve());
    });
}

function framed(message: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

function reply(stream: ServerHttp2Stream, body: Buffer, trailers: Record<string, string>): void {
  stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers(trailers));
  stream.end(body);
}

t.test("calls", async (t) => {
  const path = freeSocket();
  const seen: unknown[] = [];
  const answers: Record<string, Answer> = {
    "/echo": (stream, request, headers) => {
      seen.push([headers["content-type"], headers.te, headers["grpc-timeout"]]);
      reply(stream, request, { "grpc-status": "0" });
    },
    "/fail": (stream) =>
      reply(stream, Buffer.alloc(0), { "grpc-status": "5", "grpc-message": "no %C3%A4, 100%" }),
    "/only": (stream) =>
      stream.respond({ ":status": 200, "grpc-status": "12", "grpc-message": "x" }, { endStream: true }),
    "/http": (stream) => stream.respond({ ":status": 404 }, { endStream: true }),
    "/half": (stream) => reply(stream, Buffer.from([0, 0, 0, 0, 9, 1]), { "grpc-status": "0" }),
    "/cut": (stream) => stream.session?.destroy(),
    "/slow": () => {},
    "/huge": (stream) => {
      stream.respond({ ":status": 200 });
      stream.end(Buffer.alloc(17 << 20));
    },
  };
  let close = await serve(path, answers);
  const channel = new GrpcChannel(path);
  t.teardown(() => channel.close());
  const call = (name: string, body = "hello", ms = 30_000) => channel.call(name, framedOff(body), ms);
  const framedOff = (body: string) => Buffer.from(body);

  t.equal((await call("/echo")).toString(), "hello");
  t.same(seen, [["application/grpc", "trailers", "30S"]]);
  t.equal((await call("/echo", "x".repeat(1 << 20))).length, 1 << 20);
  await t.rejects(call("/fail"), { name: "GrpcError", status: STATUS.notFound, message: "no ä, 100%" });
  await t.rejects(call("/only"), { status: STATUS.unimplemented, message: "x" });
  await t.rejects(call("/http"), { status: STATUS.unavailable, message: /HTTP 404/ });
  await t.rejects(call("/half"), { status: STATUS.unavailable, message: /not one whole message/ });
  await t.rejects(call("/huge"), { name: "GrpcError" });
  await t.rejects(call("/slow", "", 50), {
    status: STATUS.deadlineExceeded,
    message: /no answer within 50 ms/,
  });
  await t.rejects(call("/cut"), { name: "GrpcError", status: STATUS.unavailable });
  t.equal((await call("/echo")).toString(), "hello", "a connection that was cut is made again");
  const many = await Promise.all(Array.from({ length: 50 }, (_, n) => call("/echo", `${n}`)));
  t.same(
    many.map(String),
    Array.from({ length: 50 }, (_, n) => `${n}`),
  );

  await close();
  await t.rejects(call("/echo"), { status: STATUS.unavailable, message: /ENOENT/ }, "nobody is there");
  close = await serve(path, answers);
  t.equal((await call("/echo")).toString(), "hello", "somebody is there again");
  await close();
});

t.test("a client of CRI says which service it calls", async (t) => {
  const path = freeSocket();
  const asked: string[] = [];
  const answer: Answer = (stream, request, headers) => {
    asked.push(`${headers[":path"]} ${request.subarray(5).toString("hex")}`);
    reply(stream, framed(Buffer.from("0a0161", "hex")), { "grpc-status": "0" });
  };
  const service = (name: string) => `/runtime.v1.${name}`;
  const close = await serve(path, {
    [service("RuntimeService/RunPodSandbox")]: answer,
    [service("RuntimeService/StopContainer")]: answer,
    [service("ImageService/PullImage")]: answer,
  });
  const client = new CriClient(`unix://${path}`);
  t.equal(await client.runSandbox({ metadata: { name: "p" } }), "a");
  await client.stopContainer("c", 300);
  t.equal(await client.pullImage("i"), "a");
  client.close();
  t.same(asked, [
    "/runtime.v1.RuntimeService/RunPodSandbox 0a050a030a0170",
    "/runtime.v1.RuntimeService/StopContainer 0a016310ac02",
    "/runtime.v1.ImageService/PullImage 0a030a0169",
  ]);
  await close();
  for (const bad of ["/run/x.sock", "tcp://127.0.0.1:1", "unix://relative", ""])
    t.throws(() => socketOf(bad), /unix:\/\/\/PATH\/TO\/SOCKET is expected/);
});

t.test("a watcher tells what has ended, and when the runtime itself is not ready", async (t) => {
  const path = freeSocket();
  let running = ["c1", "c2"];
  let conditions = [{ type: "NetworkReady", status: false, reason: "NoPlugin", message: "m" }];
  const answer =
    (bytes: () => Buffer): Answer =>
    (stream) =>
      reply(stream, framed(bytes()), { "grpc-status": "0" });
  const containers = () => running.map((id) => ({ id, state: CONTAINER_STATE.running }));
  const close = await serve(path, {
    "/runtime.v1.RuntimeService/ListPodSandbox": answer(() =>
      encode(listSandboxes.response, { items: [{ id: "s1", state: 1 }] }),
    ),
    "/runtime.v1.RuntimeService/ListContainers": answer(() =>
      encode(listContainers.response, { containers: containers() }),
    ),
    "/runtime.v1.RuntimeService/Status": answer(() => encode(status.response, { status: { conditions } })),
  });
  const client = new CriClient(`unix://${path}`);
  const watcher = new CriWatcher(client, "n", silentLogger);
  const ended: string[] = [];
  for (const id of ["c1", "c2", "s1"]) watcher.watch(id, () => ended.push(id));
  await watcher.look();
  t.same(ended, ["s1"], "not ready any more");
  t.equal(
    watcher.notReady(),
    "container runtime network not ready: NetworkReady=false reason:NoPlugin message:m",
  );
  running = ["c2"];
  watcher.forget("c2");
  await watcher.look();
  await watcher.look();
  t.same(ended, ["s1", "c1"], "told once");

  const now = Date.now;
  t.teardown(() => {
    Date.now = now;
  });
  conditions = [];
  Date.now = () => now() + 6000;
  await watcher.look();
  t.equal(watcher.notReady(), undefined);
  await close();
  await watcher.look();
  t.equal(watcher.notReady(), undefined, "a moment is nothing");
  Date.now = () => now() + 40_000;
  t.equal(watcher.notReady(), "container runtime is down");
  client.close();
});
