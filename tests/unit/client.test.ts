// The HTTP client, remote commands, informers and work queues, against real servers on unix sockets and loopback.

import type { webcrypto } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { TLSSocket } from "node:tls";
import "reflect-metadata";
import * as x509 from "@peculiar/x509";
import { pino } from "pino";
import t from "tap";
import { type WebSocket, WebSocketServer } from "ws";
import { ApiClient } from "../../client/api-client.js";
import { connectionOf, parseKubeconfig } from "../../client/kubeconfig.js";
import { LineSplitter } from "../../client/lines.js";
import { collectionPath, objectPath, withQuery } from "../../client/paths.js";
import { remoteCommand } from "../../client/remote-command.js";
import {
  CONFIG_MAPS,
  DEPLOYMENTS,
  isConflict,
  isNotFound,
  NODES,
  PODS,
  StatusError,
  type WatchEvent,
} from "../../common/client.js";
import { Informer, InformerFactory, type InformerHandler } from "../../common/informer.js";
import { type ConfigMap, keyOf, type Status, type Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { WorkQueue } from "../../common/workqueue.js";

const directory = mkdtempSync(join(tmpdir(), "kp-client-"));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));

let sockets = 0;
/** An HTTP server on a unix socket of its own, gone with the test. */
async function serve(
  test: { teardown(fn: () => unknown): unknown },
  handler: (req: IncomingMessage, res: ServerResponse, body: string) => void,
): Promise<{ server: Server; socketPath: string }> {
  const socketPath = join(directory, `${++sockets}.sock`);
  const server = createServer((req, res) => {
    const chunks: Buffer[] = [];
    req.on("data", (chunk: Buffer) => chunks.push(chunk));
    req.on("end", () => handler(req, res, Buffer.concat(chunks).toString()));
  });
  server.listen(socketPath);
  await once(server, "listening");
  test.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { server, socketPath };
}

function reply(res: ServerResponse, code: number, body: unknown, headers: Record<string, string> = {}): void {
  res.writeHead(code, { "content-type": "application/json", ...headers });
  res.end(typeof body === "string" ? body : JSON.stringify(body));
}

function failure(code: number, reason: string, message: string): Status {
  return { apiVersion: "v1", kind: "Status", metadata: {}, status: "Failure", reason, message, code };
}

/** Resolves when `condition` holds. The limit is only there to name the place where a test hangs. */
async function until(condition: () => boolean): Promise<void> {
  for (const deadline = performance.now() + 15_000; !condition(); await sleep(2)) {
    if (performance.now() > deadline) throw new Error(`never came true: ${condition}`);
  }
}

function configMap(name: string, resourceVersion: number, data: Record<string, string> = {}, uid = name) {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: {
      name,
      namespace: "default",
      uid,
      resourceVersion: String(resourceVersion),
      creationTimestamp: "2026-01-01T00:00:00Z",
    },
    data,
  } satisfies Stored<ConfigMap>;
}

t.test("lines survive any cut, also inside a character", async (t) => {
  const lines = ["", "plain", "Grüße, 世界 🚰", "x".repeat(5000), "{}", ""];
  const bytes = Buffer.from(`${lines.join("\n")}\nrest`);
  for (const size of [1, 2, 3, 7, 64, 4096, bytes.length]) {
    const splitter = new LineSplitter();
    const found: string[] = [];
    for (let at = 0; at < bytes.length; at += size)
      found.push(...splitter.push(bytes.subarray(at, at + size)));
    t.strictSame(found, lines, `chunks of ${size}`);
    t.equal(splitter.rest(), "rest");
    t.equal(splitter.rest(), "");
  }
});

t.test("paths are those of the API conventions", async (t) => {
  t.equal(collectionPath(PODS), "/api/v1/pods");
  t.equal(collectionPath(PODS, "a"), "/api/v1/namespaces/a/pods");
  t.equal(collectionPath(NODES, "ignored"), "/api/v1/nodes");
  t.equal(objectPath(DEPLOYMENTS, "web", "a", "scale"), "/apis/apps/v1/namespaces/a/deployments/web/scale");
  t.equal(objectPath(NODES, "a/b", undefined), "/api/v1/nodes/a%2Fb", "a name cannot leave its place");
  t.throws(() => objectPath(PODS, "web", undefined), /namespace is needed: pods are namespaced/);
  t.throws(() => objectPath(PODS, "", "a"), /name is needed/);
  t.equal(withQuery("/x?a=1", { b: ["2", "3"], c: undefined, d: false }), "/x?a=1&b=2&b=3&d=false");
});

