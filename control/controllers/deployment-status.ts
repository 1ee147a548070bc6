// Status and conditions of a Deployment, as kubectl rollout status and kubectl wait read them. Pure; knows
// Deployments and ReplicaSets. Reasons and messages are those of kube-controller-manager.

import type { Deployment, DeploymentCondition, ReplicaSet, Stored } from "../../common/k8s.js";
import { allOf, fenceposts, type ReplicaSets, sizeOf } from "./deployment-plan.js";
import { parseTime, timestamp } from "./time.js";

export type DeploymentStatus = NonNullable<Deployment["status"]>;

export function findCondition(
  status: DeploymentStatus | undefined,
  type: string,
): DeploymentCondition | undefined {
  return status?.conditions?.find((condition) => condition.type === type);
}

/**
 * The conditions with one of them set. Nothing changes when status and reason are as before; the transition time is
 * kept while the status is.
 */
export function withCondition(
  conditions: readonly DeploymentCondition[] | undefined,
  wanted: { type: string; status: "True" | "False" | "Unknown"; reason: string; message: string },
  now: number,
): DeploymentCondition[] {
  const present = conditions?.find((condition) => condition.type === wanted.type);
  if (present?.status === wanted.status && present.reason === wanted.reason) return [...(conditions ?? [])];
  const text = timestamp(now);
  const lastTransitionTime = present?.status === wanted.status ? (present.lastTransitionTime ?? text) : text;
  return [
    ...withoutCondition(conditions, wanted.type),
    { ...wanted, lastUpdateTime: text, lastTransitionTime },
  ];
}

function withoutCondition(conditions: readonly DeploymentCondition[] | undefined, type: string) {
  return (conditions ?? []).filter((condition) => condition.type !== type);
}

function total(replicaSets: readonly Stored<ReplicaSet>[], of: (rs: Stored<ReplicaSet>) => number): number {
  return replicaSets.reduce((sum, rs) => sum + of(rs), 0);
}

/** Counts and the Available condition. `now` in milliseconds since the epoch. */
export function observedStatus(
  deployment: Stored<Deployment>,
  sets: ReplicaSets,
  now: number,
): DeploymentStatus {
  const all = allOf(sets);
  const replicas = total(all, (rs) => rs.status?.replicas ?? 0);
  const updatedReplicas = sets.current?.status?.replicas ?? 0;
  const readyReplicas = total(all, (rs) => rs.status?.readyReplicas ?? 0);
  const availableReplicas = total(all, (rs) => rs.status?.availableReplicas ?? 0);
  const unavailableReplicas = Math.max(0, total(all, sizeOf) - availableReplicas);
  const enough = availableReplicas >= sizeOf(deployment) - fenceposts(deployment).maxUnavailable;
  const conditions = withCondition(
    deployment.status?.conditions,
    enough
      ? {
          type: "Available",
          status: "True",
          reason: "MinimumReplicasAvailable",
          message: "Deployment has minimum availability.",
        }
      : {
          type: "Available",
          status: "False",
          reason: "MinimumReplicasUnavailable",
          message: "Deployment does not have minimum availability.",
        },
    now,
  );
  // Like Go's omitempty: a count of zero is left out.
  return {
    observedGeneration: deployment.metadata.generation ?? 0,
    ...(replicas > 0 ? { replicas } : {}),
    ...(updatedReplicas > 0 ? { updatedReplicas } : {}),
    ...(readyReplicas > 0 ? { readyReplicas } : {}),
    ...(availableReplicas > 0 ? { availableReplicas } : {}),
    ...(unavailableReplicas > 0 ? { unavailableReplicas } : {}),
    ...(deployment.status?.collisionCount === undefined
      ? {}
      : { collisionCount: deployment.status.collisionCount }),
    conditions,
  };
}

/** Everything asked for is there, of the current template, and available. */
export function isComplete(deployment: Stored<Deployment>, status: DeploymentStatus): boolean {
  const desired = sizeOf(deployment);
  return (
    (status.updatedReplicas ?? 0) === desired &&
    (status.replicas ?? 0) === desired &&
    (status.availableReplicas ?? 0) === desired &&
    (status.observedGeneration ?? 0) >= (deployment.metadata.generation ?? 0)
  );
}

function isProgressing(old: DeploymentStatus, now: DeploymentStatus): boolean {
  const oldPods = (status: DeploymentStatus) => (status.replicas ?? 0) - (status.updatedReplicas ?? 0);
  return (
    (now.updatedReplicas ?? 0) > (old.updatedReplicas ?? 0) ||
    oldPods(now) < oldPods(old) ||
    (now.readyReplicas ?? 0) > (old.readyReplicas ?? 0) ||
    (now.availableReplicas ?? 0) > (old.availableReplicas ?? 0)
  );
}

/** The API's way to say "no deadline": the largest int32. */
function deadlineOf(deployment: Stored<Deployment>): number | undefined {
  const seconds = deployment.spec?.progressDeadlineSeconds;
  return seconds === undefined || seconds === 2 ** 31 - 1 ? undefined : seconds;
}

/** The Progressing condition is kept only for Deployments that have a deadline. */
export function hasDeadline(deployment: Stored<Deployment>): boolean {
  return deadlineOf(deployment) !== undefined;
}

