// What a ReplicaSet or ReplicationController needs: how many pods more, which pods less, and its status. Pure; knows
// Pods and the two kinds.

import type {
  OwnerReference,
  Pod,
  PodTemplateSpec,
  ReplicaSet,
  ReplicationController,
  Stored,
} from "../../common/k8s.js";
import { availableAt, isPodReady, maxRestarts, podCondition, readySince } from "./pod-state.js";
import { parseTime } from "./time.js";

/** The kinds that only count pods. */
export type Replicated = ReplicaSet | ReplicationController;

/** No more pods than this are made or deleted in one go, as in kube-controller-manager. */
const BURST_REPLICAS = 500;

const DELETION_COST = "controller.kubernetes.io/pod-deletion-cost";
const PHASE_RANK: Record<string, number> = { Pending: 0, Unknown: 1, Running: 2 };

export type ReplicaPlan =
  | { type: "create"; count: number }
  | { type: "delete"; pods: Stored<Pod>[] }
  | { type: "none" };

/**
 * Compares desired with actual.
 * @param active Pods of the ReplicaSet that count: not finished, not terminating.
 * @param podsOnNode Active pods of all ReplicaSets of the same owner, by node name.
 * @param now Milliseconds since the epoch.
 */
export function planReplicas(
  desired: number,
  active: readonly Stored<Pod>[],
  podsOnNode: ReadonlyMap<string, number>,
  now: number,
): ReplicaPlan {
  const difference = desired - active.length;
  if (difference > 0) return { type: "create", count: Math.min(difference, BURST_REPLICAS) };
  if (difference === 0) return { type: "none" };
  const count = Math.min(-difference, BURST_REPLICAS);
  if (count === active.length) return { type: "delete", pods: [...active] };
  const order = [...active].sort((a, b) => compareForDeletion(a, b, podsOnNode, now));
  return { type: "delete", pods: order.slice(0, count) };
}

/**
 * Which pod rather goes first (negative: a): unassigned, by phase, not ready, lower deletion cost, on a node with more
 * of its kind, ready for a shorter time, more restarts, younger. Source: the ReplicaSet documentation, "scaling a
 * ReplicaSet"; times count in powers of two, so that nearly equal ages do not decide (LogarithmicScaleDown).
 */
function compareForDeletion(
  a: Stored<Pod>,
  b: Stored<Pod>,
  podsOnNode: ReadonlyMap<string, number>,
  now: number,
): number {
  return (
    Number(!!a.spec?.nodeName) - Number(!!b.spec?.nodeName) ||
    phaseRank(a) - phaseRank(b) ||
    Number(isPodReady(a)) - Number(isPodReady(b)) ||
    deletionCost(a) - deletionCost(b) ||
    (podsOnNode.get(b.spec?.nodeName ?? "") ?? 0) - (podsOnNode.get(a.spec?.nodeName ?? "") ?? 0) ||
    compareAge(readySince(a), readySince(b), a, b, now) ||
    maxRestarts(b) - maxRestarts(a) ||
    compareAge(created(a), created(b), a, b, now)
  );
}

function phaseRank(pod: Stored<Pod>): number {
  return PHASE_RANK[pod.status?.phase ?? "Pending"] ?? 1;
}

function deletionCost(pod: Stored<Pod>): number {
  const cost = Number(pod.metadata.annotations?.[DELETION_COST] ?? 0);
  return Number.isInteger(cost) ? cost : 0;
}

function created(pod: Stored<Pod>): number {
  return parseTime(pod.metadata.creationTimestamp) ?? 0;
}

/** The younger goes first; within one power of two of age the uid decides. */
function compareAge(
  a: number | undefined,
  b: number | undefined,
  podA: Stored<Pod>,
  podB: Stored<Pod>,
  now: number,
): number {
  if (a === b || a === undefined || b === undefined) return 0;
  return ageBucket(now - a) - ageBucket(now - b) || (podA.metadata.uid < podB.metadata.uid ? -1 : 1);
}

function ageBucket(ms: number): number {
  return ms <= 0 ? -1 : Math.floor(Math.log2(ms * 1e6));
}

