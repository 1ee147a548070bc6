// Keeps status.used of ResourceQuotas what it is when objects go; what comes is written down by admission
// (control/api/quota.ts). What counts is in control/resources/quota-usage.ts. Knows quotas, and all else by kind.

import { RESOURCE_QUOTAS, type Resource } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type KubeObject, keyOf, type Pod, type ResourceQuota, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { isEnded, limitedKinds, usedBy } from "../resources/quota-usage.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import { namespaceOf } from "./objects.js";
import type { Reconciler } from "./reconcile.js";
import { SERVED } from "./served.js";

/** Objects go in crowds: count once for many of them. */
const GATHER_MS = 100;
/** kube-controller-manager's --resource-quota-sync-period. */
const RESYNC_MS = 300_000;

export class ResourceQuotaController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #quotas: Informer<ResourceQuota>;
  readonly #contents: readonly Informer<KubeObject>[];
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#quotas = context.informers.get(RESOURCE_QUOTAS);
    this.#contents = SERVED.filter((r) => r.namespaced).map((r) => context.informers.get(r));
    this.#queue = queue;
  }

  watch(): void {
    this.#quotas.subscribe({
      add: (quota) => this.#queue.add(keyOf(quota)),
      update: (old, now) => {
        if (!semanticallyEqual(old.spec, now.spec)) this.#queue.add(keyOf(now));
      },
    });
    for (const informer of this.#contents)
      informer.subscribe({
        delete: ({ metadata }) => this.#gone(metadata.namespace),
        ...(informer.resource.kind === "Pod"
          ? { update: (old, now) => this.#changed(old as Stored<Pod>, now as Stored<Pod>) }
          : {}),
        ...(informer.resource.kind === "Service"
          ? { update: (_old, { metadata }) => this.#gone(metadata.namespace) }
          : {}),
      });
  }

  #changed(old: Stored<Pod>, now: Stored<Pod>): void {
    if (isEnded(now as Pod) && !isEnded(old as Pod)) this.#gone(now.metadata.namespace);
  }

  #gone(namespace: string | undefined): void {
    for (const quota of this.#quotas.list(namespace)) this.#queue.addAfter(keyOf(quota), GATHER_MS);
  }

  async reconcile(key: string): Promise<void> {
    if (!this.#quotas.get(key)) return;
    this.#queue.addAfter(key, RESYNC_MS);
    const { client } = this.#context;
    const [namespace = "", name = ""] = key.split("/");
    // As it is now: what admission writes meanwhile is a conflict, and counted again.
    const quota = await client.get(RESOURCE_QUOTAS, name, namespace);
    const { spec = {} } = quota;
    const objects: (readonly [Resource, KubeObject])[] = [];
    for (const resource of limitedKinds(spec.hard ?? {}, SERVED)) {
      const { items } = await client.list(resource, { namespace });
      for (const item of items) objects.push([resource, item as KubeObject]);
    }
    const status = { hard: spec.hard ?? {}, used: usedBy(spec, objects) };
    if (semanticallyEqual(status, quota.status)) return;
    const options = { ...namespaceOf(quota), subresource: "status" as const };
    await client.update(RESOURCE_QUOTAS, { ...quota, status } as ResourceQuota, options);
  }
}
