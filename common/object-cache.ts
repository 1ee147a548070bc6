// The store of an informer: objects by key and by the values of index functions, each change costing only what
// changed. Knows keys and metadata, nothing of where the objects come from.

import { type KubeObject, keyOf, type Stored } from "./k8s.js";
import type { Logger } from "./log.js";

const NAMESPACE_INDEX = "kubeplumb:namespace";

interface Index<T extends KubeObject> {
  readonly fn: (object: Stored<T>) => string[];
  /** value → key → object */
  readonly entries: Map<string, Map<string, Stored<T>>>;
  /** key → values, as they were when it was put in: an index function may be asked only once per object. */
  readonly valuesOf: Map<string, readonly string[]>;
}

/** Objects by key, with incrementally kept indexes. */
export class ObjectCache<T extends KubeObject> {
  readonly #log: Logger;
  readonly #objects = new Map<string, Stored<T>>();
  readonly #indexes = new Map<string, Index<T>>();

  constructor(log: Logger) {
    this.#log = log;
  }

  get(key: string): Stored<T> | undefined {
    return this.#objects.get(key);
  }

  all(): Stored<T>[] {
    return [...this.#objects.values()];
  }

  /** A copy: safe against changes during the walk. */
  entries(): [string, Stored<T>][] {
    return [...this.#objects];
  }

  /** The index behind this is made at the first question, so cluster-wide readers pay nothing for it. */
  inNamespace(namespace: string): Stored<T>[] {
    if (!this.#indexes.has(NAMESPACE_INDEX)) {
      this.addIndex(NAMESPACE_INDEX, (object) => [object.metadata.namespace ?? ""]);
    }
    return this.byIndex(NAMESPACE_INDEX, namespace);
  }

  set(object: Stored<T>): void {
    const key = keyOf(object);
    this.#objects.set(key, object);
    for (const [name, index] of this.#indexes) this.#place(name, index, key, object);
  }

  delete(key: string): void {
    this.#objects.delete(key);
    for (const index of this.#indexes.values()) unplace(index, key, []);
  }

  /** A name that is known keeps its first function. */
  addIndex(name: string, fn: (object: Stored<T>) => string[]): void {
    if (this.#indexes.has(name)) return;
    const index: Index<T> = { fn, entries: new Map(), valuesOf: new Map() };
    this.#indexes.set(name, index);
    for (const [key, object] of this.#objects) this.#place(name, index, key, object);
  }

  /** @throws Error naming the indexes there are. */
  byIndex(name: string, value: string): Stored<T>[] {
    const index = this.#indexes.get(name);
    if (!index) {
      const known = [...this.#indexes.keys()].filter((known) => known !== NAMESPACE_INDEX).join(", ");
      throw new Error(`no index ${JSON.stringify(name)}; there are: ${known || "none"}`);
    }
    return [...(index.entries.get(value)?.values() ?? [])];
  }

  #place(name: string, index: Index<T>, key: string, object: Stored<T>): void {
    let values: string[] = [];
    try {
      values = [...new Set(index.fn(object))];
    } catch (error) {
      this.#log.error(
        { err: error, index: name, key },
        "an index function failed; the object is not indexed",
      );
    }
    unplace(index, key, values);
    for (const value of values) {
      let bucket = index.entries.get(value);
      if (!bucket) {
        bucket = new Map();
        index.entries.set(value, bucket);
      }
      bucket.set(key, object);
    }
    if (values.length > 0) index.valuesOf.set(key, values);
  }
}

/** Takes `key` out of the buckets it was in, except those of `keep`, where it will be replaced in its place. */
function unplace<T extends KubeObject>(index: Index<T>, key: string, keep: readonly string[]): void {
  for (const value of index.valuesOf.get(key) ?? []) {
    if (keep.includes(value)) continue;
    const bucket = index.entries.get(value);
    bucket?.delete(key);
    if (bucket?.size === 0) index.entries.delete(value);
  }
  index.valuesOf.delete(key);
}
