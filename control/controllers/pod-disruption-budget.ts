// Keeps the status of PodDisruptionBudgets, by which the eviction subresource decides. The arithmetic is in
// pod-disruption-budget-plan.ts. Knows Pods, PodDisruptionBudgets, and how large the kinds with a scale want to be.

import {
  DEPLOYMENTS,
  POD_DISRUPTION_BUDGETS,
  PODS,
  REPLICA_SETS,
  REPLICATION_CONTROLLERS,
  STATEFUL_SETS,
} from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import {
  type Deployment,
  type KubeObject,
  keyOf,
  type OwnerReference,
  type Pod,
  type PodDisruptionBudget,
  type Stored,
} from "../../common/k8s.js";
import { formatLabelSelector } from "../../common/selector.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import { gatherTime, messageOf, namespaceOf } from "./objects.js";
import { controllerOf, indexBySelector, selectorCandidates, selects } from "./owners.js";
import {
  type Budget,
  type BudgetStatus,
  budgetStatus,
  demandOf,
  failedStatus,
  needsScale,
  sortDisrupted,
} from "./pod-disruption-budget-plan.js";
import { indexByLabel, podsSelected } from "./pod-index.js";
import { onChange, type Reconciler } from "./reconcile.js";
import { countsDifferently } from "./replicaset-plan.js";
import { resourceName, resourceOf } from "./served.js";
import { timestamp } from "./time.js";

/** A kind whose spec says how many pods it wants. */
type Scalable = KubeObject & { spec?: { replicas?: number } };

export class PodDisruptionBudgetController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #budgets: Informer<PodDisruptionBudget>;
  readonly #pods: Informer<Pod>;
  readonly #deployments: Informer<Deployment>;
  /** By kind, of those that pods belong to directly. */
  readonly #scalable: ReadonlyMap<string, Informer<Scalable>>;
  /** Key → number of its pods when last looked at. */
  readonly #sizes = new Map<string, number>();
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    const { informers } = context;
    this.#context = context;
    this.#recorder = context.events.recorder("controllermanager");
    this.#budgets = informers.get(POD_DISRUPTION_BUDGETS);
    this.#pods = informers.get(PODS);
    this.#deployments = informers.get(DEPLOYMENTS);
    this.#scalable = new Map(
      [REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS].map((resource) => [
        resource.kind,
        informers.get<Scalable>(resource),
      ]),
    );
    indexBySelector(this.#budgets, ({ spec }) => spec?.selector && (spec.selector.matchLabels ?? {}));
    indexByLabel(this.#pods);
    this.#queue = queue;
  }

  watch(): void {
    this.#budgets.subscribe(onChange((budget) => this.#queue.add(keyOf(budget))));
    this.#pods.subscribe({
      ...onChange((pod) => this.#podChanged(pod)),
      update: (old, now) => {
        if (!countsDifferently(old, now)) return;
        if (old.metadata.labels !== now.metadata.labels) this.#podChanged(old);
        this.#podChanged(now);
      },
    });
  }

  #podChanged({ metadata: { namespace = "", labels } }: Stored<Pod>): void {
    for (const budget of selectorCandidates(this.#budgets, namespace, labels)) {
      if (!selects(budget.spec?.selector, labels)) continue;
      this.#queue.addAfter(keyOf(budget), gatherTime(this.#sizes.get(keyOf(budget)) ?? 0));
    }
  }

  async reconcile(key: string): Promise<void> {
    const budget = this.#budgets.get(key);
    if (!budget) {
      this.#sizes.delete(key);
      return;
    }
    const { namespace = "" } = budget.metadata;
    const pods = podsSelected(this.#pods, namespace, budget.spec?.selector);
    this.#sizes.set(key, pods.length);
    if (pods.length === 0) this.#recorder.event(budget, "Normal", "NoPods", "No matching pods found");
    const now = this.#context.now();
    let scale = 0;
    try {
      if (needsScale(budget)) scale = this.#scaleOf(budget, pods);
    } catch (error) {
      const message = messageOf(error);
      const text = `Failed to calculate the number of expected pods: ${message}`;
      this.#recorder.event(budget, "Warning", "CalculateExpectedPodCountFailed", text);
      await this.#write(budget, failedStatus(budget, message, timestamp(now)));
      return;
    }
    const { waiting, overdue, recheckAt } = sortDisrupted(budget, pods, now);
    for (const pod of overdue) {
      const text = `Pod was expected by PDB ${key} to be deleted but it wasn't`;
      this.#recorder.event(pod, "Warning", "NotDeleted", text);
    }
    const demand = demandOf(budget, pods.length, scale);
    await this.#write(budget, budgetStatus(budget, pods, demand, waiting, timestamp(now)));
    if (recheckAt !== undefined) this.#queue.addAfter(key, recheckAt - now + 1);
  }

  /** What the pods' controllers want together. @throws Error for a controller that has no scale. */
  #scaleOf(budget: Budget, pods: readonly Stored<Pod>[]): number {
    const wanted = new Map<string, number>();
    let unmanaged = false;
    for (const pod of pods) {
      const reference = controllerOf(pod);
      if (!reference) unmanaged = true;
      else if (!wanted.has(reference.uid)) this.#addScale(wanted, pod, reference);
    }
    if (unmanaged) {
      const selector = formatLabelSelector(budget.spec?.selector);
      const text = `Pods selected by this PodDisruptionBudget (selector: ${selector}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set ".spec.minAvailable" field of the PDB to an integer value.`;
      this.#recorder.event(budget, "Warning", "UnmanagedPods", text);
    }
    return [...wanted.values()].reduce((total, replicas) => total + replicas, 0);
  }

  /** Under the uid of what decides, which of a Deployment's pods is the Deployment. */
  #addScale(wanted: Map<string, number>, pod: Stored<Pod>, reference: OwnerReference): void {
    const informer = this.#scalable.get(reference.kind);
    if (!informer) {
      const resource = resourceOf(reference);
      const name = resource ? resourceName(resource) : `${reference.apiVersion} ${reference.kind}`;
      throw new Error(`${name} does not implement the scale subresource`);
    }
    const { namespace } = pod.metadata;
    const owner = informer.get(`${namespace}/${reference.name}`);
    if (owner?.metadata.uid !== reference.uid) return;
    const above = reference.kind === "ReplicaSet" ? controllerOf(owner) : undefined;
    const deployment = above && this.#deployments.get(`${namespace}/${above.name}`);
    const decides = deployment?.metadata.uid === above?.uid ? (deployment ?? owner) : owner;
    wanted.set(reference.uid, 0);
    wanted.set(decides.metadata.uid, decides.spec?.replicas ?? 1);
  }

  async #write(budget: Budget, status: BudgetStatus): Promise<void> {
    if (semanticallyEqual(status, budget.status)) return;
    const draft = { ...budget, status } as PodDisruptionBudget;
    await this.#context.client.update(POD_DISRUPTION_BUDGETS, draft, {
      ...namespaceOf(budget),
      subresource: "status",
    });
  }
}
