// A local copy of the objects of one resource, kept current by list and watch, with indexes and subscribers.
// Knows the KubeClient interface, no transport; knows no kind.

import type { KubeClient, Resource, WatchEvent } from "./client.js";
import { isReason, StatusError } from "./client.js";
import { type KubeObject, keyOf, type Stored } from "./k8s.js";
import { type Logger, silentLogger } from "./log.js";
import { ObjectCache } from "./object-cache.js";

/** Objects a list request asks for at once; the size client-go's pager uses. */
const PAGE_SIZE = 500;
/** A watch that ends sooner than this, having said nothing, did not work: back off before the next. */
const SHORTEST_USEFUL_WATCH_MS = 1000;
/** How much later than asked the server may end a watch before we call the connection dead. */
const WATCH_GRACE_MS = 30_000;

export interface InformerOptions {
  /** Omitted: all namespaces. */
  namespace?: string;
  labelSelector?: string;
  fieldSelector?: string;
  /** What is kept of an object: a copy with less in it, its identity and resourceVersion as they were. */
  transform?(object: Stored): Stored;
  log?: Logger;
  /** Pause after a failure, in milliseconds: doubles from `baseMs` (default 100) to `maxMs` (5000), ± half. */
  backoff?: { baseMs: number; maxMs: number };
  /** Seconds after which the server is asked to end a watch; default random in 300 … 600, as client-go does. */
  watchTimeoutSeconds?: number;
}

/**
 * What a subscriber hears, in the order in which it happened; the cache shows the new state already. Handlers run
 * synchronously and should only note what to do. One that throws is logged and disturbs nobody else.
 */
export interface InformerHandler<T extends KubeObject> {
  add?(object: Stored<T>): void;
  update?(old: Stored<T>, now: Stored<T>): void;
  /** The last state known. */
  delete?(object: Stored<T>): void;
  /** Everything that was there at the start has been given to `add`. Called once. */
  synced?(): void;
}

/**
 * Reflector and shared cache in one. An object whose name stayed while its uid changed is reported as delete and
 * add: it is another object.
 */
export class Informer<T extends KubeObject> {
  readonly resource: Resource<T>;
  /** Resolves after the first full list was delivered; rejects when {@link stop} comes before. */
  readonly synced: Promise<void>;
  readonly #client: KubeClient;
  readonly #options: InformerOptions;
  readonly #log: Logger;
  readonly #cache: ObjectCache<T>;
  readonly #handlers = new Set<InformerHandler<T>>();
  #resolveSynced: () => void = () => {};
  #rejectSynced: (error: Error) => void = () => {};
  #hasSynced = false;
  #state: "new" | "started" | "stopped" = "new";
  #resourceVersion: string | undefined;
  /** The version comes from a list and no watch has lived on it yet: if it is "expired", listing again is no cure. */
  #unproven = false;
  #failures = 0;
  /** Ends what the reflector waits for at the moment: a watch or a pause. */
  #interrupt: AbortController | undefined;

  constructor(client: KubeClient, resource: Resource<T>, options: InformerOptions = {}) {
    this.resource = resource;
    this.#client = client;
    this.#options = options;
    this.#log = (options.log ?? silentLogger).child({ informer: resource.plural });
    this.#cache = new ObjectCache<T>(this.#log);
    this.synced = new Promise((resolve, reject) => {
      this.#resolveSynced = resolve;
      this.#rejectSynced = reject;
    });
    // Whoever waits for `synced` hears of the rejection; nobody else needs to.
    this.synced.catch(() => {});
  }

  get hasSynced(): boolean {
    return this.#hasSynced;
  }

