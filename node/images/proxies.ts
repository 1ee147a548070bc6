// Images that pass HTTP requests on, through the pod's own network: hello-frontend, the nginx in front of the Service
// "hello" (Connect a Frontend to a Backend), and goproxy, an HTTP proxy (probes of TCP ports).

import { request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import { EmulatedProcess, GO_SIGTERM } from "./emulated.js";
import { logDate, nginx } from "./nginx.js";
import { resolveHost } from "./resolve.js";
import type { ContainerContext, Emulation, Image } from "./types.js";

const TIMEOUT_MS = 60_000;
/** Headers of one hop, which a proxy answers for itself (RFC 9110, 7.6.1). */
const OF_THE_HOP = [
  "connection",
  "keep-alive",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];

interface Target {
  host: string;
  port: number;
  path: string;
  /** The Host that the other side gets to see. */
  name: string;
}

/** Answers with what the target answers. @throws Error when it cannot be had. */
async function pass(
  context: ContainerContext,
  incoming: IncomingMessage,
  response: ServerResponse,
  { host, port, path, name }: Target,
): Promise<number> {
  const address = await resolveHost(context, host);
  const headers = { ...incoming.headers, host: name };
  for (const header of OF_THE_HOP) delete headers[header as keyof typeof headers];
  const { method } = incoming;
  const outgoing = httpRequest({
    method,
    path,
    headers,
    timeout: TIMEOUT_MS,
    createConnection: () => context.ns.connect({ host: address, port, timeout: TIMEOUT_MS }),
  });
  outgoing.on("timeout", () => outgoing.destroy(new Error("upstream timed out")));
  incoming.pipe(outgoing);
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once("response", resolve);
    outgoing.once("error", reject);
  });
  const { statusCode = 502, headers: answered } = answer;
  for (const header of OF_THE_HOP) delete answered[header];
  response.writeHead(statusCode, answered);
  answer.pipe(response);
  answer.on("error", () => response.destroy());
  return statusCode;
}

const BACKEND = "hello";

const frontend: Emulation = async (context) => {
  const process = new EmulatedProcess(context, { onTerm: 0, onQuit: (self) => void self.shutDown(0) });
  try {
    await resolveHost(context, BACKEND);
  } catch {
    context.stderr(
      `nginx: [emerg] host not found in upstream "${BACKEND}" in /etc/nginx/conf.d/frontend.conf:2\n`,
    );
    process.exit(1);
    return process;
  }
  await process.http(80, (request, response) => {
    const { method, url = "/", headers, httpVersion, socket } = request;
    const log = (code: number) =>
      context.stdout(
        `${socket.remoteAddress} - - [${logDate(new Date())}] "${method} ${url} HTTP/${httpVersion}" ${code} - "-" "${headers["user-agent"] ?? "-"}" "-"\n`,
      );
    pass(context, request, response, { host: BACKEND, port: 80, path: url, name: BACKEND }).then(
      log,
      (error: Error) => {
        context.stderr(
          `[error] ${error.message} while connecting to upstream, upstream: "http://${BACKEND}${url}"\n`,
        );
        if (!response.headersSent) response.writeHead(502);
        response.end();
        log(502);
      },
    );
  });
  return process;
};

const { tags: _tags, mounted: _mounted, ...nginxImage } = nginx;

export const helloFrontend: Image = {
  ...nginxImage,
  names: [
    "gcr.io/google-samples/hello-frontend",
    "us-docker.pkg.dev/google-samples/containers/gke/hello-frontend",
  ],
  program: (argv) => (nginx.program?.(argv) ? frontend : undefined),
};

const proxy: Emulation = async (context) => {
  const process = new EmulatedProcess(context, { onTerm: GO_SIGTERM });
  const make = (request: IncomingMessage, response: ServerResponse): void => {
    const url = URL.canParse(request.url ?? "") ? new URL(request.url ?? "") : undefined;
    if (url?.protocol !== "http:") {
      response.writeHead(500).end("This is a proxy server. Does not respond to non-proxy requests.\n");
      return;
    }
    const target = {
      host: url.hostname,
      port: Number(url.port || 80),
      path: url.pathname + url.search,
      name: url.host,
    };
    pass(context, request, response, target).catch((error: Error) => {
      context.stdout(`WARN: Cannot read response from ${url.host}: ${error.message}\n`);
      if (!response.headersSent) response.writeHead(500);
      response.end(error.message);
    });
  };
  await process.http(8080, make);
  return process;
};

export const goproxy: Image = {
  names: ["registry.k8s.io/goproxy", "k8s.gcr.io/goproxy"],
  entrypoint: [],
  cmd: ["/goproxy"],
  program: ([command]) => (command === "/goproxy" ? proxy : undefined),
};
