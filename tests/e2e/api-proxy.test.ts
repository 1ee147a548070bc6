// Proxies through the API server, by kubectl proxy and by themselves: to pods, services and nodes. In a lab or on VMs.

import { get } from "node:http";
import { buffer } from "node:stream/consumers";
import { gunzipSync } from "node:zlib";
import t from "tap";
import { WebSocket } from "ws";
import { onlyInLab } from "../helpers/cluster-under-test.js";
import { fetchText, lab, makePods, PODS_PATH, settled, sockets, start } from "../helpers/stream-pods.js";
import { becomes } from "../helpers/until.js";

t.test("pods to ask", makePods);

t.test("kubectl proxy: pods, services and nodes", async (t) => {
  const proxy = start("kubectl", ["proxy", "--port=0"]);
  const [, port] = await proxy.says(/127\.0\.0\.1:(\d+)/);
  const base = `http://127.0.0.1:${port}`;
  const namespace = `${base}/api/v1/namespaces/default`;
  const pathOf = (url: string) => new URL(url).pathname;
  for (const name of [
    "pods/server",
    "pods/server:80",
    "pods/http:server:80",
    "services/server:8080",
    "services/server:web",
    "services/http:server:web",
  ]) {
    const { status, body, headers } = await fetchText(`${namespace}/${name}/proxy/a%2Fb/c/?x=%20y&z`);
    t.match({ status, headers }, { status: 201, headers: { "x-served": "yes" } }, name);
    t.match(JSON.parse(body), {
      method: "GET",
      url: "/a%2Fb/c/?x=%20y&z",
      headers: {
        "x-forwarded-uri": `/api/v1/namespaces/default/${name}/proxy/a%2Fb/c/`,
        "x-forwarded-for": /127\.0\.0\.1/,
      },
    });
  }
  const one = `${namespace}/pods/server/proxy`;
  for (const method of ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]) {
    const body = "x".repeat(200_000);
    const answer = JSON.parse((await fetchText(`${one}/any`, { method, body })).body) as {
      method: string;
      body: string;
    };
    t.equal(answer.method, method);
    t.equal(answer.body.length, body.length, `${method}: the body goes along`);
  }
  t.match(await fetchText(one), { status: 301, headers: { location: /\/pods\/server\/proxy\/$/ } });
  t.match(await fetchText(`${one}/moved`), {
    status: 302,
    headers: { location: `${pathOf(one)}/elsewhere` },
  });
  const page = await fetchText(`${one}/page`);
  t.equal(page.body, `<a href="${pathOf(one)}/next?a=1&amp;b=2">café</a>`);
  t.equal(page.headers["access-control-allow-origin"], undefined);
  const zipped = await new Promise<Buffer>((resolve, reject) => {
    // Without the header kubectl unzips it.
    const headers = { "accept-encoding": "gzip" };
    get(`${one}/zipped`, { headers }, (res) => void buffer(res).then(resolve, reject)).once("error", reject);
  });
  t.equal(gunzipSync(zipped).toString(), `<a href="${pathOf(one)}/zipped">`);
  const large = (await fetchText(`${one}/large`)).body;
  t.equal(large, `<a href="/x">${"y".repeat(99_987)}`.repeat(90), "too large to be changed");
  await t.rejects(fetchText(`${one}/cut`), "an answer that breaks off does so for the client");

  const errors: [string, number, string | RegExp][] = [
    [
      "pods/server:81/proxy/",
      503,
      /^error trying to reach service: dial tcp 10\.244\.\d+\.\d+:81: connect: connection refused$/,
    ],
    [
      "pods/https:server:80/proxy/",
      503,
      "error trying to reach service: http: server gave HTTP response to HTTPS client",
    ],
    ["pods/nosuch/proxy/", 404, 'pods "nosuch" not found'],
    ["pods/a:b:c:d/proxy/", 400, 'invalid pod request "a:b:c:d"'],
    ["services/nosuch/proxy/", 404, 'services "nosuch" not found'],
    ["services/nobody:80/proxy/", 503, 'no endpoints available for service "nobody:80"'],
    ["services/server:81/proxy/", 503, 'no service port 81 found for service "server"'],
    ["services/server:other/proxy/", 503, 'no endpoints available for service "server:other"'],
  ];
  for (const [path, code, message] of errors) {
    const { status, body } = await fetchText(`${namespace}/${path}`);
    t.equal(status, code, path);
    t.match(JSON.parse(body), { kind: "Status", status: "Failure", code, message });
  }

  const ws = new WebSocket(`ws://127.0.0.1:${port}${pathOf(namespace)}/services/server:web/proxy/socket`);
  await new Promise((resolve, reject) => ws.once("open", resolve).once("error", reject));
  ws.send("hello");
  t.equal(
    String((await new Promise<unknown[]>((resolve) => ws.once("message", (...all) => resolve(all))))[0]),
    "you said hello",
  );
  ws.close();
  const refused = new WebSocket(`ws://127.0.0.1:${port}${pathOf(namespace)}/pods/server/proxy/no-socket`);
  const [, response] = await new Promise<unknown[]>((resolve) =>
    refused.once("unexpected-response", (...all) => resolve(all)).once("error", (error) => resolve([error])),
  );
  t.match(response, { statusCode: 400 }, "a refused upgrade is the server's own answer");

  const node = `${base}/api/v1/nodes`;
  t.match(await fetchText(`${node}/node-1/proxy/healthz`), { status: 200, body: "ok" });
  t.match(await fetchText(`${node}/node-1:10250/proxy/healthz`), { status: 200, body: "ok" });
  t.match(await fetchText(`${node}/node-1:10256/proxy/healthz`), { status: 200, body: /nodeEligible/ });
  t.match(await fetchText(`${node}/node-1:1/proxy/`), {
    status: 503,
    body: /dial tcp 192\.168\.56\.11:1: connect: connection refused/,
  });

  await proxy.stop();
});

const inLab = { skip: onlyInLab() };
t.test("100 requests through a proxy, half of them cut, leave no socket behind", inLab, async (t) => {
  const socketPath = lab?.info.controlSocket;
  const path = `${PODS_PATH}/server/proxy/x`;
  const before = sockets();
  const codes = await Promise.all(
    Array.from({ length: 100 }, (_, i) => {
      return new Promise<number>((resolve) => {
        const req = get({ socketPath, path, agent: false }, (res) => {
          res.resume();
          res.once("close", () => resolve(res.statusCode ?? 0));
        });
        req.once("error", () => resolve(0));
        // Before the answer, while it is dialled or asked for.
        if (i % 2) setTimeout(() => req.destroy(), i / 5);
      });
    }),
  );
  t.equal(codes.filter((code, i) => code === 201 && i % 2 === 0).length, 50);
  await becomes(t, `back to ${JSON.stringify(before)}`, () => settled(before));
});