t.test("each verb is the right request", async (t) => {
  const seen: { method?: string; url?: string; type?: string; body: unknown }[] = [];
  const { socketPath } = await serve(t, (req, res, body) => {
    const { method, url, headers } = req;
    seen.push({ method, url, type: headers["content-type"], body: body ? JSON.parse(body) : undefined });
    reply(
      res,
      200,
      url?.includes("?") && method === "GET"
        ? { metadata: { resourceVersion: "7" }, items: null }
        : configMap("a", 1),
    );
  });
  const client = new ApiClient({ socketPath });
  t.teardown(() => client.close());
  const last = () => seen.at(-1);

  await client.get(CONFIG_MAPS, "a", "default");
  t.match(last(), { method: "GET", url: "/api/v1/namespaces/default/configmaps/a" });
  const list = await client.list(PODS, {
    labelSelector: "app in (a,b)",
    fieldSelector: "spec.nodeName=n",
    limit: 5,
    continue: "t",
  });
  t.match(last(), {
    url: "/api/v1/pods?labelSelector=app+in+%28a%2Cb%29&fieldSelector=spec.nodeName%3Dn&limit=5&continue=t",
  });
  t.strictSame(list, { items: [], resourceVersion: "7", continue: undefined, remainingItemCount: undefined });
  await client.create(
    CONFIG_MAPS,
    { metadata: { name: "a", namespace: "x" } },
    { dryRun: true, fieldManager: "me" },
  );
  t.match(last(), {
    method: "POST",
    url: "/api/v1/namespaces/x/configmaps?dryRun=All&fieldManager=me",
    type: "application/json",
    body: { apiVersion: "v1", kind: "ConfigMap" },
  });
  await client.create(PODS, { metadata: { name: "p", namespace: "x" } }, { subresource: "binding" });
  t.match(last(), { method: "POST", url: "/api/v1/namespaces/x/pods/p/binding" });
  t.notOk(JSON.stringify(last()?.body).includes("kind"), "what goes to a subresource is of another kind");
  await client.update(PODS, { metadata: { name: "p" } }, { namespace: "y", subresource: "status" });
  t.match(last(), { method: "PUT", url: "/api/v1/namespaces/y/pods/p/status" });
  for (const [type, header] of [
    ["json", "application/json-patch+json"],
    ["merge", "application/merge-patch+json"],
    ["strategic", "application/strategic-merge-patch+json"],
  ] as const) {
    await client.patch(NODES, "n", type, type === "json" ? [] : {}, { fieldValidation: "Strict" });
    t.match(last(), { method: "PATCH", url: "/api/v1/nodes/n?fieldValidation=Strict", type: header });
  }
  await client.delete(PODS, "p", {
    namespace: "x",
    gracePeriodSeconds: 0,
    preconditions: { uid: "u" },
    dryRun: true,
  });
  t.match(last(), { method: "DELETE", url: "/api/v1/namespaces/x/pods/p" });
  t.strictSame(last()?.body, {
    apiVersion: "v1",
    kind: "DeleteOptions",
    gracePeriodSeconds: 0,
    preconditions: { uid: "u" },
    dryRun: ["All"],
  });
  await client.deleteCollection(PODS, {
    namespace: "x",
    labelSelector: "a=b",
    propagationPolicy: "Background",
  });
  t.match(last(), { method: "DELETE", url: "/api/v1/namespaces/x/pods?labelSelector=a%3Db" });
  await t.rejects(client.create(PODS, { metadata: { name: "p" } }), /namespace is needed/);
});

t.test("items of a list know their kind", async (t) => {
  const { socketPath } = await serve(t, (_req, res) =>
    reply(res, 200, {
      metadata: { resourceVersion: "9", continue: "", remainingItemCount: 3 },
      items: [{ metadata: { name: "d" } }],
    }),
  );
  const client = new ApiClient({ socketPath });
  t.teardown(() => client.close());
  const { items, continue: token, remainingItemCount } = await client.list(DEPLOYMENTS);
  t.match(items, [{ apiVersion: "apps/v1", kind: "Deployment" }]);
  t.strictSame([token, remainingItemCount], [undefined, 3]);
});

t.test("errors are Statuses, whoever sends them", async (t) => {
  let answer: (res: ServerResponse) => void = () => {};
  const { socketPath } = await serve(t, (_req, res) => answer(res));
  const client = new ApiClient({ socketPath });
  t.teardown(() => client.close());

  answer = (res) => reply(res, 404, failure(404, "NotFound", 'pods "x" not found'));
  const notFound = await client.get(PODS, "x", "a").catch((error: unknown) => error);
  t.ok(isNotFound(notFound));
  t.match(notFound, { message: 'pods "x" not found', code: 404, status: { kind: "Status" } });
  answer = (res) => reply(res, 409, failure(409, "Conflict", "changed"));
  t.ok(
    isConflict(
      await client.update(PODS, { metadata: { name: "x", namespace: "a" } }).catch((e: unknown) => e),
    ),
  );
  answer = (res) => reply(res, 503, "<html>\n  gateway\n</html>");
  await t.rejects(client.get(PODS, "x", "a"), {
    name: "StatusError",
    reason: "ServiceUnavailable",
    message: "GET /api/v1/namespaces/a/pods/x: HTTP 503 Service Unavailable: <html> gateway </html>",
  });
  answer = (res) => reply(res, 200, "no json");
  await t.rejects(client.get(PODS, "x", "a"), /GET \/api.* the answer is not JSON: no json/);
  await t.rejects(new ApiClient({ socketPath: join(directory, "absent") }).list(PODS), { code: "ENOENT" });
  t.throws(() => new ApiClient({ server: "localhost:6443" }), /"localhost:6443" is not an http or https URL/);
});

