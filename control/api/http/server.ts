// The API over HTTP: routes a request by its path to discovery, OpenAPI, health, a resource, a kubelet or a proxy. Knows
// nothing of TLS or sockets: who asks is told by the caller.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { Logger } from "../../../common/log.js";
import type { Attributes } from "../../resources/reviews.js";
import { Authorizer } from "../authorizer.js";
import type { User } from "../engine.js";
import type { Registry } from "../registry.js";
import { badRequest, methodNotAllowed, unknownResource } from "../status.js";
import * as discovery from "./discovery.js";
import { impersonated } from "./impersonation.js";
import { isKubeletTarget, type KubeletConnector, KubeletProxy } from "./kubelet.js";
import { acceptsAggregated, acceptsSwaggerProtobuf, SWAGGER_PROTOBUF } from "./negotiate.js";
import { OpenApi } from "./openapi.js";
import { ServerProxy } from "./proxy.js";
import { dialFromHere, type NodeDialer } from "./proxy-dial.js";
import { isProxyTarget } from "./proxy-location.js";
import { flag, isPretty, parseTarget, type Target } from "./request.js";
import { ResourceHandlers } from "./resources.js";
import { render, sendError, sendText, statusOf } from "./respond.js";

const GIT_VERSION = "v1.36.0+kubeplumb";

const VERSION = {
  major: "1",
  minor: "36",
  gitVersion: GIT_VERSION,
  gitCommit: "",
  gitTreeState: "",
  buildDate: "1970-01-01T00:00:00Z",
  goVersion: `node-${process.version}`,
  compiler: "tsc",
  platform: `${process.platform}/${process.arch === "x64" ? "amd64" : process.arch}`,
};

export interface ApiServerOptions {
  registry: Registry;
  kubelet: KubeletConnector;
  dial?: NodeDialer;
  /** host:port that discovery names. */
  address: () => string;
  log: Logger;
}

export class ApiServer {
  readonly #registry: Registry;
  readonly #resources: ResourceHandlers;
  readonly #kubelet: KubeletProxy;
  readonly #proxy: ServerProxy;
  readonly #openApi: OpenApi;
  readonly #address: () => string;
  readonly #authorizer: Authorizer;
  readonly #log: Logger;
  #closing = false;

  constructor({ registry, kubelet, dial = dialFromHere, address, log }: ApiServerOptions) {
    this.#registry = registry;
    this.#resources = new ResourceHandlers(registry);
    this.#kubelet = new KubeletProxy(registry, kubelet, log);
    this.#proxy = new ServerProxy(registry, dial, log);
    this.#openApi = new OpenApi(registry.engine.kinds, registry.engine.schema, GIT_VERSION);
    this.#address = address;
    this.#authorizer = new Authorizer(registry.engine.store);
    this.#log = log;
  }

  /** Ends watches and cuts streams; the caller closes its listeners. */
  close(): void {
    this.#closing = true;
    this.#resources.closeWatches();
    this.#kubelet.close();
    this.#proxy.close();
  }

  handle(req: IncomingMessage, res: ServerResponse, user: User): void {
    this.#route(req, res, user).catch((error: unknown) => sendError(req, res, error, this.#log));
  }

