// kube-proxy's two HTTP servers: health on 10256 for load balancers and probes, metrics and facts on 10249.
// Knows requests; what is healthy is the proxy's to say.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import type { ProxyHealth, ProxyMetrics } from "../../dataplane/proxy/index.js";
import type { BindAddress } from "./configuration.js";

export interface StatusSources {
  /** Of the proxies of both families together. */
  health(): ProxyHealth;
  /** Shown, and counted in: answers by code. */
  metrics: Pick<ProxyMetrics, "registry" | "healthz" | "livez">;
  /** The configuration in the shape of its file, for /configz. */
  configuration: unknown;
}

export interface StatusServersOptions extends StatusSources {
  ns: Pick<NetNs, "listen">;
  /** undefined: not served. */
  healthzBindAddress: BindAddress | undefined;
  metricsBindAddress: BindAddress | undefined;
  /** Milliseconds until a port that is taken is tried again. Default 5000. */
  retryMs?: number;
}

/** The way Go prints a time, which is what kube-proxy's answer has: 2026-11-21 15:04:05.678 +0000 UTC. */
function goTime(ms: number | undefined): string {
  if (ms === undefined) return "0001-01-01 00:00:00 +0000 UTC";
  return `${new Date(ms).toISOString().replace("T", " ").replace("Z", "")} +0000 UTC`;
}

type Handler = (req: IncomingMessage, res: ServerResponse) => void;

function text(res: ServerResponse, code: number, body: string, type = "text/plain; charset=utf-8"): void {
  res.writeHead(code, { "Content-Type": type, "X-Content-Type-Options": "nosniff" }).end(body);
}

/** Only GET and HEAD; an unknown path is told which there are. */
function routed(routes: Readonly<Record<string, Handler>>): Handler {
  return (req, res) => {
    const path = (req.url ?? "/").split("?")[0] ?? "/";
    const handler = routes[path];
    if (!handler) return text(res, 404, `404 page not found; there are ${Object.keys(routes).join(", ")}\n`);
    if (req.method !== "GET" && req.method !== "HEAD") return text(res, 405, "405 method not allowed\n");
    // Nothing that is asked may end the proxy.
    try {
      handler(req, res);
    } catch (error) {
      text(res, 500, `${(error as Error).message}\n`);
    }
  };
}

/** Handlers of /healthz and /livez; counts answers by code, as kube-proxy does. */
export function healthHandler({
  health,
  metrics: { healthz, livez },
}: Omit<StatusSources, "configuration">): Handler {
  const answer = (res: ServerResponse, well: boolean, total: ProxyMetrics["healthz"], facts: object) => {
    const code = well ? 200 : 503;
    total.inc({ code: String(code) });
    text(res, code, JSON.stringify(facts), "application/json");
  };
  /** A proxy with nothing to do is as current as can be. */
  const times = ({ healthy, lastUpdated }: ProxyHealth) => {
    const now = Date.now();
    return { lastUpdated: goTime(healthy ? now : lastUpdated), currentTime: goTime(now) };
  };
  return routed({
    "/healthz": (_req, res) => {
      const facts = health();
      const { healthy, nodeEligible } = facts;
      answer(res, healthy && nodeEligible, healthz, { ...times(facts), nodeEligible });
    },
    // A node that is about to go is still alive: /livez is for the kubelet, /healthz for load balancers.
    "/livez": (_req, res) => {
      const facts = health();
      answer(res, facts.healthy, livez, times(facts));
    },
  });
}

/** Handlers of /metrics, /proxyMode, /configz and /healthz. */
export function factsHandler({
  metrics: { registry },
  configuration,
}: Omit<StatusSources, "health">): Handler {
  const json = JSON.stringify({ "kubeproxy.config.k8s.io": configuration });
  return routed({
    "/healthz": (_req, res) => text(res, 200, "ok"),
    "/proxyMode": (_req, res) => text(res, 200, "iptables"),
    "/configz": (_req, res) => text(res, 200, json, "application/json"),
    "/metrics": (_req, res) => {
      registry.metrics().then(
        (body) => text(res, 200, body, registry.contentType),
        (error: Error) =>
          text(
            res,
            500,
            `${error.message}
`,
          ),
      );
    },
  });
}

interface Wanted {
  what: string;
  at: BindAddress;
  handler: Handler;
}

const RETRY_MS = 5000;

/** Both servers in the host's namespace. */
export class StatusServers {
  readonly #options: StatusServersOptions;
  readonly #servers: Server[] = [];
  readonly #retries = new Set<NodeJS.Timeout>();
  #stopped = false;

  constructor(options: StatusServersOptions) {
    this.#options = options;
  }

  /** Returns what could not be bound, a sentence each; that is tried again every 5 s, the rest is served. */
  async start(): Promise<string[]> {
    const { healthzBindAddress, metricsBindAddress } = this.#options;
    const failures: string[] = [];
    const serve = async (what: string, at: BindAddress | undefined, handler: Handler) => {
      if (!at) return;
      const failure = await this.#listen({ what, at, handler });
      if (failure) failures.push(failure);
    };
    await serve("healthz", healthzBindAddress, healthHandler(this.#options));
    await serve("metrics", metricsBindAddress, factsHandler(this.#options));
    return failures;
  }

  async #listen(wanted: Wanted): Promise<string | undefined> {
    const { what, at, handler } = wanted;
    const server = createServer(handler);
    try {
      await this.#options.ns.listen(server, at);
      this.#servers.push(server);
      return undefined;
    } catch (error) {
      if (!this.#stopped) this.#retry(wanted);
      return `the ${what} server cannot listen on ${at.host}:${at.port}: ${(error as Error).message}`;
    }
  }

  #retry(wanted: Wanted): void {
    const timer = setTimeout(() => {
      this.#retries.delete(timer);
      void this.#listen(wanted);
    }, this.#options.retryMs ?? RETRY_MS);
    this.#retries.add(timer.unref());
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    for (const timer of this.#retries) clearTimeout(timer);
    await Promise.all(this.#servers.splice(0).map(closed));
  }
}

/** Ends a server with its connections. */
export function closed(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
