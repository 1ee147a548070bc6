// How many pods of a PodDisruptionBudget may be evicted. Pure; knows Pods and PodDisruptionBudgets. The arithmetic is
// that of kube-controller-manager's disruption controller.

import type { Pod, PodDisruptionBudget, Stored } from "../../common/k8s.js";
import { scaledValue } from "./deployment-plan.js";
import { isPodReady } from "./pod-state.js";
import { parseTime } from "./time.js";

/** An evicted pod that is not being deleted after this long will not be: it counts again. */
const DELETION_TIMEOUT_MS = 120_000;

export type BudgetStatus = NonNullable<PodDisruptionBudget["status"]>;
export type Budget = Stored<PodDisruptionBudget>;

/** How many pods the budget is of, and how many of them have to be healthy. */
export interface Demand {
  expectedPods: number;
  desiredHealthy: number;
}

/** Whether the number of pods matters that their controllers want, not only of those that are there. */
export function needsScale({ spec }: Budget): boolean {
  return spec?.maxUnavailable !== undefined || typeof spec?.minAvailable === "string";
}

/**
 * @param pods That the budget selects.
 * @param scale What their controllers want together; used when {@link needsScale}.
 */
export function demandOf({ spec }: Budget, pods: number, scale: number): Demand {
  const { minAvailable, maxUnavailable } = spec ?? {};
  if (maxUnavailable !== undefined) {
    const desired = scale - scaledValue(maxUnavailable, scale, "up");
    return { expectedPods: scale, desiredHealthy: Math.max(0, desired) };
  }
  if (typeof minAvailable === "number") return { expectedPods: pods, desiredHealthy: minAvailable };
  if (minAvailable === undefined) return { expectedPods: 0, desiredHealthy: 0 };
  return { expectedPods: scale, desiredHealthy: scaledValue(minAvailable, scale, "up") };
}

/** The evicted pods that are still to be deleted, those that never were, and when the next one's time is over. */
export function sortDisrupted(budget: Budget, pods: readonly Stored<Pod>[], now: number) {
  const waiting: Record<string, string> = {};
  const overdue: Stored<Pod>[] = [];
  let recheckAt: number | undefined;
  for (const pod of pods) {
    const since = budget.status?.disruptedPods?.[pod.metadata.name];
    if (since === undefined || pod.metadata.deletionTimestamp) continue;
    const until = (parseTime(since) ?? 0) + DELETION_TIMEOUT_MS;
    if (until < now) {
      overdue.push(pod);
      continue;
    }
    waiting[pod.metadata.name] = since;
    recheckAt = Math.min(recheckAt ?? until, until);
  }
  return { waiting, overdue, recheckAt };
}

/** @param disruptedPods Evicted, not yet being deleted: they do not count as healthy any more. */
export function budgetStatus(
  budget: Budget,
  pods: readonly Stored<Pod>[],
  { expectedPods, desiredHealthy }: Demand,
  disruptedPods: Record<string, string>,
  now: string,
): BudgetStatus {
  const currentHealthy = pods.filter(
    (pod) => !pod.metadata.deletionTimestamp && !(pod.metadata.name in disruptedPods) && isPodReady(pod),
  ).length;
  const disruptionsAllowed = expectedPods > 0 ? Math.max(0, currentHealthy - desiredHealthy) : 0;
  return withAllowed(
    {
      ...(budget.status?.conditions ? { conditions: budget.status.conditions } : {}),
      ...(Object.keys(disruptedPods).length > 0 ? { disruptedPods } : {}),
      currentHealthy,
      desiredHealthy,
      expectedPods,
      disruptionsAllowed,
      observedGeneration: budget.metadata.generation ?? 0,
    },
    now,
  );
}

/** The budget could not be calculated: nothing may be evicted. */
export function failedStatus(budget: Budget, message: string, now: string): BudgetStatus {
  const none = { currentHealthy: 0, desiredHealthy: 0, expectedPods: 0 };
  const status = { ...none, ...budget.status, disruptionsAllowed: 0 };
  const observedGeneration = budget.metadata.generation ?? 0;
  return withCondition(
    { ...status, observedGeneration },
    { status: "False", reason: "SyncFailed", message, now },
  );
}

/** The status with the condition that its number of allowed disruptions calls for. */
function withAllowed(status: BudgetStatus, now: string): BudgetStatus {
  const [value, reason] =
    status.disruptionsAllowed > 0
      ? (["True", "SufficientPods"] as const)
      : (["False", "InsufficientPods"] as const);
  return withCondition(status, { status: value, reason, message: "", now });
}

function withCondition(
  status: BudgetStatus,
  next: { status: "True" | "False"; reason: string; message: string; now: string },
): BudgetStatus {
  const type = "DisruptionAllowed";
  const present = status.conditions?.find((condition) => condition.type === type);
  const others = (status.conditions ?? []).filter((condition) => condition.type !== type);
  const lastTransitionTime = present?.status === next.status ? present.lastTransitionTime : next.now;
  const condition = {
    type,
    status: next.status,
    reason: next.reason,
    message: next.message,
    lastTransitionTime,
    observedGeneration: status.observedGeneration ?? 0,
  };
  return { ...status, conditions: [...others, condition] };
}
