// Ways into the API server and through it: TLS, socket files, the kubelet's streams, the whole control process.

import { spawn } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, request, type Server } from "node:http";
import { request as tlsRequest } from "node:https";
import { createServer as createNetServer } from "node:net";
import { join } from "node:path";
import t, { type Test } from "tap";
import { CONFIG_MAPS, NAMESPACES, NODES } from "../../common/client.js";
import { silentLogger } from "../../common/log.js";
import { closeServer, listenSocket } from "../../control/listeners.js";
import { loadPki } from "../../control/pki.js";
import { startControl } from "../../control/server.js";
import { caught } from "../helpers/caught.js";
import { tempDir } from "../helpers/temp-dir.js";
import { until } from "../helpers/until.js";
import { type Answer, answerOf, PODS_PATH, pod, startHarness } from "./helpers/api-server.js";

t.test("TLS: a client certificate of the CA, or 401", async (t) => {
  const h = await startHarness(t);
  const ask = (path: string, identity: object): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const req = tlsRequest(
        { host: "127.0.0.1", port: h.port, path, ca: h.tls.ca, agent: false, ...identity },
        (res) => answerOf(res).then(resolve, reject),
      );
      req.on("error", reject);
      req.end();
    });
  const identity = { cert: h.tls.cert, key: h.tls.key };
  t.equal((await ask("/api/v1/namespaces/default", identity)).body.metadata.name, "default");
  for (const path of ["/", "/openapi/v2", "/api/v1/pods"]) {
    const refused = await ask(path, {});
    t.equal(refused.code, 401, `${path} without a certificate`);
    t.match(refused.body, {
      kind: "Status",
      status: "Failure",
      reason: "Unauthorized",
      message: "Unauthorized",
      code: 401,
    });
  }
  const other = await loadPki({ dir: join(h.dir, "other"), serverNames: [] });
  const stranger = await ask("/api/v1/pods", { cert: other.admin.cert, key: other.admin.key });
  t.equal(stranger.code, 401, "a certificate of another CA is none");
  t.equal(statSync(h.socketPath).mode & 0o777, 0o600);
  t.equal(statSync(join(h.dir, "pki/ca.key")).mode & 0o777, 0o600);
  t.equal(statSync(join(h.dir, "pki")).mode & 0o777, 0o700);
  const again = await loadPki({ dir: join(h.dir, "pki"), serverNames: ["127.0.0.1"] });
  t.equal(again.server.cert, readFileSync(join(h.dir, "pki/apiserver.crt"), "utf8"), "certificates are kept");
  t.equal(again.admin.cert, h.tls.cert);
  const wider = await loadPki({ dir: join(h.dir, "pki"), serverNames: ["127.0.0.1", "10.96.0.1"] });
  t.not(wider.server.cert, again.server.cert, "a new name needs a new server certificate");
  t.equal(wider.ca.cert, again.ca.cert, "of the same CA");
  await t.rejects(listenSocket(h.api, h.socketPath, silentLogger), /another process is listening/);
});

t.test("a stale socket file is replaced", async (t) => {
  const h = await startHarness(t);
  const path = join(h.dir, "stale.sock");
  // A killed process leaves its socket file behind; a closed server here would remove it.
  const child = spawn(process.execPath, [
    "-e",
    `require("net").createServer().listen(${JSON.stringify(path)},()=>process.kill(process.pid,"SIGKILL"))`,
  ]);
  await new Promise((resolve) => child.on("close", resolve));
  t.ok(existsSync(path));
  const server = await listenSocket(h.api, path, silentLogger);
  t.equal(statSync(path).mode & 0o777, 0o600);
  await closeServer(server);
});

