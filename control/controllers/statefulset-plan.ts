// What a StatefulSet needs next, and its status. Pure; knows Pods and StatefulSets. The order of things is that of
// kube-controller-manager's StatefulSet controller.

import type { Pod, StatefulSet, Stored } from "../../common/k8s.js";
import { scaledValue } from "./deployment-plan.js";
import { availableAt, isPodReady, isPodTerminal } from "./pod-state.js";
import { hasIdentity, ordinalOf, revisionOf } from "./statefulset-pod.js";

/** Names of ControllerRevisions: of what runs, and of what is to run. */
export interface Revisions {
  current: string;
  update: string;
}

export type Step =
  | { type: "create"; ordinal: number; revision: "current" | "update" }
  | { type: "delete"; pod: Stored<Pod>; why: "ended" | "surplus" | "outdated" }
  /** Its identity labels are missing. */
  | { type: "label"; pod: Stored<Pod>; ordinal: number };

export type StatefulSetStatus = NonNullable<StatefulSet["status"]>;

interface Slot {
  ordinal: number;
  pod: Stored<Pod> | undefined;
}

interface Look {
  set: Stored<StatefulSet>;
  revisions: Revisions;
  slots: readonly Slot[];
  /** Pods that are too many, highest ordinal first. */
  condemned: readonly Stored<Pod>[];
  isAvailable(pod: Stored<Pod> | undefined): boolean;
}

function isRunningAndReady(pod: Stored<Pod>): boolean {
  return pod.status?.phase === "Running" && isPodReady(pod);
}

function isAvailable(set: Stored<StatefulSet>, pod: Stored<Pod>, now: number): boolean {
  if (!isRunningAndReady(pod)) return false;
  const at = availableAt(pod, set.spec?.minReadySeconds ?? 0);
  return at !== undefined && at <= now;
}

/**
 * What to do now. OrderedReady: one thing, and nothing while a pod in the way is not available. Parallel: all at
 * once, but for updates.
 * @param pods Of the set, in whatever state.
 * @param now Milliseconds since the epoch.
 */
export function planStatefulSet(
  set: Stored<StatefulSet>,
  pods: readonly Stored<Pod>[],
  revisions: Revisions,
  now: number,
): Step[] {
  const look: Look = {
    set,
    revisions,
    ...sortOut(set, pods),
    isAvailable: (pod) => !!pod && !pod.metadata.deletionTimestamp && isAvailable(set, pod, now),
  };
  const ordered = set.spec?.podManagementPolicy !== "Parallel";
  const steps: Step[] = [];
  if (planReplicas(look, ordered, steps) || planScaleDown(look, ordered, steps)) return steps;
  if (set.spec?.updateStrategy?.type !== "OnDelete") steps.push(...planUpdate(look));
  return steps;
}

function sortOut(set: Stored<StatefulSet>, pods: readonly Stored<Pod>[]) {
  const start = set.spec?.ordinals?.start ?? 0;
  const slots: Slot[] = Array.from({ length: set.spec?.replicas ?? 1 }, (_, index) => ({
    ordinal: start + index,
    pod: undefined,
  }));
  const surplus: { ordinal: number; pod: Stored<Pod> }[] = [];
  for (const pod of pods) {
    const ordinal = ordinalOf(set, pod);
    if (ordinal === undefined) continue;
    const slot = slots[ordinal - start];
    if (slot) slot.pod = pod;
    else surplus.push({ ordinal, pod });
  }
  surplus.sort((a, b) => b.ordinal - a.ordinal);
  return { slots, condemned: surplus.map(({ pod }) => pod) };
}

/** Adds what the wanted pods need, lowest ordinal first. True: nothing else may be done now. */
function planReplicas(
  { set, revisions, slots, isAvailable }: Look,
  ordered: boolean,
  steps: Step[],
): boolean {
  const partition = partitionOf(set);
  const rolling = set.spec?.updateStrategy?.type === "RollingUpdate";
  for (const [index, { ordinal, pod }] of slots.entries()) {
    if (!pod) {
      const isOld = rolling && index < partition && revisions.current !== revisions.update;
      steps.push({ type: "create", ordinal, revision: isOld ? "current" : "update" });
      if (ordered) return true;
    } else if (isPodTerminal(pod)) {
      if (!pod.metadata.deletionTimestamp) steps.push({ type: "delete", pod, why: "ended" });
      if (ordered) return true;
    } else {
      if (ordered && !isAvailable(pod)) return true;
      if (!hasIdentity(pod)) steps.push({ type: "label", pod, ordinal });
    }
  }
  return false;
}

