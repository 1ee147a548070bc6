// gcr.io/google-samples/kubernetes-bootcamp: the web server of the Kubernetes tutorial. v1 and v2 differ in the
// last word of the answer. The original runs as the first process of its container without a handler for
// SIGTERM, so it serves until the grace period is over; so does this.

import { EmulatedProcess } from "./emulated.js";
import type { Image } from "./types.js";

const PORT = 8080;

const versionOf = (tag: string): number => (tag === "v2" ? 2 : 1);

/** What the emulation does, as a program to read: the tutorial has its readers look at server.js. */
const source = (version: number): string => `const http = require("http");
const os = require("os");

const host = os.hostname();
const started = Date.now();
let requests = 0;

const server = http.createServer((request, response) => {
  response.writeHead(200, { "Content-Type": "text/plain" });
  response.end("Hello Kubernetes bootcamp! | Running on: " + host + " | v=${version}\\n");
  requests++;
  const uptime = (Date.now() - started) / 1000;
  console.log("Running On:", host, "| Total Requests:", requests, "| App Uptime:", uptime, "seconds");
});

server.listen(${PORT}, () => {
  console.log("Kubernetes Bootcamp App Started At:", new Date(started), "| Running On:", host);
});
`;

export const bootcamp: Image = {
  names: [
    "gcr.io/google-samples/kubernetes-bootcamp",
    "jocatalin/kubernetes-bootcamp",
    "kubernetes-bootcamp",
  ],
  tags: ["v1", "v2", "latest"],
  entrypoint: [],
  cmd: ["/bin/sh", "-c", "node server.js"],
  env: { NPM_CONFIG_LOGLEVEL: "info", NODE_VERSION: "6.3.1" },
  files: (tag) => ({ "/server.js": source(versionOf(tag)) }),
  program: (argv) =>
    argv.at(-1)?.endsWith("node server.js") || argv.slice(-2).join(" ") === "node server.js"
      ? async (context) => {
          const version = versionOf(context.tag);
          const process = new EmulatedProcess(context);
          let started = 0;
          let requests = 0;
          const listening = await process.http(PORT, (_request, response) => {
            response.writeHead(200, { "Content-Type": "text/plain" });
            response.end(`Hello Kubernetes bootcamp! | Running on: ${context.hostname} | v=${version}\n`);
            requests++;
            const uptime = (Date.now() - started) / 1000;
            context.stdout(
              `Running On: ${context.hostname} | Total Requests: ${requests} | App Uptime: ${uptime} seconds | Log Time: ${new Date().toISOString()}\n`,
            );
          });
          if (listening) {
            started = Date.now();
            context.stdout(
              `Kubernetes Bootcamp App Started At: ${new Date(started).toISOString()} | Running On:  ${context.hostname} \n\n`,
            );
          }
          return process;
        }
      : undefined,
};
