// A cluster whose pods can be streamed to, for tests of streams and proxies through the API server, with kubectls in
// the foreground and in the background. Loading this file starts a lab unless machines are lent; a test file makes the
// pods by itself.

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { type IncomingMessage, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { connectionOf, parseKubeconfig } from "../../client/kubeconfig.js";
import { DEPLOYMENTS, PODS } from "../../index.js";
import { clusterUnderTest } from "./cluster-under-test.js";
import { kubectlOf } from "./kubectl.js";
import { machineFiles } from "./machine-files.js";
import { service } from "./manifests.js";
import type { ApiAddress } from "./spdy-client.js";

export const { cluster, lab, patience, programs } = await clusterUnderTest(t, { nodes: 2 });
/** Of this test file. */
export const directory = mkdtempSync(join(tmpdir(), "kubeplumb-e2e-"));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));
export const kubectl = kubectlOf(cluster);
/** Flags that lead a kubectl to the cluster. */
export const own = ["--kubeconfig", cluster.kubeconfigPath, "--cache-dir", join(directory, "cache")];

export interface Ran {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** One of the kubectls to its end. */
export function run(program: string, args: readonly string[], input?: Buffer | string): Promise<Ran> {
  return new Promise((resolve) => {
    const options = { timeout: 120_000, maxBuffer: 64 << 20, encoding: "latin1" as const };
    const child = execFile(program, [...own, ...args], options, (error, stdout, stderr) =>
      resolve({ exitCode: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
    );
    child.stdin?.on("error", () => {});
    child.stdin?.end(input ?? "");
  });
}

interface Running {
  child: ChildProcess;
  output(): string;
  /** Until the output matches. */
  says(pattern: RegExp): Promise<RegExpMatchArray>;
  stop(): Promise<void>;
}

/** One of the kubectls in the background. */
export function start(program: string, args: readonly string[]): Running {
  const child = spawn(program, [...own, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr])
    stream?.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
  const gone = new Promise<void>((resolve) => child.once("close", () => resolve()));
  return {
    child,
    output: () => text,
    says: async (pattern) => {
      for (const end = Date.now() + 60_000; Date.now() < end; ) {
        const match = pattern.exec(text);
        if (match) return match;
        await sleep(20);
      }
      throw new Error(`${args.join(" ")} does not say ${pattern}: ${text}`);
    },
    stop: () => {
      child.kill();
      return gone;
    },
  };
}

interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: string;
}

/** One request on a connection of its own. */
export function fetchText(url: string, options: { method?: string; body?: string } = {}): Promise<Answer> {
  const { method = "GET", body } = options;
  const headers = body === undefined ? {} : { "content-length": Buffer.byteLength(body) };
  return new Promise((resolve, reject) => {
    const answered = (res: IncomingMessage) => {
      const chunks: Buffer[] = [];
      res.on("data", (chunk: Buffer) => chunks.push(chunk));
      res.once("error", reject);
      res.once("end", () =>
        resolve({
          status: res.statusCode ?? 0,
          headers: res.headers,
          body: Buffer.concat(chunks).toString(),
        }),
      );
    };
    const req = request(url, { method, headers, agent: false }, answered);
    req.once("error", reject);
    req.end(body);
  });
}

/**
 * A real process in a pod, on five ports. 7: echo. 9: reads until the end, then answers with length and digest. 10:
 * says goodbye at once and still counts what it is told, on its output. 11: reads nothing. 80: HTTP and WebSocket.
 */
const SERVER = `
  const { createServer } = require("node:net");
  const { createHash } = require("node:crypto");
  const http = require("node:http");
  const { WebSocketServer } = require(${JSON.stringify(join(programs.packages, "ws"))});
  const tcp = (port, serve) => createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => {});
    serve(socket);
  }).listen(port, "127.0.0.1");
  tcp(7, (socket) => socket.pipe(socket));
  tcp(9, (socket) => {
    const hash = createHash("sha256");
    let length = 0;
    socket.on("data", (chunk) => { hash.update(chunk); length += chunk.length; });
    socket.on("end", () => socket.end(length + " " + hash.digest("hex")));
  });
  tcp(10, (socket) => {
    let length = 0;
    socket.end("goodbye");
    socket.on("data", (chunk) => { length += chunk.length; });
    socket.on("end", () => console.log("after goodbye: " + length));
  });
  tcp(11, (socket) => socket.pause());
  tcp(12, (socket) => setTimeout(() => socket.resetAndDestroy(), 100));
  const server = http.createServer((req, res) => {
    if (req.url === "/page") {
      res.writeHead(200, { "content-type": "text/html; charset=utf-8", "access-control-allow-origin": "*" });
      res.end('<a href="/next?a=1&amp;b=2">caf\\u00e9</a>');
    } else if (req.url === "/zipped") {
      res.writeHead(200, { "content-type": "text/html", "content-encoding": "gzip" });
      res.end(require("node:zlib").gzipSync('<a href="/zipped">'));
    } else if (req.url === "/large") {
      res.writeHead(200, { "content-type": "text/html" });
      for (let i = 0; i < 90; i++) res.write('<a href="/x">' + "y".repeat(99987));
      res.end();
    } else if (req.url === "/moved") {
      res.writeHead(302, { location: "/elsewhere" });
      res.end();
    } else if (req.url === "/cut") {
      res.writeHead(200, { "content-length": "100" });
      res.write("half");
      setTimeout(() => res.destroy(), 50);
    } else {
      let body = "";
      req.on("data", (chunk) => { body += chunk; });
      req.on("end", () => {
        res.writeHead(201, { "content-type": "application/json", "x-served": "yes" });
        res.end(JSON.stringify({ method: req.method, url: req.url, headers: req.headers, body }));
      });
    }
  });
  const sockets = new WebSocketServer({ server, path: "/socket" });
  sockets.on("connection", (ws) => ws.on("message", (data) => ws.send("you said " + data)));
  server.listen(80, "0.0.0.0", () => console.log("ready"));
`;

export const pod = (name: string, containers: object[], spec: object = {}) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, labels: { app: name } },
  spec: { containers, terminationGracePeriodSeconds: 1, ...spec },
});
/** A container that runs a script. */
export const shell = (name: string, script: string) => ({
  name,
  image: "busybox",
  command: ["sh", "-c", script],
});

