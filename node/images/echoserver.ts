// registry.k8s.io/echoserver: nginx that tells what it sees of a request, as text, on port 8080. The words changed with
// 1.5; walk-throughs of source addresses look for client_address.

import type { IncomingMessage } from "node:http";
import { EmulatedProcess } from "./emulated.js";
import type { ContainerContext, Image } from "./types.js";

const PORT = 8080;
const NO_BODY = "-no body in request-";

interface Seen {
  client: string;
  path: string;
  query: string;
  uri: string;
  headers: string[];
  body: string;
  request: IncomingMessage;
}

async function see(request: IncomingMessage): Promise<Seen> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const url = new URL(request.url ?? "/", "http://localhost");
  const host = (request.headers.host ?? "").replace(/:\d+$/, "");
  return {
    client: (request.socket.remoteAddress ?? "").replace(/^::ffff:/, ""),
    path: url.pathname,
    query: url.search.slice(1),
    uri: `http://${host}:${PORT}${request.url}`,
    headers: Object.keys(request.headers)
      .sort()
      .map((name) => `${name}=${request.headers[name]}`),
    body: Buffer.concat(chunks).toString() || NO_BODY,
    request,
  };
}

/** Up to 1.4. */
function oldText({ client, path, query, uri, headers, body, request }: Seen): string {
  return [
    "CLIENT VALUES:",
    `client_address=${client}`,
    `command=${request.method}`,
    `real path=${path}`,
    `query=${query || "nil"}`,
    `request_version=${request.httpVersion}`,
    `request_uri=${uri}`,
    "",
    "SERVER VALUES:",
    "server_version=nginx: 1.10.0 - lua: 10001",
    "",
    "HEADERS RECEIVED:",
    ...headers,
    "BODY:",
    body,
  ].join("\n");
}

function newText(seen: Seen, { env, hostname }: ContainerContext): string {
  const { client, path, query, uri, headers, body, request } = seen;
  const pod = [
    ["node name", env.NODE_NAME],
    ["pod name", env.POD_NAME],
    ["pod namespace", env.POD_NAMESPACE],
    ["pod IP", env.POD_IP],
  ].flatMap(([name, value]) => (value ? `${name}:\t${value}` : []));
  const section = (title: string, lines: readonly string[]): string[] => [
    `${title}:`,
    ...lines.map((line) => `\t${line}`),
    "",
  ];
  return [
    "",
    "",
    `Hostname: ${hostname}`,
    "",
    ...section("Pod Information", pod.length > 0 ? pod : ["-no pod information available-"]),
    ...section("Server values", ["server_version=nginx: 1.13.3 - lua: 10008"]),
    ...section("Request Information", [
      `client_address=${client}`,
      `method=${request.method}`,
      `real path=${path}`,
      `query=${query}`,
      `request_version=${request.httpVersion}`,
      "request_scheme=http",
      `request_uri=${uri}`,
    ]),
    ...section("Request Headers", headers),
    ...section("Request Body", [body]),
    "",
  ].join("\n");
}

export const nginxEchoServer: Image = {
  names: [
    "registry.k8s.io/echoserver",
    "k8s.gcr.io/echoserver",
    "gcr.io/google_containers/echoserver",
    "gcr.io/google-containers/echoserver",
  ],
  entrypoint: [],
  cmd: ["/usr/local/bin/run.sh"],
  program: (argv) =>
    argv.join(" ") === "/usr/local/bin/run.sh"
      ? async (context) => {
          const process = new EmulatedProcess(context, { onTerm: 0 });
          const isOld = /^1\.[0-4]$/.test(context.tag);
          await process.http(PORT, (request, response) => {
            see(request).then(
              (seen) => {
                response.writeHead(200, { Server: "echoserver", "Content-Type": "text/plain" });
                response.end(isOld ? oldText(seen) : newText(seen, context));
                context.stdout(
                  `${seen.client} - - [${new Date().toISOString()}] "${request.method} ${request.url} HTTP/${request.httpVersion}" 200\n`,
                );
              },
              () => response.destroy(),
            );
          });
          return process;
        }
      : undefined,
};
