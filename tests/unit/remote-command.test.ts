// The server end of exec over a WebSocket: nothing is sent to a client-go before it listens, and the end of a command is
// told after all that it said, however slowly the client reads.

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import t, { type Test } from "tap";
import WebSocket from "ws";
import { type RemoteProcess, serveRemoteCommand } from "../../node/streams/remote-command.js";

const STDOUT = 1;
const ERROR = 3;
const KUBECTL = { "user-agent": "kubectl/v1.32.4 (linux/amd64) kubernetes/59526cd" };

/** A server whose commands say this and end. */
async function serve(test: Test, output: () => Iterable<Buffer>): Promise<string> {
  const server = createServer();
  server.on("upgrade", (req, socket, head) => {
    const process: RemoteProcess = {
      stdin: null,
      stdout: Readable.from(output(), { objectMode: false }),
      stderr: null,
      exited: Promise.resolve({ exitCode: 0 }),
      abandon: () => {},
    };
    serveRemoteCommand(req, socket, head, () => process);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  test.teardown(() => server.close());
  return `ws://127.0.0.1:${(server.address() as AddressInfo).port}/exec?command=x&stdout=1`;
}

interface Frame {
  channel: number;
  bytes: number;
  /** Milliseconds since before the connection was asked for: load makes it more, never less. */
  at: number;
}

function frames(url: string, headers: Record<string, string>, pauseMs = 0): Promise<Frame[]> {
  const began = performance.now();
  const ws = new WebSocket(url, ["v5.channel.k8s.io"], { headers });
  const found: Frame[] = [];
  return new Promise((resolve, reject) => {
    ws.on("open", () => {
      if (pauseMs === 0) return;
      ws.pause();
      setTimeout(() => ws.resume(), pauseMs);
    });
    ws.on("message", (data: Buffer) => {
      found.push({ channel: data[0] ?? -1, bytes: data.length - 1, at: performance.now() - began });
    });
    ws.on("close", () => resolve(found));
    ws.on("error", reject);
  });
}

t.test("client-go gets a moment to make its streams", async (t) => {
  const url = await serve(t, () => [Buffer.from("said")]);
  for (let i = 0; i < 5; i++) {
    const [first, ...rest] = await frames(url, KUBECTL);
    t.match(first, { channel: STDOUT, bytes: 0 }, "the sign that the streams are open");
    t.match(rest, [{ channel: STDOUT, bytes: 4 }, { channel: ERROR }]);
    t.ok((rest[0]?.at ?? 0) > 15, `its output after ${rest[0]?.at} ms`);
  }
  const others = await frames(url, {});
  t.strictSame(
    others.map(({ channel }) => channel),
    [STDOUT, STDOUT, ERROR],
  );
});

// Small chunks: several of them wait in the server at once.
t.test("the end comes after all output, to a slow client too", async (t) => {
  const chunk = Buffer.alloc(1 << 10, "x");
  const said = (all: readonly Frame[]) =>
    all.filter(({ channel }) => channel === STDOUT).reduce((sum, { bytes }) => sum + bytes, 0);
  for (const [count, headers, pauseMs] of [
    [8, KUBECTL, 0],
    [16 << 10, {}, 300],
  ] as const) {
    const url = await serve(t, () => Array.from({ length: count }, () => chunk));
    const all = await frames(url, headers, pauseMs);
    t.equal(all.at(-1)?.channel, ERROR);
    t.equal(said(all), count * chunk.length);
  }
});