  async #route(req: IncomingMessage, res: ServerResponse, who: User): Promise<void> {
    const user = await impersonated(req, who, this.#authorizer);
    const url = parseUrl(req);
    const { pathname, searchParams: query } = url;
    if (pathname.startsWith("/api/v") || pathname.startsWith("/apis/")) {
      const target = parseTarget(this.#registry.engine, trim(pathname));
      await this.#authorizer.check(user, attributesOf(req, pathname, query, target));
      if (target && isKubeletTarget(target)) return await this.#kubelet.handle({ req, query, target }, res);
      if (target && isProxyTarget(target)) return await this.#proxy.handle(req, target, res);
      if (target && this.#isServed(target))
        return await this.#resources.handle({ req, res, query, target, user });
    } else await this.#authorizer.check(user, attributesOf(req, pathname, query, undefined));
    const found = this.#document(req, res, trim(pathname), query);
    if (found) return;
    if (this.#isOfServedGroup(pathname)) throw unknownResource();
    sendText(res, 404, "text/plain; charset=utf-8", "404 page not found\n");
  }

  /** Whether the path goes on from one that is served: then it is a resource that is missing, not a page. */
  #isOfServedGroup(pathname: string): boolean {
    const [, root, group] = pathname.split("/");
    if (root === "api") return true;
    return (
      root === "apis" && this.#registry.engine.kinds.some((kind) => kind.resource.group === group && group)
    );
  }

  #isServed(target: NonNullable<ReturnType<typeof parseTarget>>): boolean {
    if (target.subresource === undefined) return true;
    return discovery.subresourcesOf(target.kind).some(({ name }) => name === target.subresource);
  }

  /** Documents that describe the server; false when there is none of that path. */
  #document(req: IncomingMessage, res: ServerResponse, path: string, query: URLSearchParams): boolean {
    const value = this.#describe(req, res, path);
    if (value === undefined) return this.#health(req, res, path, query);
    if (req.method !== "GET" && req.method !== "HEAD") throw methodNotAllowed();
    if (path === "/openapi/v2" && acceptsSwaggerProtobuf(req.headers.accept))
      sendText(res, 200, SWAGGER_PROTOBUF, this.#openApi.swaggerProtobuf());
    else if (typeof value === "string") sendText(res, 200, "application/json", value);
    else sendText(res, 200, contentTypeOf(value), render(value, "json", isPretty(req, query)));
    return true;
  }

  #describe(req: IncomingMessage, res: ServerResponse, path: string): object | string | undefined {
    const { kinds } = this.#registry.engine;
    if (path === "/api" || path === "/apis") {
      res.setHeader("Vary", "Accept");
      const aggregated = acceptsAggregated(req.headers.accept);
      if (aggregated) return discovery.aggregatedDiscovery(kinds, path === "/api", aggregated);
      return path === "/api" ? discovery.apiVersions(this.#address()) : discovery.apiGroupList(kinds);
    }
    if (path === "" || path === "/") return { paths: this.#paths() };
    if (path === "/version") return VERSION;
    if (path === "/openapi/v3") return this.#openApi.index();
    if (path.startsWith("/openapi/v3/"))
      return this.#openApi.document(path.slice("/openapi/v3/".length))?.text;
    if (path === "/openapi/v2") return this.#openApi.swagger();
    for (const { group, version, kinds: members } of discovery.groupVersions(kinds)) {
      const groupVersion = group ? `${group}/${version}` : version;
      if (path === (group ? `/apis/${groupVersion}` : `/api/${version}`))
        return discovery.apiResourceList(groupVersion, members);
      if (group && path === `/apis/${group}`)
        return { kind: "APIGroup", apiVersion: "v1", ...discovery.apiGroup(group, kinds) };
    }
    return undefined;
  }

  #paths(): string[] {
    const groups = discovery.groupVersions(this.#registry.engine.kinds).flatMap(({ group, version }) => {
      return group ? [`/apis/${group}`, `/apis/${group}/${version}`] : [`/api/${version}`];
    });
    const fixed = [
      "/api",
      "/apis",
      "/healthz",
      "/livez",
      "/openapi/v2",
      "/openapi/v3",
      "/readyz",
      "/version",
    ];
    return [...new Set([...fixed, ...groups])].sort();
  }

