// The API inside the process: a KubeClient on the same registry as the HTTP server, so that controllers have the
// same validation, conflicts and errors as anybody else, without the wire.

import type {
  DeleteOptions,
  KubeClient,
  ListOptions,
  ListResult,
  PatchType,
  Resource,
  WatchEvent,
  WatchOptions,
  WriteOptions,
} from "../../common/client.js";
import { apiVersionOf } from "../../common/client.js";
import type { KubeObject, Stored } from "../../common/k8s.js";
import type { Body } from "./body.js";
import { decodeBody } from "./body.js";
import type { Kind, User } from "./engine.js";
import { patchChange } from "./patching.js";
import type { Registry } from "./registry.js";
import { methodNotAllowed } from "./status.js";
import { issueToken, TOKEN_REQUEST } from "./token-request.js";
import { fieldManager } from "./tracking.js";
import type { ObjectEvent, RunningWatch } from "./watching.js";
import { expectedOf, type WriteRequest, type Written } from "./write.js";

const USER: User = { name: "system:kube-controller-manager", groups: ["system:masters"] };
const MANAGER = "kube-controller-manager";
const BOOKMARK_INTERVAL_MS = 60_000;

export class LocalClient implements KubeClient {
  readonly #registry: Registry;
  readonly #user: User;

  constructor(registry: Registry, user: User = USER) {
    this.#registry = registry;
    this.#user = user;
  }

