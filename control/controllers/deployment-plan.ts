// The arithmetic of a rollout: how large each ReplicaSet of a Deployment should be next. Pure; knows Deployments and
// ReplicaSets. The rules are those of kube-controller-manager's deployment controller.

import type { Deployment, ReplicaSet, Stored } from "../../common/k8s.js";
import { annotatedSize, byCreation, DESIRED_REPLICAS, MAX_REPLICAS } from "./deployment-revision.js";

/** One ReplicaSet to be resized. */
export interface Resize {
  rs: Stored<ReplicaSet>;
  replicas: number;
}

/** The ReplicaSet of the current template (absent until it is made) and all others, oldest first. */
export interface ReplicaSets {
  current: Stored<ReplicaSet> | undefined;
  old: readonly Stored<ReplicaSet>[];
}

/** spec.replicas of a ReplicaSet or Deployment; the API's default is 1. */
export function sizeOf(object: Stored<ReplicaSet> | Stored<Deployment>): number {
  return object.spec?.replicas ?? 1;
}

/** A status may still count pods of before the last scaling down: never more than the size asked for. */
function availableOf(rs: Stored<ReplicaSet>): number {
  return Math.min(rs.status?.availableReplicas ?? 0, sizeOf(rs));
}

export function allOf({ current, old }: ReplicaSets): Stored<ReplicaSet>[] {
  return current ? [...old, current] : [...old];
}

function sum(replicaSets: readonly Stored<ReplicaSet>[], of: (rs: Stored<ReplicaSet>) => number): number {
  return replicaSets.reduce((total, rs) => total + of(rs), 0);
}

/** An IntOrString of a total: percentages are rounded up or down. @throws RangeError naming the value. */
export function scaledValue(value: number | string, total: number, round: "up" | "down"): number {
  if (typeof value === "number") return value;
  const percent = /^(\d+)%$/.exec(value);
  if (!percent) {
    throw new RangeError(`${JSON.stringify(value)} is neither a number nor a percentage such as "25%"`);
  }
  const exact = (Number(percent[1]) * total) / 100;
  return round === "up" ? Math.ceil(exact) : Math.floor(exact);
}

/**
 * maxSurge (percentages rounded up) and maxUnavailable (rounded down) in pods. Both 0 would never move, then one pod
 * may be unavailable. Both are 0 for the strategy Recreate.
 */
export function fenceposts(deployment: Stored<Deployment>): { maxSurge: number; maxUnavailable: number } {
  if (deployment.spec?.strategy?.type === "Recreate") return { maxSurge: 0, maxUnavailable: 0 };
  const desired = sizeOf(deployment);
  const { maxSurge = "25%", maxUnavailable = "25%" } = deployment.spec?.strategy?.rollingUpdate ?? {};
  const surge = scaledValue(maxSurge, desired, "up");
  let unavailable = scaledValue(maxUnavailable, desired, "down");
  if (surge === 0 && unavailable === 0) unavailable = 1;
  return { maxSurge: surge, maxUnavailable: Math.min(unavailable, desired) };
}

/** The size the ReplicaSet of the current template may have now, which has `present` replicas. */
export function newSize(
  deployment: Stored<Deployment>,
  all: readonly Stored<ReplicaSet>[],
  present: number,
): number {
  const desired = sizeOf(deployment);
  if (deployment.spec?.strategy?.type === "Recreate") return desired;
  const room = desired + fenceposts(deployment).maxSurge - sum(all, sizeOf);
  if (room <= 0) return present;
  return present + Math.min(room, desired - present);
}

/** One step of a rolling update: first the new one grows (or shrinks), and only then the old ones shrink. */
export function planRollingUpdate(deployment: Stored<Deployment>, sets: ReplicaSets): Resize[] {
  const { current } = sets;
  if (!current) return [];
  const desired = sizeOf(deployment);
  const present = sizeOf(current);
  if (present !== desired) {
    const replicas = present > desired ? desired : newSize(deployment, allOf(sets), present);
    if (replicas !== present) return [{ rs: current, replicas }];
  }
  return shrinkOld(deployment, current, sets.old);
}

function shrinkOld(
  deployment: Stored<Deployment>,
  current: Stored<ReplicaSet>,
  old: readonly Stored<ReplicaSet>[],
): Resize[] {
  if (sum(old, sizeOf) === 0) return [];
  const minAvailable = sizeOf(deployment) - fenceposts(deployment).maxUnavailable;
  const newUnavailable = sizeOf(current) - availableOf(current);
  const maxScaledDown = sum(old, sizeOf) + sizeOf(current) - minAvailable - newUnavailable;
  if (maxScaledDown <= 0) return [];
  const sizes = new Map(old.map((rs) => [rs, sizeOf(rs)]));
  const sorted = [...old].sort(byCreation);
  // Pods that do not work go first: nobody misses them, and a broken rollout must not block its own repair.
  let cleanup = maxScaledDown;
  for (const rs of sorted) {
    const size = sizes.get(rs) ?? 0;
    const step = Math.min(cleanup, Math.max(0, size - availableOf(rs)));
    sizes.set(rs, size - step);
    cleanup -= step;
  }
  let surplus = sum([...old, current], availableOf) - minAvailable;
  for (const rs of sorted) {
    const size = sizes.get(rs) ?? 0;
    const step = Math.max(0, Math.min(size, surplus));
    sizes.set(rs, size - step);
    surplus -= step;
  }
  return resizes(sizes);
}

