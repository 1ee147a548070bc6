// The kubelet's HTTP API: logs, exec, attach, port-forward, health and the list of pods. Knows requests; what runs is the pod
// manager's business.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { Status } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import type { PodContainer } from "../pods/container.js";
import { logPath } from "../pods/container-setup.js";
import type { PodManager } from "../pods/manager.js";
import type { Run } from "../pods/runtime.js";
import type { PodWorker } from "../pods/worker.js";
import type { NodeSample, NodeStats } from "../stats/node-stats.js";
import { type PortForwardTarget, servePortForward } from "../streams/port-forward.js";
import {
  type RemoteCommandOptions,
  type RemoteProcess,
  serveRemoteCommand,
} from "../streams/remote-command.js";
import { refuseUpgrade, UpgradeError } from "../streams/upgrade.js";
import { readLog } from "./container-log.js";
import { parseLogQuery } from "./log-format.js";
import { connectInPod } from "./pod-dial.js";
import { resourceMetrics, statsSummary } from "./stats.js";

/** An answer that is an error, as a meta/v1 Status. */
class ApiError extends Error {
  readonly code: number;
  readonly reason: string;

  constructor(code: number, reason: string, message: string) {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}

const notFound = (message: string) => new ApiError(404, "NotFound", message);
const badRequest = (message: string) => new ApiError(400, "BadRequest", message);

/** Why there is no log yet, in the kubelet's words; other reasons speak for themselves. */
const WAITING: Readonly<Record<string, string>> = {
  ErrImagePull: "image can't be pulled",
  ImagePullBackOff: "trying and failing to pull image",
};

export interface KubeletApiOptions {
  nodeName: string;
  rootDir: string;
  pods: PodManager;
  stats: NodeStats;
  log: Logger;
}

export class KubeletApi {
  readonly #options: KubeletApiOptions;
  /** Of the summary asked for last: the next one tells rates. */
  #before: NodeSample | undefined;

  constructor(options: KubeletApiOptions) {
    this.#options = options;
  }

  /** Path segments after an optional /nodes/<name>, and the query. */
  #route(req: IncomingMessage): { segments: string[]; query: URLSearchParams } {
    const url = new URL(req.url ?? "/", "http://kubelet");
    let segments = url.pathname.split("/").filter(Boolean).map(decodeURIComponent);
    if (segments[0] === "nodes" && segments[1] === this.#options.nodeName) segments = segments.slice(2);
    return { segments, query: url.searchParams };
  }

  handleRequest(req: IncomingMessage, res: ServerResponse): void {
    try {
      this.#serve(req, res);
    } catch (error) {
      if (error instanceof RangeError || error instanceof URIError) sendError(res, badRequest(error.message));
      else if (error instanceof ApiError) sendError(res, error);
      else {
        this.#options.log.error({ err: error, url: req.url }, "kubelet API request failed");
        sendError(res, new ApiError(500, "InternalError", (error as Error).message));
      }
    }
  }

  #serve(req: IncomingMessage, res: ServerResponse): void {
    const { segments, query } = this.#route(req);
    const [what = "", ...rest] = segments;
    if (what === "healthz") {
      res.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" }).end("ok");
    } else if (what === "pods") {
      const items = this.#options.pods.pods();
      const list = { kind: "PodList", apiVersion: "v1", metadata: {}, items };
      res.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(list));
    } else if (what === "metrics" && rest.join("/") === "resource") {
      const text = resourceMetrics(this.#options.stats.sample());
      res.writeHead(200, { "Content-Type": "text/plain; version=0.0.4; charset=utf-8" }).end(text);
    } else if (what === "stats" && rest.join("/") === "summary") {
      res.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(this.#summary()));
    } else if (what === "containerLogs") {
      if (req.method !== "GET")
        throw new ApiError(405, "MethodNotAllowed", `${req.method} is not allowed; use GET`);
      this.#logs(rest, query, res);
    } else if (what === "exec" || what === "attach" || what === "portForward") {
      throw badRequest(`${what} needs an upgraded connection: Upgrade request required`);
    } else {
      throw notFound(
        `the kubelet of ${this.#options.nodeName} has no /${segments.join("/")}; it has /healthz, /pods, /metrics/resource, /stats/summary, /containerLogs, /exec, /attach and /portForward`,
      );
    }
  }

  #summary(): object {
    const before = this.#before;
    const now = this.#options.stats.sample();
    this.#before = now;
    return statsSummary(this.#options.nodeName, now, before);
  }

  /** The container that a path names. @throws ApiError 404 or 400. */
  #container([namespace = "", pod = "", name]: string[]): { worker: PodWorker; container: PodContainer } {
    const worker = this.#options.pods.find(namespace, pod);
    if (!worker) throw notFound(`pod "${namespace}/${pod}" is not on node ${this.#options.nodeName}`);
    const container = worker.container(name ?? worker.containers[0]?.name ?? "");
    if (!container) throw badRequest(`container ${name} is not valid for pod ${pod}`);
    return { worker, container };
  }

