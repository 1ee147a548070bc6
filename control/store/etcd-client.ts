// Requests to an etcd cluster's JSON gateway over HTTP: several endpoints, of which one that answers is used, until it
// does not. Knows HTTP and which failures another endpoint may not have; nothing of keys.

import { setTimeout as sleep } from "node:timers/promises";
import { Agent, type Dispatcher } from "undici";
import { EtcdError, type RawWatch } from "./etcd-wire.js";
import { StoreUnavailable } from "./store.js";

/** PEM texts, as of kube-apiserver's --etcd-cafile, --etcd-certfile and --etcd-keyfile. */
export interface EtcdTls {
  ca?: string | undefined;
  cert?: string | undefined;
  key?: string | undefined;
}

export interface EtcdClientOptions {
  /** http:// or https://, each with a port. */
  endpoints: readonly string[];
  tls?: EtcdTls | undefined;
  /** Milliseconds after which a request is given up. */
  timeoutMs: number;
}

export interface Answer<T> {
  body: T;
  /** An earlier try broke off without an answer, and may have been done. */
  repeated: boolean;
}

/** Requests at the same time, each on a connection of its own; etcd puts what comes together into one commit. */
const CONNECTIONS = 32;
const PAUSE_MS = 50;
/** For a watch: etcd ends it on a member that has lost its cluster. */
const NEEDS_LEADER = { "grpc-metadata-hasleader": "true" };

/** No endpoint gave an answer in time. */
export class EtcdUnreachable extends StoreUnavailable {
  override readonly name = "EtcdUnreachable";

  constructor(
    message: string,
    /** The request may have been done all the same. */
    readonly maybeDone: boolean,
  ) {
    super(message);
  }
}

/** Whether nothing can have reached the server. */
function neverSent(error: unknown): boolean {
  const code = (error as { code?: string }).code ?? "";
  return ["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "ENOTFOUND", "UND_ERR_CONNECT_TIMEOUT"].includes(
    code,
  );
}

/** Lines of JSON, as they come. */
async function* jsonLines(body: AsyncIterable<Buffer>): AsyncGenerator<RawWatch> {
  let pending: Buffer[] = [];
  for await (const chunk of body) {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      const line = Buffer.concat([...pending, chunk.subarray(start, end)]).toString("utf8");
      pending = [];
      start = end + 1;
      if (line !== "") yield JSON.parse(line) as RawWatch;
    }
    if (start < chunk.length) pending.push(chunk.subarray(start));
  }
}

export class EtcdClient {
  readonly #endpoints: readonly string[];
  readonly #timeoutMs: number;
  readonly #requests: Agent;
  readonly #streams: Agent;
  #active = 0;
  #closed = false;

  constructor({ endpoints, tls = {}, timeoutMs }: EtcdClientOptions) {
    this.#endpoints = endpoints;
    this.#timeoutMs = timeoutMs;
    const connect = { ...tls, timeout: this.#tryMs() };
    this.#requests = new Agent({ connect, connections: CONNECTIONS });
    this.#streams = new Agent({ connect, bodyTimeout: 0 });
  }

  /** So long for one endpoint that all have their try in time. */
  #tryMs(): number {
    return Math.ceil(this.#timeoutMs / this.#endpoints.length);
  }

  get #endpoint(): string {
    return this.#endpoints[this.#active % this.#endpoints.length] ?? "";
  }

  /** Leaves an endpoint that failed, unless another request has done so already. */
  #leave(endpoint: string): void {
    if (endpoint === this.#endpoint) this.#active += 1;
  }

  /**
   * A request that may be done twice.
   * @throws EtcdError what etcd refuses; EtcdUnreachable when no endpoint has answered in time
   */
  async post<T>(path: string, body: object): Promise<Answer<T>> {
    const text = JSON.stringify(body);
    const deadline = Date.now() + this.#timeoutMs;
    let repeated = false;
    for (let tries = 1; ; tries++) {
      const endpoint = this.#endpoint;
      const left = deadline - Date.now();
      try {
        return { body: await this.#try<T>(endpoint, path, text, Math.min(left, this.#tryMs())), repeated };
      } catch (error) {
        if (error instanceof EtcdError || this.#closed) throw error;
        repeated ||= !neverSent(error);
        this.#leave(endpoint);
        if (tries % this.#endpoints.length === 0) await sleep(PAUSE_MS);
        if (Date.now() >= deadline) throw this.#unreachable(endpoint, error as Error, repeated);
      }
    }
  }

  #unreachable(endpoint: string, { name, message }: Error, maybeDone: boolean): EtcdUnreachable {
    const why = name === "TimeoutError" ? `no answer within ${this.#timeoutMs / 1000}s` : message;
    return new EtcdUnreachable(`etcd at ${endpoint}: ${why}`, maybeDone);
  }

  async #try<T>(origin: string, path: string, body: string, timeoutMs: number): Promise<T> {
    const signal = AbortSignal.timeout(Math.max(1, timeoutMs));
    const answer = await this.#requests.request({ origin, path, method: "POST", body, signal });
    return await parsed<T>(answer);
  }

  /**
   * Messages of a watch, until etcd or `signal` ends it.
   * @throws EtcdError; Error when the connection cannot be made, or breaks
   */
  async *watch(body: object, signal: AbortSignal): AsyncGenerator<RawWatch> {
    const endpoint = this.#endpoint;
    try {
      const answer = await this.#streams.request({
        origin: endpoint,
        path: "/v3/watch",
        method: "POST",
        headers: NEEDS_LEADER,
        body: JSON.stringify(body),
        headersTimeout: this.#tryMs(),
        signal,
      });
      if (answer.statusCode !== 200) await parsed(answer);
      for await (const message of jsonLines(answer.body)) {
        if (message.error) throw new Error(`etcd at ${endpoint}: ${message.error.message}`);
        yield message;
      }
    } catch (error) {
      if (!signal.aborted) this.#leave(endpoint);
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([this.#requests.destroy(), this.#streams.destroy()]);
  }
}

/** @throws EtcdError for what etcd refuses; Error for what it could not do now, and another member might */
async function parsed<T>({ statusCode, body }: Dispatcher.ResponseData): Promise<T> {
  const text = await body.text();
  if (statusCode === 200) return JSON.parse(text) as T;
  // A gateway's error has the trailer of its protocol behind the JSON.
  const message = /"message":"((?:[^"\\]|\\.)*)"/.exec(text)?.[1] ?? `HTTP ${statusCode}`;
  if (statusCode >= 500) throw new Error(message);
  throw new EtcdError(message, Number(/"code":(\d+)/.exec(text)?.[1] ?? 0));
}