t.test("only what is safe is sent again", async (t) => {
  let requests = 0;
  let broken = 0;
  const { socketPath } = await serve(t, (req, res) => {
    requests += 1;
    if (broken-- > 0) req.socket.destroy();
    else reply(res, 200, configMap("a", 1));
  });
  const client = new ApiClient({ socketPath });
  t.teardown(() => client.close());
  broken = 2;
  await client.get(CONFIG_MAPS, "a", "default");
  t.equal(requests, 3, "a GET, twice again");
  requests = 0;
  broken = 3;
  await t.rejects(client.get(CONFIG_MAPS, "a", "default"));
  t.equal(requests, 3, "and not for ever");
  requests = 0;
  broken = 1;
  await t.rejects(client.create(CONFIG_MAPS, { metadata: { name: "a", namespace: "default" } }));
  t.equal(requests, 1, "a POST never");
});

t.test("Retry-After is kept to, for every verb", async (t) => {
  const times: number[] = [];
  let refusals = 1;
  const { socketPath } = await serve(t, (_req, res) => {
    times.push(performance.now());
    if (refusals-- > 0) reply(res, 429, failure(429, "TooManyRequests", "later"), { "retry-after": "1" });
    else reply(res, 201, configMap("a", 1));
  });
  const client = new ApiClient({ socketPath });
  t.teardown(() => client.close());
  await client.create(CONFIG_MAPS, { metadata: { name: "a", namespace: "default" } });
  const [first = 0, second = 0] = times;
  t.equal(times.length, 2);
  t.ok(second - first >= 950, "not before the second is over");
  const { socketPath: silent } = await serve(t, (_req, res) =>
    reply(res, 429, failure(429, "TooManyRequests", "no")),
  );
  const other = new ApiClient({ socketPath: silent });
  t.teardown(() => other.close());
  await t.rejects(other.list(PODS), { code: 429 }, "without Retry-After at once an error");
});