  /** Begins to list and watch; does nothing the second time. @throws Error after {@link stop}. */
  start(): void {
    if (this.#state === "stopped") throw new Error(`the informer of ${this.resource.plural} was stopped`);
    if (this.#state === "started") return;
    this.#state = "started";
    void this.#reflect();
  }

  /** Ends list and watch for good. The cache stays readable. */
  stop(): void {
    if (this.#state === "stopped") return;
    this.#state = "stopped";
    this.#interrupt?.abort();
    if (!this.#hasSynced) {
      this.#rejectSynced(
        new Error(`the informer of ${this.resource.plural} was stopped before it had synced`),
      );
    }
  }

  /** By "namespace/name", or "name" for a cluster-scoped kind. */
  get(key: string): Stored<T> | undefined {
    return this.#cache.get(key);
  }

  /** Everything, or everything in one namespace; a fresh array of shared objects. */
  list(namespace?: string): Stored<T>[] {
    return namespace === undefined ? this.#cache.all() : this.#cache.inNamespace(namespace);
  }

  /**
   * Keeps an index: `fn` gives the values under which an object is found with {@link byIndex}. May be added at any
   * time. The informer is shared, so a name stands for one index: the first function of that name stays.
   */
  addIndex(name: string, fn: (object: Stored<T>) => string[]): void {
    this.#cache.addIndex(name, fn);
  }

  /** @throws Error when there is no index of that name. */
  byIndex(name: string, value: string): Stored<T>[] {
    return this.#cache.byIndex(name, value);
  }

  /**
   * Adds a subscriber; what is in the cache now is given to `add` before this returns, then `synced` when the first
   * list is complete. Returns the function that ends the subscription.
   */
  subscribe(handler: InformerHandler<T>): () => void {
    // Replay first, registration after: an event cannot come in between, both are synchronous.
    for (const object of this.#cache.all()) this.#call(() => handler.add?.(object));
    if (this.#hasSynced) this.#call(() => handler.synced?.());
    this.#handlers.add(handler);
    return () => this.#handlers.delete(handler);
  }

  async #reflect(): Promise<void> {
    while (this.#state === "started") {
      try {
        this.#resourceVersion ??= await this.#relist();
        await this.#watch();
      } catch (error) {
        // A signal aborted by stop() ends the loop; what it threw is of no interest.
        if (this.#state !== "started") return;
        await this.#afterFailure(error);
      }
    }
  }

  /** Brings the cache to what the server has now, as differences; returns the version to watch from. */
  async #relist(): Promise<string> {
    this.#unproven = true;
    const { items, resourceVersion } = await this.#listAll();
    if (this.#state !== "started") throw new Error("stopped");
    const present = new Set<string>();
    for (const item of items) present.add(keyOf(item));
    for (const [key, object] of this.#cache.entries()) {
      if (present.has(key)) continue;
      this.#remove(object);
    }
    for (const item of items) this.#put(item);
    if (!this.#hasSynced) {
      this.#hasSynced = true;
      this.#resolveSynced();
      this.#notify((handler) => handler.synced?.());
    }
    return resourceVersion;
  }

  async #listAll(): Promise<{ items: Stored<T>[]; resourceVersion: string }> {
    const { namespace, labelSelector, fieldSelector } = this.#options;
    const selection = { namespace, labelSelector, fieldSelector };
    const items: Stored<T>[] = [];
    let token: string | undefined;
    try {
      do {
        const page = await this.#client.list(this.resource, {
          ...selection,
          limit: PAGE_SIZE,
          continue: token,
        });
        for (const item of page.items) items.push(item);
        token = page.continue;
        if (!token) return { items, resourceVersion: page.resourceVersion };
      } while (this.#state === "started");
      throw new Error("stopped");
    } catch (error) {
      if (!token || !isExpired(error)) throw error;
      // The snapshot went away between two pages: one page that cannot expire, as client-go's pager does.
      return await this.#client.list(this.resource, selection);
    }
  }

  /** Follows the changes until the server ends the watch. */
  async #watch(): Promise<void> {
    const { namespace, labelSelector, fieldSelector, watchTimeoutSeconds } = this.#options;
    const timeoutSeconds = watchTimeoutSeconds ?? 300 + Math.floor(Math.random() * 300);
    const interrupt = new AbortController();
    this.#interrupt = interrupt;
    // Whoever waits for `synced` may stop us before we come here.
    if (this.#state !== "started") return;
    const deadline = setTimeout(() => interrupt.abort(), timeoutSeconds * 1000 + WATCH_GRACE_MS);
    const since = performance.now();
    let heard = false;
    try {
      for await (const event of this.#client.watch(this.resource, {
        namespace,
        labelSelector,
        fieldSelector,
        resourceVersion: this.#resourceVersion,
        allowWatchBookmarks: true,
        timeoutSeconds,
        signal: interrupt.signal,
      })) {
        if (this.#state !== "started") return;
        heard = true;
        this.#worked();
        this.#take(event);
      }
    } finally {
      clearTimeout(deadline);
      if (performance.now() - since >= SHORTEST_USEFUL_WATCH_MS) this.#worked();
    }
    const useful = heard || performance.now() - since >= SHORTEST_USEFUL_WATCH_MS;
    if (!useful) await this.#pause(new Error("the server ended the watch at once"), "debug");
  }

  #worked(): void {
    this.#failures = 0;
    this.#unproven = false;
  }

