// Published ports of the control process: opens those of the configuration, listens on relay.sock for more, and
// sends each connection to another Ready host in turn.

import { chmodSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { json } from "node:stream/consumers";
import { type KubeClient, NODES } from "../common/client.js";
import { Informer } from "../common/informer.js";
import type { Node, Stored } from "../common/k8s.js";
import type { Logger } from "../common/log.js";
import { acceptDial } from "../common/tunnel.js";
import { hasCode, messageOf } from "./errors.js";
import { residentBytes } from "./identity.js";
import { Relay } from "./relay.js";
import type { ClusterPaths } from "./state.js";
import type { Publish } from "./types.js";

export interface PublishingOptions {
  paths: ClusterPaths;
  client: KubeClient;
  published: readonly Required<Publish>[];
  /** The API server's TLS port on 127.0.0.1. */
  apiPort: number;
  log: Logger;
}

/**
 * Listens on every published port and on relay.sock: GET /status, POST /publish, GET /api (upgrade to raw TCP).
 * @throws ClusterError PORT_IN_USE, naming the port.
 */
export async function startPublishing(options: PublishingOptions): Promise<{ close(): void }> {
  const log = options.log.child({ part: "publish" });
  const nodes = new Informer(options.client, NODES, { log });
  const relay = new Relay({ labSocket: options.paths.labSocket, nextHosts: roundRobin(nodes), log });
  for (const one of options.published) await relay.open(one);
  nodes.start();
  const server = createServer((req, res) => void serve(req, res, relay));
  server.on("upgrade", (req, socket, head) => {
    // The only address that pods may reach outside the lab.
    if (req.url === "/api") acceptDial(socket as Socket, head, "127.0.0.1", options.apiPort);
    else socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
  });
  const path = options.paths.relaySocket;
  rmSync(path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  chmodSync(path, 0o600);
  return {
    close() {
      nodes.stop();
      relay.close();
      server.close();
    },
  };
}

/** The addresses of the Ready nodes, beginning with another one at each call. */
function roundRobin(nodes: Informer<Node>): () => string[] {
  let turn = 0;
  return () => {
    const ready = nodes
      .list()
      .filter(isReady)
      .map(internalIP)
      .filter((ip) => ip !== undefined)
      .sort();
    const first = turn++ % Math.max(1, ready.length);
    return [...ready.slice(first), ...ready.slice(0, first)];
  };
}

function isReady(node: Stored<Node>): boolean {
  return Boolean(node.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True"));
}

function internalIP(node: Stored<Node>): string | undefined {
  return node.status?.addresses?.find(({ type }) => type === "InternalIP")?.address;
}

async function serve(req: IncomingMessage, res: ServerResponse, relay: Relay): Promise<void> {
  try {
    if (req.method === "GET" && req.url === "/status") {
      return answer(res, 200, { published: relay.list(), memoryBytes: residentBytes("self") });
    }
    if (req.method === "POST" && req.url === "/publish") {
      await relay.open((await json(req)) as Required<Publish>);
      return answer(res, 200, { published: relay.list() });
    }
    answer(res, 404, { message: `${req.method} ${req.url} is not known here` });
  } catch (error) {
    const code = hasCode(error, "PORT_IN_USE") ? { code: "PORT_IN_USE" } : {};
    answer(res, 409, { message: messageOf(error), ...code });
  }
}

function answer(res: ServerResponse, status: number, body: unknown): void {
  res.writeHead(status, { "content-type": "application/json" });
  res.end(JSON.stringify(body));
}
