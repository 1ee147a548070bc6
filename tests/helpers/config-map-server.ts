// An API server for ConfigMaps of one namespace on a unix socket, for tests of informers: it tells of changes on
// request and can be told to go wrong.

import { once } from "node:events";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { WatchEvent } from "../../common/client.js";
import type { ConfigMap, Stored } from "../../common/k8s.js";
import { failure, freeSocket, reply } from "./unix-server.js";

/** As the server has it; by itself its uid is its name. */
export function configMap(
  name: string,
  resourceVersion: number,
  data: Record<string, string> = {},
  uid = name,
) {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: {
      name,
      namespace: "default",
      uid,
      resourceVersion: String(resourceVersion),
      creationTimestamp: "2026-01-01T00:00:00Z",
    },
    data,
  } satisfies Stored<ConfigMap>;
}

/** A small API server for ConfigMaps of one namespace: revisions, pages, watches, and every way to go wrong. */
export class FakeApi {
  readonly socketPath = freeSocket();
  readonly objects = new Map<string, Stored<ConfigMap>>();
  readonly requests: string[] = [];
  readonly #log: { revision: number; event: WatchEvent<ConfigMap> }[] = [];
  readonly #watches = new Map<ServerResponse, number>();
  #server: Server | undefined;
  revision = 100;
  compacted = 0;
  uids = 0;
  /** Answers the next watches instead of us. */
  onWatch: ((res: ServerResponse) => boolean) | undefined;
  onList: ((res: ServerResponse, url: URL) => boolean) | undefined;

  async start(): Promise<void> {
    this.#server = createServer((req, res) => this.#handle(new URL(req.url ?? "/", "http://x"), res));
    this.#server.listen(this.socketPath);
    await once(this.#server, "listening");
  }

  async stop(): Promise<void> {
    this.#server?.closeAllConnections();
    this.#server?.close();
    if (this.#server?.listening) await once(this.#server, "close");
    this.#watches.clear();
  }

  get watching(): number {
    return this.#watches.size;
  }

  /** Lists since the start, a page counting as one. */
  get lists(): number {
    return this.requests.filter((url) => !url.includes("watch=true")).length;
  }

  set(name: string, data: Record<string, string> = {}): Stored<ConfigMap> {
    const old = this.objects.get(name);
    const object = configMap(name, ++this.revision, data, old?.metadata.uid ?? `uid-${++this.uids}`);
    this.objects.set(name, object);
    this.#emit({ type: old ? "MODIFIED" : "ADDED", object });
    return object;
  }

  remove(name: string): void {
    const old = this.objects.get(name);
    if (!old) return;
    this.objects.delete(name);
    const metadata = { ...old.metadata, resourceVersion: String(++this.revision) };
    this.#emit({ type: "DELETED", object: { ...old, metadata } });
  }

  bookmark(): void {
    const metadata = { resourceVersion: String(++this.revision) };
    this.#emit({ type: "BOOKMARK", object: { kind: "ConfigMap", apiVersion: "v1", metadata } });
  }

  /** Nothing before now can be watched from any more. */
  compact(): void {
    this.compacted = this.revision;
  }

  endWatches(how: (res: ServerResponse) => void = (res) => res.end()): void {
    for (const res of this.#watches.keys()) how(res);
    this.#watches.clear();
  }

  #emit(event: WatchEvent<ConfigMap>): void {
    this.#log.push({ revision: this.revision, event });
    for (const res of this.#watches.keys()) res.write(`${JSON.stringify(event)}\n`);
  }

  #handle(url: URL, res: ServerResponse): void {
    this.requests.push(url.pathname + url.search);
    if (url.searchParams.get("watch") === "true") this.#watch(url, res);
    else this.#list(url, res);
  }

  #list(url: URL, res: ServerResponse): void {
    if (this.onList?.(res, url)) return;
    const all = [...this.objects.values()];
    const from = Number(url.searchParams.get("continue") ?? 0);
    const to = from + Math.min(Number(url.searchParams.get("limit") ?? all.length), 500);
    reply(res, 200, {
      metadata: { resourceVersion: String(this.revision), continue: to < all.length ? String(to) : "" },
      items: all.slice(from, to),
    });
  }

  #watch(url: URL, res: ServerResponse): void {
    if (this.onWatch?.(res)) return;
    const since = Number(url.searchParams.get("resourceVersion"));
    if (since < this.compacted) {
      reply(res, 410, failure(410, "Expired", "too old resource version"));
      return;
    }
    res.writeHead(200, { "content-type": "application/json" }).flushHeaders();
    for (const { revision, event } of this.#log)
      if (revision > since) res.write(`${JSON.stringify(event)}\n`);
    this.#watches.set(res, since);
    res.on("close", () => this.#watches.delete(res));
  }
}