  #take(event: WatchEvent<T>): void {
    if (event.type === "DELETED") this.#remove(event.object);
    else if (event.type !== "BOOKMARK") this.#put(event.object);
    this.#resourceVersion = event.object.metadata.resourceVersion;
  }

  #put(object: Stored<T>): void {
    const { transform } = this.#options;
    const now = transform ? (transform(object as Stored) as Stored<T>) : object;
    const old = this.#cache.get(keyOf(now));
    if (old && old.metadata.uid === now.metadata.uid) {
      if (old.metadata.resourceVersion === now.metadata.resourceVersion) return;
      this.#cache.set(now);
      this.#notify((handler) => handler.update?.(old, now));
      return;
    }
    if (old) this.#remove(old);
    this.#cache.set(now);
    this.#notify((handler) => handler.add?.(now));
  }

  /** `last` is the final state: of the cache when a list shows the absence, of the event otherwise. */
  #remove(last: Stored<T>): void {
    const old = this.#cache.get(keyOf(last));
    if (old?.metadata.uid !== last.metadata.uid) return;
    this.#cache.delete(keyOf(last));
    this.#notify((handler) => handler.delete?.(last));
  }

  /** To those who are subscribed now: who subscribes from a handler has got the new state by the replay. */
  #notify(tell: (handler: InformerHandler<T>) => void): void {
    for (const handler of [...this.#handlers]) {
      if (this.#handlers.has(handler)) this.#call(() => tell(handler));
    }
  }

  #call(handler: () => unknown): void {
    const report = (error: unknown) => this.#log.error({ err: error }, "a subscriber's handler failed");
    try {
      const result = handler();
      // A handler may be an async function by mistake; its rejection must not end the process.
      if (result instanceof Promise) result.catch(report);
    } catch (error) {
      report(error);
    }
  }

  async #afterFailure(error: unknown): Promise<void> {
    if (needsRelist(error)) {
      this.#resourceVersion = undefined;
      if (isExpired(error) && !this.#unproven) {
        this.#log.info("the watched version has expired, listing anew");
        return;
      }
    }
    await this.#pause(error, "warn");
  }

  async #pause(error: unknown, level: "debug" | "warn"): Promise<void> {
    const { baseMs, maxMs } = this.#options.backoff ?? { baseMs: 100, maxMs: 5000 };
    const ceiling = Math.min(baseMs * 2 ** this.#failures, maxMs);
    this.#failures += 1;
    const asked = error instanceof StatusError ? error.status.details?.retryAfterSeconds : undefined;
    const ms = asked === undefined ? ceiling * (0.5 + Math.random()) : asked * 1000;
    // Once loudly, then quietly: an absent server would fill the log.
    this.#log[this.#failures === 1 ? level : "debug"](
      { err: error, retryInMs: Math.round(ms) },
      "will retry",
    );
    const interrupt = new AbortController();
    this.#interrupt = interrupt;
    if (this.#state !== "started") return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      interrupt.signal.addEventListener("abort", () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
}

/** 410: "Expired" from a watch or a list, "Gone" in older servers. */
function isExpired(error: unknown): boolean {
  return isReason(error, "Expired", "Gone") || (error instanceof StatusError && error.code === 410);
}

/** Whether the version we hold is of no use to the server: too old, or from the future of a restored store. */
function needsRelist(error: unknown): boolean {
  if (!(error instanceof StatusError)) return false;
  if (error.status.details?.causes?.some((cause) => cause.reason === "ResourceVersionTooLarge")) return true;
  return error.code >= 400 && error.code < 500 && error.code !== 429;
}

/** One shared {@link Informer} for each resource and selection; starts and stops them together. */
export class InformerFactory {
  readonly #client: KubeClient;
  readonly #log: Logger | undefined;
  readonly #informers = new Map<string, Informer<KubeObject>>();
  #state: "new" | "started" | "stopped" = "new";

  constructor(client: KubeClient, options: { log?: Logger } = {}) {
    this.#client = client;
    this.#log = options.log;
  }

  /** The shared informer; runs at once when the factory runs. */
  get<T extends KubeObject>(r: Resource<T>, options: Omit<InformerOptions, "log"> = {}): Informer<T> {
    const { namespace, labelSelector, fieldSelector } = options;
    const key = JSON.stringify([r.group, r.version, r.plural, namespace, labelSelector, fieldSelector]);
    const present = this.#informers.get(key);
    // The key names the resource, and a resource has one object type.
    if (present) return present as unknown as Informer<T>;
    const informer = new Informer(this.#client, r, { ...options, log: this.#log });
    this.#informers.set(key, informer as unknown as Informer<KubeObject>);
    if (this.#state === "started") informer.start();
    return informer;
  }

  start(): void {
    if (this.#state === "stopped") throw new Error("the informer factory was stopped");
    this.#state = "started";
    for (const informer of this.#informers.values()) informer.start();
  }

  /** Resolves when all informers asked for so far have synced. */
  async synced(): Promise<void> {
    await Promise.all([...this.#informers.values()].map((informer) => informer.synced));
  }

  stop(): void {
    this.#state = "stopped";
    for (const informer of this.#informers.values()) informer.stop();
  }
}