function resizes(sizes: ReadonlyMap<Stored<ReplicaSet>, number>): Resize[] {
  return [...sizes]
    .filter(([rs, replicas]) => sizeOf(rs) !== replicas)
    .map(([rs, replicas]) => ({ rs, replicas }));
}

/** Recreate: nothing new before everything old is gone. */
export function planRecreate(sets: ReplicaSets): Resize[] {
  return sets.old.filter((rs) => sizeOf(rs) > 0).map((rs) => ({ rs, replicas: 0 }));
}

/** Whether spec.replicas changed since the ReplicaSets were sized: then they are scaled before anything rolls. */
export function isScalingEvent(deployment: Stored<Deployment>, sets: ReplicaSets): boolean {
  return allOf(sets).some((rs) => {
    if (sizeOf(rs) === 0) return false;
    const annotated = annotatedSize(rs, DESIRED_REPLICAS);
    return annotated !== undefined && annotated !== sizeOf(deployment);
  });
}

/**
 * Scaling, also in the middle of a rollout or while paused: one active ReplicaSet takes all; several share in
 * proportion to their sizes; what rounding leaves goes to the largest. A ReplicaSet is listed also when only its
 * annotations have to follow.
 */
export function planScale(deployment: Stored<Deployment>, sets: ReplicaSets): Resize[] {
  const desired = sizeOf(deployment);
  const single = activeOrLatest(sets);
  if (single) return [{ rs: single, replicas: desired }];
  if (isSaturated(deployment, sets.current)) {
    return sets.old.filter((rs) => sizeOf(rs) > 0).map((rs) => ({ rs, replicas: 0 }));
  }
  if (deployment.spec?.strategy?.type === "Recreate") return [];
  return scaleProportionally(
    deployment,
    allOf(sets).filter((rs) => sizeOf(rs) > 0),
  );
}

/** The only active one; or, when none is active, the one that comes next to life. */
function activeOrLatest({ current, old }: ReplicaSets): Stored<ReplicaSet> | undefined {
  const active = allOf({ current, old }).filter((rs) => sizeOf(rs) > 0);
  if (active.length > 1) return undefined;
  return active[0] ?? current ?? [...old].sort(byCreation).at(-1);
}

function isSaturated(deployment: Stored<Deployment>, rs: Stored<ReplicaSet> | undefined): boolean {
  const desired = sizeOf(deployment);
  return (
    !!rs &&
    sizeOf(rs) === desired &&
    annotatedSize(rs, DESIRED_REPLICAS) === desired &&
    availableOf(rs) === desired
  );
}

function scaleProportionally(deployment: Stored<Deployment>, active: Stored<ReplicaSet>[]): Resize[] {
  const desired = sizeOf(deployment);
  const allowed = desired > 0 ? desired + fenceposts(deployment).maxSurge : 0;
  const toAdd = allowed - sum(active, sizeOf);
  // Growing: newer first among equals. Shrinking: older first.
  const sorted = active.sort(
    (a, b) => sizeOf(b) - sizeOf(a) || (toAdd > 0 ? byCreation(b, a) : byCreation(a, b)),
  );
  let added = 0;
  const planned = sorted.map((rs) => {
    const share = proportion(deployment, rs, toAdd, added);
    added += share;
    return { rs, replicas: sizeOf(rs) + share };
  });
  const largest = planned[0];
  if (largest) largest.replicas = Math.max(0, largest.replicas + toAdd - added);
  return planned;
}

function proportion(
  deployment: Stored<Deployment>,
  rs: Stored<ReplicaSet>,
  toAdd: number,
  added: number,
): number {
  const size = sizeOf(rs);
  const allowed = toAdd - added;
  if (size === 0 || toAdd === 0 || allowed === 0) return 0;
  const fraction = fractionOf(deployment, rs);
  return toAdd > 0 ? Math.min(fraction, allowed) : Math.max(fraction, allowed);
}

function fractionOf(deployment: Stored<Deployment>, rs: Stored<ReplicaSet>): number {
  const size = sizeOf(rs);
  if (sizeOf(deployment) === 0) return -size;
  const max = sizeOf(deployment) + fenceposts(deployment).maxSurge;
  const before = annotatedSize(rs, MAX_REPLICAS) || deployment.status?.replicas || 0;
  return before === 0 ? 0 : Math.round((size * max) / before) - size;
}
