// Which nodes a pod may run on, and why not on the others, in kube-scheduler's words. Pure; knows what
// scheduler-node.ts holds. Rules between pods (spread constraints, affinity) are in scheduler-topology.ts.

import type { Node, Pod, Stored, Taint } from "../../common/k8s.js";
import { matchLabels, type Requirement } from "../../common/selector.js";
import type { NodeInfo, PodFacts } from "./scheduler-node.js";
import type { TopologyRules } from "./scheduler-topology.js";
import type { VolumeNeeds } from "./scheduler-volumes.js";
import { isTolerated, noScheduleTaints, UNSCHEDULABLE } from "./taints.js";

/** Why a node is out. `fixed`: removing other pods from the node would not help. */
export interface Refusal {
  reasons: string[];
  fixed: boolean;
  /** It is a rule between pods that refuses: what happens on other nodes may help. */
  between?: true;
}

/** Pods a node takes when it does not say; the kubelet's default. */
const DEFAULT_MAX_PODS = 110;

const CORDONED: Taint = { key: UNSCHEDULABLE, effect: "NoSchedule" };

const refuse = (reason: string, fixed = true): Refusal => ({ reasons: [reason], fixed });

/** Undefined: the pod may run here. The checks come in kube-scheduler's order; the first that fails counts. */
export function filterNode(
  facts: PodFacts,
  info: NodeInfo,
  topology: TopologyRules,
  needs?: VolumeNeeds,
): Refusal | undefined {
  const own =
    filterByName(facts, info) ??
    filterByNode(facts.pod, info) ??
    filterPorts(facts, info) ??
    filterResources(facts, info) ??
    needs?.check(info);
  if (own) return own;
  const between = topology.check(info);
  return between && { ...between, between: true };
}

/** What kube-scheduler knows before it looks at any node. */
function filterByName({ onlyNodes }: PodFacts, { node }: NodeInfo): Refusal | undefined {
  if (!onlyNodes || !node || onlyNodes.has(node.metadata.name)) return undefined;
  return refuse("node(s) didn't satisfy plugin(s) [NodeAffinity]");
}

/** Everything that depends on the node's own object only. */
function filterByNode(pod: Stored<Pod>, info: NodeInfo): Refusal | undefined {
  const { node } = info;
  if (!node) return refuse("node(s) didn't match the requested node name");
  if (node.spec?.unschedulable && !isTolerated(CORDONED, pod.spec?.tolerations)) {
    return refuse("node(s) were unschedulable");
  }
  if (untoleratedTaint(pod, node)) return refuse("node(s) had untolerated taint(s)");
  if (!matchesNodeAffinity(pod, info)) return refuse("node(s) didn't match Pod's node affinity/selector");
  return undefined;
}

/** A taint that keeps the pod away from the node. */
export function untoleratedTaint(pod: Stored<Pod>, node: Stored<Node> | undefined): Taint | undefined {
  if (!node) return undefined;
  // The taints that its conditions call for count before the lifecycle controller has written them.
  const taints = [...(node.spec?.taints ?? []), ...noScheduleTaints(node)];
  return taints.find(
    (taint) =>
      (taint.effect === "NoSchedule" || taint.effect === "NoExecute") &&
      !isTolerated(taint, pod.spec?.tolerations),
  );
}

type NodeSelectorTerm = NonNullable<
  NonNullable<
    NonNullable<
      NonNullable<NonNullable<Pod["spec"]>["affinity"]>["nodeAffinity"]
    >["requiredDuringSchedulingIgnoredDuringExecution"]
  >["nodeSelectorTerms"]
>[number];

/** spec.nodeSelector and the required node affinity: the terms are alternatives, an empty one matches nothing. */
export function matchesNodeAffinity(pod: Pick<Pod, "spec">, { node }: Pick<NodeInfo, "node">): boolean {
  if (!node) return false;
  for (const [key, value] of Object.entries(pod.spec?.nodeSelector ?? {})) {
    if (node.metadata.labels?.[key] !== value) return false;
  }
  const required = pod.spec?.affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution;
  if (!required) return true;
  return required.nodeSelectorTerms.some((term) => matchesNodeTerm(term, node.metadata));
}

export function matchesNodeTerm(
  term: NodeSelectorTerm,
  node: { name: string; labels?: Record<string, string> },
): boolean {
  const { matchExpressions = [], matchFields = [] } = term;
  if (matchExpressions.length === 0 && matchFields.length === 0) return false;
  const requirements = (list: typeof matchExpressions) =>
    list.map(({ key, operator, values = [] }) => ({ key, operator, values }) as Requirement);
  return (
    matchLabels(requirements(matchExpressions), node.labels) &&
    matchLabels(requirements(matchFields), { "metadata.name": node.name })
  );
}

function filterPorts(facts: PodFacts, info: NodeInfo): Refusal | undefined {
  if (!info.conflictingPort(facts.hostPorts)) return undefined;
  return refuse("node(s) didn't have free ports for the requested pod ports", false);
}

function filterResources(facts: PodFacts, info: NodeInfo): Refusal | undefined {
  const reasons: string[] = [];
  if (info.pods.size + 1 > (info.allocatable("pods") ?? DEFAULT_MAX_PODS)) reasons.push("Too many pods");
  let fixed = false;
  for (const [name, amount] of facts.requests) {
    if (amount === 0) continue;
    const allocatable = info.allocatable(name) ?? 0;
    if ((info.requested.get(name) ?? 0) + amount <= allocatable) continue;
    reasons.push(`Insufficient ${name}`);
    if (amount > allocatable) fixed = true;
  }
  return reasons.length > 0 ? { reasons, fixed } : undefined;
}

/**
 * The message of the PodScheduled condition and the FailedScheduling Event.
 * @param preemption What is done about it, or why nothing is; default: it would not help.
 */
export function unschedulableMessage(
  nodes: number,
  refusals: readonly Refusal[],
  preemption?: object | string,
): string {
  if (nodes === 0) return "no nodes available to schedule pods";
  const why = `0/${nodes} nodes are available: ${countReasons(refusals.flatMap(({ reasons }) => reasons))}.`;
  if (typeof preemption === "object") return why;
  const useless = refusals.map(({ fixed }) =>
    fixed ? "Preemption is not helpful for scheduling" : "No preemption victims found for incoming pod",
  );
  const outcome = preemption ?? `0/${nodes} nodes are available: ${countReasons(useless)}.`;
  return `${why} no new claims to deallocate, preemption: ${outcome}`;
}

function countReasons(reasons: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const reason of reasons) counts.set(reason, (counts.get(reason) ?? 0) + 1);
  return [...counts]
    .map(([reason, count]) => `${count} ${reason}`)
    .sort()
    .join(", ");
}