function hasTimedOut(deployment: Stored<Deployment>, status: DeploymentStatus, now: number): boolean {
  const condition = findCondition(status, "Progressing");
  if (!condition || condition.reason === "NewReplicaSetAvailable") return false;
  if (condition.reason === "ProgressDeadlineExceeded") return true;
  const from = parseTime(condition.lastUpdateTime) ?? now;
  return from + (deadlineOf(deployment) ?? 0) * 1000 < now;
}

/** Milliseconds until the deadline has to be looked at again; undefined when there is nothing to wait for. */
export function deadlineCheckIn(
  deployment: Stored<Deployment>,
  status: DeploymentStatus,
  now: number,
): number | undefined {
  const deadline = deadlineOf(deployment);
  const condition = findCondition(status, "Progressing");
  if (deadline === undefined || !condition || isComplete(deployment, status)) return undefined;
  if (condition.reason === "ProgressDeadlineExceeded" || condition.reason === "NewReplicaSetAvailable") {
    return undefined;
  }
  // One second more: times in the API have whole seconds.
  return Math.max(0, (parseTime(condition.lastUpdateTime) ?? now) + deadline * 1000 - now) + 1000;
}

/** The status while a rollout is watched: counts, Available, Progressing and ReplicaFailure. */
export function rolloutStatus(
  deployment: Stored<Deployment>,
  sets: ReplicaSets,
  now: number,
): DeploymentStatus {
  const status = observedStatus(deployment, sets, now);
  if (!hasDeadline(deployment)) status.conditions = withoutCondition(status.conditions, "Progressing");
  else status.conditions = progressingConditions(deployment, sets, status, now);
  status.conditions = replicaFailure(sets, status.conditions);
  return status;
}

function progressingConditions(
  deployment: Stored<Deployment>,
  sets: ReplicaSets,
  status: DeploymentStatus,
  now: number,
): DeploymentCondition[] {
  const conditions = status.conditions ?? [];
  const present = findCondition(deployment.status, "Progressing");
  const done =
    (status.replicas ?? 0) === (status.updatedReplicas ?? 0) && present?.reason === "NewReplicaSetAvailable";
  if (done) return conditions;
  const subject = sets.current
    ? `ReplicaSet "${sets.current.metadata.name}"`
    : `Deployment "${deployment.metadata.name}"`;
  const type = "Progressing";
  if (isComplete(deployment, status)) {
    const message = `${subject} has successfully progressed.`;
    return withCondition(
      conditions,
      { type, status: "True", reason: "NewReplicaSetAvailable", message },
      now,
    );
  }
  if (isProgressing(deployment.status ?? {}, status)) {
    // Each bit of progress moves lastUpdateTime, from which the deadline counts.
    const message = `${subject} is progressing.`;
    const wanted = { type, status: "True" as const, reason: "ReplicaSetUpdated", message };
    const fresh = withCondition(withoutCondition(conditions, type), wanted, now);
    if (present?.status !== "True" || !present.lastTransitionTime) return fresh;
    const { lastTransitionTime } = present;
    return fresh.map((entry) => (entry.type === type ? { ...entry, lastTransitionTime } : entry));
  }
  if (hasTimedOut(deployment, status, now)) {
    const message = `${subject} has timed out progressing.`;
    return withCondition(
      conditions,
      { type, status: "False", reason: "ProgressDeadlineExceeded", message },
      now,
    );
  }
  return conditions;
}

/** What keeps a ReplicaSet from making pods is shown at the Deployment: the newest ReplicaSet's trouble first. */
function replicaFailure(sets: ReplicaSets, conditions: DeploymentCondition[]): DeploymentCondition[] {
  const others = withoutCondition(conditions, "ReplicaFailure");
  for (const rs of [...(sets.current ? [sets.current] : []), ...sets.old]) {
    const failure = rs.status?.conditions?.find((condition) => condition.type === "ReplicaFailure");
    if (!failure) continue;
    const { status, reason, message, lastTransitionTime } = failure;
    const present = conditions.find((condition) => condition.type === "ReplicaFailure");
    if (present?.status === status && present.reason === reason) return conditions;
    const times = lastTransitionTime ? { lastTransitionTime, lastUpdateTime: lastTransitionTime } : {};
    return [
      ...others,
      {
        type: "ReplicaFailure",
        status,
        ...(reason ? { reason } : {}),
        ...(message ? { message } : {}),
        ...times,
      },
    ];
  }
  return others;
}

/** The Progressing condition of a Deployment that was paused or resumed just now; undefined when it is right. */
export function pauseConditions(
  deployment: Stored<Deployment>,
  now: number,
): DeploymentCondition[] | undefined {
  if (!hasDeadline(deployment)) return undefined;
  const present = findCondition(deployment.status, "Progressing");
  if (present?.reason === "ProgressDeadlineExceeded") return undefined;
  const paused = deployment.spec?.paused ?? false;
  const shownPaused = present?.reason === "DeploymentPaused";
  if (paused === shownPaused) return undefined;
  return withCondition(
    deployment.status?.conditions,
    {
      type: "Progressing",
      status: "Unknown",
      reason: paused ? "DeploymentPaused" : "DeploymentResumed",
      message: paused ? "Deployment is paused" : "Deployment is resumed",
    },
    now,
  );
}
