// Requests that only a node can answer: logs, exec, attach, port-forward and nodes/proxy, passed to its kubelet over
// HTTP/1.1. After an upgrade the bytes of both sides are passed through unchanged.

import type { IncomingMessage, RequestOptions, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { Node, Pod, Stored } from "../../../common/k8s.js";
import type { Logger } from "../../../common/log.js";
import type { Registry } from "../registry.js";
import { badRequest, failure, internalError, methodNotAllowed, notFound } from "../status.js";
import { type Backend, Forwarder, passedHeaders } from "./forward.js";
import { kubeletNode } from "./proxy-location.js";
import type { Target } from "./request.js";

/** How to reach the kubelet API of a node. */
export type KubeletConnector = (
  node: Stored<Node>,
) =>
  | { socketPath: string; pathPrefix: string }
  | { host: string; port: number; pathPrefix: string; createConnection?: () => Duplex };

const POD_STREAMS = new Set(["exec", "attach", "portforward"]);
const DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container";
const MAX_ERROR_BYTES = 64 << 10;

/** Whether a path is answered by a kubelet. */
export function isKubeletTarget({ kind, name, subresource }: Target): boolean {
  if (name === undefined || subresource === undefined || kind.resource.group !== "") return false;
  const { plural } = kind.resource;
  if (plural === "pods") return subresource === "log" || POD_STREAMS.has(subresource);
  return plural === "nodes" && subresource === "proxy" && kubeletNode(name) !== undefined;
}

/** The container that a request means. @throws StatusError BadRequest */
function resolveContainer(pod: Stored<Pod>, requested: string | null): string {
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

const unreachable = (error: Error): Error => internalError(`error dialing backend: ${error.message}`);

export class KubeletProxy {
  readonly #registry: Registry;
  readonly #connect: KubeletConnector;
  readonly #forwarder: Forwarder;

  constructor(registry: Registry, connect: KubeletConnector, log: Logger) {
    this.#registry = registry;
    this.#connect = connect;
    this.#forwarder = new Forwarder(log);
  }

  /** Cuts every stream. */
  close(): void {
    this.#forwarder.close();
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
      return { node: await this.#node(kubeletNode(name) ?? name), path: withQuery(`/${rest}`, query) };
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

  #options(route: Route, req: IncomingMessage, upgrade: boolean): RequestOptions {
    const { pathPrefix, ...address } = this.#connect(route.node);
    const headers = { ...passedHeaders(req, upgrade), host: route.node.metadata.name };
    return { ...address, path: pathPrefix + route.path, method: req.method ?? "GET", headers };
  }

  /** Answers log and nodes/proxy; the streams that need an upgrade and came without one are refused. */
  async handle(call: KubeletCall, res: ServerResponse): Promise<void> {
    const { req, target } = call;
    const isLog = target.subresource === "log";
    const isPodStream = target.kind.resource.plural === "pods" && !isLog;
    if (isLog && req.method !== "GET") throw methodNotAllowed();
    const route = await this.#route(call);
    if (isPodStream) throw badRequest("Upgrade request required");
    if (!route) {
      res.writeHead(200, { "Content-Type": "text/plain" }).end();
      return;
    }
    const backend: Backend = { options: this.#options(route, req, false), unreachable };
    if (isLog) {
      backend.answer = (incoming) =>
        (incoming.statusCode ?? 500) < 400
          ? undefined
          : errorFrom(incoming).then((error) => Promise.reject(error));
    }
    await this.#forwarder.request(backend, req, res);
  }

  /** Passes an upgrade through: the kubelet's answer, then bytes both ways. */
  async upgrade(call: KubeletCall, socket: Duplex, head: Buffer): Promise<void> {
    const { req, target } = call;
    if (target.subresource === "log") throw badRequest("logs are not served over an upgraded connection");
    const route = await this.#route(call);
    if (!route) throw badRequest(`pod ${target.name} does not have a host assigned`);
    const options = this.#options(route, req, true);
    await this.#forwarder.upgrade({ options, unreachable, refused: errorFrom }, socket, head);
  }
}

function withQuery(path: string, query: URLSearchParams): string {
  const text = query.toString();
  return text === "" ? path : `${path}?${text}`;
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