/** A kubelet that logs lines and echoes an upgraded connection in capitals. */
async function fakeKubelet(
  test: Test,
  dir: string,
): Promise<{ socketPath: string; urls: string[]; server: Server }> {
  const socketPath = join(dir, "kubelet.sock");
  const urls: string[] = [];
  const server = createServer((req, res) => {
    urls.push(`${req.method} ${req.url}`);
    if (req.url?.includes("previous")) res.writeHead(400).end('previous terminated container "c" not found');
    else if (req.url?.includes("follow")) {
      res.writeHead(200, { "content-type": "text/plain" });
      res.write("one\n");
      res.once("close", () => urls.push("closed"));
    } else res.writeHead(200, { "content-type": "text/plain" }).end("line\n");
  });
  server.on("upgrade", (req: IncomingMessage, socket, head: Buffer) => {
    urls.push(`${req.method} ${req.url} ${req.headers["sec-websocket-protocol"] ?? ""}`);
    if (req.url?.includes("refuse")) {
      socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 17\r\n\r\nno such container");
      return;
    }
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Test: yes\r\n\r\n",
    );
    socket.write(String(head).toUpperCase());
    socket.on("data", (data: Buffer) => socket.write(String(data).toUpperCase()));
    socket.on("end", () => socket.end("BYE"));
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  test.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { socketPath, urls, server };
}

t.test("logs and streams go through to the kubelet", async (t) => {
  const dir = tempDir(t);
  const kubelet = await fakeKubelet(t, dir);
  const h = await startHarness(t, (node) => {
    if (node.metadata.name === "dead") return { host: "127.0.0.1", port: 1, pathPrefix: "" };
    return { socketPath: kubelet.socketPath, pathPrefix: `/nodes/${node.metadata.name}` };
  });
  for (const name of ["n1", "dead"]) await h.client.create(NODES, { metadata: { name } });
  const two = [
    { name: "c", image: "x" },
    { name: "d", image: "x" },
  ];
  await h.call("POST", PODS_PATH, { body: pod("p", { nodeName: "n1" }) });
  await h.call("POST", PODS_PATH, {
    body: pod("two", { nodeName: "n1", containers: two, initContainers: [{ name: "i", image: "x" }] }),
  });
  await h.call("POST", PODS_PATH, {
    body: pod(
      "chosen",
      { nodeName: "n1", containers: two },
      { annotations: { "kubectl.kubernetes.io/default-container": "d" } },
    ),
  });
  await h.call("POST", PODS_PATH, { body: pod("waiting") });
  await h.call("POST", PODS_PATH, { body: pod("lost", { nodeName: "dead" }) });

  t.equal((await h.call("GET", `${PODS_PATH}/p/log?tailLines=5&container=c`)).text, "line\n");
  t.equal(kubelet.urls.at(-1), "GET /nodes/n1/containerLogs/default/p/c?tailLines=5");
  await h.call("GET", `${PODS_PATH}/chosen/log`);
  t.match(kubelet.urls.at(-1), "/containerLogs/default/chosen/d");
  t.match((await h.call("GET", `${PODS_PATH}/two/log`)).body, {
    code: 400,
    message:
      "a container name must be specified for pod two, choose one of: [c d] or one of the init containers: [i]",
  });
  t.match(
    (await h.call("GET", `${PODS_PATH}/p/log?container=zz`)).body.message,
    "container zz is not valid for pod p",
  );
  t.match((await h.call("GET", `${PODS_PATH}/no/log`)).body, { code: 404, message: 'pods "no" not found' });
  t.match((await h.call("GET", `${PODS_PATH}/p/log?previous=true`)).body, {
    code: 400,
    reason: "BadRequest",
    message: 'previous terminated container "c" not found',
  });
  t.same(await h.call("GET", `${PODS_PATH}/waiting/log`).then((a) => [a.code, a.text]), [200, ""]);
  t.match((await h.call("GET", `${PODS_PATH}/lost/log`)).body, {
    code: 500,
    reason: "InternalError",
    message: /error dialing backend: connect ECONNREFUSED/,
  });
  t.equal((await h.call("GET", "/api/v1/nodes/n1/proxy/pods")).text, "line\n");
  t.equal(kubelet.urls.at(-1), "GET /nodes/n1/pods");
  t.match((await h.call("POST", `${PODS_PATH}/p/exec?command=ls`)).body, {
    code: 400,
    message: "Upgrade request required",
  });

  await new Promise<void>((resolve, reject) => {
    const req = request({ socketPath: h.socketPath, path: `${PODS_PATH}/p/log?follow=true` }, (res) => {
      res.once("data", (data) => {
        t.equal(String(data), "one\n", "a followed log streams");
        req.destroy();
        resolve();
      });
    });
    req.on("error", reject);
    req.end();
  });
  await until(() => kubelet.urls.includes("closed"));
  t.pass("a client that leaves ends the stream at the kubelet");

  const upgrade = (path: string): Promise<{ head: IncomingMessage; text: string }> =>
    new Promise((resolve, reject) => {
      const headers = {
        connection: "Upgrade",
        upgrade: "websocket",
        "sec-websocket-protocol": "v5.channel.k8s.io",
      };
      const req = request({ socketPath: h.socketPath, path, headers });
      req.on("upgrade", (head, socket) => {
        let text = "";
        socket.on("data", (data: Buffer) => {
          text += data;
          if (text === "HELLO") socket.end();
        });
        socket.on("error", reject);
        socket.on("close", () => resolve({ head, text }));
        socket.write("hello");
      });
      req.on("response", (res) => answerOf(res).then(({ text }) => resolve({ head: res, text }), reject));
      req.on("error", reject);
      req.end();
    });
  const { head, text } = await upgrade(`${PODS_PATH}/p/exec?command=sh&command=-c&stdin=true`);
  t.equal(head.headers["x-test"], "yes", "the kubelet's own answer");
  t.equal(text, "HELLOBYE", "bytes both ways, to the end");
  t.equal(
    kubelet.urls.at(-1),
    "GET /nodes/n1/exec/default/p/c?command=sh&command=-c&stdin=true v5.channel.k8s.io",
  );
  await upgrade(`${PODS_PATH}/p/portforward?ports=80`);
  t.match(kubelet.urls.at(-1), "/nodes/n1/portForward/default/p?ports=80");
  const refused = await upgrade(`${PODS_PATH}/p/exec?command=refuse`);
  t.equal(refused.head.statusCode, 404);
  t.match(JSON.parse(refused.text), { kind: "Status", message: "no such container" });
  t.match(JSON.parse((await upgrade(`${PODS_PATH}/waiting/exec?command=ls`)).text), {
    message: "pod waiting does not have a host assigned",
  });
  t.match(JSON.parse((await upgrade(`${PODS_PATH}/lost/exec?command=ls`)).text), {
    message: /error dialing backend/,
  });
  t.match(JSON.parse((await upgrade(`${PODS_PATH}/none/exec?command=ls`)).text), { code: 404 });
});

t.test("startControl: bootstrap, kubeconfig, restart on the same data", async (t) => {
  const dir = tempDir(t);
  const options = {
    dataDir: join(dir, "data"),
    listen: { host: "127.0.0.1", port: 0 },
    socketPath: join(dir, "control.sock"),
    clusterName: "test",
    kubelet: () => ({ socketPath: "/nowhere", pathPrefix: "" }),
    log: silentLogger,
  };
  let control = await startControl(options);
  const names = (await control.client.list(NAMESPACES)).items.map((n) => n.metadata.name);
  t.same(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
  const config = control.adminKubeconfig("kubeplumb-test");
  t.match(config, /current-context: kubeplumb-test\n/);
  t.match(config, `server: https://127.0.0.1:${control.port}\n`);
  const { caCert } = control;
  await control.client.create(CONFIG_MAPS, { metadata: { name: "kept" } }, { namespace: "default" });
  const { resourceVersion } = await control.client.list(CONFIG_MAPS);
  await control.close();
  t.notOk(existsSync(options.socketPath));
  control = await startControl(options);
  t.equal(control.caCert, caCert);
  t.equal((await control.client.get(CONFIG_MAPS, "kept", "default")).metadata.name, "kept");
  t.ok(Number((await control.client.list(CONFIG_MAPS)).resourceVersion) >= Number(resourceVersion));
  await control.close();
  const busy = createNetServer();
  await new Promise<void>((resolve) => busy.listen(0, "127.0.0.1", resolve));
  const { port } = busy.address() as { port: number };
  t.match(await caught(startControl({ ...options, listen: { host: "127.0.0.1", port } })), {
    code: "EADDRINUSE",
  });
  busy.close();
  control = await startControl(options);
  await control.close();
  t.pass("a start that failed has left nothing locked");
});
