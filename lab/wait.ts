// Waiting for an object to be as one wants it, by watching it. Knows the API client only.

import { setTimeout as sleep } from "node:timers/promises";
import { isReason, type KubeClient, type Resource } from "../common/client.js";
import type { KubeObject, Stored } from "../common/k8s.js";
import { ClusterError, messageOf } from "./errors.js";

/**
 * What to wait for: the type of a condition that must be "True" (`Ready`, `Available`), `deleted`, or a function that
 * is given the object (undefined while there is none).
 */
export type WaitCondition<T extends KubeObject> = string | ((object: Stored<T> | undefined) => boolean);

export interface WaitOptions {
  /** Default `default`. */
  namespace?: string;
  /** Milliseconds; default 60,000. */
  timeoutMs?: number;
}

export const DEFAULT_TIMEOUT_MS = 60_000;

/** Resolves with the object as soon as it fulfils the condition. Throws ClusterError WAIT_TIMEOUT with its last state. */
export async function waitForObject<T extends KubeObject>(
  client: KubeClient,
  resource: Resource<T>,
  name: string,
  condition: WaitCondition<T>,
  options: WaitOptions = {},
): Promise<Stored<T> | undefined> {
  const { timeoutMs = DEFAULT_TIMEOUT_MS } = options;
  const namespace = resource.namespaced ? (options.namespace ?? "default") : undefined;
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), timeoutMs);
  const seen: { last?: Stored<T>; error?: unknown } = {};
  try {
    while (!abort.signal.aborted) {
      try {
        const found = await watchOnce(client, resource, {
          name,
          namespace,
          condition,
          seen,
          signal: abort.signal,
        });
        if (found) return found.object;
      } catch (error) {
        // The server may be away for a moment, or have forgotten the version: look again until the time is over.
        seen.error = error;
        if (!abort.signal.aborted && !isReason(error, "Expired", "Gone")) await sleep(100);
      }
    }
  } finally {
    clearTimeout(timer);
    abort.abort();
  }
  const what = `${resource.plural}/${name}${namespace ? ` in ${namespace}` : ""}`;
  const wanted = typeof condition === "string" ? condition : condition.name || "the condition";
  const state = seen.last
    ? JSON.stringify((seen.last as { status?: unknown }).status ?? {})
    : "there is none";
  const failure = seen.error ? `; ${messageOf(seen.error)}` : "";
  throw new ClusterError("WAIT_TIMEOUT", `${what}: not ${wanted} after ${timeoutMs} ms; ${state}${failure}`);
}

interface Watched<T extends KubeObject> {
  name: string;
  namespace: string | undefined;
  condition: WaitCondition<T>;
  seen: { last?: Stored<T>; error?: unknown };
  signal: AbortSignal;
}

async function watchOnce<T extends KubeObject>(
  client: KubeClient,
  resource: Resource<T>,
  { name, namespace, condition, seen, signal }: Watched<T>,
): Promise<{ object: Stored<T> | undefined } | undefined> {
  const where = { fieldSelector: `metadata.name=${name}`, ...(namespace ? { namespace } : {}) };
  const { items, resourceVersion } = await client.list(resource, where);
  const look = (object: Stored<T> | undefined) => {
    seen.last = object;
    seen.error = undefined;
    return fulfils(object, condition) ? { object } : undefined;
  };
  const now = look(items[0]);
  if (now) return now;
  for await (const event of client.watch(resource, { ...where, resourceVersion, signal })) {
    if (event.type === "BOOKMARK") continue;
    const found = look(event.type === "DELETED" ? undefined : event.object);
    if (found) return found;
  }
  return undefined;
}

/** Whether an object is as wanted. Pure. */
export function fulfils<T extends KubeObject>(
  object: Stored<T> | undefined,
  condition: WaitCondition<T>,
): boolean {
  if (typeof condition === "function") return condition(object);
  if (condition === "deleted") return object === undefined;
  const { status } = (object ?? {}) as { status?: { conditions?: { type: string; status: string }[] } };
  return Boolean(status?.conditions?.some((one) => one.type === condition && one.status === "True"));
}
