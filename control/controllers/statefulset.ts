// Keeps the pods of a StatefulSet: each with its own name, made and removed in order. The decisions are in
// statefulset-plan.ts; here are the effects. Knows Pods, StatefulSets and their history.

import { isAlreadyExists, PODS, STATEFUL_SETS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { keyOf, type Pod, type StatefulSet, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import { type Revision, templateOf } from "./controller-revision-plan.js";
import { RevisionHistory } from "./controller-revisions.js";
import type { EventRecorder } from "./events.js";
import { Freshness, STALE_RETRY_MS } from "./freshness.js";
import { deleteIfPresent, gatherTime, isNamespaceTerminating, messageOf, namespaceOf } from "./objects.js";
import { claim, controllerOf, indexByController, indexBySelector, onOwnedPod, ownersOf } from "./owners.js";
import { slowStart } from "./pod-control.js";
import { isPodActive } from "./pod-state.js";
import { onChange, type Reconciler } from "./reconcile.js";
import { countsDifferently, nextAvailability } from "./replicaset-plan.js";
import { StatefulSetClaims } from "./statefulset-claim-control.js";
import { planStatefulSet, type Step, statefulSetStatus } from "./statefulset-plan.js";
import { identityLabels, ordinalOf, revisionOf, statefulPod } from "./statefulset-pod.js";

/** One look at a StatefulSet. */
interface Look {
  key: string;
  set: Stored<StatefulSet>;
  current: Revision;
  update: Revision;
}

export class StatefulSetController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #pods: Informer<Pod>;
  readonly #sets: Informer<StatefulSet>;
  readonly #history: RevisionHistory;
  readonly #podWrites: Freshness<Pod>;
  /** Key → number of its pods when last looked at. */
  readonly #sizes = new Map<string, number>();
  readonly #claims: StatefulSetClaims;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#recorder = context.events.recorder("statefulset-controller");
    this.#pods = context.informers.get(PODS);
    this.#sets = context.informers.get(STATEFUL_SETS);
    indexByController(this.#pods);
    indexBySelector(this.#sets, (set) => set.spec?.selector.matchLabels ?? {});
    this.#history = new RevisionHistory(context, {
      ownerResource: STATEFUL_SETS,
      hashLabel: "controller.kubernetes.io/hash",
    });
    this.#claims = new StatefulSetClaims(context, this.#recorder);
    this.#podWrites = new Freshness(this.#pods, context.now);
    this.#queue = queue;
  }

  watch(): void {
    this.#sets.subscribe(onChange((set) => this.#queue.add(keyOf(set))));
    this.#pods.subscribe(onOwnedPod((pod) => this.#podChanged(pod), countsDifferently));
  }

  #podChanged(pod: Stored<Pod>): void {
    if (!controllerOf(pod) && !isPodActive(pod)) return;
    for (const set of ownersOf(pod, "StatefulSet", this.#sets, (set) => set.spec?.selector)) {
      this.#queue.addAfter(keyOf(set), gatherTime(this.#sizes.get(keyOf(set)) ?? 0));
    }
  }

  async reconcile(key: string): Promise<void> {
    const set = this.#sets.get(key);
    if (!set) {
      this.#podWrites.forget(key);
      this.#sizes.delete(key);
      return;
    }
    const { client, now } = this.#context;
    const { selector } = set.spec ?? {};
    const pods = await claim({
      client,
      ownerResource: STATEFUL_SETS,
      owner: set,
      selector,
      resource: PODS,
      informer: this.#pods,
      eligible: (pod) => ordinalOf(set, pod) !== undefined,
    });
    this.#sizes.set(key, pods.length);
    // Its revisions may be orphans already: to look for the present one would make another.
    if (set.metadata.deletionTimestamp) return;
    const revisions = await this.#history.of(set, selector);
    const { revision: update, collisionCount } = await this.#history.present(set, revisions);
    const current = revisions.find(({ metadata }) => metadata.name === set.status?.currentRevision) ?? update;
    const names = { current: current.metadata.name, update: update.metadata.name };
    // The plan is right only for the pods as they are: what we did ourselves has to be in the cache.
    const fresh = this.#podWrites.isFresh(key);
    if (!fresh) this.#queue.addAfter(key, STALE_RETRY_MS);
    const start = set.spec?.ordinals?.start ?? 0;
    const end = start + (set.spec?.replicas ?? 1);
    await this.#claims.own(set, pods, (ordinal) => ordinal < start || ordinal >= end);
    const steps = fresh ? planStatefulSet(set, pods, names, now()) : [];
    const failed = await slowStart(steps, (step) => this.#take({ key, set, current, update }, step));
    await this.#updateStatus(set, statefulSetStatus(set, pods, names, collisionCount, now()));
    const live = new Set([names.current, names.update, ...pods.map(revisionOf)]);
    await this.#history.trim(set, revisions, live);
    const next = nextAvailability(set.spec?.minReadySeconds, pods, now());
    if (next !== undefined) this.#queue.addAfter(key, next - now() + 1);
    if (failed && !isNamespaceTerminating(failed.error)) throw failed.error;
  }

  async #take(look: Look, step: Step): Promise<void> {
    const { set } = look;
    if (step.type === "create") return await this.#create(look, step);
    if (step.type === "label") return await this.#label(set, step.pod, step.ordinal);
    const { name, namespace } = step.pod.metadata;
    if (step.why === "ended") {
      const ended = step.pod.status?.phase === "Failed" ? "failed" : "terminated";
      const [type, reason] =
        ended === "failed"
          ? (["Warning", "RecreatingFailedPod"] as const)
          : (["Normal", "RecreatingTerminatedPod"] as const);
      const text = `StatefulSet ${namespace}/${set.metadata.name} is recreating ${ended} Pod ${name}`;
      this.#recorder.event(set, type, reason, text);
    }
    await this.#tell(set, "delete", name, async () => {
      await deleteIfPresent(this.#context.client, PODS, step.pod);
      this.#podWrites.deleted(look.key, step.pod);
    });
  }

  async #create({ key, set, current, update }: Look, step: Step & { type: "create" }): Promise<void> {
    const revision = step.revision === "current" ? current : update;
    const pod = statefulPod(set, templateOf(revision), revision.metadata.name, step.ordinal);
    await this.#claims.ensure(set, step.ordinal);
    await this.#tell(set, "create", pod.metadata?.name ?? "", async () => {
      const created = await this.#context.client.create(PODS, pod, namespaceOf(set));
      this.#podWrites.wrote(key, created);
    });
  }

  async #label(set: Stored<StatefulSet>, pod: Stored<Pod>, ordinal: number): Promise<void> {
    const { name, uid } = pod.metadata;
    const patch = { metadata: { uid, labels: identityLabels(name, ordinal) } };
    await this.#tell(set, "update", name, async () => {
      await this.#context.client.patch(PODS, name, "merge", patch, namespaceOf(pod));
    });
  }

  async #tell(
    set: Stored<StatefulSet>,
    verb: "create" | "delete" | "update",
    name: string,
    run: () => Promise<void>,
  ): Promise<void> {
    const verbOf = `${verb[0]?.toUpperCase()}${verb.slice(1)}`;
    const text = `${verb} Pod ${name} in StatefulSet ${set.metadata.name}`;
    try {
      await run();
      this.#recorder.event(set, "Normal", `Successful${verbOf}`, `${text} successful`);
    } catch (error) {
      // The name is taken by a pod that is not ours; that it goes away is an event that we do not hear of.
      if (!isAlreadyExists(error) && !isNamespaceTerminating(error)) {
        this.#recorder.event(set, "Warning", `Failed${verbOf}`, `${text} failed error: ${messageOf(error)}`);
      }
      throw error;
    }
  }

  async #updateStatus(set: Stored<StatefulSet>, status: NonNullable<StatefulSet["status"]>): Promise<void> {
    if (semanticallyEqual(status, set.status)) return;
    const draft = { ...set, status } as StatefulSet;
    await this.#context.client.update(STATEFUL_SETS, draft, { ...namespaceOf(set), subresource: "status" });
  }
}
