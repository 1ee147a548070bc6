// Small servers for experiments: kubeplumb/echo (TCP and UDP echo), hashicorp/http-echo (a fixed text),
// traefik/whoami, kicbase/echo-server and ealen/echo-server (what the server sees of a request).

import type { IncomingMessage } from "node:http";
import { networkInterfaces } from "node:os";
import { hostPort } from "../../common/ip.js";
import { EmulatedProcess, GO_SIGTERM, peerOf } from "./emulated.js";
import { FlagError, parseFlags } from "./flags.js";
import type { ContainerContext, Image, Workload } from "./types.js";

/** A process that ends at once with a message, as one with a bad command line does. */
export function failedProcess(context: ContainerContext, message: string, exitCode: number): Workload {
  const process = new EmulatedProcess(context);
  context.stderr(`${message}\n`);
  process.exit(exitCode);
  return process;
}

/** Like parseFlags, but a bad command line ends the process as it would end the original. */
export async function withFlags<T extends Parameters<typeof parseFlags>[1]>(
  context: ContainerContext,
  args: readonly string[],
  kinds: T,
  run: (parsed: ReturnType<typeof parseFlags<T>>) => Promise<Workload>,
): Promise<Workload> {
  let parsed: ReturnType<typeof parseFlags<T>>;
  try {
    parsed = parseFlags(args, kinds);
  } catch (error) {
    if (!(error instanceof FlagError)) throw error;
    return failedProcess(context, `Error: ${error.message}`, 1);
  }
  return run(parsed);
}

/** kubeplumb/echo: sends back what comes, TCP and UDP, on --port (default 7). */
export const echo: Image = {
  names: ["kubeplumb/echo"],
  entrypoint: ["/echo"],
  cmd: [],
  program: (argv) =>
    argv[0] === "/echo"
      ? (context) =>
          withFlags(context, argv.slice(1), { port: "number" }, async ({ flags }) => {
            const port = Number(flags.port ?? 7);
            const process = new EmulatedProcess(context, { onTerm: (self) => void self.shutDown(0) });
            await process.tcp(port, (socket) => {
              context.stdout(`TCP connection from ${peerOf(socket)}\n`);
              socket.pipe(socket);
            });
            await process.udp(port, (message, peer) => {
              context.stdout(
                `UDP datagram of ${message.length} bytes from ${hostPort(peer.address, peer.port)}\n`,
              );
              return message;
            });
            return process;
          })
      : undefined,
};

/** hashicorp/http-echo: -text on -listen (default :5678). */
export const httpEcho: Image = {
  names: ["hashicorp/http-echo"],
  entrypoint: ["/http-echo"],
  cmd: [],
  program: (argv) =>
    argv[0] === "/http-echo" || argv[0] === "http-echo"
      ? (context) =>
          withFlags(
            context,
            argv.slice(1),
            { text: "string", listen: "string", "status-code": "number", version: "boolean" },
            async ({ flags }) => {
              const text = String(flags.text ?? context.env.ECHO_TEXT ?? "hello-world");
              const listen = String(flags.listen ?? ":5678");
              const port = Number(listen.slice(listen.lastIndexOf(":") + 1));
              const process = new EmulatedProcess(context, { onTerm: (self) => void self.shutDown(0) });
              await process.http(port, (request, response) => {
                response.writeHead(Number(flags["status-code"] ?? 200), {
                  "X-App-Name": "http-echo",
                  "Content-Type": "text/plain; charset=utf-8",
                });
                response.end(`${text}\n`);
                context.stdout(
                  `${new Date().toISOString()} ${request.headers.host} ${peerOf(request.socket)} "${request.method} ${request.url} HTTP/${request.httpVersion}" 200 ${text.length + 1} "${request.headers["user-agent"] ?? ""}"\n`,
                );
              });
              if (!process.over) context.stdout(`Server is listening on ${listen}\n`);
              return process;
            },
          )
      : undefined,
};

/** "Name: value" lines with the names as Go prints them. */
function headerLines(request: IncomingMessage): string[] {
  const canonical = (name: string) =>
    name
      .split("-")
      .map((part) => part.charAt(0).toUpperCase() + part.slice(1).toLowerCase())
      .join("-");
  const lines: string[] = [];
  for (let i = 0; i < request.rawHeaders.length; i += 2) {
    const name = canonical(request.rawHeaders[i] ?? "");
    if (name !== "Host") lines.push(`${name}: ${request.rawHeaders[i + 1]}`);
  }
  return lines.sort();
}

