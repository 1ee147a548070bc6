// Placement rules between pods: topology spread constraints and required pod (anti-)affinity. Pure; prepared once a
// pod, then asked for each node. Costs nothing where no such rule exists.

import type { LabelSelector, Pod, Stored } from "../../common/k8s.js";
import { selects } from "./owners.js";
import { matchesNodeAffinity, type Refusal, untoleratedTaint } from "./scheduler-filter.js";
import type { NodeInfo, PodFacts } from "./scheduler-node.js";

/** Labels of a namespace, for namespaceSelector. */
export type NamespaceLabels = (name: string) => Record<string, string> | undefined;

export interface TopologyRules {
  check(info: NodeInfo): Refusal | undefined;
}

type Check = (info: NodeInfo) => Refusal | undefined;
export type Spread = NonNullable<NonNullable<Pod["spec"]>["topologySpreadConstraints"]>[number];
type Affinity = NonNullable<NonNullable<Pod["spec"]>["affinity"]>;
export type Term = NonNullable<
  NonNullable<Affinity["podAffinity"]>["requiredDuringSchedulingIgnoredDuringExecution"]
>[number];

export const NO_RULES: TopologyRules = { check: () => undefined };

/** Whether other pods have to keep a distance from this one's like. */
export function hasAntiAffinity(pod: Stored<Pod>): boolean {
  return antiAffinityTerms(pod).length > 0;
}

/**
 * @param nodes All nodes.
 * @param guarded Pods on nodes that have required anti-affinity of their own.
 */
export function topologyRules(
  facts: PodFacts,
  nodes: readonly NodeInfo[],
  guarded: readonly { facts: PodFacts; info: NodeInfo }[],
  namespaceLabels: NamespaceLabels,
): TopologyRules {
  const { pod } = facts;
  const spread = (pod.spec?.topologySpreadConstraints ?? []).filter(
    (constraint) => constraint.whenUnsatisfiable !== "ScheduleAnyway",
  );
  const checks: Check[] = [];
  if (spread.length > 0) checks.push(spreadCheck(pod, spread, nodes));
  const required = pod.spec?.affinity?.podAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? [];
  if (required.length > 0) checks.push(affinityCheck(pod, required, nodes, namespaceLabels));
  const apart = antiAffinityTerms(pod);
  if (apart.length > 0) checks.push(antiAffinityCheck(pod, apart, nodes, namespaceLabels));
  if (guarded.length > 0) checks.push(guardedCheck(pod, guarded, namespaceLabels));
  if (checks.length === 0) return NO_RULES;
  return {
    check: (info) => {
      for (const check of checks) {
        const refusal = check(info);
        if (refusal) return refusal;
      }
      return undefined;
    },
  };
}

/** Whether a rule of `pod`, or of `other` about it, speaks of `other`: its coming or going may matter. */
export function concerns(pod: Stored<Pod>, other: Stored<Pod>, namespaceLabels: NamespaceLabels): boolean {
  const near = pod.spec?.affinity?.podAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? [];
  return (
    [...near, ...antiAffinityTerms(pod)].some((term) => termMatches(term, pod, other, namespaceLabels)) ||
    antiAffinityTerms(other).some((term) => termMatches(term, other, pod, namespaceLabels)) ||
    (other.metadata.namespace === pod.metadata.namespace &&
      (pod.spec?.topologySpreadConstraints ?? []).some((constraint) =>
        selects(
          withLabelKeys(constraint.labelSelector, constraint.matchLabelKeys, pod),
          other.metadata.labels,
        ),
      ))
  );
}

function antiAffinityTerms(pod: Stored<Pod>): Term[] {
  return pod.spec?.affinity?.podAntiAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? [];
}

export function domainOf(info: NodeInfo, topologyKey: string): string | undefined {
  return info.node?.metadata.labels?.[topologyKey];
}

/** The selector with the values that the incoming pod itself has for matchLabelKeys, and without those of mismatchLabelKeys. */
function withLabelKeys(
  selector: LabelSelector | undefined,
  keys: readonly string[] | undefined,
  pod: Stored<Pod>,
  mismatchKeys: readonly string[] = [],
): LabelSelector | undefined {
  if (!selector || ((keys ?? []).length === 0 && mismatchKeys.length === 0)) return selector;
  const requirements = (names: readonly string[], operator: "In" | "NotIn") =>
    names.flatMap((key) => {
      const value = pod.metadata.labels?.[key];
      return value === undefined ? [] : [{ key, operator, values: [value] }];
    });
  const added = [...requirements(keys ?? [], "In"), ...requirements(mismatchKeys, "NotIn")];
  return { ...selector, matchExpressions: [...(selector.matchExpressions ?? []), ...added] };
}

/** How many pods that each constraint speaks of are in each domain, of nodes that have all the labels. */
export function spreadCounts(
  pod: Stored<Pod>,
  constraints: readonly Spread[],
  nodes: readonly NodeInfo[],
): { constraint: Spread; selector: LabelSelector | undefined; counts: Map<string, number> }[] {
  const keys = constraints.map((constraint) => constraint.topologyKey);
  const eligible = nodes.filter((info) => keys.every((key) => domainOf(info, key) !== undefined));
  return constraints.map((constraint) => {
    const selector = withLabelKeys(constraint.labelSelector, constraint.matchLabelKeys, pod);
    const counts = new Map<string, number>();
    for (const info of eligible) {
      if (constraint.nodeAffinityPolicy !== "Ignore" && !matchesNodeAffinity(pod, info)) continue;
      if (constraint.nodeTaintsPolicy === "Honor" && untoleratedTaint(pod, info.node)) continue;
      const domain = domainOf(info, constraint.topologyKey) ?? "";
      counts.set(domain, (counts.get(domain) ?? 0) + countMatching(info, pod, selector));
    }
    return { constraint, selector, counts };
  });
}

