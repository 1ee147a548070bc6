// Evicts pods that do not tolerate a NoExecute taint of their node, at once or when tolerationSeconds are over.
// Knows Pods and Nodes.

import { NODES, PODS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { keyOf, type Node, type Pod, type Stored, type Taint } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import { disrupt } from "./disruption.js";
import type { EventRecorder } from "./events.js";
import { deleteIfPresent } from "./objects.js";
import { indexByNode, podsOnNode } from "./pod-index.js";
import { isPodTerminal, podCondition } from "./pod-state.js";
import type { Reconciler } from "./reconcile.js";
import { tolerates } from "./taints.js";
import { parseTime } from "./time.js";

/**
 * When a pod has to go, in milliseconds since the epoch; undefined when it may stay. Seconds are counted from when
 * the taint was added, or from when the pod came, whichever was later.
 * @param since When a taint without timeAdded was first seen.
 */
export function evictionTime(
  pod: Stored<Pod>,
  taints: readonly Taint[],
  since: (taint: Taint) => number,
): number | undefined {
  const scheduled = podCondition(pod, "PodScheduled")?.lastTransitionTime ?? pod.metadata.creationTimestamp;
  const arrived = parseTime(scheduled) ?? 0;
  let earliest: number | undefined;
  for (const taint of taints) {
    if (taint.effect !== "NoExecute") continue;
    const toleration = pod.spec?.tolerations?.find((candidate) => tolerates(candidate, taint));
    if (!toleration) return 0;
    if (toleration.tolerationSeconds === undefined) continue;
    const start = Math.max(parseTime(taint.timeAdded) ?? since(taint), arrived);
    const at = start + Math.max(0, toleration.tolerationSeconds) * 1000;
    if (earliest === undefined || at < earliest) earliest = at;
  }
  return earliest;
}

export class TaintEvictionController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #nodes: Informer<Node>;
  readonly #pods: Informer<Pod>;
  readonly #queue: WorkQueue;
  /** Node → taint → when we first saw it. */
  readonly #firstSeen = new Map<string, Map<string, number>>();
  /** uids of pods with a time set, so that a change of mind can be told. */
  readonly #scheduled = new Set<string>();

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#recorder = context.events.recorder("taint-eviction-controller");
    this.#nodes = context.informers.get(NODES);
    this.#pods = context.informers.get(PODS);
    indexByNode(this.#pods);
    this.#queue = queue;
  }

  watch(): void {
    this.#nodes.subscribe({
      add: (node) => this.#nodeChanged(node),
      update: (old, now) => {
        if (!semanticallyEqual(old.spec?.taints, now.spec?.taints)) this.#nodeChanged(now);
      },
      delete: (node) => this.#firstSeen.delete(node.metadata.name),
    });
    this.#pods.subscribe({
      add: (pod) => this.#podChanged(pod),
      update: (old, now) => {
        const moved = old.spec?.nodeName !== now.spec?.nodeName;
        if (moved || !semanticallyEqual(old.spec?.tolerations, now.spec?.tolerations)) this.#podChanged(now);
      },
      delete: (pod) => this.#scheduled.delete(pod.metadata.uid),
    });
  }

  #nodeChanged(node: Stored<Node>): void {
    const { name } = node.metadata;
    const before = this.#firstSeen.get(name);
    const taints = noExecuteTaints(node);
    if (taints.length === 0 && !before) return;
    const now = this.#context.now();
    this.#firstSeen.set(name, new Map(taints.map((taint) => [idOf(taint), before?.get(idOf(taint)) ?? now])));
    if (taints.length === 0) this.#firstSeen.delete(name);
    for (const pod of podsOnNode(this.#pods, name)) this.#queue.add(keyOf(pod));
  }

  #podChanged(pod: Stored<Pod>): void {
    if (pod.spec?.nodeName && this.#firstSeen.has(pod.spec.nodeName)) this.#queue.add(keyOf(pod));
  }

  async reconcile(key: string): Promise<void> {
    const pod = this.#pods.get(key);
    const nodeName = pod?.spec?.nodeName;
    if (!pod || !nodeName || pod.metadata.deletionTimestamp || isPodTerminal(pod)) return;
    const { uid } = pod.metadata;
    const node = this.#nodes.get(nodeName);
    const seen = this.#firstSeen.get(nodeName);
    const now = this.#context.now();
    const at = node && evictionTime(pod, noExecuteTaints(node), (taint) => seen?.get(idOf(taint)) ?? now);
    if (at === undefined) {
      if (this.#scheduled.delete(uid)) {
        this.#recorder.event(pod, "Normal", "TaintManagerEviction", `Cancelling deletion of Pod ${key}`);
      }
      return;
    }
    if (at > now) {
      this.#scheduled.add(uid);
      this.#queue.addAfter(key, at - now);
      return;
    }
    await this.#evict(key, pod);
  }

  async #evict(key: string, pod: Stored<Pod>): Promise<void> {
    const { client, now } = this.#context;
    this.#recorder.event(pod, "Normal", "TaintManagerEviction", `Marking for deletion Pod ${key}`);
    await disrupt(client, pod, {
      reason: "DeletionByTaintManager",
      message: "Taint manager: deleting due to NoExecute taint",
      now: now(),
    });
    await deleteIfPresent(client, PODS, pod);
    this.#scheduled.delete(pod.metadata.uid);
  }
}

function noExecuteTaints(node: Stored<Node>): Taint[] {
  return (node.spec?.taints ?? []).filter((taint) => taint.effect === "NoExecute");
}

function idOf(taint: Taint): string {
  return `${taint.key}=${taint.value ?? ""}`;
}
