// Read your own writes: tells a controller whether an informer has caught up with what the controller itself wrote.
// The counterpart of client-go's expectations, but exact: it waits for a resourceVersion, not for a count.

import type { Informer } from "../../common/informer.js";
import { type KubeObject, keyOf, type Stored } from "../../common/k8s.js";

/** After this long something swallowed the event (a relist across a delete): trust the cache again. */
const EXPIRY_MS = 10_000;

interface Pending {
  /** The highest resourceVersion written. */
  version: number;
  /** Deleted objects, key → uid, which the cache has to show gone or terminating. */
  deletes: Map<string, string>;
  since: number;
}

/**
 * Watch events of one resource come in the order of resourceVersions (they are revisions of the one store), so the
 * cache holds a write as soon as it has seen an event that is as new.
 */
export class Freshness<T extends KubeObject> {
  readonly #informer: Informer<T>;
  readonly #now: () => number;
  readonly #pending = new Map<string, Pending>();
  #seen = 0;

  constructor(informer: Informer<T>, now: () => number = Date.now) {
    this.#informer = informer;
    this.#now = now;
    const observe = (object: Stored<T>) => {
      this.#seen = Math.max(this.#seen, versionOf(object));
    };
    informer.subscribe({ add: observe, update: (_old, now) => observe(now), delete: observe });
  }

  /** `owner` made or changed `object`, as the API returned it. */
  wrote(owner: string, object: Stored<T>): void {
    const version = versionOf(object);
    if (version <= this.#seen) return;
    const pending = this.#of(owner);
    pending.version = Math.max(pending.version, version);
  }

  /** `owner` deleted `object`, successfully. */
  deleted(owner: string, object: Stored<T>): void {
    this.#of(owner).deletes.set(keyOf(object), object.metadata.uid);
  }

  /** Whether the cache shows everything `owner` wrote. */
  isFresh(owner: string): boolean {
    const pending = this.#pending.get(owner);
    if (!pending) return true;
    for (const [key, uid] of pending.deletes) {
      const cached = this.#informer.get(key);
      if (cached?.metadata.uid !== uid || cached.metadata.deletionTimestamp) pending.deletes.delete(key);
    }
    const caughtUp = pending.version <= this.#seen && pending.deletes.size === 0;
    if (!caughtUp && this.#now() - pending.since < EXPIRY_MS) return false;
    this.#pending.delete(owner);
    return true;
  }

  /** `owner` is gone. */
  forget(owner: string): void {
    this.#pending.delete(owner);
  }

  #of(owner: string): Pending {
    let pending = this.#pending.get(owner);
    if (!pending) {
      pending = { version: 0, deletes: new Map(), since: 0 };
      this.#pending.set(owner, pending);
    }
    pending.since = this.#now();
    return pending;
  }
}

/** How long to wait before one looks again when no event comes, in milliseconds. */
export const STALE_RETRY_MS = 1000;

function versionOf(object: Stored<KubeObject>): number {
  return Number(object.metadata.resourceVersion);
}
