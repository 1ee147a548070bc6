// Which of the possible nodes suits a pod best. Pure; knows what scheduler-node.ts holds.

import { matchesNodeTerm } from "./scheduler-filter.js";
import type { NodeInfo, PodFacts } from "./scheduler-node.js";
import { isTolerated } from "./taints.js";

/** kube-scheduler's default weights of these plugins. */
const WEIGHTS = { taints: 3, affinity: 2, spread: 2, leastAllocated: 1 };

/**
 * The best node: no untolerated PreferNoSchedule taints, preferred affinity, few pods of the same owner or Service,
 * little load. Of equals the one with fewer pods, then by name.
 */
export function bestNode(facts: PodFacts, nodes: readonly NodeInfo[]): NodeInfo | undefined {
  const taints = lessIsBetter(nodes.map((info) => preferNoSchedule(facts, info)));
  const spread = lessIsBetter(
    nodes.map((info) => (facts.group === undefined ? 0 : (info.groups.get(facts.group) ?? 0))),
  );
  const affinity = moreIsBetter(nodes.map((info) => preferredAffinity(facts, info)));
  let best: { info: NodeInfo; score: number } | undefined;
  for (const [index, info] of nodes.entries()) {
    const score =
      WEIGHTS.taints * (taints[index] ?? 0) +
      WEIGHTS.affinity * (affinity[index] ?? 0) +
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