/** Adds the deletion of what is too many, highest ordinal first. True: nothing else may be done now. */
function planScaleDown({ slots, condemned, isAvailable }: Look, ordered: boolean, steps: Step[]): boolean {
  // A pod that does not work may go although it is not available, when none before it is in the same state.
  const present = slots.flatMap(({ pod }) => pod ?? []);
  const firstUnavailable = [...present, ...condemned.toReversed()].find((pod) => !isAvailable(pod));
  for (const pod of condemned) {
    if (!pod.metadata.deletionTimestamp) {
      if (ordered && !isAvailable(pod) && pod !== firstUnavailable) return true;
      steps.push({ type: "delete", pod, why: "surplus" });
    }
    if (ordered) return true;
  }
  return false;
}

function partitionOf(set: Stored<StatefulSet>): number {
  return set.spec?.updateStrategy?.rollingUpdate?.partition ?? 0;
}

/**
 * Which outdated pods go now, highest ordinal first: as many as leave no more than maxUnavailable unavailable. What
 * does not work anyway goes before what does, or a broken rollout would block its own repair.
 */
function planUpdate({ set, revisions, slots, isAvailable }: Look): Step[] {
  const maxUnavailable = set.spec?.updateStrategy?.rollingUpdate?.maxUnavailable ?? 1;
  const allowed = Math.max(1, scaledValue(maxUnavailable, slots.length, "down"));
  const partition = partitionOf(set);
  const outdated: Stored<Pod>[] = [];
  let unavailable = 0;
  for (const [index, { pod }] of slots.entries()) {
    const isOld = pod && index >= partition && revisionOf(pod) !== revisions.update;
    if (isOld && !pod.metadata.deletionTimestamp && !isPodTerminal(pod)) outdated.unshift(pod);
    else if (!isAvailable(pod)) unavailable++;
  }
  const broken = outdated.filter((pod) => !isAvailable(pod));
  const order = [...broken, ...outdated.filter((pod) => isAvailable(pod))];
  return order
    .slice(0, Math.max(0, allowed - unavailable))
    .map((pod) => ({ type: "delete", pod, why: "outdated" }));
}

/** The status of a set with these pods. */
export function statefulSetStatus(
  set: Stored<StatefulSet>,
  pods: readonly Stored<Pod>[],
  { current, update }: Revisions,
  collisionCount: number,
  now: number,
): StatefulSetStatus {
  const living = pods.filter((pod) => !pod.metadata.deletionTimestamp);
  const count = (list: readonly Stored<Pod>[], test: (pod: Stored<Pod>) => boolean) =>
    list.filter(test).length;
  const ready = count(pods, isRunningAndReady);
  const updated = count(living, (pod) => revisionOf(pod) === update);
  const desired = set.spec?.replicas ?? 1;
  const complete =
    set.spec?.updateStrategy?.type === "RollingUpdate" &&
    updated === desired &&
    ready === desired &&
    pods.length === desired;
  const isCurrent = complete ? update : current;
  const running = count(living, (pod) => revisionOf(pod) === isCurrent);
  return {
    observedGeneration: set.metadata.generation ?? 0,
    replicas: pods.length,
    ...(ready > 0 ? { readyReplicas: ready } : {}),
    ...(running > 0 ? { currentReplicas: running } : {}),
    ...(updated > 0 ? { updatedReplicas: updated } : {}),
    currentRevision: isCurrent,
    updateRevision: update,
    collisionCount,
    ...(set.status?.conditions ? { conditions: set.status.conditions } : {}),
    availableReplicas: count(pods, (pod) => isAvailable(set, pod, now)),
  };
}
