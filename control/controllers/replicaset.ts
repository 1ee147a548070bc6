// Keeps as many pods as a ReplicaSet asks for. The decisions are in replicaset-plan.ts; here are the effects.
// Knows Pods and ReplicaSets.

import { PODS, REPLICA_SETS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { keyOf, type Pod, type ReplicaSet, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import { Freshness, STALE_RETRY_MS } from "./freshness.js";
import { deleteIfPresent, gatherTime, isNamespaceTerminating, messageOf, namespaceOf } from "./objects.js";
import {
  claim,
  controlledBy,
  controllerOf,
  controllerReference,
  indexByController,
  indexBySelector,
  ownersOf,
} from "./owners.js";
import { isPodActive } from "./pod-state.js";
import { onChange, type Reconciler } from "./reconcile.js";
import {
  countsDifferently,
  nextAvailability,
  planReplicas,
  podFromTemplate,
  type ReplicaFailure,
  replicaSetStatus,
} from "./replicaset-plan.js";
import { timestamp } from "./time.js";

export class ReplicaSetController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #pods: Informer<Pod>;
  readonly #replicaSets: Informer<ReplicaSet>;
  readonly #podWrites: Freshness<Pod>;
  /** ReplicaSet → number of its pods when last looked at. */
  readonly #sizes = new Map<string, number>();
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#recorder = context.events.recorder("replicaset-controller");
    this.#pods = context.informers.get(PODS);
    this.#replicaSets = context.informers.get(REPLICA_SETS);
    indexByController(this.#pods);
    indexByController(this.#replicaSets);
    indexBySelector(this.#replicaSets, (rs) => rs.spec?.selector.matchLabels ?? {});
    this.#podWrites = new Freshness(this.#pods, context.now);
    this.#queue = queue;
  }

  watch(): void {
    this.#replicaSets.subscribe(onChange((rs) => this.#queue.add(keyOf(rs))));
    this.#pods.subscribe({
      ...onChange((pod) => this.#podChanged(pod)),
      update: (old, now) => {
        if (!countsDifferently(old, now)) return;
        const before = controllerOf(old);
        if (before && before.uid !== controllerOf(now)?.uid) this.#podChanged(old);
        this.#podChanged(now);
      },
    });
  }

  #podChanged(pod: Stored<Pod>): void {
    // An orphan that has ended or is being deleted will not be adopted.
    if (!controllerOf(pod) && !isPodActive(pod)) return;
    for (const rs of ownersOf(pod, "ReplicaSet", this.#replicaSets, (rs) => rs.spec?.selector)) {
      this.#queue.addAfter(keyOf(rs), gatherTime(this.#sizes.get(keyOf(rs)) ?? 0));
    }
  }

  async reconcile(key: string): Promise<void> {
    const rs = this.#replicaSets.get(key);
    if (!rs) {
      this.#podWrites.forget(key);
      this.#sizes.delete(key);
      return;
    }
    const active = await claim({
      client: this.#context.client,
      ownerResource: REPLICA_SETS,
      owner: rs,
      selector: rs.spec?.selector,
      resource: PODS,
      informer: this.#pods,
      eligible: isPodActive,
    });
    this.#sizes.set(key, active.length);
    // Acting on a cache that lacks our own last pods would make them twice; their events bring us back here.
    const fresh = this.#podWrites.isFresh(key);
    if (!fresh) this.#queue.addAfter(key, STALE_RETRY_MS);
    let failed: { failure: ReplicaFailure; error: unknown } | undefined;
    if (fresh && !rs.metadata.deletionTimestamp) failed = await this.#manage(key, rs, active);
    await this.#updateStatus(rs, active, failed?.failure);
    const now = this.#context.now();
    const next = nextAvailability(rs, active, now);
    if (next !== undefined) this.#queue.addAfter(key, next - now + 1);
    if (failed) throw failed.error;
  }

  async #manage(key: string, rs: Stored<ReplicaSet>, active: readonly Stored<Pod>[]) {
    const desired = rs.spec?.replicas ?? 1;
    const ranks = active.length > desired ? this.#podsOnNode(rs) : new Map<string, number>();
    const plan = planReplicas(desired, active, ranks, this.#context.now());
    if (plan.type === "create") return await this.#create(key, rs, plan.count);
    if (plan.type === "delete") return await this.#delete(key, rs, plan.pods);
    return undefined;
  }

  /** Slow start: one, two, four … at once, so that a template which is refused does not cause a storm. */
  async #create(key: string, rs: Stored<ReplicaSet>, count: number) {
    const pod = podFromTemplate(rs, [controllerReference(rs)]);
    let batch = 1;
    for (let left = count; left > 0; left -= batch, batch *= 2) {
      batch = Math.min(batch, left);
      const results = await Promise.allSettled(
        Array.from({ length: batch }, () => this.#createOne(key, rs, pod)),
      );
      const refused = results.find((result) => result.status === "rejected");
      if (refused) return this.#failure("FailedCreate", refused.reason);
    }
    return undefined;
  }

  async #createOne(key: string, rs: Stored<ReplicaSet>, pod: Pod): Promise<void> {
    try {
      const created = await this.#context.client.create(PODS, pod, namespaceOf(rs));
      this.#podWrites.wrote(key, created);
      this.#recorder.event(rs, "Normal", "SuccessfulCreate", `Created pod: ${created.metadata.name}`);
    } catch (error) {
      if (!isNamespaceTerminating(error)) {
        this.#recorder.event(rs, "Warning", "FailedCreate", `Error creating: ${messageOf(error)}`);
      }
      throw error;
    }
  }

  async #delete(key: string, rs: Stored<ReplicaSet>, pods: readonly Stored<Pod>[]) {
    const results = await Promise.allSettled(pods.map((pod) => this.#deleteOne(key, rs, pod)));
    const refused = results.find((result) => result.status === "rejected");
    return refused ? this.#failure("FailedDelete", refused.reason) : undefined;
  }

  async #deleteOne(key: string, rs: Stored<ReplicaSet>, pod: Stored<Pod>): Promise<void> {
    let deleted: boolean;
    try {
      deleted = await deleteIfPresent(this.#context.client, PODS, pod);
    } catch (error) {
      this.#recorder.event(rs, "Warning", "FailedDelete", `Error deleting: ${messageOf(error)}`);
      throw error;
    }
    this.#podWrites.deleted(key, pod);
    if (deleted) this.#recorder.event(rs, "Normal", "SuccessfulDelete", `Deleted pod: ${pod.metadata.name}`);
  }

  #failure(reason: ReplicaFailure["reason"], error: unknown) {
    // A namespace on its way out refuses pods; the ReplicaSet goes with it.
    if (isNamespaceTerminating(error)) return undefined;
    return { failure: { reason, message: messageOf(error) }, error };
  }

  #podsOnNode(rs: Stored<ReplicaSet>): Map<string, number> {
    const owner = controllerOf(rs);
    const siblings = owner ? controlledBy(this.#replicaSets, owner.uid) : [rs];
    const counts = new Map<string, number>();
    for (const sibling of siblings) {
      for (const pod of controlledBy(this.#pods, sibling.metadata.uid)) {
        const node = pod.spec?.nodeName;
        if (node && isPodActive(pod)) counts.set(node, (counts.get(node) ?? 0) + 1);
      }
    }
    return counts;
  }

  async #updateStatus(
    rs: Stored<ReplicaSet>,
    active: readonly Stored<Pod>[],
    failure: ReplicaFailure | undefined,
  ): Promise<void> {
    const ms = this.#context.now();
    const status = replicaSetStatus(rs, active, failure, { ms, text: timestamp(ms) });
    if (semanticallyEqual(status, rs.status)) return;
    const draft = { ...rs, status } as ReplicaSet;
    await this.#context.client.update(REPLICA_SETS, draft, { ...namespaceOf(rs), subresource: "status" });
  }
}
