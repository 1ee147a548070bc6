// Requests that only a node can answer: logs, exec, attach, port-forward and nodes/proxy, passed to its kubelet over
// HTTP/1.1. After an upgrade the bytes of both sides are passed through unchanged.

import { type IncomingMessage, type RequestOptions, request, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { Node, Pod, Stored } from "../../../common/k8s.js";
import type { Logger } from "../../../common/log.js";
import type { Registry } from "../registry.js";
import { badRequest, failure, internalError, methodNotAllowed, notFound } from "../status.js";
import type { Target } from "./request.js";
import { sendError, statusOf } from "./respond.js";

/** How to reach the kubelet API of a node. */
export type KubeletConnector = (
  node: Stored<Node>,
) => { socketPath: string; pathPrefix: string } | { host: string; port: number; pathPrefix: string };

const POD_STREAMS = new Set(["exec", "attach", "portforward"]);
const DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container";
const HOP_BY_HOP = new Set(["authorization", "host", "te", "trailer", "proxy-authorization"]);
const MAX_ERROR_BYTES = 64 << 10;
const CONNECT_TIMEOUT_MS = 30_000;

/** Whether a path is answered by a kubelet. */
export function isKubeletTarget({ kind, name, subresource }: Target): boolean {
  if (name === undefined || subresource === undefined || kind.resource.group !== "") return false;
  const { plural } = kind.resource;
  if (plural === "pods") return subresource === "log" || POD_STREAMS.has(subresource);
  return plural === "nodes" && subresource === "proxy";
}

/** The container that a request means. @throws StatusError BadRequest */
export function resolveContainer(pod: Stored<Pod>, requested: string | null): string {
  const spec = pod.spec;
  const { name, annotations } = pod.metadata;
  const containers = (spec?.containers ?? []).map((c) => c.name);
  const init = (spec?.initContainers ?? []).map((c) => c.name);
  const ephemeral = (spec?.ephemeralContainers ?? []).map((c) => c.name);
  if (requested) {
    if ([...containers, ...init, ...ephemeral].includes(requested)) return requested;
    throw badRequest(`container ${requested} is not valid for pod ${name}`);
  }
  const preferred = annotations?.[DEFAULT_CONTAINER];
  if (preferred && containers.includes(preferred)) return preferred;
  const [first] = containers;
  if (first !== undefined && containers.length === 1) return first;
  const others = init.length > 0 ? ` or one of the init containers: [${init.join(" ")}]` : "";
  throw badRequest(
    `a container name must be specified for pod ${name}, choose one of: [${containers.join(" ")}]${others}`,
  );
}

interface Route {
  node: Stored<Node>;
  path: string;
}

export interface KubeletCall {
  req: IncomingMessage;
  query: URLSearchParams;
  target: Target;
}

export class KubeletProxy {
  readonly #registry: Registry;
  readonly #connect: KubeletConnector;
  readonly #log: Logger;
  readonly #open = new Set<{ destroy(): unknown }>();

  constructor(registry: Registry, connect: KubeletConnector, log: Logger) {
    this.#registry = registry;
    this.#connect = connect;
    this.#log = log;
  }

  /** Cuts every stream. */
  close(): void {
    for (const stream of [...this.#open]) stream.destroy();
  }

  async #node(name: string): Promise<Stored<Node>> {
    const kind = this.#registry.engine.kind("", "v1", "nodes");
    if (!kind) throw notFound({ group: "", plural: "nodes" }, name);
    return (await this.#registry.reader.get(kind, undefined, name)) as Stored<Node>;
  }

  /** Undefined: a pod without a host, whose log is empty. @throws StatusError */
  async #route({ query, target }: KubeletCall): Promise<Route | undefined> {
    const { kind, namespace, name = "", subresource = "", rest } = target;
    if (kind.resource.plural === "nodes")
      return { node: await this.#node(name), path: withQuery(`/${rest}`, query) };
    const pod = (await this.#registry.reader.get(kind, namespace, name)) as Stored<Pod>;
    const where = `${encodeURIComponent(namespace ?? "")}/${encodeURIComponent(name)}`;
    const container = subresource === "portforward" ? "" : resolveContainer(pod, query.get("container"));
    const nodeName = pod.spec?.nodeName;
    if (!nodeName) {
      if (subresource === "log") return undefined;
      throw badRequest(`pod ${name} does not have a host assigned`);
    }
    const node = await this.#node(nodeName);
    const passed = new URLSearchParams(query);
    passed.delete("container");
    const verb =
      subresource === "log" ? "containerLogs" : subresource === "portforward" ? "portForward" : subresource;
    const path =
      subresource === "portforward"
        ? `/${verb}/${where}`
        : `/${verb}/${where}/${encodeURIComponent(container)}`;
    return { node, path: withQuery(path, passed) };
  }

  #options(route: Route, req: IncomingMessage): RequestOptions {
    const { pathPrefix, ...address } = this.#connect(route.node);
    const headers: Record<string, string | string[]> = { host: route.node.metadata.name };
    for (const [name, value] of Object.entries(req.headers))
      if (value !== undefined && !HOP_BY_HOP.has(name)) headers[name] = value;
    return { ...address, path: pathPrefix + route.path, method: req.method ?? "GET", headers };
  }

  /** Answers log and nodes/proxy; the streams that need an upgrade and came without one are refused. */
  async handle(call: KubeletCall, res: ServerResponse): Promise<void> {
    const { req, target } = call;
    const isPodStream = target.kind.resource.plural === "pods" && target.subresource !== "log";
    if (target.subresource === "log" && req.method !== "GET") throw methodNotAllowed();
    const route = await this.#route(call);
    if (isPodStream) throw badRequest("Upgrade request required");
    if (!route) {
      res.writeHead(200, { "Content-Type": "text/plain" }).end();
      return;
    }
    const options = this.#options(route, req);
    const { connection: _, upgrade: __, ...headers } = options.headers as Record<string, string>;
    await new Promise<void>((resolve, reject) => {
      const outgoing = request({ ...options, headers, timeout: CONNECT_TIMEOUT_MS });
      outgoing.on("socket", (socket) => {
        // The timeout is for the connection: a followed log may be silent for hours.
        const connected = (): void => void outgoing.setTimeout(0);
        if (socket.connecting) socket.once("connect", connected);
        else connected();
      });
      outgoing.on("timeout", () => outgoing.destroy(new Error("timed out")));
      outgoing.on("error", (error) => reject(internalError(`error dialing backend: ${error.message}`)));
      outgoing.on("response", (incoming) => resolve(this.#forward(incoming, res, target)));
      res.on("close", () => outgoing.destroy());
      req.pipe(outgoing);
    });
  }

  async #forward(incoming: IncomingMessage, res: ServerResponse, target: Target): Promise<void> {
    const code = incoming.statusCode ?? 500;
    if (code >= 400 && target.subresource === "log") throw await errorFrom(incoming);
    const { connection: _, "transfer-encoding": __, ...headers } = incoming.headers;
    res.writeHead(code, headers);
    res.flushHeaders();
    this.#open.add(incoming);
    incoming.on("close", () => this.#open.delete(incoming));
    await new Promise<void>((resolve) => {
      // A node that goes away in the middle must look like that, not like the end of the log.
      incoming.on("error", () => res.destroy());
      res.on("close", resolve);
      incoming.pipe(res);
    });
  }

  /** Passes an upgrade through: the kubelet's answer, then bytes both ways. */
  async upgrade(call: KubeletCall, socket: Duplex, head: Buffer): Promise<void> {
    const { req, target } = call;
    if (target.subresource === "log") throw badRequest("logs are not served over an upgraded connection");
    const route = await this.#route(call);
    if (!route) throw badRequest(`pod ${target.name} does not have a host assigned`);
    const options = this.#options(route, req);
    await new Promise<void>((resolve, reject) => {
      const outgoing = request({ ...options, timeout: CONNECT_TIMEOUT_MS });
      const abandon = (): void => void outgoing.destroy();
      socket.once("close", abandon);
      outgoing.on("timeout", () => outgoing.destroy(new Error("timed out")));
      outgoing.on("error", (error) => reject(internalError(`error dialing backend: ${error.message}`)));
      outgoing.on("response", (incoming) => {
        errorFrom(incoming).then(reject, reject);
      });
      outgoing.on("upgrade", (incoming, backend, backendHead) => {
        socket.off("close", abandon);
        backend.setTimeout(0);
        this.#join(socket, backend);
        socket.write(responseHead(incoming));
        if (backendHead.length > 0) socket.write(backendHead);
        if (head.length > 0) backend.write(head);
        resolve();
      });
      outgoing.end();
    });
  }

  #join(client: Duplex, backend: Duplex): void {
    for (const [from, to] of [
      [client, backend],
      [backend, client],
    ] as const) {
      this.#open.add(from);
      from.on("error", (error) => {
        this.#log.debug({ err: error }, "stream cut");
        to.destroy();
      });
      from.on("close", () => {
        this.#open.delete(from);
        // What was read is still on its way to the other side.
        if (!to.writableEnded) to.end();
      });
      from.pipe(to);
    }
  }

  /** Answers a refused upgrade, on the bare socket, and closes it. */
  refuse(socket: Duplex, error: unknown): void {
    if (socket.destroyed) return;
    const { status } = statusOf(error, this.#log);
    const body = `${JSON.stringify(status)}\n`;
    const head = [
      `HTTP/1.1 ${status.code} ${status.reason ?? "Error"}`,
      "Content-Type: application/json",
      `Content-Length: ${Buffer.byteLength(body)}`,
      "Connection: close",
    ];
    socket.end(`${head.join("\r\n")}\r\n\r\n${body}`);
  }

  fail(req: IncomingMessage, res: ServerResponse, error: unknown): void {
    sendError(req, res, error, this.#log);
  }
}

function withQuery(path: string, query: URLSearchParams): string {
  const text = query.toString();
  return text === "" ? path : `${path}?${text}`;
}

function responseHead(incoming: IncomingMessage): string {
  const lines = [`HTTP/1.1 ${incoming.statusCode ?? 101} ${incoming.statusMessage ?? "Switching Protocols"}`];
  for (let i = 0; i < incoming.rawHeaders.length; i += 2)
    lines.push(`${incoming.rawHeaders[i]}: ${incoming.rawHeaders[i + 1]}`);
  return `${lines.join("\r\n")}\r\n\r\n`;
}

const REASONS: Readonly<Record<number, string>> = {
  400: "BadRequest",
  403: "Forbidden",
  404: "NotFound",
  405: "MethodNotAllowed",
  500: "InternalError",
  503: "ServiceUnavailable",
};

/** A kubelet answers errors as text (or as a Status): both become a Status of ours. */
async function errorFrom(incoming: IncomingMessage): Promise<Error> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size <= MAX_ERROR_BYTES) chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString("utf8").trim();
  const code = incoming.statusCode && incoming.statusCode >= 400 ? incoming.statusCode : 500;
  const message = statusMessage(text) || `the kubelet answered ${incoming.statusCode}`;
  return failure({ code, reason: REASONS[code] ?? "Unknown", message });
}

function statusMessage(text: string): string {
  if (!text.startsWith("{")) return text;
  try {
    const { message } = JSON.parse(text) as { message?: unknown };
    return typeof message === "string" ? message : text;
  } catch (error) {
    // Text that only looks like JSON is passed on as text.
    if (error instanceof SyntaxError) return text;
    throw error;
  }
}
