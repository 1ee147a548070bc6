// What a pod would rather have, and gets where it can: preferred pod (anti-)affinity, its own and that of pods which
// are there already, and spread constraints that may be broken (ScheduleAnyway). Pure; prepared once a pod, then asked
// for each node. Costs nothing where nobody wishes anything.

import type { Pod, Stored } from "../../common/k8s.js";
import type { NodeInfo, PodFacts } from "./scheduler-node.js";
import {
  domainOf,
  type NamespaceLabels,
  spreadCounts,
  type Term,
  termMatches,
} from "./scheduler-topology.js";

export interface Wishes {
  /** The more the better. */
  near?: (info: NodeInfo) => number;
  /** The less the better; undefined for a node without the labels to spread by. */
  spread?: (info: NodeInfo) => number | undefined;
}

export const NO_WISHES: Wishes = {};

/** What a required affinity term of a pod weighs for others: kube-scheduler's HardPodAffinityWeight. */
const REQUIRED_WEIGHT = 1;

interface Weighted {
  term: Term;
  weight: number;
}

/** The pod's own preferences: what it would be near to, and, with a negative weight, far from. */
function preferredTerms({ spec }: Stored<Pod>): Weighted[] {
  const { podAffinity, podAntiAffinity } = spec?.affinity ?? {};
  const near = podAffinity?.preferredDuringSchedulingIgnoredDuringExecution ?? [];
  const far = podAntiAffinity?.preferredDuringSchedulingIgnoredDuringExecution ?? [];
  return [
    ...near.map(({ podAffinityTerm, weight }) => ({ term: podAffinityTerm, weight })),
    ...far.map(({ podAffinityTerm, weight }) => ({ term: podAffinityTerm, weight: -weight })),
  ];
}

/** What the pod, once it runs, says about those that come. */
function termsForOthers(pod: Stored<Pod>): Weighted[] {
  const required = pod.spec?.affinity?.podAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? [];
  return [...preferredTerms(pod), ...required.map((term) => ({ term, weight: REQUIRED_WEIGHT }))];
}

/** Whether a placed pod speaks of others at all. */
export function isInclined(pod: Stored<Pod>): boolean {
  return termsForOthers(pod).length > 0;
}

/**
 * @param nodes All nodes.
 * @param inclined Pods on nodes that are {@link isInclined}.
 */
export function wishesOf(
  { pod }: PodFacts,
  nodes: readonly NodeInfo[],
  inclined: readonly { facts: PodFacts; info: NodeInfo }[],
  namespaceLabels: NamespaceLabels,
): Wishes {
  const near = nearness(pod, nodes, inclined, namespaceLabels);
  const spread = spreading(pod, nodes);
  return { ...(near ? { near } : {}), ...(spread ? { spread } : {}) };
}

function nearness(
  pod: Stored<Pod>,
  nodes: readonly NodeInfo[],
  inclined: readonly { facts: PodFacts; info: NodeInfo }[],
  namespaceLabels: NamespaceLabels,
): Wishes["near"] {
  const own = preferredTerms(pod);
  if (own.length === 0 && inclined.length === 0) return undefined;
  /** Topology key → domain → sum of weights. */
  const sums = new Map<string, Map<string, number>>();
  const add = (info: NodeInfo, { topologyKey }: Term, weight: number) => {
    const domain = domainOf(info, topologyKey);
    if (domain === undefined) return;
    const domains = sums.get(topologyKey) ?? new Map<string, number>();
    sums.set(topologyKey, domains);
    domains.set(domain, (domains.get(domain) ?? 0) + weight);
  };
  if (own.length > 0) {
    for (const info of nodes)
      for (const { pod: other } of info.pods.values())
        for (const { term, weight } of own)
          if (termMatches(term, pod, other, namespaceLabels)) add(info, term, weight);
  }
  for (const { facts, info } of inclined)
    for (const { term, weight } of termsForOthers(facts.pod))
      if (termMatches(term, facts.pod, pod, namespaceLabels)) add(info, term, weight);
  return (info) => {
    let total = 0;
    for (const [key, domains] of sums) total += domains.get(domainOf(info, key) ?? "") ?? 0;
    return total;
  };
}

function spreading(pod: Stored<Pod>, nodes: readonly NodeInfo[]): Wishes["spread"] {
  const soft = (pod.spec?.topologySpreadConstraints ?? []).filter(
    ({ whenUnsatisfiable }) => whenUnsatisfiable === "ScheduleAnyway",
  );
  if (soft.length === 0) return undefined;
  const prepared = spreadCounts(pod, soft, nodes);
  return (info) => {
    let crowd = 0;
    for (const { constraint, counts } of prepared) {
      const domain = domainOf(info, constraint.topologyKey);
      if (domain === undefined) return undefined;
      // Where there are few domains each one counts for less, or zones would always outweigh hosts.
      crowd += (counts.get(domain) ?? 0) * Math.log(counts.size + 2) + constraint.maxSkew - 1;
    }
    return crowd;
  };
}