export type ReplicaSetStatus = NonNullable<ReplicaSet["status"]>;

/** Why pods could not be made or deleted, for the ReplicaFailure condition. */
export interface ReplicaFailure {
  reason: "FailedCreate" | "FailedDelete";
  message: string;
}

/** The status of an owner whose active pods are these; `now` as meta/v1 Time and in milliseconds. */
export function replicaSetStatus(
  rs: Stored<Replicated>,
  active: readonly Stored<Pod>[],
  failure: ReplicaFailure | undefined,
  now: { ms: number; text: string },
): ReplicaSetStatus {
  const templateLabels = Object.entries(rs.spec?.template?.metadata?.labels ?? {});
  const minReadySeconds = rs.spec?.minReadySeconds ?? 0;
  let fullyLabeled = 0;
  let ready = 0;
  let available = 0;
  for (const pod of active) {
    if (templateLabels.every(([key, value]) => pod.metadata.labels?.[key] === value)) fullyLabeled++;
    const at = availableAt(pod, minReadySeconds);
    if (at === undefined) continue;
    ready++;
    if (at <= now.ms) available++;
  }
  const conditions = replicaFailureConditions(rs.status?.conditions ?? [], failure, now.text);
  return {
    replicas: active.length,
    ...(fullyLabeled > 0 ? { fullyLabeledReplicas: fullyLabeled } : {}),
    ...(ready > 0 ? { readyReplicas: ready } : {}),
    ...(available > 0 ? { availableReplicas: available } : {}),
    observedGeneration: rs.metadata.generation ?? 0,
    ...(conditions.length > 0 ? { conditions } : {}),
  };
}

type ReplicaSetCondition = NonNullable<ReplicaSetStatus["conditions"]>[number];

function replicaFailureConditions(
  conditions: readonly ReplicaSetCondition[],
  failure: ReplicaFailure | undefined,
  now: string,
): ReplicaSetCondition[] {
  const others = conditions.filter((condition) => condition.type !== "ReplicaFailure");
  if (!failure) return others;
  const present = conditions.find((condition) => condition.type === "ReplicaFailure");
  if (present && present.reason === failure.reason) return [...conditions];
  const { reason, message } = failure;
  return [...others, { type: "ReplicaFailure", status: "True", lastTransitionTime: now, reason, message }];
}

/** When the next ready pod becomes available, in milliseconds since the epoch; undefined when none will by waiting. */
export function nextAvailability(minReadySeconds = 0, active: readonly Stored<Pod>[], now: number) {
  if (minReadySeconds === 0) return undefined;
  let next: number | undefined;
  for (const pod of active) {
    const at = availableAt(pod, minReadySeconds);
    if (at !== undefined && at > now && (next === undefined || at < next)) next = at;
  }
  return next;
}

/** The pod that an owner makes of its template, with a name that the API completes. */
export function podFromTemplate(
  owner: Stored,
  template: PodTemplateSpec | undefined,
  ownerReferences: OwnerReference[],
): Pod {
  const { labels, annotations, finalizers } = template?.metadata ?? {};
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      generateName: `${owner.metadata.name}-`,
      ...(owner.metadata.namespace ? { namespace: owner.metadata.namespace } : {}),
      ...(labels ? { labels } : {}),
      ...(annotations ? { annotations } : {}),
      ...(finalizers ? { finalizers } : {}),
      ownerReferences,
    },
    ...(template?.spec ? { spec: template.spec } : {}),
  };
}

/** Whether anything a ReplicaSet counts changed between two states of a pod. */
export function countsDifferently(old: Stored<Pod>, now: Stored<Pod>): boolean {
  const ready = (pod: Stored<Pod>) => {
    const condition = podCondition(pod, "Ready");
    return `${condition?.status} ${condition?.lastTransitionTime}`;
  };
  return (
    old.metadata.labels !== now.metadata.labels ||
    old.metadata.ownerReferences !== now.metadata.ownerReferences ||
    old.status?.phase !== now.status?.phase ||
    old.metadata.deletionTimestamp !== now.metadata.deletionTimestamp ||
    ready(old) !== ready(now)
  );
}
