// Remote commands over WebSockets, against real servers on unix sockets: streams, terminals, flow control.

import { join } from "node:path";
import { PassThrough, Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { type WebSocket, WebSocketServer } from "ws";
import { remoteCommand } from "../../client/remote-command.js";
import { directory, failure, reply, serve } from "../helpers/unix-server.js";
import { until } from "../helpers/until.js";

/** A remote-command server: `script` plays the far side of each connection. */
async function serveCommands(
  test: { teardown(fn: () => unknown): unknown },
  script: (ws: WebSocket, url: string) => void,
  protocols: readonly string[] = ["v5.channel.k8s.io"],
): Promise<string> {
  const { server, socketPath } = await serve(test, (_req, res) =>
    reply(res, 400, failure(400, "BadRequest", "upgrade")),
  );
  const wss = new WebSocketServer({
    noServer: true,
    handleProtocols: (offered) => protocols.find((one) => offered.has(one)) ?? false,
  });
  server.on("upgrade", (req, socket, head) => {
    if (req.url?.startsWith("/refused")) {
      const body = JSON.stringify(failure(404, "NotFound", 'pods "x" not found'));
      socket.end(
        `HTTP/1.1 404 Not Found\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`,
      );
      return;
    }
    wss.handleUpgrade(req, socket, head, (ws) => script(ws, req.url ?? ""));
  });
  test.teardown(() => {
    for (const ws of wss.clients) ws.terminate();
  });
  return socketPath;
}

const message = (channel: number, data: string | Uint8Array) =>
  Buffer.concat([Buffer.of(channel), Buffer.from(data)]);
const exited = (code: number) =>
  message(
    3,
    // As the kubelet sends it: without kind and apiVersion.
    JSON.stringify(
      code === 0
        ? { metadata: {}, status: "Success" }
        : {
            metadata: {},
            status: "Failure",
            reason: "NonZeroExitCode",
            details: { causes: [{ reason: "ExitCode", message: String(code) }] },
          },
    ),
  );

class Sink extends Writable {
  text = "";
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

t.test("a remote command: streams, arguments, exit code", async (t) => {
  let asked = "";
  const socketPath = await serveCommands(t, (ws, url) => {
    asked = url;
    let input = "";
    ws.send(Buffer.of(1));
    ws.on("message", (data: Buffer) => {
      if (data[0] === 0) input += data.subarray(1).toString();
      if (data[0] !== 255 || data[1] !== 0) return;
      ws.send(message(1, `out:${input}`));
      ws.send(message(2, "err"));
      ws.send(exited(42));
    });
  });
  const [stdout, stderr] = [new Sink(), new Sink()];
  const command = ["sh", "-c", "a && b"];
  const stdin = Readable.from([Buffer.from("one "), "two"]);
  t.equal(await remoteCommand({ socketPath, path: "/exec?container=c", command, stdin, stdout, stderr }), 42);
  t.strictSame([stdout.text, stderr.text], ["out:one two", "err"]);
  t.equal(
    asked,
    "/exec?container=c&command=sh&command=-c&command=a+%26%26+b&stdin=true&stdout=true&stderr=true",
  );
  t.strictSame(
    [stdout.listenerCount("error"), stdin.listenerCount("data")],
    [0, 0],
    "nothing is left behind",
  );
});

t.test("a remote command that cannot be had", async (t) => {
  let script: (ws: WebSocket) => void = () => {};
  const socketPath = await serveCommands(t, (ws) => script(ws));
  const start = (path = "/exec", signal?: AbortSignal) =>
    remoteCommand({ socketPath, path, command: ["x"], stdout: new Sink(), stderr: new Sink(), signal });
  await t.rejects(start("/refused"), { name: "StatusError", code: 404, message: 'pods "x" not found' });
  script = (ws) =>
    ws.send(
      message(3, JSON.stringify({ status: "Failure", reason: "InternalError", message: "no program" })),
    );
  await t.rejects(start(), { name: "StatusError", reason: "InternalError", message: "no program" });
  script = (ws) => ws.send(message(3, "what?"));
  await t.rejects(start(), /no Status: what\?/);
  script = (ws) => ws.close(1011, "the host is gone");
  await t.rejects(start(), /connection ended \(1011\) before the command did: the host is gone/);
  script = (ws) => ws.terminate();
  await t.rejects(start(), /connection ended \(1006\)/);
  const controller = new AbortController();
  let gone = false;
  script = (ws) => {
    ws.on("close", () => {
      gone = true;
    });
    controller.abort(new Error("enough"));
  };
  await t.rejects(start("/exec", controller.signal), /enough/);
  await until(() => gone);
  await t.rejects(start("/exec", AbortSignal.abort(new Error("before"))), /before/);
  script = (ws) => ws.send(exited(0));
  t.equal(await start(), 0);
  await t.rejects(
    remoteCommand({
      socketPath: join(directory, "no"),
      path: "/",
      command: ["x"],
      stdout: new Sink(),
      stderr: new Sink(),
    }),
    {
      code: "ENOENT",
    },
  );
});

t.test("a terminal: one output, the window at the start and when it changes", async (t) => {
  const sizes: unknown[] = [];
  let asked = "";
  const socketPath = await serveCommands(t, (ws, url) => {
    asked = url;
    ws.on("message", (data: Buffer) => {
      if (data[0] !== 4) return;
      sizes.push(JSON.parse(data.subarray(1).toString()));
      ws.send(message(1, "size"));
      if (sizes.length === 2) ws.send(exited(0));
    });
  });
  let changed = () => {};
  let removed = false;
  const window = { cols: 80, rows: 24 };
  const stdout = new PassThrough();
  stdout.once("data", () => {
    window.cols = 120;
    changed();
  });
  const code = await remoteCommand({
    socketPath,
    path: "/exec",
    command: ["sh"],
    stdin: new PassThrough(),
    stdout,
    stderr: new Sink(),
    tty: true,
    size: () => window,
    onResize: (listener) => {
      changed = listener;
      return () => {
        removed = true;
      };
    },
  });
  t.equal(code, 0);
  t.strictSame(sizes, [
    { Width: 80, Height: 24 },
    { Width: 120, Height: 24 },
  ]);
  t.match(asked, /tty=true/);
  t.notMatch(asked, /stderr/);
  t.ok(removed);
});

t.test("flow control: nobody's memory fills", async (t) => {
  const total = 64 * 1024 * 1024;
  let far: WebSocket | undefined;
  let received = 0;
  const socketPath = await serveCommands(t, (ws, url) => {
    far = ws;
    if (url.includes("stdin")) {
      ws.pause();
      ws.on("message", (data: Buffer) => {
        if (data[0] === 0) received += data.length - 1;
        else if (data[0] === 255) ws.send(exited(0));
      });
      return;
    }
    const send = () => {
      for (; sent < total && ws.bufferedAmount < 1024 * 1024; sent += 65536)
        ws.send(message(1, Buffer.alloc(65536)));
      if (sent < total) setTimeout(send, 1);
      else ws.send(exited(0));
    };
    send();
  });

  let taken = 0;
  const stdin = Readable.from(
    (function* () {
      for (; taken < total; taken += 65536) yield Buffer.alloc(65536);
    })(),
    { objectMode: false },
  );
  const sending = remoteCommand({
    socketPath,
    path: "/exec",
    command: ["x"],
    stdin,
    stdout: new Sink(),
    stderr: new Sink(),
  });
  await until(() => taken > 0);
  await sleep(300);
  t.ok(taken < 8 * 1024 * 1024, `stdin is held back while the far side does not read (${taken} bytes taken)`);
  far?.resume();
  t.equal(await sending, 0);
  t.equal(received, total, "and nothing is lost");

  let sent = 0;
  let release: (() => void) | undefined;
  let kept = 0;
  const slow = new Writable({
    write(chunk: Buffer, _encoding, done) {
      kept += chunk.length;
      if (release) done();
      else release = done;
    },
  });
  const receiving = remoteCommand({
    socketPath,
    path: "/exec",
    command: ["x"],
    stdout: slow,
    stderr: new Sink(),
  });
  await until(() => kept > 0);
  await sleep(300);
  t.ok(sent < 8 * 1024 * 1024, `the far side is held back while we cannot write (${sent} bytes sent)`);
  release?.();
  t.equal(await receiving, 0);
  await until(() => kept === total);
});

t.test("a slow output gets one listener, however many frames have come", async (t) => {
  const socketPath = await serveCommands(t, (ws) => {
    for (let i = 0; i < 20; i++) ws.send(message(1, "x"));
    ws.send(exited(0));
  });
  let written = 0;
  let most = 0;
  const stdout: Writable = new Writable({
    highWaterMark: 1,
    write(_chunk, _encoding, done) {
      written++;
      most = Math.max(most, stdout.listenerCount("drain"));
      setTimeout(done, 2);
    },
  });
  t.equal(await remoteCommand({ socketPath, path: "/exec", command: ["x"], stdout, stderr: new Sink() }), 0);
  await until(() => written === 20);
  t.equal(most, 1);
});

t.test("an output that fails ends the command", async (t) => {
  const socketPath = await serveCommands(t, (ws) => ws.send(message(1, "x")));
  const stdout = new Writable({ write: (_chunk, _encoding, done) => done(new Error("disk full")) });
  await t.rejects(
    remoteCommand({ socketPath, path: "/exec", command: ["x"], stdout, stderr: new Sink() }),
    /disk full/,
  );
});

t.test("a server that speaks only v4 is never told of the end of input", async (t) => {
  const channels: (number | undefined)[] = [];
  const socketPath = await serveCommands(
    t,
    (ws) => {
      ws.on("message", (data: Buffer) => {
        channels.push(data[0]);
        ws.send(exited(0));
      });
    },
    ["v4.channel.k8s.io"],
  );
  const stdin = Readable.from(["x"]);
  await remoteCommand({
    socketPath,
    path: "/exec",
    command: ["x"],
    stdin,
    stdout: new Sink(),
    stderr: new Sink(),
  });
  t.strictSame(channels, [0]);
});