  #kind(r: Resource): Kind {
    return this.#registry.engine.kindOf(r);
  }

  #request(kind: Kind, object: KubeObject | undefined, options: WriteOptions): WriteRequest {
    const namespace = kind.resource.namespaced
      ? (options.namespace ?? object?.metadata?.namespace)
      : undefined;
    return {
      kind,
      namespace,
      user: this.#user,
      dryRun: options.dryRun ?? false,
      fieldValidation: options.fieldValidation ?? "Warn",
      manager: fieldManager(options.fieldManager ?? MANAGER),
    };
  }

  /** A field that the schema does not know, say, is a mistake in the program: said in the log, not hidden. */
  #result<T extends KubeObject>({ object, warnings }: Written): Stored<T> {
    if (warnings.length > 0)
      this.#registry.engine.log.warn(
        { warnings, kind: object.kind, name: object.metadata.name },
        "written with warnings",
      );
    return object as Stored<T>;
  }

  async get<T extends KubeObject>(r: Resource<T>, name: string, namespace?: string): Promise<Stored<T>> {
    return (await this.#registry.reader.get(this.#kind(r), namespace, name)) as Stored<T>;
  }

  async list<T extends KubeObject>(r: Resource<T>, options: ListOptions = {}): Promise<ListResult<T>> {
    return (await this.#registry.reader.list(this.#kind(r), options)) as ListResult<T>;
  }

  async *watch<T extends KubeObject>(
    r: Resource<T>,
    options: WatchOptions = {},
  ): AsyncGenerator<WatchEvent<T>, void> {
    const { signal, timeoutSeconds, allowWatchBookmarks = false } = options;
    if (signal?.aborted) return;
    const queue = new EventQueue();
    const running = await this.#registry.watch(this.#kind(r), options, queue);
    const stop = (): void => queue.end();
    signal?.addEventListener("abort", stop, { once: true });
    const timeout = timeoutSeconds ? setTimeout(stop, timeoutSeconds * 1000) : undefined;
    const bookmarks = allowWatchBookmarks ? bookmarkTimer(running, queue) : undefined;
    try {
      for await (const event of queue) yield event as WatchEvent<T>;
    } finally {
      running.close();
      signal?.removeEventListener("abort", stop);
      clearTimeout(timeout);
      clearInterval(bookmarks);
    }
  }

  async create<T extends KubeObject>(
    r: Resource<T>,
    object: T,
    options: WriteOptions = {},
  ): Promise<Stored<T>> {
    const kind = this.#kind(r);
    const request = this.#request(kind, object, options);
    const { subresources, writer } = this.#registry;
    const name = object.metadata?.name ?? "";
    if (options.subresource === "binding") {
      await subresources.bind(request, name, bodyOf(object, "v1", "Binding"));
      return object as unknown as Stored<T>;
    }
    if (options.subresource === "eviction") {
      await subresources.evict(request, name, bodyOf(object, "policy/v1", "Eviction"));
      return object as unknown as Stored<T>;
    }
    if (options.subresource === "token") {
      const { engine, tokens } = this.#registry;
      const body = bodyOf(object, TOKEN_REQUEST.apiVersion, TOKEN_REQUEST.kind);
      return (await issueToken(engine, tokens, request, name, body)) as Stored<T>;
    }
    if (options.subresource) throw methodNotAllowed();
    return this.#result<T>(await writer.create(request, bodyOf(object, apiVersionOf(r), r.kind)));
  }

  async update<T extends KubeObject>(
    r: Resource<T>,
    object: T,
    options: WriteOptions = {},
  ): Promise<Stored<T>> {
    const kind = this.#kind(r);
    const request = this.#request(kind, object, options);
    const { engine, subresources, writer } = this.#registry;
    const name = object.metadata?.name ?? "";
    const part = options.subresource === "approval" ? "status" : (options.subresource ?? "main");
    if (part === "scale")
      return this.#result<T>(
        await subresources.setScale(request, name, bodyOf(object, "autoscaling/v1", "Scale")),
      );
    if (part === "ephemeralcontainers") {
      const body = bodyOf(object, apiVersionOf(r), r.kind);
      return this.#result<T>(await subresources.setEphemeralContainers(request, name, body));
    }
    if (part === "binding" || part === "eviction" || part === "token") throw methodNotAllowed();
    const body = bodyOf(object, apiVersionOf(r), r.kind);
    const change = () => decodeBody(engine, body, expectedOf(kind), request.fieldValidation);
    return this.#result<T>(await writer.modify(request, { name, part, change }));
  }

  async patch<T extends KubeObject>(
    r: Resource<T>,
    name: string,
    type: PatchType,
    patch: unknown,
    options: WriteOptions = {},
  ): Promise<Stored<T>> {
    const kind = this.#kind(r);
    const request = this.#request(kind, undefined, options);
    const { engine, subresources, writer } = this.#registry;
    const body: Body = { value: patch, duplicates: [] };
    const part = options.subresource === "approval" ? "status" : (options.subresource ?? "main");
    if (part === "scale") return this.#result<T>(await subresources.setScale(request, name, body, type));
    if (part === "ephemeralcontainers")
      return this.#result<T>(await subresources.setEphemeralContainers(request, name, body, type));
    if (part === "binding" || part === "eviction" || part === "token") throw methodNotAllowed();
    const change = patchChange(engine, kind, type, body, request.fieldValidation);
    return this.#result<T>(await writer.modify(request, { name, part, change }));
  }

  async delete<T extends KubeObject>(
    r: Resource<T>,
    name: string,
    options: DeleteOptions = {},
  ): Promise<void> {
    const { namespace, ...rest } = options;
    await this.#registry.remover.delete({
      kind: this.#kind(r),
      namespace,
      name,
      user: this.#user,
      options: rest,
    });
  }

  async deleteCollection<T extends KubeObject>(
    r: Resource<T>,
    options: ListOptions & DeleteOptions = {},
  ): Promise<void> {
    await this.#registry.remover.deleteCollection(this.#kind(r), this.#user, options, options);
  }
}

/** Nobody in the process rewrites managedFields: what comes back with an object need not be read. */
function bodyOf({ metadata, ...object }: KubeObject, apiVersion: string, kind: string): Body {
  const { managedFields: _, ...rest } = metadata ?? {};
  return { value: { ...object, apiVersion, kind, metadata: rest }, duplicates: [] };
}

function bookmarkTimer(running: RunningWatch, queue: EventQueue): NodeJS.Timeout {
  const timer = setInterval(() => queue.event(running.bookmark()), BOOKMARK_INTERVAL_MS);
  timer.unref();
  return timer;
}

/** Events between the store, which calls, and the reader of the watch, who asks. */
class EventQueue implements AsyncIterable<ObjectEvent> {
  #events: ObjectEvent[] = [];
  #wake: (() => void) | undefined;
  #ended = false;
  #error: Error | undefined;

  event(event: ObjectEvent): void {
    this.#events.push(event);
    this.#wake?.();
  }

  end(error?: Error): void {
    this.#ended = true;
    this.#error ??= error;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ObjectEvent, void> {
    for (;;) {
      const events = this.#events;
      this.#events = [];
      for (const event of events) yield event;
      if (this.#events.length > 0) continue;
      if (this.#error) throw this.#error;
      if (this.#ended) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}
