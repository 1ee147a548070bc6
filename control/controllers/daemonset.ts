// Keeps one pod of a DaemonSet on each node that should have one. The decisions are in daemonset-plan.ts; here are the
// effects. Knows Pods, Nodes, DaemonSets and their history.

import { DAEMON_SETS, NODES, PODS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type DaemonSet, keyOf, type Node, type Pod, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import { CONTROLLER_REVISION_HASH, type Revision } from "./controller-revision-plan.js";
import { RevisionHistory } from "./controller-revisions.js";
import {
  type DaemonNode,
  type DaemonPlan,
  daemonNodes,
  daemonSetStatus,
  type Measure,
  planDaemons,
  planRollingUpdate,
} from "./daemonset-plan.js";
import { daemonPod, placeOn, targetNode } from "./daemonset-pod.js";
import type { EventRecorder } from "./events.js";
import { STALE_RETRY_MS } from "./freshness.js";
import { gatherTime, namespaceOf } from "./objects.js";
import { claim, controllerOf, indexByController, indexBySelector, onOwnedPod, ownersOf } from "./owners.js";
import { PodControl, type Refused } from "./pod-control.js";
import { isPodActive } from "./pod-state.js";
import { onChange, type Reconciler } from "./reconcile.js";
import { countsDifferently, nextAvailability } from "./replicaset-plan.js";

/** No more pods than this are made or deleted in one go, as in kube-controller-manager. */
const BURST = 250;
/** How long a node is left alone after one of its pods has failed; doubles with each. */
const FAILURE_PAUSE_MS = 1000;
const LONGEST_FAILURE_PAUSE_MS = 900_000;

interface Pause {
  until: number;
  ms: number;
}

export class DaemonSetController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #pods: Informer<Pod>;
  readonly #nodes: Informer<Node>;
  readonly #sets: Informer<DaemonSet>;
  readonly #history: RevisionHistory;
  readonly #podControl: PodControl;
  /** Key → number of its pods when last looked at. */
  readonly #sizes = new Map<string, number>();
  /** Key → node → how long failed pods there are left as they are. */
  readonly #pauses = new Map<string, Map<string, Pause>>();
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#recorder = context.events.recorder("daemonset-controller");
    this.#pods = context.informers.get(PODS);
    this.#nodes = context.informers.get(NODES);
    this.#sets = context.informers.get(DAEMON_SETS);
    indexByController(this.#pods);
    indexBySelector(this.#sets, (ds) => ds.spec?.selector.matchLabels ?? {});
    this.#history = new RevisionHistory(context, {
      ownerResource: DAEMON_SETS,
      hashLabel: CONTROLLER_REVISION_HASH,
    });
    this.#podControl = new PodControl(context, this.#recorder, this.#pods);
    this.#queue = queue;
  }

  watch(): void {
    this.#sets.subscribe(onChange((ds) => this.#queue.add(keyOf(ds))));
    // Scheduled pods come first in the count, and what counts differently counts.
    const matters = (old: Stored<Pod>, now: Stored<Pod>): boolean =>
      old.spec?.nodeName !== now.spec?.nodeName || countsDifferently(old, now);
    this.#pods.subscribe(onOwnedPod((pod) => this.#podChanged(pod), matters));
    this.#nodes.subscribe({
      ...onChange((node) => this.#nodeChanged(undefined, node)),
      update: (old, now) => this.#nodeChanged(old, now),
    });
  }

  #podChanged(pod: Stored<Pod>): void {
    if (!controllerOf(pod) && !isPodActive(pod)) return;
    for (const ds of ownersOf(pod, "DaemonSet", this.#sets, (ds) => ds.spec?.selector)) {
      this.#queue.addAfter(keyOf(ds), gatherTime(this.#sizes.get(keyOf(ds)) ?? 0));
    }
  }

  /** A heartbeat is no change: only one of where pods belong. */
  #nodeChanged(old: Stored<Node> | undefined, now: Stored<Node>): void {
    const unmoved =
      old &&
      semanticallyEqual(old.metadata.labels, now.metadata.labels) &&
      semanticallyEqual(old.spec?.taints, now.spec?.taints);
    if (unmoved) return;
    for (const ds of this.#sets.list()) {
      if (old && semanticallyEqual(placeOn(ds, old), placeOn(ds, now))) continue;
      this.#queue.addAfter(keyOf(ds), gatherTime(this.#sizes.get(keyOf(ds)) ?? 0));
    }
  }

  async reconcile(key: string): Promise<void> {
    const ds = this.#sets.get(key);
    if (!ds) {
      this.#podControl.forget(key);
      this.#sizes.delete(key);
      this.#pauses.delete(key);
      return;
    }
    const { selector } = ds.spec ?? {};
    const pods = await claim({
      client: this.#context.client,
      ownerResource: DAEMON_SETS,
      owner: ds,
      selector,
      resource: PODS,
      informer: this.#pods,
    });
    this.#sizes.set(key, pods.length);
    const revisions = await this.#history.of(ds, selector);
    if (ds.metadata.deletionTimestamp) return;
    const { revision, collisionCount } = await this.#history.present(ds, revisions);
    const hash = revision.metadata.labels?.[CONTROLLER_REVISION_HASH] ?? "";
    const minReadySeconds = ds.spec?.minReadySeconds ?? 0;
    const now = this.#context.now();
    const measure: Measure = { hash, minReadySeconds, now };
    const { nodes, stranded } = daemonNodes(ds, this.#nodes.list(), pods);
    const fresh = this.#podControl.isFresh(key);
    if (!fresh) this.#queue.addAfter(key, STALE_RETRY_MS);
    const refused = fresh ? await this.#manage(key, ds, nodes, stranded, measure) : undefined;
    await this.#updateStatus(ds, nodes, measure, collisionCount);
    await this.#history.trim(ds, revisions, liveRevisions(revisions, revision, pods));
    const next = nextAvailability(minReadySeconds, pods, now);
    if (next !== undefined) this.#queue.addAfter(key, next - now + 1);
    if (refused) throw refused.error;
  }

  async #manage(
    key: string,
    ds: Stored<DaemonSet>,
    nodes: readonly DaemonNode[],
    stranded: readonly Stored<Pod>[],
    measure: Measure,
  ): Promise<Refused | undefined> {
    const plan = planDaemons(ds, nodes, measure);
    const ended = plan.ended.filter((pod) => this.#mayReplace(key, ds, pod));
    const leaving = [...plan.delete, ...ended, ...stranded];
    if (plan.create.length > 0 || leaving.length > 0) {
      return await this.#execute(key, ds, { create: plan.create, delete: leaving }, measure);
    }
    if (ds.spec?.updateStrategy?.type !== "RollingUpdate") return undefined;
    return await this.#execute(key, ds, planRollingUpdate(ds, nodes, measure), measure);
  }

  /** A pod that has ended makes room for another one, but one that keeps failing not at once. */
  #mayReplace(key: string, ds: Stored<DaemonSet>, pod: Stored<Pod>): boolean {
    const node = targetNode(pod) ?? "";
    const what = `daemon pod ${keyOf(pod)} on node ${node}`;
    if (pod.status?.phase !== "Failed") {
      const text = `Found succeeded ${what}, will try to delete it`;
      this.#recorder.event(ds, "Normal", "SucceededDaemonPod", text);
      return true;
    }
    const now = this.#context.now();
    const pauses = this.#pauses.get(key) ?? new Map<string, Pause>();
    this.#pauses.set(key, pauses);
    const last = pauses.get(node);
    if (last && now < last.until) {
      this.#queue.addAfter(key, last.until - now + 1);
      return false;
    }
    const quiet = !last || now > last.until + 2 * LONGEST_FAILURE_PAUSE_MS;
    const ms = quiet ? FAILURE_PAUSE_MS : Math.min(2 * last.ms, LONGEST_FAILURE_PAUSE_MS);
    pauses.set(node, { until: now + ms, ms });
    const text = `Found failed ${what}, will try to kill it`;
    this.#recorder.event(ds, "Warning", "FailedDaemonPod", text);
    return true;
  }

  async #execute(
    key: string,
    ds: Stored<DaemonSet>,
    plan: DaemonPlan,
    { hash }: Measure,
  ): Promise<Refused | undefined> {
    const pods = plan.create.slice(0, BURST).map((node) => daemonPod(ds, hash, node));
    const [created, deleted] = await Promise.all([
      this.#podControl.create(key, ds, pods),
      this.#podControl.delete(key, ds, plan.delete.slice(0, BURST)),
    ]);
    return created ?? deleted;
  }

  async #updateStatus(
    ds: Stored<DaemonSet>,
    nodes: readonly DaemonNode[],
    measure: Measure,
    collisionCount: number,
  ): Promise<void> {
    const status = daemonSetStatus(ds, nodes, measure, collisionCount);
    if (semanticallyEqual(status, ds.status)) return;
    const draft = { ...ds, status } as DaemonSet;
    await this.#context.client.update(DAEMON_SETS, draft, { ...namespaceOf(ds), subresource: "status" });
  }
}

/** Names of the revisions that pods are of, and of the present one. */
function liveRevisions(
  revisions: readonly Revision[],
  present: Revision,
  pods: readonly Stored<Pod>[],
): Set<string> {
  const hashes = new Set(pods.map(({ metadata }) => metadata.labels?.[CONTROLLER_REVISION_HASH]));
  const used = revisions.filter(({ metadata }) => hashes.has(metadata.labels?.[CONTROLLER_REVISION_HASH]));
  return new Set([present, ...used].map(({ metadata }) => metadata.name));
}
