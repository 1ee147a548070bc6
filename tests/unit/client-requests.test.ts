// The HTTP client against real servers on unix sockets and loopback: requests, errors, retries, watches, TLS.

import "reflect-metadata";
import type { webcrypto } from "node:crypto";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { TLSSocket } from "node:tls";
import * as x509 from "@peculiar/x509";
import t from "tap";
import { ApiClient } from "../../client/api-client.js";
import { connectionOf, parseKubeconfig } from "../../client/kubeconfig.js";
import { LineSplitter } from "../../client/lines.js";
import { collectionPath, objectPath, withQuery } from "../../client/paths.js";
import {
  CONFIG_MAPS,
  DEPLOYMENTS,
  isConflict,
  isNotFound,
  NODES,
  PODS,
  type WatchEvent,
} from "../../common/client.js";
import type { ConfigMap } from "../../common/k8s.js";
import { configMap } from "../helpers/config-map-server.js";
import { directory, failure, reply, serve } from "../helpers/unix-server.js";
import { until } from "../helpers/until.js";

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
