// lab.sock: the one door into the lab. Routes HTTP requests and upgrades to node agents, host shells and TCP
// connections; whoever may open the socket (mode 0600) may do everything.

import { chmodSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { json } from "node:stream/consumers";
import { ipFamily } from "../common/ip.js";
import type { Logger } from "../common/log.js";
import { acceptDial, type HostDialer } from "../common/tunnel.js";
import type { ChainAt, Printout } from "../dataplane/iptables/index.js";
import { refuseUpgrade } from "../node/streams/upgrade.js";
import { messageOf } from "./errors.js";

/** What the server needs of a lab; the lab itself is one. */
export interface LabDoors {
  node(name: string): NodeDoor | undefined;
  host(name: string): HostDoor | undefined;
  status(): Promise<unknown>;
  /** Resolves when every host's rules reflect what the API holds now. */
  sync(): Promise<void>;
  /** Ends the process, after the answer has been sent. */
  stop(): void;
}

/** The inside of a host. */
export interface HostDoor extends HostDialer {
  exec(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  rules(query: RulesQuery): Promise<Printout>;
}

/** Which of a host's rules; the body of POST /hosts/NAME/rules. */
export interface RulesQuery {
  family: 4 | 6;
  /** Those of these that there are. Default: all. */
  chains?: readonly ChainAt[];
}

/** The kubelet API of a node. */
export interface NodeDoor {
  handleRequest(req: IncomingMessage, res: ServerResponse): void;
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void;
}

export interface LabServerOptions {
  socketPath: string;
  doors: LabDoors;
  log: Logger;
}

/** Listens; resolves when clients can connect. A stale socket of a dead lab is replaced. */
export async function startLabServer({ socketPath, doors, log }: LabServerOptions): Promise<Server> {
  const server = createServer({ keepAlive: true, requestTimeout: 0, noDelay: true });
  server.on("request", (req, res) => route(req, res, doors, log));
  server.on("upgrade", (req, socket, head) => routeUpgrade(req, socket, head, doors));
  rmSync(socketPath, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(socketPath, resolve);
  });
  chmodSync(socketPath, 0o600);
  return server;
}

function route(req: IncomingMessage, res: ServerResponse, doors: LabDoors, log: Logger): void {
  const { segments, rest } = parse(req.url);
  const [kind, name = ""] = segments;
  const node = kind === "nodes" ? doors.node(name) : undefined;
  const host = kind === "hosts" ? doors.host(name) : undefined;
  const action = `${req.method} /${segments.join("/")}`;
  if (node) {
    req.url = rest;
    node.handleRequest(req, res);
  } else if (kind === "nodes") answer(res, 404, { message: `there is no node ${name} in this lab` });
  else if (host && action === `POST /hosts/${name}/rules`) {
    void reply(res, async () => host.rules((await json(req)) as RulesQuery), log);
  } else if (action === "GET /status") void reply(res, () => doors.status(), log);
  else if (action === "POST /sync") void reply(res, () => doors.sync(), log);
  else if (action === "POST /stop") {
    res.once("finish", () => doors.stop());
    answer(res, 202, { message: "stopping" });
  } else answer(res, 404, { message: `${action} is not known here` });
}

async function reply(res: ServerResponse, work: () => Promise<unknown>, log: Logger): Promise<void> {
  try {
    answer(res, 200, (await work()) ?? {});
  } catch (error) {
    log.error({ err: error }, "request to the lab failed");
    answer(res, 500, { message: messageOf(error) });
  }
}

function answer(res: ServerResponse, code: number, body: unknown): void {
  const text = JSON.stringify(body);
  res.writeHead(code, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
  res.end(text);
}

function routeUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer, doors: LabDoors): void {
  const { segments, rest } = parse(req.url);
  const [kind, name = "", last = "", ip = "", port = ""] = segments;
  const node = kind === "nodes" ? doors.node(name) : undefined;
  const host = kind === "hosts" ? doors.host(name) : undefined;
  if (node) {
    req.url = rest;
    node.handleUpgrade(req, socket, head);
  } else if (host && last === "exec") host.exec(req, socket, head);
  else if (host && last === "dial") dialInto(socket as Socket, head, ip, Number(port), host);
  else if (kind === "dial") dialInto(socket as Socket, head, name, Number(last));
  else refuseUpgrade(socket, 404, "NotFound", `there is no ${segments.slice(0, 2).join(" ")} in this lab`);
}

function dialInto(socket: Socket, head: Buffer, ip: string, port: number, host?: HostDialer): void {
  if (ipFamily(ip) && Number.isInteger(port) && port > 0 && port < 65_536)
    acceptDial(socket, head, ip, port, host);
  else refuseUpgrade(socket, 400, "BadRequest", "/dial/<literal address>/<port from 1 to 65535> is expected");
}

/** First path segments, decoded, and what follows the second one: the path as the node's own kubelet sees it. */
function parse(url = "/"): { segments: string[]; rest: string } {
  const [path = "/"] = url.split("?", 1);
  const query = url.slice(path.length);
  const segments = path.split("/").filter(Boolean);
  return { segments: segments.map(decode), rest: `/${segments.slice(2).join("/")}${query}` };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    // Not an encoding at all: no name will match it.
    return text;
  }
}