/** traefik/whoami: host name, addresses and the request, on --port (default 80). */
export const whoami: Image = {
  names: ["traefik/whoami", "containous/whoami"],
  entrypoint: ["/whoami"],
  cmd: [],
  program: (argv) =>
    argv[0] === "/whoami"
      ? (context) =>
          withFlags(
            context,
            argv.slice(1),
            { port: "string", name: "string", verbose: "boolean" },
            async ({ flags }) => {
              const port = Number(flags.port ?? context.env.WHOAMI_PORT_NUMBER ?? 80);
              const name = String(flags.name ?? context.env.WHOAMI_NAME ?? "");
              const process = new EmulatedProcess(context, { onTerm: GO_SIGTERM });
              await process.http(port, (request, response) => {
                const addresses = context.ns.run(() =>
                  Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map((a) => a.address)),
                );
                const lines = [
                  ...(name ? [`Name: ${name}`] : []),
                  `Hostname: ${context.hostname}`,
                  ...addresses.map((address) => `IP: ${address}`),
                  `RemoteAddr: ${peerOf(request.socket)}`,
                  `${request.method} ${request.url} HTTP/${request.httpVersion}`,
                  `Host: ${request.headers.host ?? ""}`,
                  ...headerLines(request),
                ];
                response.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" });
                response.end(request.url === "/health" ? "" : `${lines.join("\n")}\n\n`);
              });
              if (!process.over) context.stdout(`Starting up on port ${port}\n`);
              return process;
            },
          )
      : undefined,
};

/** jmalloc/echo-server, which minikube has as kicbase/echo-server: the request as text, on $PORT (default 8080). */
export const requestEcho: Image = {
  names: ["kicbase/echo-server", "jmalloc/echo-server"],
  entrypoint: [],
  cmd: ["/bin/echo-server"],
  program: (argv) =>
    argv.join(" ") === "/bin/echo-server"
      ? async (context) => {
          const port = Number(context.env.PORT ?? 8080);
          const process = new EmulatedProcess(context, { onTerm: GO_SIGTERM });
          await process.http(port, (request, response) => {
            context.stdout(`${peerOf(request.socket)} | ${request.method} ${request.url}\n`);
            response.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" });
            response.write(
              [
                `Request served by ${context.hostname}`,
                "",
                `HTTP/${request.httpVersion} ${request.method} ${request.url}`,
                "",
                `Host: ${request.headers.host ?? ""}`,
                ...headerLines(request),
                "",
                "",
              ].join("\n"),
            );
            request.pipe(response);
          });
          if (!process.over) context.stdout(`Echo server listening on port ${port}.\n`);
          return process;
        }
      : undefined,
};

/** ealen/echo-server: the request as JSON, on $PORT (default 80). */
export const echoServer: Image = {
  names: ["ealen/echo-server"],
  entrypoint: [],
  cmd: ["node", "webserver"],
  program: (argv) =>
    argv.join(" ") === "node webserver"
      ? async (context) => {
          const port = Number(context.env.PORT ?? 80);
          const process = new EmulatedProcess(context, { onTerm: (self) => void self.shutDown(0) });
          await process.http(port, (request, response) => {
            const url = new URL(request.url ?? "/", "http://localhost");
            const code = Number(url.searchParams.get("echo_code") ?? request.headers["x-echo-code"] ?? 200);
            const body = url.searchParams.get("echo_body") ?? request.headers["x-echo-body"];
            const seen = {
              host: {
                hostname: request.headers.host?.split(":")[0] ?? "",
                ip: request.socket.remoteAddress,
                ips: [],
              },
              http: { method: request.method, baseUrl: "", originalUrl: request.url, protocol: "http" },
              request: {
                params: { 0: url.pathname },
                query: Object.fromEntries(url.searchParams),
                cookies: {},
                body: {},
                headers: request.headers,
              },
              environment: { ...context.env, HOSTNAME: context.hostname },
            };
            response.writeHead(code, { "Content-Type": "application/json; charset=utf-8" });
            response.end(typeof body === "string" ? JSON.stringify(body) : JSON.stringify(seen));
          });
          if (!process.over) context.stdout(`Listening on port ${port}.\n`);
          return process;
        }
      : undefined,
};
