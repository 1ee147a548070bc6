// The Kubernetes API over HTTP: a unix socket or TLS. Knows verbs, paths and connections; keeps no state of the
// cluster. Watches and logs have connections of their own, so a slow stream never stands before a request.

import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Agent, buildConnector, type Dispatcher } from "undici";
import {
  apiVersionOf,
  type DeleteOptions,
  type KubeClient,
  type ListOptions,
  type ListResult,
  type PatchType,
  type Resource,
  StatusError,
  type WatchEvent,
  type WatchOptions,
  type WriteOptions,
} from "../common/client.js";
import type { KubeObject, Status, Stored } from "../common/k8s.js";
import { connectionOf, parseKubeconfig, type ServerOptions } from "./kubeconfig.js";
import { LineSplitter } from "./lines.js";
import {
  collectionPath,
  listQuery,
  namespacedCollectionPath,
  objectPath,
  type Query,
  watchQuery,
  withQuery,
  writeQuery,
} from "./paths.js";
import { statusError } from "./status.js";
import { tokenSource } from "./token.js";

export type { ServerOptions } from "./kubeconfig.js";

export type ApiClientOptions = ({ socketPath: string } | ServerOptions) & {
  /** How the server's logs call us, and managedFields what we write; default "kubeplumb". */
  userAgent?: string;
  /** Certificate and key of each new connection, for those that are renewed; goes before `cert` and `key`. */
  identity?: () => { cert: string; key: string };
  /** Makes the connections to `server`, a literal address; default from here. */
  dial?: (address: { host: string; port: number }) => Socket;
  /** Milliseconds a request (not a watch) may go without an answer or a further byte; default 30 000. */
  timeoutMs?: number;
  /** Milliseconds a watch with bookmarks may be silent before its connection counts as lost; default 150 000. */
  watchSilenceMs?: number;
};

/** Connections for requests: enough to keep a local server busy, few enough not to drown it. */
const REQUEST_CONNECTIONS = 16;
const REQUEST_TIMEOUT_MS = 30_000;
/** API servers send a bookmark a minute. A machine that lost its power closes no connection. */
const WATCH_SILENCE_MS = 150_000;
/** Of a connection, until it is asked whether the other side is there: client-go's. */
const TCP_KEEPALIVE_MS = 30_000;
/** How often a GET is sent again on another connection after one broke under it. */
const BROKEN_RETRIES = 2;
/** How often a refused request (429: nothing was done) is sent again; client-go's limit. */
const REFUSED_RETRIES = 10;
/** The longest Retry-After that is waited for. */
const LONGEST_RETRY_AFTER_S = 30;

const PATCH_CONTENT_TYPES: Record<PatchType, string> = {
  json: "application/json-patch+json",
  merge: "application/merge-patch+json",
  strategic: "application/strategic-merge-patch+json",
};

export interface RequestOptions {
  query?: Query;
  body?: unknown;
  contentType?: string;
  accept?: string;
}

interface RawList<T extends KubeObject> {
  items?: Stored<T>[] | null;
  metadata?: { resourceVersion?: string; continue?: string; remainingItemCount?: number };
}

type RawEvent<T extends KubeObject> = WatchEvent<T> | { type: "ERROR"; object: Status };

/** {@link KubeClient} over HTTP/1.1. Retries only what is safe to repeat. */
export class ApiClient implements KubeClient {
  /** For people: the socket's path or the server's URL. */
  readonly address: string;
  readonly #origin: string;
  readonly #prefix: string;
  readonly #headers: Record<string, string>;
  readonly #token: (() => string | undefined) | undefined;
  readonly #requests: Agent;
  readonly #streams: Agent;
  readonly #watchSilenceMs: number;

