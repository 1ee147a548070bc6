// Which of the possible nodes suits a pod best. Pure; knows what scheduler-node.ts holds.

import { matchesNodeTerm } from "./scheduler-filter.js";
import type { NodeInfo, PodFacts } from "./scheduler-node.js";
import { NO_WISHES, type Wishes } from "./scheduler-wishes.js";
import { isTolerated } from "./taints.js";

/** kube-scheduler's default weights of these plugins. */
const WEIGHTS = { taints: 3, affinity: 2, near: 2, spread: 2, leastAllocated: 1 };

/**
 * The best node: no untolerated PreferNoSchedule taints, preferred affinity to nodes and to pods, spread as asked for
 * or else few pods of the same owner or Service, little load. Of equals the one with fewer pods, then by name.
 */
export function bestNode(
  facts: PodFacts,
  nodes: readonly NodeInfo[],
  wishes: Wishes = NO_WISHES,
): NodeInfo | undefined {
  const taints = lessIsBetter(nodes.map((info) => preferNoSchedule(facts, info)));
  const spread = wishes.spread
    ? spreadAsWished(nodes.map(wishes.spread))
    : lessIsBetter(
        nodes.map((info) => (facts.group === undefined ? 0 : (info.groups.get(facts.group) ?? 0))),
      );
  const near = wishes.near && betweenLeastAndMost(nodes.map(wishes.near));
  const affinity = moreIsBetter(nodes.map((info) => preferredAffinity(facts, info)));
  let best: { info: NodeInfo; score: number } | undefined;
  for (const [index, info] of nodes.entries()) {
    const score =
      WEIGHTS.taints * (taints[index] ?? 0) +
      WEIGHTS.affinity * (affinity[index] ?? 0) +
      WEIGHTS.near * (near?.[index] ?? 0) +
      WEIGHTS.spread * (spread[index] ?? 0) +
      WEIGHTS.leastAllocated * leastAllocated(facts, info);
    if (!best || score > best.score || (score === best.score && preferredOfEquals(info, best.info))) {
      best = { info, score };
    }
  }
  return best?.info;
}

function preferredOfEquals(a: NodeInfo, b: NodeInfo): boolean {
  if (a.pods.size !== b.pods.size) return a.pods.size < b.pods.size;
  return (a.node?.metadata.name ?? "") < (b.node?.metadata.name ?? "");
}

/** 100 for none, 0 for the most. */
function lessIsBetter(counts: readonly number[]): number[] {
  const most = Math.max(...counts);
  return counts.map((count) => (most === 0 ? 100 : (100 * (most - count)) / most));
}

/** 100 for the most, 0 for none. */
function moreIsBetter(counts: readonly number[]): number[] {
  const most = Math.max(...counts);
  return counts.map((count) => (most === 0 ? 0 : (100 * count) / most));
}

/** 100 for the most, 0 for the least, which may be below zero. */
function betweenLeastAndMost(sums: readonly number[]): number[] {
  const [least, most] = [Math.min(...sums), Math.max(...sums)];
  return sums.map((sum) => (most === least ? 0 : (100 * (sum - least)) / (most - least)));
}

/** 100 for the least crowded domains; 0 for a node outside of every domain. */
function spreadAsWished(crowds: readonly (number | undefined)[]): number[] {
  const known = crowds.filter((crowd) => crowd !== undefined);
  const [least, most] = [Math.min(...known), Math.max(...known)];
  return crowds.map((crowd) => {
    if (crowd === undefined) return 0;
    return most === 0 ? 100 : (100 * (most + least - crowd)) / most;
  });
}

function preferNoSchedule({ pod }: PodFacts, { node }: NodeInfo): number {
  return (node?.spec?.taints ?? []).filter(
    (taint) => taint.effect === "PreferNoSchedule" && !isTolerated(taint, pod.spec?.tolerations),
  ).length;
}

function preferredAffinity({ pod }: PodFacts, { node }: NodeInfo): number {
  const terms = pod.spec?.affinity?.nodeAffinity?.preferredDuringSchedulingIgnoredDuringExecution ?? [];
  let total = 0;
  for (const { preference, weight } of terms) {
    if (node && matchesNodeTerm(preference, node.metadata)) total += weight;
  }
  return total;
}

/** The mean share of cpu and memory that stays free, in percent. */
function leastAllocated(facts: PodFacts, info: NodeInfo): number {
  let total = 0;
  for (const name of ["cpu", "memory"] as const) {
    const allocatable = info.allocatable(name) ?? 0;
    const used = info.weight[name] + facts.weight[name];
    if (allocatable > 0) total += Math.max(0, (100 * (allocatable - used)) / allocatable);
  }
  return total / 2;
}