function spreadCheck(pod: Stored<Pod>, constraints: readonly Spread[], nodes: readonly NodeInfo[]): Check {
  const prepared = spreadCounts(pod, constraints, nodes).map(({ constraint, selector, counts }) => {
    const enough = counts.size >= (constraint.minDomains ?? 1);
    const minimum = enough && counts.size > 0 ? Math.min(...counts.values()) : 0;
    return { constraint, counts, minimum, self: selects(selector, pod.metadata.labels) ? 1 : 0 };
  });
  return (info) => {
    for (const { constraint, counts, minimum, self } of prepared) {
      const domain = domainOf(info, constraint.topologyKey);
      const text = "node(s) didn't match pod topology spread constraints";
      if (domain === undefined) return { reasons: [`${text} (missing required label)`], fixed: true };
      if ((counts.get(domain) ?? 0) + self - minimum > constraint.maxSkew)
        return { reasons: [text], fixed: false };
    }
    return undefined;
  };
}

function countMatching(info: NodeInfo, pod: Stored<Pod>, selector: LabelSelector | undefined): number {
  let count = 0;
  for (const { pod: other } of info.pods.values()) {
    if (other.metadata.namespace !== pod.metadata.namespace || other.metadata.deletionTimestamp) continue;
    if (selects(selector, other.metadata.labels)) count++;
  }
  return count;
}

/** Whether `other` is one that a term of `owner` speaks of. */
export function termMatches(
  term: Term,
  owner: Stored<Pod>,
  other: Stored<Pod>,
  namespaceLabels: NamespaceLabels,
): boolean {
  const namespace = other.metadata.namespace ?? "";
  const { namespaces = [], namespaceSelector } = term;
  const own = namespaces.length === 0 && !namespaceSelector;
  const inScope = own
    ? namespace === owner.metadata.namespace
    : namespaces.includes(namespace) || selects(namespaceSelector, namespaceLabels(namespace));
  const selector = withLabelKeys(term.labelSelector, term.matchLabelKeys, owner, term.mismatchLabelKeys);
  return inScope && selects(selector, other.metadata.labels);
}

/** The topology domains of a term in which pods run that it speaks of. */
function domainsOf(
  term: Term,
  pod: Stored<Pod>,
  nodes: readonly NodeInfo[],
  namespaceLabels: NamespaceLabels,
) {
  const domains = new Set<string>();
  for (const info of nodes) {
    const domain = domainOf(info, term.topologyKey);
    if (domain === undefined || domains.has(domain)) continue;
    for (const { pod: other } of info.pods.values()) {
      if (!termMatches(term, pod, other, namespaceLabels)) continue;
      domains.add(domain);
      break;
    }
  }
  return domains;
}

function affinityCheck(
  pod: Stored<Pod>,
  terms: readonly Term[],
  nodes: readonly NodeInfo[],
  namespaceLabels: NamespaceLabels,
): Check {
  const domains = terms.map((term) => domainsOf(term, pod, nodes, namespaceLabels));
  // The first of a group that wants to be together has nobody to be near to.
  const first =
    domains.every((set) => set.size === 0) &&
    terms.every((term) => termMatches(term, pod, pod, namespaceLabels));
  return (info) => {
    const near = terms.every((term, index) => {
      const domain = domainOf(info, term.topologyKey);
      return domain !== undefined && (first || domains[index]?.has(domain));
    });
    return near ? undefined : { reasons: ["node(s) didn't match pod affinity rules"], fixed: true };
  };
}

function antiAffinityCheck(
  pod: Stored<Pod>,
  terms: readonly Term[],
  nodes: readonly NodeInfo[],
  namespaceLabels: NamespaceLabels,
): Check {
  const domains = terms.map((term) => domainsOf(term, pod, nodes, namespaceLabels));
  return (info) => {
    const clash = terms.some((term, index) => domains[index]?.has(domainOf(info, term.topologyKey) ?? ""));
    return clash ? { reasons: ["node(s) didn't match pod anti-affinity rules"], fixed: false } : undefined;
  };
}

/** Pods that are there already may refuse the incoming one. */
function guardedCheck(
  pod: Stored<Pod>,
  guarded: readonly { facts: PodFacts; info: NodeInfo }[],
  namespaceLabels: NamespaceLabels,
): Check {
  const refused = new Set<string>();
  for (const { facts, info } of guarded) {
    for (const term of antiAffinityTerms(facts.pod)) {
      const domain = domainOf(info, term.topologyKey);
      if (domain !== undefined && termMatches(term, facts.pod, pod, namespaceLabels)) {
        refused.add(`${term.topologyKey}\0${domain}`);
      }
    }
  }
  const keys = new Set([...refused].map((entry) => entry.slice(0, entry.indexOf("\0"))));
  return (info) => {
    for (const key of keys) {
      if (!refused.has(`${key}\0${domainOf(info, key) ?? ""}`)) continue;
      return { reasons: ["node(s) didn't satisfy existing pods anti-affinity rules"], fixed: false };
    }
    return undefined;
  };
}