  #health(req: IncomingMessage, res: ServerResponse, path: string, query: URLSearchParams): boolean {
    if (path !== "/healthz" && path !== "/livez" && path !== "/readyz") return false;
    if (req.method !== "GET" && req.method !== "HEAD") throw methodNotAllowed();
    const checks: [string, boolean][] = [
      ["ping", true],
      ["store", this.#registry.engine.store.failure() === undefined],
    ];
    if (path === "/readyz") checks.push(["shutdown", !this.#closing]);
    const ok = checks.every(([, good]) => good);
    const lines = checks.map(([name, good]) =>
      good ? `[+]${name} ok` : `[-]${name} failed: reason withheld`,
    );
    const verdict = `${path.slice(1)} check ${ok ? "passed" : "failed"}`;
    const text = !ok || query.has("verbose") ? `${lines.join("\n")}\n${verdict}\n` : "ok";
    sendText(res, ok ? 200 : 500, "text/plain; charset=utf-8", text);
    return true;
  }

  /** The upgrade of a connection: exec, attach, port-forward, and what goes through a proxy. */
  upgrade(req: IncomingMessage, socket: Duplex, head: Buffer, user: User): void {
    // Without a listener an error of the client's connection would end the process.
    socket.on("error", (error) => this.#log.debug({ err: error }, "client connection failed"));
    this.#upgrade(req, socket, head, user).catch((error: unknown) => this.#refuse(socket, error));
  }

  refuseUpgrade(socket: Duplex, error: Error): void {
    socket.on("error", (cause) => this.#log.debug({ err: cause }, "client connection failed"));
    this.#refuse(socket, error);
  }

  /** On the bare socket, which is closed. */
  #refuse(socket: Duplex, error: unknown): void {
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

  async #upgrade(req: IncomingMessage, socket: Duplex, head: Buffer, who: User): Promise<void> {
    const user = await impersonated(req, who, this.#authorizer);
    const { pathname, searchParams: query } = parseUrl(req);
    const target = parseTarget(this.#registry.engine, trim(pathname));
    await this.#authorizer.check(user, attributesOf(req, pathname, query, target));
    if (target && isKubeletTarget(target)) await this.#kubelet.upgrade({ req, query, target }, socket, head);
    else if (target && isProxyTarget(target)) await this.#proxy.upgrade(req, target, socket, head);
    else throw badRequest(`${pathname} cannot be upgraded`);
  }
}

/** Paths that mean what they say, without dots or escapes; to take others apart costs as much as to authenticate. */
const PLAIN = /^((?:\/[\w~:-][\w.~:-]*)+\/?)(?:\?([^#]*))?$/;

function parseUrl({ url = "/" }: IncomingMessage): Pick<URL, "pathname" | "searchParams"> {
  const [, pathname, query] = PLAIN.exec(url) ?? [];
  if (pathname !== undefined) return { pathname, searchParams: new URLSearchParams(query) };
  try {
    return new URL(url, "http://server");
  } catch (error) {
    throw badRequest(`the request's path cannot be read: ${(error as Error).message}`);
  }
}

const VERBS: Readonly<Record<string, string>> = {
  POST: "create",
  PUT: "update",
  PATCH: "patch",
  DELETE: "delete",
};

function attributesOf(
  { method = "GET" }: IncomingMessage,
  path: string,
  query: URLSearchParams,
  target: Target | undefined,
): Attributes {
  if (!target) return { verb: method === "HEAD" ? "get" : method.toLowerCase(), path };
  const { kind, namespace, name, subresource } = target;
  const { group, plural } = kind.resource;
  const read = flag(query, "watch") ? "watch" : name === undefined ? "list" : "get";
  const verb = VERBS[method] ?? read;
  return {
    verb: verb === "delete" && name === undefined ? "deletecollection" : verb,
    resource: { group, plural, subresource, namespace, name },
    path,
  };
}

function trim(pathname: string): string {
  return pathname.length > 1 && pathname.endsWith("/") ? pathname.slice(0, -1) : pathname;
}

function contentTypeOf(document: object): string {
  const { kind, apiVersion = "" } = document as { kind?: string; apiVersion?: string };
  if (kind !== "APIGroupDiscoveryList") return "application/json";
  const version = apiVersion.slice(apiVersion.indexOf("/") + 1);
  return `application/json;g=apidiscovery.k8s.io;v=${version};as=APIGroupDiscoveryList`;
}
