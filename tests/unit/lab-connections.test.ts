// Connections into a lab: its socket, published ports that try one host after the other, and requests over a unix
// socket.

import { createServer } from "node:http";
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import t from "tap";
import { silentLogger } from "../../common/log.js";
import { acceptDial } from "../../common/tunnel.js";
import { Relay } from "../../lab/relay.js";
import { dial } from "../../lab/tunnel.js";
import { requestJson } from "../../lab/unix-http.js";
import { freePort } from "../helpers/free-port.js";
import { tempDir } from "../helpers/temp-dir.js";

t.test("connections through the lab's socket and a published port", async (t) => {
  const dir = tempDir(t);
  const labSocket = join(dir, "lab.sock");
  // Answers when the request has ended, with its length: needs half-open connections all the way.
  const target = createTcpServer({ allowHalfOpen: true }, (socket) => {
    let length = 0;
    socket.on("data", (chunk) => {
      length += chunk.length;
    });
    socket.once("end", () => socket.end(`got ${length}\n${"y".repeat(300_000)}`));
  });
  await new Promise<void>((resolve) => target.listen(0, "127.0.0.1", resolve));
  const { port } = target.address() as AddressInfo;
  const lab = createServer();
  const asked: string[] = [];
  lab.on("upgrade", (req, socket, head) => {
    const [, , ip = "", to = ""] = (req.url ?? "").split("/");
    asked.push(ip);
    // A host that drops what comes.
    if (ip === "192.0.2.1") socket.once("end", () => socket.end());
    else acceptDial(socket as Socket, head, ip, Number(to));
  });
  await new Promise<void>((resolve) => lab.listen(labSocket, resolve));
  t.teardown(() => {
    lab.close();
    target.close();
  });

  const direct = await dial(labSocket, "127.0.0.1", port);
  direct.end(Buffer.alloc(200_000));
  t.match(await text(direct), /^got 200000\ny{300000}$/);
  const free = await freePort();
  await t.rejects(dial(labSocket, "127.0.0.1", free), /connection refused/);
  await t.rejects(dial(join(dir, "none"), "127.0.0.1", free), { code: "ENOENT" });

  const hosts = ["127.0.0.1"];
  const relay = new Relay({ labSocket, nextHosts: () => hosts, log: silentLogger });
  t.teardown(() => relay.close());
  const published = { hostPort: await freePort(), nodePort: port, address: "127.0.0.1" };
  await relay.open(published);
  await relay.open(published);
  t.same(relay.list(), [published], "twice the same is once");
  const client = connect({ port: published.hostPort, host: "127.0.0.1", allowHalfOpen: true });
  client.end(Buffer.alloc(100_000));
  t.match(await text(client), /^got 100000\ny{300000}$/);
  await t.rejects(relay.open({ ...published, nodePort: 1 }), {
    code: "PORT_IN_USE",
    message: /leads to NodePort/,
  });
  await t.rejects(relay.open({ ...published, hostPort: port }), {
    code: "PORT_IN_USE",
    message: `127.0.0.1:${port} is in use by another program; publish another port`,
  });
  for (const [refused, silent] of [
    ["127.0.0.2", "192.0.2.1"],
    ["192.0.2.1", "127.0.0.2"],
  ] as const) {
    hosts.splice(0, 3, refused, silent, "127.0.0.1");
    asked.length = 0;
    const began = performance.now();
    const patient = connect({ port: published.hostPort, host: "127.0.0.1", allowHalfOpen: true });
    patient.end("x");
    t.match(await text(patient), /^got 1\n/);
    t.ok(
      performance.now() - began < 60_000,
      "a silent host is given a second, where the kernel gives two minutes",
    );
    if (refused === "127.0.0.2") t.same(asked, hosts, "each host once");
    else t.same(asked, ["127.0.0.1"], "the one that answered is asked first from then on");
  }
  hosts.length = 0;
  await t.rejects(
    text(connect({ port: published.hostPort, host: "127.0.0.1" })),
    { code: "ECONNRESET" },
    "no host is Ready",
  );
});

t.test("requests over a unix socket", async (t) => {
  const dir = tempDir(t);
  const socketPath = join(dir, "s");
  const server = createServer((req, res) => {
    if (req.url === "/echo")
      void text(req).then((body) => res.end(JSON.stringify({ method: req.method, body })));
    else if (req.url === "/taken") res.writeHead(409).end('{"message":"no","code":"PORT_IN_USE"}');
    else if (req.url === "/odd") res.end("odd");
    else if (req.url === "/never") return;
    else res.writeHead(500).end('{"message":"broken"}');
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  t.teardown(() => server.closeAllConnections());
  t.teardown(() => server.close());
  t.same(await requestJson({ socketPath, method: "POST", path: "/echo", body: { a: 1 } }), {
    method: "POST",
    body: '{"a":1}',
  });
  await t.rejects(requestJson({ socketPath, path: "/taken" }), { code: "PORT_IN_USE", message: "no" });
  await t.rejects(requestJson({ socketPath, path: "/x" }), { code: "COMMAND_FAILED", message: "broken" });
  await t.rejects(requestJson({ socketPath, path: "/odd" }), /is not JSON: odd/);
  await t.rejects(requestJson({ socketPath, path: "/never", timeoutMs: 20 }), /no answer in 20 ms/);
  await t.rejects(requestJson({ socketPath: join(dir, "none"), path: "/" }), { code: "ENOENT" });
});