  #logs(path: string[], query: URLSearchParams, res: ServerResponse): void {
    const { worker, container } = this.#container(path);
    const options = parseLogQuery(query, Date.now());
    const { state, last } = container.facts();
    const started = !("waiting" in state) || last !== undefined;
    const where = `container "${container.name}" in pod "${worker.pod.metadata.name}"`;
    if (options.previous && container.restartCount === 0) {
      throw badRequest(`previous terminated ${where} not found`);
    }
    if (!started && "waiting" in state) {
      const { reason = "" } = state.waiting;
      throw badRequest(`${where} is waiting to start: ${WAITING[reason] ?? reason}`);
    }
    // Between two runs the newest log is that of the ended one.
    const number = container.restartCount - (options.previous ? 1 : 0);
    const run = options.previous ? undefined : container.run;
    const limit = new Limit(options.limitBytes);
    res.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" });
    const { rootDir } = this.#options;
    const head = run
      ? run.readLog(options)
      : readLog(logPath(rootDir, worker.pod, container.name, number), options);
    res.write(limit.take(head));
    if (!run || !options.follow || limit.reached) {
      res.end();
      return;
    }
    // So that a client sees that the stream is open before the first line comes.
    res.flushHeaders();
    const stop = run.followLog(
      options,
      (text) => {
        res.write(limit.take(text));
        if (!limit.reached) return;
        // Now, not when the connection has closed: the next line may be in the same chunk.
        stop();
        res.end();
      },
      () => res.end(),
    );
    res.once("close", stop);
  }

  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void {
    let route: { segments: string[] };
    try {
      route = this.#route(req);
    } catch (error) {
      refuseUpgrade(socket, 400, "BadRequest", (error as Error).message);
      return;
    }
    const [what, ...rest] = route.segments;
    try {
      this.#upgrade(what ?? "", rest, [req, socket, head]);
    } catch (error) {
      if (!(error instanceof UpgradeError || error instanceof ApiError)) throw error;
      refuseUpgrade(socket, error.code, error.reason, error.message);
    }
  }

  /** @throws UpgradeError, ApiError before the protocol is looked at: a client shall hear the true reason. */
  #upgrade(what: string, path: string[], request: [IncomingMessage, Duplex, Buffer]): void {
    if (what === "exec") {
      this.#running(path);
      serveRemoteCommand(...request, (options) => this.#exec(path, options));
    } else if (what === "attach") {
      this.#running(path);
      serveRemoteCommand(...request, (options) => this.#attach(path, options));
    } else if (what === "portForward") {
      servePortForward(...request, this.#portForward(path));
    } else throw notFound(`the kubelet has no /${[what, ...path].join("/")} to upgrade`);
  }

  /** @throws ApiError when the pod is not here; that it stops later is told by each connection. */
  #portForward(path: string[]): PortForwardTarget {
    const [namespace = "", pod = ""] = path;
    const { worker } = this.#container([namespace, pod]);
    return {
      id: worker.sandbox?.id ?? worker.key,
      connect: async (port) => {
        const { sandbox } = worker;
        if (!sandbox) throw new Error(`pod not found ("${pod}_${namespace}")`);
        return await connectInPod(sandbox, port);
      },
    };
  }

  /** @throws UpgradeError when there is nothing to exec into. */
  #running(path: string[]): { run: Run; container: PodContainer } {
    try {
      const { container, worker } = this.#container(path);
      if (container.run) return { run: container.run, container };
      throw new ApiError(
        500,
        "InternalError",
        `container not found ("${container.name}") in pod ${worker.key}: it is not running`,
      );
    } catch (error) {
      if (error instanceof ApiError) throw new UpgradeError(error.code, error.reason, error.message);
      throw error;
    }
  }

  async #exec(path: string[], options: RemoteCommandOptions): Promise<RemoteProcess> {
    const { run } = this.#running(path);
    const { command, tty, stdin } = options;
    if (command.length === 0) throw new UpgradeError(400, "BadRequest", "you must specify a command to exec");
    return await run.exec(command, { stdin, tty });
  }

  #attach(path: string[], { stdin }: RemoteCommandOptions): Promise<RemoteProcess> {
    return this.#running(path).run.attach({ stdin });
  }
}

/** Counts bytes to limitBytes. */
class Limit {
  #left: number;

  constructor(bytes: number | undefined) {
    this.#left = bytes ?? Number.POSITIVE_INFINITY;
  }

  get reached(): boolean {
    return this.#left <= 0;
  }

  take(text: string): Buffer {
    const whole = Buffer.from(text);
    const part = whole.subarray(0, Math.min(whole.length, this.#left));
    this.#left -= part.length;
    return part;
  }
}

function sendError(res: ServerResponse, error: ApiError): void {
  const status: Status = {
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Failure",
    message: error.message,
    reason: error.reason,
    code: error.code,
  };
  if (res.headersSent) {
    res.destroy();
    return;
  }
  res.writeHead(error.code, { "Content-Type": "application/json" }).end(JSON.stringify(status));
}