  /** @throws TypeError when `server` is not an http(s) URL. */
  constructor(options: ApiClientOptions) {
    const { userAgent = "kubeplumb", timeoutMs = REQUEST_TIMEOUT_MS } = options;
    this.#watchSilenceMs = options.watchSilenceMs ?? WATCH_SILENCE_MS;
    this.#headers = { "user-agent": userAgent, accept: "application/json" };
    let connect: ConstructorParameters<typeof Agent>[0] = {};
    if ("socketPath" in options) {
      this.address = options.socketPath;
      this.#origin = "http://localhost";
      this.#prefix = "";
      connect = { connect: { socketPath: options.socketPath } };
    } else {
      const url = serverUrl(options.server);
      this.address = options.server;
      this.#origin = url.origin;
      this.#prefix = url.pathname.replace(/\/+$/, "");
      const { ca, cert, key, tlsServerName: servername, insecureSkipTlsVerify } = options;
      const tls = {
        ca,
        cert,
        key,
        servername,
        rejectUnauthorized: !insecureSkipTlsVerify,
        keepAliveInitialDelay: TCP_KEEPALIVE_MS,
      };
      const { identity, dial } = options;
      const connector: TlsOptions | Connector = identity ? renewing(identity, tls) : tls;
      connect = { connect: dial ? dialing(dial, tls) : connector };
      this.#token = tokenSource(options);
    }
    this.#requests = new Agent({
      ...connect,
      connections: REQUEST_CONNECTIONS,
      headersTimeout: timeoutMs,
      bodyTimeout: timeoutMs,
    });
    this.#streams = new Agent({ ...connect, headersTimeout: timeoutMs });
  }

  /** @param directory what file names in the text are relative to; default the working directory. */
  static fromKubeconfig(text: string, context?: string, directory?: string): ApiClient {
    return new ApiClient(connectionOf(parseKubeconfig(text), context, directory));
  }

  async get<T extends KubeObject>(r: Resource<T>, name: string, namespace?: string): Promise<Stored<T>> {
    return await this.json("GET", objectPath(r, name, namespace));
  }

  async list<T extends KubeObject>(r: Resource<T>, options: ListOptions = {}): Promise<ListResult<T>> {
    const path = collectionPath(r, options.namespace);
    const raw = await this.json<RawList<T>>("GET", path, { query: listQuery(options) });
    const { resourceVersion = "", continue: token, remainingItemCount } = raw.metadata ?? {};
    const items = raw.items ?? [];
    // In a typed list the items say neither kind nor apiVersion (kube-apiserver leaves them out).
    for (const item of items) {
      item.kind ??= r.kind;
      item.apiVersion ??= apiVersionOf(r);
    }
    return { items, resourceVersion, continue: token || undefined, remainingItemCount };
  }

  async *watch<T extends KubeObject>(
    r: Resource<T>,
    options: WatchOptions = {},
  ): AsyncGenerator<WatchEvent<T>> {
    const path = collectionPath(r, options.namespace);
    const silenceMs = options.allowWatchBookmarks ? this.#watchSilenceMs : 0;
    for await (const line of this.#lines(path, watchQuery(options), options.signal, silenceMs)) {
      const event = parseJson<RawEvent<T>>(line, `watch of ${r.plural} at ${this.address}`);
      if (event.type === "ERROR") throw new StatusError(event.object);
      yield event;
    }
  }

  async create<T extends KubeObject>(
    r: Resource<T>,
    object: T,
    options: WriteOptions = {},
  ): Promise<Stored<T>> {
    const namespace = options.namespace ?? object.metadata?.namespace;
    const path = options.subresource
      ? objectPath(r, object.metadata?.name, namespace, options.subresource)
      : namespacedCollectionPath(r, namespace);
    return await this.json("POST", path, { query: writeQuery(options), body: typed(r, object, options) });
  }

  async update<T extends KubeObject>(
    r: Resource<T>,
    object: T,
    options: WriteOptions = {},
  ): Promise<Stored<T>> {
    const namespace = options.namespace ?? object.metadata?.namespace;
    const path = objectPath(r, object.metadata?.name, namespace, options.subresource);
    return await this.json("PUT", path, { query: writeQuery(options), body: typed(r, object, options) });
  }

  async patch<T extends KubeObject>(
    r: Resource<T>,
    name: string,
    type: PatchType,
    patch: unknown,
    options: WriteOptions = {},
  ): Promise<Stored<T>> {
    return await this.json("PATCH", objectPath(r, name, options.namespace, options.subresource), {
      query: writeQuery(options),
      body: patch,
      contentType: PATCH_CONTENT_TYPES[type],
    });
  }

  async delete<T extends KubeObject>(
    r: Resource<T>,
    name: string,
    options: DeleteOptions = {},
  ): Promise<void> {
    await this.request("DELETE", objectPath(r, name, options.namespace), { body: deleteBody(options) });
  }

  async deleteCollection<T extends KubeObject>(
    r: Resource<T>,
    options: ListOptions & DeleteOptions = {},
  ): Promise<void> {
    const path = collectionPath(r, options.namespace);
    await this.request("DELETE", path, { query: listQuery(options), body: deleteBody(options) });
  }

  /** One request whose answer is JSON: for what is no resource (/version, a Table, a subresource). */
  async json<A>(method: Dispatcher.HttpMethod, path: string, options: RequestOptions = {}): Promise<A> {
    return parseJson<A>(await this.request(method, path, options), `${method} ${path} at ${this.address}`);
  }

  /**
   * One request, its answer as text.
   * @throws StatusError for an answer that is an error; the transport's own error when there is none.
   */
  async request(method: Dispatcher.HttpMethod, path: string, options: RequestOptions = {}): Promise<string> {
    for (let refused = 0, broken = 0; ; ) {
      try {
        const answer = await this.#requests.request(this.#dispatch(method, path, options));
        const text = await answer.body.text();
        if (answer.statusCode < 400) return text;
        const wait = retryAfter(answer);
        if (answer.statusCode !== 429 || wait === undefined || ++refused > REFUSED_RETRIES) {
          throw statusError(`${method} ${path}`, answer.statusCode, text);
        }
        await sleep(wait * 1000);
      } catch (error) {
        // A kept-alive connection may close just as we write on it. A GET changes nothing: ask again.
        if (method !== "GET" || !isBroken(error) || ++broken > BROKEN_RETRIES) throw error;
      }
    }
  }

  /**
   * A long answer as it comes, logs for instance; ends quietly when `signal` aborts. With `silenceMs`, so many
   * milliseconds without a byte are an error.
   * @throws as {@link request} does.
   */
  async *stream(
    path: string,
    query: Query = {},
    signal?: AbortSignal,
    silenceMs = 0,
  ): AsyncGenerator<Buffer> {
    if (signal?.aborted) return;
    try {
      const options = { query, accept: "*/*" };
      const request = { ...this.#dispatch("GET", path, options), signal, bodyTimeout: silenceMs };
      const answer = await this.#streams.request(request);
      if (answer.statusCode >= 400) {
        throw statusError(`GET ${path}`, answer.statusCode, await answer.body.text());
      }
      yield* answer.body;
    } catch (error) {
      if (!signal?.aborted) throw error;
    }
  }

  /** Waits for the running requests and ends the streams. */
  async close(): Promise<void> {
    await Promise.all([this.#requests.close(), this.#streams.destroy()]);
  }

  async *#lines(
    path: string,
    query: Query,
    signal: AbortSignal | undefined,
    silenceMs: number,
  ): AsyncGenerator<string> {
    const splitter = new LineSplitter();
    for await (const chunk of this.stream(path, query, signal, silenceMs)) yield* splitter.push(chunk);
    const rest = splitter.rest();
    if (rest.trim() && !signal?.aborted) {
      throw new Error(`GET ${path} at ${this.address} ended in the middle of a line: ${rest.slice(0, 100)}`);
    }
  }

  #dispatch(method: Dispatcher.HttpMethod, path: string, options: RequestOptions): Dispatcher.RequestOptions {
    const { query = {}, body, contentType = "application/json", accept } = options;
    const headers = { ...this.#headers };
    const token = this.#token?.();
    if (token) headers.authorization = `Bearer ${token}`;
    if (accept) headers.accept = accept;
    if (body !== undefined) headers["content-type"] = contentType;
    return {
      origin: this.#origin,
      path: withQuery(this.#prefix + path, query),
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
    };
  }
}

type Connector = Exclude<ReturnType<typeof buildConnector>, undefined>;
type TlsOptions = Exclude<Parameters<typeof buildConnector>[0], undefined>;

/** A connector for each certificate that `identity` has given. */
function renewing(identity: () => { cert: string; key: string }, tls: TlsOptions): Connector {
  let made: { cert: string; connect: Connector } | undefined;
  return (options, callback) => {
    const pair = identity();
    if (made?.cert !== pair.cert) made = { cert: pair.cert, connect: buildConnector({ ...tls, ...pair }) };
    return made.connect(options, callback);
  };
}

/** undici's own connector, with TLS over sockets that somebody else has made. */
function dialing(
  dial: NonNullable<ApiClientOptions["dial"]>,
  tls: Parameters<typeof buildConnector>[0],
): Connector {
  const connect = buildConnector(tls);
  return (options, callback) => {
    const { hostname, port, protocol } = options;
    const host = hostname.replace(/^\[|\]$/g, "");
    const isTls = protocol === "https:";
    const socket = dial({ host, port: Number(port) || (isTls ? 443 : 80) });
    if (isTls) return connect({ ...options, httpSocket: socket }, callback);
    const failed = (error: Error): void => callback(error, null);
    socket.once("error", failed);
    socket.once("connect", () => {
      socket.off("error", failed);
      callback(null, socket);
    });
  };
}

function serverUrl(server: string): URL {
  const url = URL.canParse(server) ? new URL(server) : undefined;
  if (url?.protocol === "https:" || url?.protocol === "http:") return url;
  throw new TypeError(`server ${JSON.stringify(server)} is not an http or https URL`);
}

/** An object of a resource says what it is; a binding or a scale sent to a subresource is of another kind. */
function typed<T extends KubeObject>(r: Resource<T>, object: T, options: WriteOptions): T {
  if (options.subresource && options.subresource !== "status") return object;
  return { apiVersion: apiVersionOf(r), kind: r.kind, ...object };
}

function deleteBody(options: DeleteOptions): Record<string, unknown> {
  const { gracePeriodSeconds, propagationPolicy, preconditions, dryRun } = options;
  return {
    apiVersion: "v1",
    kind: "DeleteOptions",
    gracePeriodSeconds,
    propagationPolicy,
    preconditions,
    dryRun: dryRun ? ["All"] : undefined,
  };
}

function parseJson<A>(text: string, what: string): A {
  try {
    return JSON.parse(text) as A;
  } catch (cause) {
    throw new Error(`${what}: the answer is not JSON: ${text.slice(0, 100)}`, { cause });
  }
}

/** Seconds; RFC 9110 also allows a date, which the API server never sends. */
function retryAfter(answer: Dispatcher.ResponseData): number | undefined {
  const seconds = Number(answer.headers["retry-after"]);
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0), LONGEST_RETRY_AFTER_S) : undefined;
}

function isBroken(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return code === "ECONNRESET" || code === "EPIPE" || code === "UND_ERR_SOCKET";
}
