// The Ingress proxy on this machine's loopback: what it does when an endpoint fails.

import { once } from "node:events";
import { Agent, createServer, type IncomingMessage, type RequestListener, request } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import t, { type Test } from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import type { Target } from "../../node/ingress/backends.js";
import { IngressProxy } from "../../node/ingress/proxy.js";
import { buildTable } from "../../node/ingress/routes.js";
import { freePort } from "../helpers/free-port.js";
import { ingress, rule } from "./helpers/ingresses.js";

/** A server on a port of loopback. */
async function serve(t: Test, handler: RequestListener): Promise<Target> {
  const server = createServer(handler).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => server.close().closeAllConnections());
  return { host: "127.0.0.1", port: (server.address() as AddressInfo).port };
}

/** Nobody listens there. */
async function deadTarget(): Promise<Target> {
  return { host: "127.0.0.1", port: await freePort() };
}

t.test("an endpoint that fails is passed over, and no request is given twice that must not be", async (t) => {
  let targets: Target[] = [];
  const table = buildTable([ingress({ rules: [rule("a.b", ["/", "web"])] })]);
  const proxy = new IngressProxy({
    ns: NetNs.current(),
    table: () => table,
    targets: () => targets,
    resolve: () => Promise.reject(new Error("no such host")),
  });
  t.teardown(() => proxy.close());
  const front = await serve(t, (from, to) => void proxy.handle(from, to, false));
  const agent = new Agent({ keepAlive: true });
  t.teardown(() => agent.destroy());
  const ask = async (method: string, body?: string): Promise<string> => {
    const asked = request({ ...front, method, agent, headers: { Host: "a.b" } }).end(body);
    const [answer] = (await once(asked, "response")) as [IncomingMessage];
    const said = (await text(answer)).trim();
    return answer.statusCode === 200 ? `200 ${said}` : String(answer.statusCode);
  };
  const seen: string[] = [];
  const live = await serve(t, async (from, to) => {
    seen.push(from.method ?? "");
    to.end(`${from.method} ${await text(from)}`);
  });
  const dead = await deadTarget();
  const other = await deadTarget();

  targets = [dead, live];
  for (let i = 0; i < 6; i++) t.equal(await ask("GET"), "200 GET");
  for (let i = 0; i < 6; i++) t.equal(await ask("POST", `${i}`), `200 POST ${i}`, "with its body");
  t.equal(seen.length, 12, "each once");
  targets = [dead, other];
  t.equal(await ask("GET"), "502");
  t.equal(await ask("POST", "x"), "502");
  targets = [];
  t.equal(await ask("GET"), "503");
  targets = [{ host: "no.such.host", port: 80 }];
  t.equal(await ask("GET"), "503");

  // One that closes a kept connection just when the next request comes, as a server may that is being stopped.
  const used = new WeakSet<object>();
  const taken: string[] = [];
  const closing = await serve(t, (from, to) => {
    taken.push(from.method ?? "");
    if (used.has(from.socket)) from.socket.destroy();
    else to.end("closing");
    used.add(from.socket);
  });
  targets = [closing];
  for (let i = 0; i < 4; i++) t.equal(await ask("GET"), "200 closing", "asked again on a new connection");
  taken.length = 0;
  for (let i = 0; i < 4; i++)
    t.equal(await ask("POST", "x"), "200 closing", "on a new connection from the start");
  t.same(taken, ["POST", "POST", "POST", "POST"]);
  const failing = await serve(t, (from) => {
    taken.push(from.method ?? "");
    from.socket.destroy();
  });
  targets = [failing];
  taken.length = 0;
  t.equal(await ask("POST", "x"), "502");
  t.same(taken, ["POST"], "nobody can know whether it was done");
});