const files = machineFiles(programs.files);
const server = {
  name: "main",
  image: "busybox",
  command: [programs.node, "/server/main.cjs"],
  ports: [{ containerPort: 80, name: "http" }],
  readinessProbe: { httpGet: { path: "/", port: 80 }, periodSeconds: 1 },
  volumeMounts: [...files.container.volumeMounts, { name: "server", mountPath: "/server" }],
};
const volumes = [...files.spec.volumes, { name: "server", configMap: { name: "server" } }];

/** As the first test of a file: makes the pods, and waits until they can be streamed to. */
export async function makePods(): Promise<void> {
  await cluster.apply([
    { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "server" }, data: { "main.cjs": SERVER } },
    pod("server", [server], { volumes }),
    service("server", {
      selector: { app: "server" },
      ports: [{ name: "web", port: 8080, targetPort: "http" }],
    }),
    service("nobody", { selector: { app: "nobody" }, ports: [{ port: 80 }] }),
    pod("shell", [shell("main", "while :; do sleep 1; done")]),
    pod(
      "logs",
      [shell("a", "echo a1; echo a2; echo a3; sleep 1000"), shell("b", "echo b1 >&2; sleep 1000")],
      { initContainers: [shell("prepare", "echo prepared")] },
    ),
  ] as never);
  await kubectl("create", "deployment", "web", "--image=nginx");
  for (const name of ["server", "shell", "logs"]) await cluster.waitFor(PODS, name, "Ready");
  await cluster.waitFor(DEPLOYMENTS, "web", "Available");
}

/** Where the API is, for clients of its streams. */
export const api = (): ApiAddress =>
  lab
    ? { socketPath: lab.info.controlSocket }
    : connectionOf(parseKubeconfig(readFileSync(cluster.kubeconfigPath, "utf8")));

/** Open sockets of the two processes of a lab. */
export function sockets(): Record<string, number> {
  if (!lab) throw new Error("machines have other processes");
  const pids = lab.pids();
  const count = (pid: number) =>
    readdirSync(`/proc/${pid}/fd`).filter((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith("socket:");
      } catch {
        // Closed since the directory was read.
        return false;
      }
    }).length;
  return { control: count(pids.control), lab: count(pids.lab) };
}

/** Whether there are as many as before. */
export const settled = (before: Record<string, number>): boolean => {
  const now = sockets();
  // Keep-alive connections of kubectls that have just ended may linger: a handful, not hundreds.
  return Object.entries(before).every(([name, count]) => (now[name] ?? 0) <= count + 4);
};

export const PODS_PATH = "/api/v1/namespaces/default/pods";
