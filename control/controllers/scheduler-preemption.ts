// Who has to go for a pod of higher priority (kube-scheduler's DefaultPreemption), and the room that is kept for it
// meanwhile. Pure; knows what scheduler-node.ts holds, and PodDisruptionBudgets.

import type { Pod, PodDisruptionBudget, Stored } from "../../common/k8s.js";
import { matchLabels, selectorOf } from "../../common/selector.js";
import type { NodeInfo, PodFacts } from "./scheduler-node.js";

export interface Preemption {
  info: NodeInfo;
  /** The most important one first. */
  victims: readonly PodFacts[];
}

interface Candidate extends Preemption {
  violations: number;
}

export const priorityOf = ({ spec }: Pick<Pod, "spec">): number => spec?.priority ?? 0;

/** Since when it runs; one that has not begun is the newest. */
const startOf = ({ pod }: PodFacts): string => pod.status?.startTime ?? "~";

function byImportance(a: PodFacts, b: PodFacts): number {
  const byPriority = priorityOf(b.pod) - priorityOf(a.pod);
  if (byPriority !== 0) return byPriority;
  return startOf(a) < startOf(b) ? -1 : 1;
}

/**
 * The node on which the least is lost, and what has to go there. The nodes' sums are as before afterwards.
 * @param fits Whether the node takes the pod with the pods that it has at that moment.
 */
export function planPreemption(
  { pod }: PodFacts,
  nodes: readonly NodeInfo[],
  fits: (info: NodeInfo) => boolean,
  budgets: readonly Stored<PodDisruptionBudget>[],
): Preemption | undefined {
  const candidates = nodes.flatMap((info) => victimsOn(info, priorityOf(pod), fits, budgets) ?? []);
  return candidates.sort(lessHarm)[0];
}

function victimsOn(
  info: NodeInfo,
  priority: number,
  fits: (info: NodeInfo) => boolean,
  budgets: readonly Stored<PodDisruptionBudget>[],
): Candidate | undefined {
  const lower = [...info.pods.values()].filter(({ pod }) => priorityOf(pod) < priority).sort(byImportance);
  if (lower.length === 0) return undefined;
  for (const { pod } of lower) info.remove(pod.metadata.uid);
  const victims: PodFacts[] = [];
  const violating = violations(lower, budgets);
  let harm = 0;
  const possible = fits(info);
  // The most important ones stay if they can, those that a budget guards before all others.
  const order = [...violating, ...lower.filter((one) => !violating.has(one))];
  for (const one of order) {
    info.add(one);
    if (!possible || fits(info)) continue;
    info.remove(one.pod.metadata.uid);
    victims.push(one);
    if (violating.has(one)) harm += 1;
  }
  for (const one of victims) info.add(one);
  if (!possible || victims.length === 0) return undefined;
  return { info, victims: victims.sort(byImportance), violations: harm };
}

/** Pods whose going a budget does not allow, when those before them in the list go too. */
function violations(
  pods: readonly PodFacts[],
  budgets: readonly Stored<PodDisruptionBudget>[],
): Set<PodFacts> {
  const allowed = new Map(budgets.map((budget) => [budget, budget.status?.disruptionsAllowed ?? 0]));
  const found = new Set<PodFacts>();
  for (const facts of pods) {
    const { namespace, name, labels } = facts.pod.metadata;
    for (const [budget, left] of allowed) {
      if (budget.metadata.namespace !== namespace || !matchLabels(selectorOf(budget.spec?.selector), labels))
        continue;
      if (budget.status?.disruptedPods?.[name] !== undefined) continue;
      allowed.set(budget, left - 1);
      if (left - 1 < 0) found.add(facts);
    }
  }
  return found;
}

/** Fewer broken budgets, a less important victim, less importance in all, fewer victims, those that began last. */
function lessHarm(a: Candidate, b: Candidate): number {
  const highest = ({ victims: [first] }: Candidate) => (first ? priorityOf(first.pod) : 0);
  const sum = ({ victims }: Candidate) =>
    victims.reduce((total, { pod }) => total + priorityOf(pod) + 2 ** 31, 0);
  const began = ({ victims: [first] }: Candidate) => (first ? startOf(first) : "");
  return (
    a.violations - b.violations ||
    highest(a) - highest(b) ||
    sum(a) - sum(b) ||
    a.victims.length - b.victims.length ||
    (began(a) === began(b) ? 0 : began(a) > began(b) ? -1 : 1)
  );
}

/** Pods for which others have been sent away, and where: their room is not given to less important ones. */
export class Nominations {
  readonly #byUid = new Map<string, { facts: PodFacts; info: NodeInfo; victims: readonly string[] }>();

  set(facts: PodFacts, { info, victims }: Preemption): void {
    const uids = victims.map(({ pod }) => pod.metadata.uid);
    this.#byUid.set(facts.pod.metadata.uid, { facts, info, victims: uids });
  }

  delete(uid: string): void {
    this.#byUid.delete(uid);
  }

  /** Whether some of those that were sent away for it are still there. */
  isWaiting(uid: string): boolean {
    const { info, victims = [] } = this.#byUid.get(uid) ?? {};
    return victims.some((victim) => info?.pods.has(victim));
  }

  /** What `look` says while the node also holds what is kept on it for pods at least as important as this one. */
  reserving<T>(info: NodeInfo, { pod }: PodFacts, look: () => T): T {
    if (this.#byUid.size === 0) return look();
    const kept = [...this.#byUid.values()]
      .filter((one) => one.info === info && one.facts.pod.metadata.uid !== pod.metadata.uid)
      .filter(
        ({ facts }) => priorityOf(facts.pod) >= priorityOf(pod) && !info.pods.has(facts.pod.metadata.uid),
      );
    for (const { facts } of kept) info.add(facts);
    const said = look();
    for (const { facts } of kept) info.remove(facts.pod.metadata.uid);
    return said;
  }
}
