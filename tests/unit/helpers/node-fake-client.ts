// A KubeClient in memory for tests of the node agent: list, watch, create, update, merge patch, graceful delete of
// pods. Counts writes. Knows no validation and no defaults.

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
} from "../../../common/client.js";
import { apiVersionOf, StatusError } from "../../../common/client.js";
import type { KubeObject, Pod, Stored } from "../../../common/k8s.js";

type Json = Record<string, unknown>;
type Event = { resource: string; event: WatchEvent<KubeObject>; version: number };

function fail(code: number, reason: string, message: string): never {
  const status = "Failure" as const;
  throw new StatusError({ apiVersion: "v1", kind: "Status", metadata: {}, status, message, reason, code });
}

function merge(target: unknown, patch: unknown): unknown {
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) return patch;
  const out: Json =
    typeof target === "object" && target !== null && !Array.isArray(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete out[key];
    else out[key] = merge(out[key], value);
  }
  return out;
}

export class FakeClient implements KubeClient {
  readonly #objects = new Map<string, Stored>();
  readonly #log: Event[] = [];
  readonly #waiters = new Set<() => void>();
  #version = 0;
  /** "patch pods/status" → how often. */
  readonly writes = new Map<string, number>();

  #count(verb: string, r: Resource, subresource?: string): void {
    const key = `${verb} ${r.plural}${subresource ? `/${subresource}` : ""}`;
    this.writes.set(key, (this.writes.get(key) ?? 0) + 1);
  }

  #key(r: Resource, name: string, namespace = ""): string {
    return `${r.plural}/${r.namespaced ? namespace : ""}/${name}`;
  }

  #emit(r: Resource, type: "ADDED" | "MODIFIED" | "DELETED", object: Stored): void {
    this.#log.push({ resource: r.plural, event: { type, object }, version: this.#version });
    for (const wake of this.#waiters) wake();
  }

  #put<T extends KubeObject>(r: Resource<T>, object: T, type: "ADDED" | "MODIFIED"): Stored<T> {
    this.#version++;
    const metadata = { ...object.metadata, resourceVersion: String(this.#version) };
    const stored = { ...object, apiVersion: apiVersionOf(r), kind: r.kind, metadata } as unknown as Stored;
    this.#objects.set(this.#key(r, stored.metadata.name, stored.metadata.namespace), stored);
    this.#emit(r, type, stored);
    return stored as unknown as Stored<T>;
  }

  async get<T extends KubeObject>(r: Resource<T>, name: string, namespace?: string): Promise<Stored<T>> {
    const object = this.#objects.get(this.#key(r, name, namespace));
    if (!object) fail(404, "NotFound", `${r.plural} "${name}" not found`);
    return object as unknown as Stored<T>;
  }

  async list<T extends KubeObject>(r: Resource<T>, options: ListOptions = {}): Promise<ListResult<T>> {
    const prefix = `${r.plural}/${options.namespace ?? ""}`;
    const items = [...this.#objects].filter(([key]) =>
      key.startsWith(options.namespace ? `${prefix}/` : prefix),
    );
    return {
      items: items.map(([, object]) => object as unknown as Stored<T>),
      resourceVersion: String(this.#version),
    };
  }

  async *watch<T extends KubeObject>(
    r: Resource<T>,
    options: WatchOptions = {},
  ): AsyncIterable<WatchEvent<T>> {
    const since = Number(options.resourceVersion ?? this.#version);
    let index = 0;
    while (!options.signal?.aborted) {
      for (; index < this.#log.length; index++) {
        const entry = this.#log[index];
        if (entry && entry.version > since && entry.resource === r.plural) yield entry.event as WatchEvent<T>;
      }
      await new Promise<void>((resolve) => {
        const wake = () => {
          this.#waiters.delete(wake);
          options.signal?.removeEventListener("abort", wake);
          resolve();
        };
        this.#waiters.add(wake);
        options.signal?.addEventListener("abort", wake);
      });
    }
  }

  async create<T extends KubeObject>(
    r: Resource<T>,
    object: T,
    options: WriteOptions = {},
  ): Promise<Stored<T>> {
    this.#count("create", r);
    const { name = "", namespace = options.namespace } = object.metadata ?? {};
    if (this.#objects.has(this.#key(r, name, namespace)))
      fail(409, "AlreadyExists", `${name} already exists`);
    const metadata = {
      ...object.metadata,
      name,
      ...(r.namespaced ? { namespace } : {}),
      uid: crypto.randomUUID(),
      creationTimestamp: new Date().toISOString(),
    };
    return this.#put(r, { ...object, metadata } as T, "ADDED");
  }

  async update<T extends KubeObject>(r: Resource<T>, object: T): Promise<Stored<T>> {
    this.#count("update", r);
    return this.#put(r, object, "MODIFIED");
  }

  async patch<T extends KubeObject>(
    r: Resource<T>,
    name: string,
    type: PatchType,
    patch: unknown,
    options: WriteOptions = {},
  ): Promise<Stored<T>> {
    if (type !== "merge") throw new Error(`the fake client has no ${type} patch`);
    this.#count("patch", r, options.subresource);
    const old = await this.get(r, name, options.namespace);
    const uid = (patch as { metadata?: { uid?: string } }).metadata?.uid;
    if (uid && uid !== old.metadata.uid) fail(409, "Conflict", `uid ${uid} is not that of ${name}`);
    return this.#put(r, merge(old, patch) as T, "MODIFIED");
  }

  async delete<T extends KubeObject>(
    r: Resource<T>,
    name: string,
    options: DeleteOptions = {},
  ): Promise<void> {
    this.#count("delete", r);
    const old = await this.get(r, name, options.namespace);
    const { uid } = options.preconditions ?? {};
    if (uid && uid !== old.metadata.uid) fail(409, "Conflict", `uid ${uid} is not that of ${name}`);
    const spec = (old as unknown as Pod).spec;
    const grace = options.gracePeriodSeconds ?? spec?.terminationGracePeriodSeconds ?? 30;
    if (r.plural === "pods" && grace > 0) {
      const deletionTimestamp = new Date(Date.now() + grace * 1000).toISOString();
      const metadata = { ...old.metadata, deletionTimestamp, deletionGracePeriodSeconds: grace };
      this.#put(r, { ...old, metadata } as unknown as T, "MODIFIED");
      return;
    }
    this.#version++;
    this.#objects.delete(this.#key(r, name, options.namespace));
    this.#emit(r, "DELETED", {
      ...(old as unknown as Stored),
      metadata: { ...old.metadata, resourceVersion: String(this.#version) },
    });
  }

  async deleteCollection(): Promise<void> {
    throw new Error("the fake client has no deleteCollection");
  }
}
