// agnhost netexec: the HTTP and UDP server that the Kubernetes network tests talk to.

import { request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import { parseDuration } from "../../common/duration.js";
import { hostPort } from "../../common/ip.js";
import { withFlags } from "./echo.js";
import { anyAddressFor, EmulatedProcess, GO_SIGTERM, goLog, peerOf } from "./emulated.js";
import { resolveHost } from "./resolve.js";
import type { ContainerContext, Workload } from "./types.js";

/** What one request to `/dial` may take, as in the original. */
const DIAL_TIMEOUT_MS = 5000;

type Query = URLSearchParams;
type Handler = (query: Query, request: IncomingMessage, response: ServerResponse) => void | Promise<void>;

const text = (response: ServerResponse, body: string, code = 200): void => {
  response.writeHead(code, { "Content-Type": "text/plain; charset=utf-8" });
  response.end(body);
};

export function netexec(context: ContainerContext, args: readonly string[]): Promise<Workload> {
  const kinds = {
    "http-port": "number",
    "udp-port": "number",
    "sctp-port": "number",
    "delay-shutdown": "number",
    "http-override": "string",
    "udp-listen-addresses": "string",
  } as const;
  return withFlags(context, args, kinds, async ({ flags }) => {
    const delay = Number(flags["delay-shutdown"] ?? 0);
    const process = new EmulatedProcess(context, {
      onTerm: (self) => {
        if (delay <= 0) return self.exit(GO_SIGTERM);
        goLog(context, `Received SIGTERM, will exit in ${delay} seconds`);
        setTimeout(() => self.exit(0), delay * 1000).unref();
      },
    });
    const httpPort = Number(flags["http-port"] ?? 8080);
    const udpPort = Number(flags["udp-port"] ?? 8081);
    const server = new NetexecServer(process, udpPort !== -1);
    const override = flags["http-override"];
    goLog(context, `Started HTTP server on port ${httpPort}`);
    await process.http(httpPort, (request, response) => {
      if (typeof override === "string" && override !== "") request.url = override;
      server.serve(request, response);
    });
    if (udpPort !== -1 && !process.over) {
      goLog(context, `Started UDP server on port  ${udpPort}`);
      await process.udp(udpPort, (message, peer) => server.datagram(message.toString(), peer));
    }
    return process;
  });
}

/** time.Time as fmt prints it: with its monotonic part, the time since the program began. */
function goTime(sinceStartMs: number): string {
  const now = new Date().toISOString();
  return `${now.slice(0, 10)} ${now.slice(11, 23)}000000 +0000 UTC m=+${(sinceStartMs / 1000).toFixed(9)}`;
}

class NetexecServer {
  readonly #process: EmulatedProcess;
  readonly #context: ContainerContext;
  readonly #hasUdp: boolean;
  readonly #routes: Record<string, Handler>;

  constructor(process: EmulatedProcess, hasUdp: boolean) {
    this.#process = process;
    this.#context = process.context;
    this.#hasUdp = hasUdp;
    const hostname: Handler = (_query, _request, response) => text(response, this.#context.hostname);
    const started = Date.now();
    this.#routes = {
      "/": (_query, _request, response) => text(response, `NOW: ${goTime(Date.now() - started)}`),
      "/clientip": (_query, request, response) => text(response, peerOf(request.socket)),
      "/hostname": hostname,
      "/hostName": hostname,
      "/header": (query, request, response) =>
        text(response, String(request.headers[(query.get("key") ?? "").toLowerCase()] ?? "")),
      "/echo": (query, _request, response) => echo(query, response),
      // Ready means that the UDP server runs; without one it never is, as in the original.
      "/healthz": (_query, _request, response) => text(response, "", this.#hasUdp ? 200 : 412),
      "/readyz": (_query, _request, response) => text(response, "", this.#hasUdp ? 200 : 412),
      "/redirect": (query, _request, response) => redirect(query, response),
      "/shell": (query, _request, response) => this.#shell(query, response),
      "/dial": (query, _request, response) => this.#dial(query, response),
      "/exit": (query, _request, response) => this.#exit(query, response),
      "/shutdown": () => this.#process.exit(0),
    };
  }

  serve(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? "/", "http://localhost");
    goLog(this.#context, `GET ${url.pathname}${url.search}`);
    // Go's mux gives "/" everything that no other pattern takes.
    const handler = this.#routes[url.pathname] ?? this.#routes["/"];
    void Promise.resolve(handler?.(url.searchParams, request, response)).catch((error: Error) =>
      text(response, error.message, 500),
    );
  }

  datagram(message: string, peer: { address: string; port: number }): string | undefined {
    const line = message.replace(/\n$/, "");
    goLog(this.#context, `Received: "${line}" from ${hostPort(peer.address, peer.port)}`);
    const lower = line.toLowerCase();
    if (lower === "hostname") return this.#context.hostname;
    if (lower === "clientip") return hostPort(peer.address, peer.port);
    if (lower.startsWith("echo ")) return line.slice(5);
    return undefined;
  }

  async #shell(query: Query, response: ServerResponse): Promise<void> {
    const command = query.get("shellCommand") || query.get("cmd") || "";
    const { exitCode, output } = await this.#context.exec(["/bin/sh", "-c", command]);
    const answer = {
      ...(exitCode === 0 ? {} : { error: `exit status ${exitCode}` }),
      ...(output ? { output } : {}),
    };
    text(response, JSON.stringify(answer));
  }

  async #dial(query: Query, response: ServerResponse): Promise<void> {
    const request = query.get("request") ?? "";
    const protocol = (query.get("protocol") || "http").toLowerCase();
    const triesText = query.get("tries") || "1";
    if (!/^-?\d+$/.test(triesText)) {
      return text(response, `tries parameter is invalid. "${triesText}": invalid syntax\n`, 400);
    }
    if (!request) return text(response, "request parameter not specified. <nil>\n", 400);
    if (protocol !== "http" && protocol !== "udp") {
      return text(response, `unsupported protocol. ${protocol}\n`, 400);
    }
    const port = Number(query.get("port"));
    let host: string;
    try {
      host = await resolveHost(this.#context, query.get("host") ?? "");
      if (!(port > 0 && port < 65_536)) throw new Error(`invalid port "${query.get("port")}"`);
    } catch (error) {
      return text(response, `host and/or port param are invalid. ${(error as Error).message}\n`, 400);
    }
    const responses: string[] = [];
    const errors: string[] = [];
    for (let i = 0; i < Number(triesText) && !this.#process.over; i++) {
      try {
        const ask = protocol === "http" ? askHttp : askUdp;
        responses.push(await ask(this.#context, host, port, request));
      } catch (error) {
        errors.push((error as Error).message);
      }
    }
    text(
      response,
      JSON.stringify({
        ...(errors.length > 0 ? { errors } : {}),
        ...(responses.length > 0 ? { responses } : {}),
      }),
    );
  }

  #exit(query: Query, response: ServerResponse): void {
    const duration = (name: string): number | undefined => {
      const value = query.get(name);
      return value ? parseDuration(value) : 0;
    };
    const [wait, timeout] = [duration("wait"), duration("timeout")];
    const codeText = query.get("code") || "0";
    for (const [name, value] of Object.entries({ timeout, wait })) {
      if (value !== undefined) continue;
      const message = `argument '${name}' must be a valid golang duration or empty, got "${query.get(name)}"\n`;
      text(response, message);
      return;
    }
    if (!/^\d+$/.test(codeText)) {
      text(response, `argument 'code' must be an integer [0-127] or empty, got "${codeText}"\n`);
      return;
    }
    const code = Number(codeText) & 0xff;
    setTimeout(() => {
      if (!timeout) return this.#process.exit(code);
      response.end();
      setTimeout(() => this.#process.exit(code), timeout).unref();
      void this.#process.shutDown(code);
    }, wait).unref();
  }
}

function echo(query: Query, response: ServerResponse): void {
  const code = query.get("code");
  if (code && !/^\d{3}$/.test(code)) {
    text(response, `argument 'code' must be an integer or empty, got "${code}"\n`);
    return;
  }
  text(response, query.get("msg") ?? "", code ? Number(code) : 200);
}

function redirect(query: Query, response: ServerResponse): void {
  const code = query.get("code") ?? "";
  if (code && !/^3\d\d$/.test(code)) {
    text(response, `argument 'code' must be an integer in 3xx range or empty, got "${code}"\n`);
    return;
  }
  response.writeHead(code ? Number(code) : 302, { Location: query.get("location") ?? "" }).end();
}

function askHttp(context: ContainerContext, host: string, port: number, request: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest({
      host,
      port,
      path: `/${request.replace(/^\//, "")}`,
      headers: { Host: `${hostPort(host, port)}`, "User-Agent": "Go-http-client/1.1", Connection: "close" },
      createConnection: () => context.ns.connect({ host, port, timeout: DIAL_TIMEOUT_MS }),
      timeout: DIAL_TIMEOUT_MS,
    });
    const failed = (why: string) =>
      reject(new Error(`Get "http://${hostPort(host, port)}/${request}": ${why}`));
    outgoing.on("timeout", () => {
      failed("context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
      outgoing.destroy();
    });
    outgoing.on("error", (error: NodeJS.ErrnoException) =>
      failed(
        error.code === "ECONNREFUSED"
          ? `dial tcp ${hostPort(host, port)}: connect: connection refused`
          : `dial tcp ${hostPort(host, port)}: ${error.message}`,
      ),
    );
    outgoing.on("response", (incoming) => {
      const chunks: Buffer[] = [];
      incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
      incoming.on("end", () => resolve(Buffer.concat(chunks).toString()));
      incoming.on("error", (error) => failed(error.message));
    });
    outgoing.end();
  });
}

async function askUdp(
  context: ContainerContext,
  host: string,
  port: number,
  request: string,
): Promise<string> {
  const socket = await context.ns.udp({ host: anyAddressFor(host) });
  try {
    return await new Promise<string>((resolve, reject) => {
      const timer = setTimeout(
        () =>
          reject(
            new Error(
              `reading from udp connection failed. err:'read udp ${hostPort(host, port)}: i/o timeout'`,
            ),
          ),
        DIAL_TIMEOUT_MS,
      );
      socket.once("message", (message) => {
        clearTimeout(timer);
        resolve(message.toString());
      });
      socket.once("error", (error: NodeJS.ErrnoException) => {
        clearTimeout(timer);
        const why = error.code === "ECONNREFUSED" ? "connection refused" : error.message;
        reject(
          new Error(`reading from udp connection failed. err:'read udp ${hostPort(host, port)}: ${why}'`),
        );
      });
      socket.connect(port, host, () => socket.send(request));
    });
  } finally {
    socket.close();
  }
}
