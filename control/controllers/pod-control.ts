// Makes and deletes the pods of a controller's object, tells of it by Events, and knows whether the cache shows it
// all. Knows Pods; their owner is any object.

import { type KubeClient, PODS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type { Pod, Stored } from "../../common/k8s.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import { Freshness } from "./freshness.js";
import { deleteIfPresent, isNamespaceTerminating, messageOf, namespaceOf } from "./objects.js";

/** Why not all pods could be made or deleted: the first refusal. */
export interface Refused {
  reason: "FailedCreate" | "FailedDelete";
  message: string;
  error: unknown;
}

/**
 * Slow start: one, two, four … at once, so that a template which is refused does not cause a storm. Ends with the
 * batch in which something failed, and returns that error.
 */
export async function slowStart<T>(
  items: readonly T[],
  run: (item: T) => Promise<unknown>,
): Promise<{ error: unknown } | undefined> {
  let size = 1;
  for (let start = 0; start < items.length; start += size, size *= 2) {
    size = Math.min(size, items.length - start);
    const results = await Promise.allSettled(items.slice(start, start + size).map(run));
    const failed = results.find((result) => result.status === "rejected");
    if (failed) return { error: failed.reason };
  }
  return undefined;
}

export class PodControl {
  readonly #client: KubeClient;
  readonly #recorder: EventRecorder;
  readonly #writes: Freshness<Pod>;

  constructor({ client, now }: ControllerContext, recorder: EventRecorder, pods: Informer<Pod>) {
    this.#client = client;
    this.#recorder = recorder;
    this.#writes = new Freshness(pods, now);
  }

  /** Whether the cache shows all that was done for the owner with this key. */
  isFresh(key: string): boolean {
    return this.#writes.isFresh(key);
  }

  forget(key: string): void {
    this.#writes.forget(key);
  }

  async create(key: string, owner: Stored, pods: readonly Pod[]): Promise<Refused | undefined> {
    const failed = await slowStart(pods, (pod) => this.#createOne(key, owner, pod));
    return failed && refused("FailedCreate", failed.error);
  }

  async #createOne(key: string, owner: Stored, pod: Pod): Promise<void> {
    try {
      const created = await this.#client.create(PODS, pod, namespaceOf(owner));
      this.#writes.wrote(key, created);
      this.#recorder.event(owner, "Normal", "SuccessfulCreate", `Created pod: ${created.metadata.name}`);
    } catch (error) {
      if (!isNamespaceTerminating(error)) {
        this.#recorder.event(owner, "Warning", "FailedCreate", `Error creating: ${messageOf(error)}`);
      }
      throw error;
    }
  }

  async delete(key: string, owner: Stored, pods: readonly Stored<Pod>[]): Promise<Refused | undefined> {
    const results = await Promise.allSettled(pods.map((pod) => this.#deleteOne(key, owner, pod)));
    const failed = results.find((result) => result.status === "rejected");
    return failed && refused("FailedDelete", failed.reason);
  }

  async #deleteOne(key: string, owner: Stored, pod: Stored<Pod>): Promise<void> {
    let deleted: boolean;
    try {
      deleted = await deleteIfPresent(this.#client, PODS, pod);
    } catch (error) {
      this.#recorder.event(owner, "Warning", "FailedDelete", `Error deleting: ${messageOf(error)}`);
      throw error;
    }
    this.#writes.deleted(key, pod);
    if (!deleted) return;
    this.#recorder.event(owner, "Normal", "SuccessfulDelete", `Deleted pod: ${pod.metadata.name}`);
  }
}

function refused(reason: Refused["reason"], error: unknown): Refused | undefined {
  // A namespace on its way out refuses pods; their owner goes with it.
  return isNamespaceTerminating(error) ? undefined : { reason, message: messageOf(error), error };
}