t.test("a watch: chunks, bookmarks, errors, ends", async (t) => {
  const events: WatchEvent<ConfigMap>[] = [
    { type: "ADDED", object: configMap("a", 1, { text: "Grüße 世界 🚰" }) },
    { type: "MODIFIED", object: configMap("a", 2, { text: "x".repeat(100_000) }) },
    { type: "BOOKMARK", object: { kind: "ConfigMap", apiVersion: "v1", metadata: { resourceVersion: "5" } } },
  ];
  const bytes = Buffer.from(events.map((event) => `${JSON.stringify(event)}\n`).join(""));
  let finish: (res: ServerResponse) => void = (res) => res.end();
  const urls: (string | undefined)[] = [];
  const { socketPath } = await serve(t, async (req, res) => {
    urls.push(req.url);
    res.writeHead(200, { "content-type": "application/json" });
    const border = bytes.indexOf(Buffer.from("ü")) + 1;
    res.write(bytes.subarray(0, border));
    await sleep(5);
    for (let at = border; at < bytes.length; at += 30_001) {
      res.write(bytes.subarray(at, at + 30_001));
      await sleep(1);
    }
    finish(res);
  });
  const client = new ApiClient({ socketPath });
  t.teardown(() => client.close());
  const collect = async (signal?: AbortSignal) => {
    const found: unknown[] = [];
    const options = {
      namespace: "default",
      resourceVersion: "1",
      allowWatchBookmarks: true,
      timeoutSeconds: 9,
      signal,
    };
    for await (const event of client.watch(CONFIG_MAPS, options)) found.push(event);
    return found;
  };
  t.strictSame(await collect(), events);
  t.equal(
    urls[0],
    "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds=9",
  );
  finish = (res) =>
    res.end(`${JSON.stringify({ type: "ERROR", object: failure(410, "Expired", "too old") })}\n`);
  await t.rejects(collect(), { name: "StatusError", code: 410, reason: "Expired" });
  finish = (res) => res.end('{"type":"ADD');
  await t.rejects(collect(), /ended in the middle of a line: {"type":"ADD/);
  finish = (res) => res.destroy();
  await t.rejects(collect(), "a broken connection is an error");
  const controller = new AbortController();
  finish = () => controller.abort();
  t.equal((await collect(controller.signal)).length, 3, "an abort is an orderly end");
  t.strictSame(await collect(AbortSignal.abort()), [], "also before the beginning");
});

t.test("a slow stream stands in nobody's way, and leaving a watch closes its connection", async (t) => {
  const open = new Set<Socket>();
  const { socketPath, server } = await serve(t, (req, res) => {
    if (req.url?.includes("watch")) res.writeHead(200).flushHeaders();
    else reply(res, 200, { metadata: {}, items: [] });
  });
  server.on("connection", (socket: Socket) => {
    open.add(socket);
    socket.on("close", () => open.delete(socket));
  });
  const client = new ApiClient({ socketPath, timeoutMs: 300 });
  const controllers = Array.from({ length: 30 }, () => new AbortController());
  const watches = controllers.map(async ({ signal }) => {
    for await (const _ of client.watch(PODS, { signal }));
  });
  await until(() => open.size === 30);
  await client.list(PODS);
  await sleep(700);
  t.equal(open.size >= 30, true, "a watch may be silent for longer than a request may take");
  for (const controller of controllers) controller.abort();
  await Promise.all(watches);
  await client.close();
  await until(() => open.size === 0);
});

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
async function issue(name: string, issuer?: { keys: webcrypto.CryptoKeyPair; cert: x509.X509Certificate }) {
  const keys = (await crypto.subtle.generateKey(algorithm, true, [
    "sign",
    "verify",
  ])) as webcrypto.CryptoKeyPair;
  const cert = await x509.X509CertificateGenerator.create({
    subject: `CN=${name}`,
    issuer: issuer?.cert.subject ?? `CN=${name}`,
    publicKey: keys.publicKey,
    signingKey: issuer?.keys.privateKey ?? keys.privateKey,
    signingAlgorithm: algorithm,
    notBefore: new Date(Date.now() - 60_000),
    notAfter: new Date(Date.now() + 3_600_000),
    extensions: [
      new x509.BasicConstraintsExtension(issuer === undefined, undefined, true),
      new x509.SubjectAlternativeNameExtension([{ type: "ip", value: "127.0.0.1" }]),
    ],
  });
  const der = Buffer.from(await crypto.subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  const key = `-----BEGIN PRIVATE KEY-----\n${der}\n-----END PRIVATE KEY-----\n`;
  return { keys, cert, pem: cert.toString("pem"), key };
}

t.test("TLS with a client certificate, out of a kubeconfig", async (t) => {
  x509.cryptoProvider.set(crypto);
  const ca = await issue("test-ca");
  const [server, admin] = await Promise.all([issue("server", ca), issue("admin", ca)]);
  const tls = createTlsServer(
    { cert: server.pem, key: server.key, ca: ca.pem, requestCert: true, rejectUnauthorized: false },
    (req, res) => {
      const socket = req.socket as TLSSocket;
      if (!socket.authorized && req.headers.authorization !== "Bearer secret") {
        return reply(res, 401, failure(401, "Unauthorized", "Unauthorized"));
      }
      const names = socket.getPeerCertificate().subject;
      reply(res, 200, { ...configMap("a", 1), data: { user: names?.CN ?? "token", url: req.url ?? "" } });
    },
  );
  tls.listen(0, "127.0.0.1");
  await once(tls, "listening");
  t.teardown(() => {
    tls.closeAllConnections();
    tls.close();
  });
  const { port } = tls.address() as AddressInfo;
  const base64 = (text: string) => Buffer.from(text).toString("base64");
  writeFileSync(join(directory, "ca.pem"), ca.pem);
  writeFileSync(join(directory, "token"), "secret\n");
  const kubeconfig = `
apiVersion: v1
kind: Config
current-context: admin
clusters:
- name: c
  cluster: { server: "https://127.0.0.1:${port}/prefix/", certificate-authority-data: ${base64(ca.pem)} }
- name: files
  cluster: { server: "https://127.0.0.1:${port}", certificate-authority: ca.pem }
contexts:
- { name: admin, context: { cluster: c, user: admin } }
- { name: token, context: { cluster: files, user: token } }
- { name: nobody, context: { cluster: files } }
- { name: broken, context: { cluster: nowhere, user: admin } }
- { name: plugin, context: { cluster: c, user: plugin } }
users:
- name: admin
  user: { client-certificate-data: ${base64(admin.pem)}, client-key-data: ${base64(admin.key)} }
- { name: token, user: { tokenFile: token } }
- { name: plugin, user: { exec: { command: aws } } }
`;
  const get = async (context?: string) => {
    const client = ApiClient.fromKubeconfig(kubeconfig, context, directory);
    try {
      return (await client.get(CONFIG_MAPS, "a", "x")).data;
    } finally {
      await client.close();
    }
  };
  t.strictSame(await get(), { user: "admin", url: "/prefix/api/v1/namespaces/x/configmaps/a" });
  t.match(await get("token"), { user: "token" });
  await t.rejects(get("nobody"), { code: 401 });
  await t.rejects(get("broken"), /context "broken" names cluster "nowhere", which does not exist/);
  await t.rejects(get("plugin"), /user "plugin": exec is not supported/);
  await t.rejects(get("typo"), /context "typo" does not exist; there are: admin, token, nobody/);
  const stranger = new ApiClient({ server: `https://127.0.0.1:${port}`, token: "secret" });
  t.teardown(() => stranger.close());
  await t.rejects(
    stranger.list(PODS),
    { code: /SELF_SIGNED|UNABLE_TO|DEPTH_ZERO/ },
    "another CA is not believed",
  );
  t.throws(() => parseKubeconfig("a: [1", "my.yaml"), /my\.yaml is not valid YAML.*line 1/);
  t.throws(() => parseKubeconfig("- a"), /a mapping is expected/);
  t.throws(() => parseKubeconfig("kind: Pod"), /kind is "Pod"/);
  t.throws(() => parseKubeconfig("clusters: {}"), /clusters is not a list/);
  t.throws(
    () => connectionOf(parseKubeconfig("")),
    /no context given and no current-context set; there are: none/,
  );
});

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

/** A small API server for ConfigMaps of one namespace: revisions, pages, watches, and every way to go wrong. */
class FakeApi {
  readonly socketPath = join(directory, `${++sockets}.sock`);
  readonly objects = new Map<string, Stored<ConfigMap>>();
  readonly requests: string[] = [];
  readonly #log: { revision: number; event: WatchEvent<ConfigMap> }[] = [];
  readonly #watches = new Map<ServerResponse, number>();
  #server: Server | undefined;
  revision = 100;
  compacted = 0;
  uids = 0;
  /** Answers the next watches instead of us. */
  onWatch: ((res: ServerResponse) => boolean) | undefined;
  onList: ((res: ServerResponse, url: URL) => boolean) | undefined;

  async start(): Promise<void> {
    this.#server = createServer((req, res) => this.#handle(new URL(req.url ?? "/", "http://x"), res));
    this.#server.listen(this.socketPath);
    await once(this.#server, "listening");
  }

  async stop(): Promise<void> {
    this.#server?.closeAllConnections();
    this.#server?.close();
    if (this.#server?.listening) await once(this.#server, "close");
    this.#watches.clear();
  }

  get watching(): number {
    return this.#watches.size;
  }

  /** Lists since the start, a page counting as one. */
  get lists(): number {
    return this.requests.filter((url) => !url.includes("watch=true")).length;
  }

  set(name: string, data: Record<string, string> = {}): Stored<ConfigMap> {
    const old = this.objects.get(name);
    const object = configMap(name, ++this.revision, data, old?.metadata.uid ?? `uid-${++this.uids}`);
    this.objects.set(name, object);
    this.#emit({ type: old ? "MODIFIED" : "ADDED", object });
    return object;
  }

  remove(name: string): void {
    const old = this.objects.get(name);
    if (!old) return;
    this.objects.delete(name);
    const metadata = { ...old.metadata, resourceVersion: String(++this.revision) };
    this.#emit({ type: "DELETED", object: { ...old, metadata } });
  }

  bookmark(): void {
    const metadata = { resourceVersion: String(++this.revision) };
    this.#emit({ type: "BOOKMARK", object: { kind: "ConfigMap", apiVersion: "v1", metadata } });
  }

  /** Nothing before now can be watched from any more. */
  compact(): void {
    this.compacted = this.revision;
  }

  endWatches(how: (res: ServerResponse) => void = (res) => res.end()): void {
    for (const res of this.#watches.keys()) how(res);
    this.#watches.clear();
  }

  #emit(event: WatchEvent<ConfigMap>): void {
    this.#log.push({ revision: this.revision, event });
    for (const res of this.#watches.keys()) res.write(`${JSON.stringify(event)}\n`);
  }

  #handle(url: URL, res: ServerResponse): void {
    this.requests.push(url.pathname + url.search);
    if (url.searchParams.get("watch") === "true") this.#watch(url, res);
    else this.#list(url, res);
  }

  #list(url: URL, res: ServerResponse): void {
    if (this.onList?.(res, url)) return;
    const all = [...this.objects.values()];
    const from = Number(url.searchParams.get("continue") ?? 0);
    const to = from + Math.min(Number(url.searchParams.get("limit") ?? all.length), 500);
    reply(res, 200, {
      metadata: { resourceVersion: String(this.revision), continue: to < all.length ? String(to) : "" },
      items: all.slice(from, to),
    });
  }

  #watch(url: URL, res: ServerResponse): void {
    if (this.onWatch?.(res)) return;
    const since = Number(url.searchParams.get("resourceVersion"));
    if (since < this.compacted) {
      reply(res, 410, failure(410, "Expired", "too old resource version"));
      return;
    }
    res.writeHead(200, { "content-type": "application/json" }).flushHeaders();
    for (const { revision, event } of this.#log)
      if (revision > since) res.write(`${JSON.stringify(event)}\n`);
    this.#watches.set(res, since);
    res.on("close", () => this.#watches.delete(res));
  }
}

/** What a subscriber hears, as text: "+a@101", "~a@102", "-a@103", "synced". */
function listener(): { heard: string[]; handler: InformerHandler<ConfigMap> } {
  const heard: string[] = [];
  const version = ({ metadata }: Stored<ConfigMap>) => `${metadata.name}@${metadata.resourceVersion}`;
  return {
    heard,
    handler: {
      add: (object) => heard.push(`+${version(object)}`),
      update: (old, now) => heard.push(`~${version(old)}:${now.metadata.resourceVersion}`),
      delete: (object) => heard.push(`-${version(object)}`),
      synced: () => heard.push("synced"),
    },
  };
}

async function informed(
  test: { teardown(fn: () => unknown): unknown },
  log = silentLogger,
): Promise<{ api: FakeApi; client: ApiClient; informer: Informer<ConfigMap> }> {
  const api = new FakeApi();
  await api.start();
  const client = new ApiClient({ socketPath: api.socketPath });
  const informer = new Informer(client, CONFIG_MAPS, {
    namespace: "default",
    log,
    backoff: { baseMs: 5, maxMs: 20 },
  });
  test.teardown(async () => {
    informer.stop();
    await client.close();
    await api.stop();
  });
  return { api, client, informer };
}

t.test("an informer follows the server, subscribers early and late", async (t) => {
  const { api, informer } = await informed(t);
  api.set("a");
  api.set("b");
  const early = listener();
  informer.subscribe(early.handler);
  t.equal(informer.hasSynced, false);
  informer.start();
  informer.start();
  await informer.synced;
  t.equal(informer.hasSynced, true);
  t.strictSame(early.heard, ["+a@101", "+b@102", "synced"]);
  await until(() => api.watching === 1);
  api.set("a", { k: "1" });
  api.set("c");
  api.remove("b");
  await until(() => early.heard.length === 6);
  t.strictSame(early.heard.slice(3), ["~a@101:103", "+c@104", "-b@105"]);
  const late = listener();
  const end = informer.subscribe(late.handler);
  t.strictSame(late.heard, ["+a@103", "+c@104", "synced"], "a late one gets all that is there, at once");
  end();
  api.set("d");
  await until(() => early.heard.length === 7);
  t.equal(late.heard.length, 3, "and nothing after its end");
  t.equal(informer.get("default/a")?.data?.k, "1");
  t.equal(informer.get("default/b"), undefined);
  t.strictSame(
    informer.list().map((o) => o.metadata.name),
    ["a", "c", "d"],
  );
  t.strictSame(informer.list("default").length, 3);
  t.strictSame(informer.list("other"), []);
  t.equal(api.lists, 1);
  informer.stop();
  await until(() => api.watching === 0);
  t.throws(() => informer.start(), /was stopped/);
});

t.test("subscribing from inside a handler: each event exactly once", async (t) => {
  const { api, informer } = await informed(t);
  const inner = listener();
  let subscribed = false;
  informer.subscribe({
    add: () => {
      if (!subscribed) informer.subscribe(inner.handler);
      subscribed = true;
    },
  });
  api.set("a");
  api.set("b");
  informer.start();
  await informer.synced;
  t.strictSame(inner.heard, ["+a@101", "+b@102", "synced"]);
});

t.test("pages, and a snapshot that expires between two of them", async (t) => {
  const { api, informer } = await informed(t);
  for (let i = 0; i < 1200; i++) api.set(`cm-${i}`);
  informer.start();
  await informer.synced;
  t.equal(informer.list().length, 1200);
  t.equal(api.lists, 3);

  const second = await informed(t);
  for (let i = 0; i < 600; i++) second.api.set(`cm-${i}`);
  second.api.onList = (res, url) => {
    if (url.searchParams.has("continue")) {
      reply(res, 410, failure(410, "Expired", "the continue token is too old"));
      return true;
    }
    if (url.searchParams.has("limit")) return false;
    reply(res, 200, { metadata: { resourceVersion: "700" }, items: [...second.api.objects.values()] });
    return true;
  };
  second.informer.start();
  await second.informer.synced;
  t.equal(second.informer.list().length, 600);
});

t.test("a watch that the server ends goes on at once, without a list", async (t) => {
  const { api, informer } = await informed(t);
  api.set("a");
  const { heard, handler } = listener();
  informer.subscribe(handler);
  informer.start();
  for (let i = 0; i < 5; i++) {
    await until(() => api.watching === 1);
    api.set("a", { i: String(i) });
    await until(() => heard.length === 3 + i);
    api.endWatches();
    // Nobody watches: this change must be seen by the next watch.
  }
  api.set("b");
  await until(() => heard.at(-1)?.startsWith("+b") === true);
  t.equal(api.lists, 1);
  t.equal(heard.length, 8, "nothing twice");
  await until(() => api.watching === 1);
  api.bookmark();
  api.compact();
  await sleep(20);
  api.endWatches();
  await until(() => api.watching === 1);
  t.equal(api.lists, 1, "a bookmark lets a quiet watch go on after a compaction");
});

t.test("an expired version: a new list, delivered as differences", async (t) => {
  const { api, informer } = await informed(t);
  for (const name of ["same", "changed", "gone", "replaced"]) api.set(name);
  const { heard, handler } = listener();
  informer.subscribe(handler);
  informer.addIndex("data", (object) => Object.keys(object.data ?? {}));
  informer.start();
  await informer.synced;
  await until(() => api.watching === 1);
  heard.length = 0;
  await api.stop();
  api.set("changed", { k: "2" });
  api.remove("gone");
  api.remove("replaced");
  api.set("replaced");
  api.set("new", { k: "1" });
  api.compact();
  t.ok(informer.get("default/gone"), "the cache stays while the server is away");
  await api.start();
  await until(() => heard.length === 5);
  t.strictSame(
    [...heard].sort(),
    ["+new@109", "+replaced@108", "-gone@103", "-replaced@104", "~changed@102:105"],
    "what is the same is not told; a new object of the same name is another object",
  );
  t.ok(heard.indexOf("-replaced@104") < heard.indexOf("+replaced@108"));
  t.strictSame(
    informer
      .byIndex("data", "k")
      .map((o) => o.metadata.name)
      .sort(),
    ["changed", "new"],
  );
  t.equal(api.lists, 2);
  // The same said by an event of a running watch.
  await until(() => api.watching === 1);
  api.endWatches((res) =>
    res.end(`${JSON.stringify({ type: "ERROR", object: failure(410, "Expired", "too old") })}\n`),
  );
  await until(() => api.lists === 3);
  await until(() => api.watching === 1);
  t.equal(heard.length, 5);
});

t.test("a server that refuses every version is asked with patience", async (t) => {
  const { api, informer } = await informed(t);
  api.onWatch = (res) => {
    reply(res, 410, failure(410, "Expired", "too old"));
    return true;
  };
  informer.start();
  await informer.synced;
  // No pause is shorter than 10 ms, but for the first few.
  const allowed = (since: number) => 8 + (performance.now() - since) / 10;
  const start = performance.now();
  await sleep(200);
  t.ok(api.lists <= allowed(start), `${api.lists} lists in 200 ms`);
  api.onWatch = (res) => {
    res.writeHead(200).end();
    return true;
  };
  const before = api.requests.length;
  const then = performance.now();
  await sleep(200);
  t.ok(api.requests.length - before <= allowed(then), "nor does a watch that ends at once make a storm");
  api.onWatch = undefined;
  api.set("a");
  await until(() => informer.get("default/a") !== undefined);
});

t.test("a version from the future of a restored store is given up", async (t) => {
  const { api, informer } = await informed(t);
  api.set("a");
  informer.start();
  await informer.synced;
  await until(() => api.watching === 1);
  let refused = 0;
  api.onWatch = (res) => {
    if (refused++ > 0) return false;
    const status = failure(504, "Timeout", "Too large resource version");
    reply(res, 504, { ...status, details: { causes: [{ reason: "ResourceVersionTooLarge" }] } });
    return true;
  };
  api.endWatches();
  api.set("b");
  await until(() => informer.get("default/b") !== undefined);
  t.equal(api.lists, 2);
});

t.test("handlers that fail are logged and disturb nobody", async (t) => {
  const lines: string[] = [];
  const { api, informer } = await informed(
    t,
    pino({ level: "error" }, { write: (line: string) => lines.push(line) }),
  );
  informer.subscribe({
    add: () => {
      throw new Error("broken handler");
    },
    update: (async () => {
      throw new Error("broken promise");
    }) as () => void,
  });
  const { heard, handler } = listener();
  informer.subscribe(handler);
  informer.addIndex("bad", () => {
    throw new Error("broken index");
  });
  api.set("a");
  informer.start();
  await informer.synced;
  await until(() => api.watching === 1);
  api.set("a", { k: "1" });
  await until(() => heard.length === 3);
  await sleep(1);
  t.strictSame(heard, ["+a@101", "synced", "~a@101:102"]);
  for (const said of ["broken handler", "broken promise", "broken index"]) {
    t.ok(
      lines.some((line) => line.includes(said)),
      said,
    );
  }
});

t.test("indexes change with what they are made of", async (t) => {
  const { api, informer } = await informed(t);
  let asked = 0;
  const byTeam = (object: Stored<ConfigMap>) => {
    asked += 1;
    return (object.data?.team ?? "").split(",").filter(Boolean);
  };
  informer.addIndex("team", byTeam);
  api.set("a", { team: "red,blue,red" });
  api.set("b", { team: "red" });
  informer.start();
  await informer.synced;
  const names = (value: string) => informer.byIndex("team", value).map((o) => o.metadata.name);
  t.strictSame([names("red"), names("blue"), names("none")], [["a", "b"], ["a"], []]);
  await until(() => api.watching === 1);
  api.set("a", { team: "red" });
  await until(() => informer.get("default/a")?.metadata.resourceVersion === "103");
  t.strictSame([names("red"), names("blue")], [["a", "b"], []]);
  api.remove("b");
  await until(() => informer.get("default/b") === undefined);
  t.strictSame(names("red"), ["a"]);
  t.equal(asked, 3, "each state of an object is looked at once");
  informer.addIndex("late", (object) => [object.metadata.name]);
  t.equal(informer.byIndex("late", "a").length, 1);
  t.throws(() => informer.byIndex("typo", "x"), /no index "typo"; there are: team, late/);
});

t.test(
  "whatever happens to the connection, the copy is the truth and each change is told once",
  async (t) => {
    const { api, informer } = await informed(t);
    const copy = new Map<string, string>();
    const wrong: string[] = [];
    informer.subscribe({
      add: (o) => {
        if (copy.has(keyOf(o))) wrong.push(`add of ${keyOf(o)}, which is there`);
        copy.set(keyOf(o), `${o.metadata.uid}@${o.metadata.resourceVersion}`);
      },
      update: (old, now) => {
        const known = copy.get(keyOf(old));
        if (known !== `${old.metadata.uid}@${old.metadata.resourceVersion}`) wrong.push(`update of ${known}`);
        if (old.metadata.resourceVersion === now.metadata.resourceVersion) wrong.push(`twice ${keyOf(now)}`);
        copy.set(keyOf(now), `${now.metadata.uid}@${now.metadata.resourceVersion}`);
      },
      delete: (o) => {
        if (!copy.get(keyOf(o))?.startsWith(`${o.metadata.uid}@`)) wrong.push(`delete of ${keyOf(o)}`);
        copy.delete(keyOf(o));
      },
    });
    informer.start();
    // A seeded generator: a failure can be repeated.
    let state = 42;
    const random = (n: number) => {
      state = (state * 1103515245 + 12345) % 2147483648;
      return Math.floor((state / 2147483648) * n);
    };
    for (let round = 0; round < 400; round++) {
      const name = `cm-${random(10)}`;
      const dice = random(40);
      if (dice < 24) api.set(name, { round: String(round) });
      else if (dice < 34) api.remove(name);
      else if (dice === 34) api.endWatches();
      else if (dice === 35) api.endWatches((res) => res.destroy());
      else if (dice === 36) api.compact();
      else if (dice === 37) api.bookmark();
      else if (dice === 38) {
        await api.stop();
        await api.start();
      } else await sleep(random(5));
      if (random(2) === 0) await sleep(0);
    }
    t.ok(api.lists > 3 && api.requests.length > api.lists + 10, "there was enough of everything");
    const truth = () =>
      [...api.objects.values()]
        .map((o) => `${keyOf(o)} ${o.metadata.uid}@${o.metadata.resourceVersion}`)
        .sort();
    const told = () => [...copy].map(([key, value]) => `${key} ${value}`).sort();
    await until(() => JSON.stringify(truth()) === JSON.stringify(told()));
    t.strictSame(informer.list().map(keyOf).sort(), [...copy.keys()].sort());
    t.strictSame(wrong, []);
  },
);

t.test("stopped before it had synced", async (t) => {
  const client = new ApiClient({ socketPath: join(directory, "nobody") });
  t.teardown(() => client.close());
  const informer = new Informer(client, PODS);
  informer.start();
  await sleep(5);
  informer.stop();
  await t.rejects(informer.synced, /informer of pods was stopped before it had synced/);
});

t.test("a factory shares informers by what they select", async (t) => {
  const { api, client } = await informed(t);
  const factory = new InformerFactory(client, { log: silentLogger });
  const one = factory.get(CONFIG_MAPS, { namespace: "default" });
  t.equal(factory.get(CONFIG_MAPS, { namespace: "default" }), one);
  t.not(factory.get(CONFIG_MAPS, { namespace: "default", labelSelector: "a=b" }), one);
  t.not(factory.get(PODS), one);
  factory.start();
  await factory.synced();
  const late = factory.get(CONFIG_MAPS);
  await late.synced;
  t.equal(api.lists, 4);
  factory.stop();
  await until(() => api.watching === 0);
});

t.test("a work queue: once, never twice at a time, again when asked meanwhile", async (t) => {
  const runs: string[] = [];
  const running = new Set<string>();
  const twice: string[] = [];
  let peak = 0;
  let release: () => void = () => {};
  const queue = new WorkQueue({
    name: "test",
    concurrency: 2,
    log: silentLogger,
    worker: async (key) => {
      if (running.has(key)) twice.push(key);
      running.add(key);
      peak = Math.max(peak, running.size);
      runs.push(key);
      if (key === "slow")
        await new Promise<void>((resolve) => {
          release = resolve;
        });
      else await sleep(1);
      running.delete(key);
    },
  });
  for (const key of ["a", "b", "a", "slow", "c", "b"]) queue.add(key);
  t.strictSame(runs, [], "nothing before start");
  queue.start();
  await until(() => running.size === 1 && runs.length === 4);
  t.strictSame(runs, ["a", "b", "slow", "c"], "each once, in order");
  queue.add("slow");
  queue.add("slow");
  release();
  await until(() => runs.length === 5);
  release();
  await queue.idle();
  t.strictSame(runs.slice(4), ["slow"], "once more for all that was asked meanwhile");
  t.strictSame(twice, [], "never twice at a time");
  t.equal(peak, 2);
  await queue.idle();
  await queue.stop();
});

t.test("a work queue: failures come again, later and later", async (t) => {
  const lines: { level: number; failures: number; retryInMs: number }[] = [];
  const log = pino({ level: "debug" }, { write: (line: string) => lines.push(JSON.parse(line)) });
  let attempts = 0;
  const queue = new WorkQueue({
    name: "test",
    baseDelayMs: 2,
    maxDelayMs: 10,
    log,
    worker: async () => {
      attempts += 1;
      if (attempts === 2) throw new StatusError(failure(409, "Conflict", "changed"));
      if (attempts < 6) throw new Error("not yet");
    },
  });
  queue.start();
  queue.add("k");
  await queue.idle();
  t.equal(attempts, 6);
  t.strictSame(
    lines.map(({ retryInMs }) => retryInMs),
    [2, 4, 8, 10, 10],
  );
  t.strictSame(
    lines.map(({ level }) => level),
    [40, 20, 40, 40, 40],
    "a conflict is ordinary",
  );
  attempts = 4;
  queue.add("k");
  await queue.idle();
  t.match(lines.at(-1), { failures: 1, retryInMs: 2 }, "a success forgets the failures before it");
  await queue.stop();
});

t.test("a work queue: later, and the end", async (t) => {
  const runs: string[] = [];
  let release: () => void = () => {};
  const queue = new WorkQueue({
    name: "test",
    log: silentLogger,
    worker: async (key) => {
      runs.push(key);
      if (key === "last")
        await new Promise<void>((resolve) => {
          release = resolve;
        });
    },
  });
  queue.start();
  queue.addAfter("far", 60_000);
  queue.addAfter("far", 100);
  queue.addAfter("near", 1);
  queue.addAfter("near", 60_000);
  queue.addAfter("now", 0);
  queue.addAfter("never", 1e12);
  await until(() => runs.length === 3);
  t.strictSame(runs, ["now", "near", "far"], "the earliest wish holds");
  queue.add("last");
  queue.add("not begun");
  await until(() => runs.includes("last"));
  let stopped = false;
  const stopping = queue.stop().then(() => {
    stopped = true;
  });
  await sleep(5);
  t.equal(stopped, false, "stop waits for what runs");
  release();
  await stopping;
  queue.add("after");
  queue.addAfter("after", 1);
  await sleep(10);
  t.strictSame(runs, ["now", "near", "far", "last"]);
  await queue.idle();
  t.throws(
    () => new WorkQueue({ name: "q", worker: async () => {}, concurrency: 0, log: silentLogger }),
    RangeError,
  );
});
