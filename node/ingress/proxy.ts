// The requests of an Ingress controller: finds the route, answers what no backend has to answer (redirects, 404, 503),
// and gives the rest to httpxy, on a connection to an endpoint that is known to be there. Knows HTTP, no API.

import { Agent, type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import { isIP, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { createProxyServer } from "httpxy";
import { hostPort } from "../../common/ip.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import type { Target } from "./backends.js";
import {
  type Backend,
  findRoute,
  hostOf,
  normalPath,
  type Route,
  type RoutingTable,
  secretFor,
} from "./routes.js";

/** Those of ingress-nginx: proxy-connect-timeout and proxy-next-upstream-tries. */
const CONNECT_TIMEOUT_MS = 5000;
const TRIES = 3;
/** An endpoint's server closes a quiet connection after 60 seconds or later (nginx 75, Go never, Node 5): be earlier. */
const IDLE_MS = 4000;
/** Methods that may be asked twice when a kept connection turns out to be closed (RFC 9110, 9.2.2). */
const REPEATABLE = new Set(["GET", "HEAD", "OPTIONS", "TRACE"]);

export interface ProxyOptions {
  ns: NetNs;
  table: () => RoutingTable;
  /** Where requests for a backend may go now. */
  targets: (backend: Backend) => Target[];
  /** The address of a name, as a program in the pod finds it. Rejects when there is none. */
  resolve: (host: string) => Promise<string>;
  /** A request that was answered, for the access log. */
  onAnswer?: (request: IncomingMessage, status: number, target: string) => void;
}

/** Connections into the pod's network that are used again. */
class PodAgent extends Agent {
  readonly #ns: NetNs;

  constructor(ns: NetNs) {
    super({ keepAlive: true, timeout: IDLE_MS, maxFreeSockets: 32 });
    this.#ns = ns;
  }

  override createConnection({ host, port }: { host?: string; port?: number | string }): Socket {
    return this.#ns.connect({ host: host ?? "", port: Number(port), timeout: CONNECT_TIMEOUT_MS });
  }
}

/** One connection that exists already. */
class SingleAgent extends Agent {
  readonly #socket: Socket;

  constructor(socket: Socket) {
    super({ keepAlive: false });
    this.#socket = socket;
  }

  override createConnection(): Socket {
    return this.#socket;
  }
}

export class IngressProxy {
  readonly #options: ProxyOptions;
  readonly #proxy = createProxyServer({});
  readonly #agent: Agent;
  #turn = 0;

  constructor(options: ProxyOptions) {
    this.#options = options;
    this.#agent = new PodAgent(options.ns);
  }

  /** Ends connections to endpoints that nobody uses. */
  close(): void {
    this.#agent.destroy();
  }

  async handle(request: IncomingMessage, response: ServerResponse, secure: boolean): Promise<void> {
    const route = this.#route(request);
    if (!route) return this.#answer(request, response, 404);
    if (this.#redirects(route, request, secure)) {
      const location = `https://${hostOf(request.headers.host)}${request.url ?? "/"}`;
      response.setHeader("Location", location);
      return this.#answer(request, response, 308);
    }
    await this.#forward(route, request, response, secure);
  }

  #route({ headers, url = "/" }: IncomingMessage): Route | undefined {
    return findRoute(this.#options.table(), hostOf(headers.host), normalPath(url));
  }

  #redirects(route: Route, { headers }: IncomingMessage, secure: boolean): boolean {
    if (secure || !route.sslRedirect) return false;
    const named = secretFor(this.#options.table(), hostOf(headers.host)) !== undefined;
    return route.sslRedirect === "always" || named;
  }

  #answer(request: IncomingMessage, response: ServerResponse, status: number): void {
    this.#options.onAnswer?.(request, status, "-");
    const title = `${status} ${STATUS_CODES[status]}`;
    const page = `<html>\n<head><title>${title}</title></head>\n<body>\n<center><h1>${title}</h1></center>\n<hr><center>kubeplumb</center>\n</body>\n</html>\n`;
    response.writeHead(status, { "Content-Type": "text/html", "Content-Length": Buffer.byteLength(page) });
    response.end(request.method === "HEAD" ? undefined : page);
  }

  /**
   * To one endpoint after the other until one takes it. What was given to an endpoint is given to another only when it
   * may be asked twice; a connection that could not be made has carried nothing.
   */
  async #forward(
    route: Route,
    request: IncomingMessage,
    response: ServerResponse,
    secure: boolean,
  ): Promise<void> {
    const headers = forwarded(request, secure);
    rewrite(route, request);
    const repeatable = REPEATABLE.has(request.method ?? "") && !hasBody(request);
    const tried = new Set<string>();
    for (let n = 0; n < TRIES; n++) {
      const target = await this.#next(route, tried);
      if (!target) return this.#answer(request, response, n === 0 ? 503 : 502);
      const name = hostPort(target.host, target.port);
      tried.add(name);
      // Only the first try is worth a kept connection: one that the endpoint is closing would cost all of them.
      const agent = repeatable && n === 0 ? this.#agent : await this.#connected(target);
      if (!agent) continue;
      if (response.destroyed) return;
      try {
        // Resolves when the answer has been sent, and also when the client has gone.
        await this.#proxy.web(request, response, {
          target: { ...target, protocol: "http:" },
          agent,
          headers,
        });
        this.#options.onAnswer?.(request, response.statusCode, name);
        return;
      } catch {
        if (response.headersSent || response.destroyed) {
          response.destroy();
          return;
        }
        if (!repeatable) break;
      }
    }
    this.#answer(request, response, 502);
  }

  /** Another endpoint each time; when all have been tried, again one of those that there are now. */
  async #next({ backend }: Route, tried: ReadonlySet<string>): Promise<Target | undefined> {
    const all = backend ? this.#options.targets(backend) : [];
    const fresh = all.filter(({ host, port }) => !tried.has(hostPort(host, port)));
    const list = fresh.length > 0 ? fresh : all;
    const target = list[this.#turn++ % Math.max(1, list.length)];
    if (!target || isIP(target.host)) return target;
    try {
      return { ...target, host: await this.#options.resolve(target.host) };
    } catch {
      return undefined;
    }
  }

  /** Undefined when nobody answers there. */
  #connected({ host, port }: Target): Promise<Agent | undefined> {
    const socket = this.#options.ns.connect({ host, port, timeout: CONNECT_TIMEOUT_MS });
    return new Promise((resolve) => {
      const failed = () => resolve(undefined);
      socket.once("error", failed).once("close", failed);
      socket.once("connect", () => {
        socket.off("error", failed).off("close", failed);
        resolve(new SingleAgent(socket));
      });
    });
  }

  /** WebSocket and whatever else asks for an upgrade of the protocol. */
  async upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, secure: boolean): Promise<void> {
    socket.on("error", () => socket.destroy());
    const route = this.#route(request);
    const headers = forwarded(request, secure);
    if (route) rewrite(route, request);
    const tried = new Set<string>();
    for (let n = 0; route && n < TRIES; n++) {
      const target = await this.#next(route, tried);
      if (!target) break;
      const name = hostPort(target.host, target.port);
      tried.add(name);
      const agent = await this.#connected(target);
      if (!agent) continue;
      this.#options.onAnswer?.(request, 101, name);
      const options = { target: { ...target, protocol: "http:" }, agent, headers };
      await this.#proxy.ws(request, socket as Socket, options, head).catch(() => socket.destroy());
      return;
    }
    const status = route ? 503 : 404;
    this.#options.onAnswer?.(request, status, "-");
    socket.end(
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`,
    );
  }
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}

/**
 * What the backend hears of the client. Headers of that kind that the client sent itself are not believed (ingress-nginx
 * without use-forwarded-headers).
 */
function forwarded(request: IncomingMessage, secure: boolean): Record<string, string> {
  const { headers, socket } = request;
  const client = (socket.remoteAddress ?? "").replace(/^::ffff:/, "");
  const scheme = secure ? "https" : "http";
  delete headers.forwarded;
  return {
    "x-real-ip": client,
    "x-forwarded-for": client,
    "x-forwarded-host": headers.host ?? "",
    "x-forwarded-port": secure ? "443" : "80",
    "x-forwarded-proto": scheme,
    "x-forwarded-scheme": scheme,
    "x-scheme": scheme,
  };
}

function rewrite(route: Route, request: IncomingMessage): void {
  if (route.rewriteTarget === undefined) return;
  const url = request.url ?? "/";
  const query = url.indexOf("?");
  const path = route.rewrite(normalPath(url));
  request.url = encodeURI(path.startsWith("/") ? path : `/${path}`) + (query < 0 ? "" : url.slice(query));
}
