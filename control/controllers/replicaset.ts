// Keeps as many pods as a ReplicaSet, or a ReplicationController, asks for. The decisions are in replicaset-plan.ts;
// here are the effects. Knows Pods and the two kinds, which differ in how they write their selector.

import { PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, type Resource } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { keyOf, type LabelSelector, type Pod, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import { STALE_RETRY_MS } from "./freshness.js";
import { gatherTime, namespaceOf } from "./objects.js";
import {
  claim,
  controlledBy,
  controllerOf,
  controllerReference,
  indexByController,
  indexBySelector,
  onOwnedPod,
  ownersOf,
} from "./owners.js";
import { PodControl, type Refused } from "./pod-control.js";
import { isPodActive } from "./pod-state.js";
import { onChange, type Reconciler } from "./reconcile.js";
import {
  countsDifferently,
  nextAvailability,
  planReplicas,
  podFromTemplate,
  type Replicated,
  replicaSetStatus,
} from "./replicaset-plan.js";
import { timestamp } from "./time.js";

const mapSelectors = new WeakMap<object, LabelSelector>();

/** The same object for the same spec, since a selector is parsed once. */
function selectorOf({ spec }: Stored<Replicated>): LabelSelector | undefined {
  const selector = spec?.selector;
  if (!selector || isLabelSelector(selector)) return selector;
  let known = mapSelectors.get(selector);
  if (!known) {
    known = { matchLabels: selector };
    mapSelectors.set(selector, known);
  }
  return known;
}

/** A ReplicationController's selector is a map of labels, whose values are text. */
function isLabelSelector(selector: LabelSelector | Record<string, string>): selector is LabelSelector {
  return Object.values(selector).some((value) => typeof value === "object");
}

class ReplicaController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #resource: Resource<Replicated>;
  readonly #pods: Informer<Pod>;
  readonly #owners: Informer<Replicated>;
  readonly #podControl: PodControl;
  /** Key → number of its pods when last looked at. */
  readonly #sizes = new Map<string, number>();
  readonly #queue: WorkQueue;

  constructor(
    context: ControllerContext,
    queue: WorkQueue,
    { resource, component }: { resource: Resource<Replicated>; component: string },
  ) {
    this.#context = context;
    this.#resource = resource;
    this.#pods = context.informers.get(PODS);
    this.#owners = context.informers.get(resource);
    indexByController(this.#pods);
    indexByController(this.#owners);
    indexBySelector(this.#owners, (owner) => selectorOf(owner)?.matchLabels ?? {});
    this.#podControl = new PodControl(context, context.events.recorder(component), this.#pods);
    this.#queue = queue;
  }

  watch(): void {
    this.#owners.subscribe(onChange((owner) => this.#queue.add(keyOf(owner))));
    this.#pods.subscribe(onOwnedPod((pod) => this.#podChanged(pod), countsDifferently));
  }

  #podChanged(pod: Stored<Pod>): void {
    // An orphan that has ended or is being deleted will not be adopted.
    if (!controllerOf(pod) && !isPodActive(pod)) return;
    for (const owner of ownersOf(pod, this.#resource.kind, this.#owners, selectorOf)) {
      this.#queue.addAfter(keyOf(owner), gatherTime(this.#sizes.get(keyOf(owner)) ?? 0));
    }
  }

  async reconcile(key: string): Promise<void> {
    const owner = this.#owners.get(key);
    if (!owner) {
      this.#podControl.forget(key);
      this.#sizes.delete(key);
      return;
    }
    const active = await claim({
      client: this.#context.client,
      ownerResource: this.#resource,
      owner,
      selector: selectorOf(owner),
      resource: PODS,
      informer: this.#pods,
      eligible: isPodActive,
    });
    this.#sizes.set(key, active.length);
    // Acting on a cache that lacks our own last pods would make them twice; their events bring us back here.
    const fresh = this.#podControl.isFresh(key);
    if (!fresh) this.#queue.addAfter(key, STALE_RETRY_MS);
    let refused: Refused | undefined;
    if (fresh && !owner.metadata.deletionTimestamp) refused = await this.#manage(key, owner, active);
    await this.#updateStatus(owner, active, refused);
    const now = this.#context.now();
    const next = nextAvailability(owner.spec?.minReadySeconds, active, now);
    if (next !== undefined) this.#queue.addAfter(key, next - now + 1);
    if (refused) throw refused.error;
  }

  async #manage(key: string, owner: Stored<Replicated>, active: readonly Stored<Pod>[]) {
    const desired = owner.spec?.replicas ?? 1;
    const ranks = active.length > desired ? this.#podsOnNode(owner) : new Map<string, number>();
    const plan = planReplicas(desired, active, ranks, this.#context.now());
    if (plan.type === "create") {
      const pod = podFromTemplate(owner, owner.spec?.template, [controllerReference(owner)]);
      return await this.#podControl.create(key, owner, new Array<Pod>(plan.count).fill(pod));
    }
    if (plan.type === "delete") return await this.#podControl.delete(key, owner, plan.pods);
    return undefined;
  }

  #podsOnNode(owner: Stored<Replicated>): Map<string, number> {
    const above = controllerOf(owner);
    const siblings = above ? controlledBy(this.#owners, above.uid) : [owner];
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
    owner: Stored<Replicated>,
    active: readonly Stored<Pod>[],
    refused: Refused | undefined,
  ): Promise<void> {
    const ms = this.#context.now();
    const status = replicaSetStatus(owner, active, refused, { ms, text: timestamp(ms) });
    if (semanticallyEqual(status, owner.status)) return;
    const draft = { ...owner, status } as Replicated;
    await this.#context.client.update(this.#resource, draft, {
      ...namespaceOf(owner),
      subresource: "status",
    });
  }
}

export class ReplicaSetController extends ReplicaController {
  constructor(context: ControllerContext, queue: WorkQueue) {
    super(context, queue, { resource: REPLICA_SETS, component: "replicaset-controller" });
  }
}

export class ReplicationManager extends ReplicaController {
  constructor(context: ControllerContext, queue: WorkQueue) {
    super(context, queue, { resource: REPLICATION_CONTROLLERS, component: "replication-controller" });
  }
}
