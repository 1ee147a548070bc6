// Small web applications of walk-throughs and books: serve_hostname (Debug Services), node-hello and hello-go-gke
// (Google's samples), luksa/kubia (Kubernetes in Action). Their answers and log lines are those of the originals.

import type { IncomingMessage, ServerResponse } from "node:http";
import { liveness, serveHostname } from "./agnhost.js";
import { EmulatedProcess, GO_SIGTERM, type SignalAction } from "./emulated.js";
import type { ContainerContext, Emulation, Image } from "./types.js";

/** Where an image of the Kubernetes project has been. */
const registries = (...names: string[]): string[] =>
  names.flatMap((name) =>
    ["registry.k8s.io", "k8s.gcr.io", "gcr.io/google_containers", "gcr.io/google-containers"].map(
      (registry) => `${registry}/${name}`,
    ),
  );

const when =
  (command: string, emulation: Emulation): Image["program"] =>
  (argv) =>
    argv[0] === command ? emulation : undefined;

/** A web server that does nothing else; node has no handler for SIGTERM either, and as process 1 gets none. */
function server(
  port: number,
  onTerm: SignalAction,
  make: (context: ContainerContext) => (request: IncomingMessage, response: ServerResponse) => void,
): Emulation {
  return async (context) => {
    const process = new EmulatedProcess(context, { onTerm });
    await process.http(port, make(context));
    return process;
  };
}

export const serveHostnameImage: Image = {
  names: [
    ...registries("serve_hostname", "serve-hostname"),
    "gcr.io/kubernetes-e2e-test-images/serve-hostname",
  ],
  entrypoint: ["/serve_hostname"],
  cmd: [],
  program: when("/serve_hostname", (context) => serveHostname(context, context.argv.slice(1))),
};

export const livenessImage: Image = {
  names: registries("liveness"),
  entrypoint: [],
  cmd: ["/server"],
  program: when("/server", (context) => liveness(context, [])),
};

export const nodeHello: Image = {
  names: ["gcr.io/google-samples/node-hello"],
  entrypoint: [],
  cmd: ["node", "server.js"],
  program: when(
    "node",
    server(8080, "ignore", (context) => (request, response) => {
      context.stdout(`Received request for URL: ${request.url}\n`);
      response.writeHead(200).end("Hello Kubernetes!");
    }),
  ),
};

export const helloGo: Image = {
  names: ["gcr.io/google-samples/hello-go-gke"],
  entrypoint: [],
  cmd: ["/hello-go-gke"],
  program: when(
    "/hello-go-gke",
    server(80, GO_SIGTERM, () => (_request, response) => {
      response.writeHead(200, { "Content-Type": "application/json" }).end('{"message":"Hello"}\n');
    }),
  ),
};

const HEALTHY_REQUESTS = 5;

/** What a kubia of that tag says to its n-th request; v3 breaks down after five. */
function kubiaAnswer(tag: string, host: string, count: number): { code: number; text: string } {
  if (tag === "v3" && count > HEALTHY_REQUESTS)
    return { code: 500, text: `Some internal error has occurred! This is pod ${host}\n` };
  const text = /^v\d$/.test(tag) ? `This is ${tag} running in pod ${host}\n` : `You've hit ${host}\n`;
  return { code: 200, text };
}

function kubiaServer(answer: typeof kubiaAnswer): Emulation {
  return server(8080, "ignore", (context) => {
    context.stdout("Kubia server starting...\n");
    let count = 0;
    return (request, response) => {
      context.stdout(`Received request from ${request.socket.remoteAddress}\n`);
      const { code, text } = answer(context.tag, context.hostname, ++count);
      response.writeHead(code).end(text);
    };
  });
}

export const kubia: Image = {
  names: ["luksa/kubia"],
  tags: ["latest", "v1", "v2", "v3", "v4"],
  entrypoint: ["node", "app.js"],
  cmd: [],
  program: when("node", kubiaServer(kubiaAnswer)),
};

export const kubiaUnhealthy: Image = {
  names: ["luksa/kubia-unhealthy"],
  entrypoint: ["node", "app.js"],
  cmd: [],
  program: when(
    "node",
    kubiaServer((tag, host, count) =>
      count > HEALTHY_REQUESTS
        ? { code: 500, text: "I'm not well. Please restart me!\n" }
        : kubiaAnswer(tag, host, count),
    ),
  ),
};
