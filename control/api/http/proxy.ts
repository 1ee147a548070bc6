// …/proxy of pods, services, and of nodes to another port than the kubelet's: an HTTP request or an upgraded connection
// passed on to a server of the cluster, as kube-apiserver does it (util/proxy of apimachinery). Connections are made by
// a node, since the pods' network is not the API server's.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { connect as tlsConnect } from "node:tls";
import { gunzipSync, gzipSync } from "node:zlib";
import { hostPort } from "../../../common/ip.js";
import type { Logger } from "../../../common/log.js";
import type { Registry } from "../registry.js";
import { serviceUnavailable } from "../status.js";
import { answerHeaders, type Backend, Forwarder, passedHeaders, writeInPieces } from "./forward.js";
import type { NodeDialer } from "./proxy-dial.js";
import { type Location, locate } from "./proxy-location.js";
import { type ProxiedPage, rewriteHtml, rewriteUrl } from "./proxy-rewrite.js";
import type { Target } from "./request.js";

/** HTML above that many bytes is passed back as it is: to change links a page is held in memory. */
const LARGEST_PAGE = 8 << 20;
/** The server's own word on who may use it from other sites; through the proxy it would be the API server's. */
const CORS = [
  "allow-credentials",
  "allow-headers",
  "allow-methods",
  "allow-origin",
  "expose-headers",
  "max-age",
];

function unreachable(error: NodeJS.ErrnoException): Error {
  // OpenSSL's words for it are not for people.
  const isPlain = error.code === "EPROTO" && error.message.includes("wrong version number");
  const why = isPlain ? "http: server gave HTTP response to HTTPS client" : error.message;
  return serviceUnavailable(`error trying to reach service: ${why}`);
}

/** A request's path as its client wrote it: the escapes in it are the server's business. */
interface Way {
  /** /api/v1/namespaces/NS/pods/NAME/proxy */
  prefix: string;
  /** What follows, "" or from its slash on. */
  rest: string;
  /** "" or from its question mark on. */
  query: string;
}

function wayOf(req: IncomingMessage, { namespace }: Target): Way {
  const url = req.url ?? "/";
  const end = url.indexOf("?");
  const segments = (end < 0 ? url : url.slice(0, end)).split("/");
  // "", api, v1, [namespaces, NAMESPACE,] pods, NAME, proxy
  const length = namespace === undefined ? 6 : 8;
  return {
    prefix: segments.slice(0, length).join("/"),
    rest: segments.length > length ? `/${segments.slice(length).join("/")}` : "",
    query: end < 0 ? "" : url.slice(end),
  };
}

export class ServerProxy {
  readonly #registry: Registry;
  readonly #dial: NodeDialer;
  readonly #forwarder: Forwarder;

  constructor(registry: Registry, dial: NodeDialer, log: Logger) {
    this.#registry = registry;
    this.#dial = dial;
    this.#forwarder = new Forwarder(log);
  }

  /** Cuts every stream. */
  close(): void {
    this.#forwarder.close();
  }

  /** @throws StatusError */
  async handle(req: IncomingMessage, target: Target, res: ServerResponse): Promise<void> {
    const way = wayOf(req, target);
    const location = await locate(this.#registry, target);
    if (way.rest === "" && (req.method === "GET" || req.method === "HEAD")) {
      // Relative links of the page would otherwise lead out of the proxy.
      res.writeHead(301, { Location: `${way.prefix}/${way.query}` }).end();
      return;
    }
    const backend = await this.#backend(req, way, location, false);
    const serverHost = hostPort(location.ip, location.port);
    const page = { prefix: way.prefix, serverHost, requestHost: req.headers.host ?? "" };
    backend.answer = (incoming) => this.#answer(incoming, res, page);
    await this.#forwarder.request(backend, req, res);
  }

  /** @throws StatusError */
  async upgrade(req: IncomingMessage, target: Target, client: Duplex, head: Buffer): Promise<void> {
    const location = await locate(this.#registry, target);
    const backend = await this.#backend(req, wayOf(req, target), location, true);
    await this.#forwarder.upgrade(backend, client, head);
  }

  async #backend(req: IncomingMessage, way: Way, location: Location, upgrade: boolean): Promise<Backend> {
    const socket = await this.#connect(location);
    const before = req.headers["x-forwarded-for"];
    const client = req.socket.remoteAddress;
    const headers = {
      ...passedHeaders(req, upgrade),
      host: req.headers.host ?? hostPort(location.ip, location.port),
      "x-forwarded-uri": way.prefix + way.rest,
      ...(client ? { "x-forwarded-for": before ? `${before}, ${client}` : client } : {}),
    };
    const path = (way.rest || "/") + way.query;
    const options = { method: req.method ?? "GET", path, headers, createConnection: () => socket };
    return { options, unreachable };
  }

  async #connect({ scheme, node, ip, port }: Location): Promise<Socket> {
    let socket: Socket;
    try {
      socket = await this.#dial(node, ip, port);
    } catch (error) {
      throw unreachable(error as Error);
    }
    // It comes paused; a server of HTTP says nothing before it is asked.
    socket.resume();
    // The server proves nothing by its certificate: its address is what was asked for.
    return scheme === "https" ? tlsConnect({ socket, rejectUnauthorized: false }) : socket;
  }

  #answer(incoming: IncomingMessage, res: ServerResponse, page: ProxiedPage): Promise<void> | undefined {
    const { headers } = incoming;
    for (const name of CORS) delete headers[`access-control-${name}`];
    if (headers.location) {
      headers.location = rewriteUrl(headers.location, page);
      return undefined;
    }
    const type = headers["content-type"]?.split(";")[0]?.trim();
    const encoding = headers["content-encoding"] ?? "";
    const isPage = type === "text/html" && (encoding === "" || encoding === "gzip");
    if (!isPage || res.req.method === "HEAD") return undefined;
    return this.#passPage(incoming, res, (url) => rewriteUrl(url, page));
  }

  async #passPage(
    incoming: IncomingMessage,
    res: ServerResponse,
    rewrite: (url: string) => string,
  ): Promise<void> {
    const chunks: Buffer[] = [];
    let size = 0;
    try {
      for await (const chunk of incoming.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        chunks.push(chunk);
        size += chunk.length;
        if (size > LARGEST_PAGE) break;
      }
      const body = Buffer.concat(chunks);
      if (size > LARGEST_PAGE) {
        incoming.unshift(body);
        await this.#forwarder.passBack(incoming, res);
        return;
      }
      const changed = rewritten(body, incoming.headers["content-encoding"] === "gzip", rewrite);
      const headers = { ...answerHeaders(incoming), "content-length": changed.length };
      res.writeHead(incoming.statusCode ?? 500, headers);
      await writeInPieces(res, changed);
      res.end();
    } catch {
      // Cut off in the middle, by the server or by the client: the other one shall see it.
      res.destroy();
    }
  }
}

function rewritten(body: Buffer, gzip: boolean, rewrite: (url: string) => string): Buffer {
  if (!gzip) return Buffer.from(rewriteHtml(body.toString("latin1"), rewrite), "latin1");
  let plain: Buffer;
  try {
    plain = gunzipSync(body, { maxOutputLength: LARGEST_PAGE });
  } catch {
    // Not what it says it is, or too large: the client may make of it what it can.
    return body;
  }
  return gzipSync(Buffer.from(rewriteHtml(plain.toString("latin1"), rewrite), "latin1"));
}
