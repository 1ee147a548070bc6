// The Node object as this agent wants it: metadata, addresses, conditions. Pure.

import type { NodeStatus } from "kubernetes-types/core/v1.js";
import type { Node, NodeCondition, Stored, Taint } from "../../common/k8s.js";

export interface NodeFacts {
  name: string;
  /** One a family, the primary one first. */
  nodeIPs: readonly string[];
  labels: Readonly<Record<string, string>>;
  taints: readonly Taint[];
  arch: string;
  info: NodeStatus["nodeInfo"];
  capacity: Record<string, string>;
}

export function nodeLabels(facts: NodeFacts): Record<string, string> {
  return {
    "beta.kubernetes.io/arch": facts.arch,
    "beta.kubernetes.io/os": "linux",
    "kubernetes.io/arch": facts.arch,
    "kubernetes.io/hostname": facts.name,
    "kubernetes.io/os": "linux",
    ...facts.labels,
  };
}

/** What the kubelet knows of its own health. */
export interface Health {
  /** Undefined: the network is ready; else why not. */
  networkProblem?: string | undefined;
  /** Whether the overlay has said that the network is there (NetworkUnavailable); undefined: it has said nothing. */
  overlayUp?: boolean;
}

type Wanted = { type: string; status: "True" | "False"; reason: string; message: string };

function wantedConditions(health: Health): Wanted[] {
  const { networkProblem, overlayUp } = health;
  const overlay: Wanted[] = overlayUp
    ? [
        {
          type: "NetworkUnavailable",
          status: "False",
          reason: "FlannelIsUp",
          message: "Flannel is running on this node",
        },
      ]
    : [];
  const sufficient = (type: string, reason: string, message: string): Wanted => ({
    type,
    status: "False",
    reason,
    message,
  });
  return [
    ...overlay,
    sufficient("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    sufficient("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    sufficient("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    networkProblem
      ? { type: "Ready", status: "False", reason: "KubeletNotReady", message: networkProblem }
      : { type: "Ready", status: "True", reason: "KubeletReady", message: "kubelet is posting ready status" },
  ];
}

/** Conditions to report; transition times and what others have put there are kept. */
export function nodeConditions(
  health: Health,
  before: readonly NodeCondition[] = [],
  now: string,
): NodeCondition[] {
  const own = wantedConditions(health).map((wanted): NodeCondition => {
    const old = before.find((one) => one.type === wanted.type);
    const same = old?.status === wanted.status && old.lastTransitionTime;
    return { ...wanted, lastHeartbeatTime: now, lastTransitionTime: same ? old.lastTransitionTime : now };
  });
  const names = new Set(own.map((one) => one.type));
  return [...before.filter((one) => !names.has(one.type)), ...own];
}

/** What others have put into the capacity (docs: extended resources); the kubelet makes it allocatable, no more. */
function extendedResources(capacity: NodeStatus["capacity"] = {}): Record<string, string> {
  const isExtended = ([name]: [string, string]) => /^(?!(?:[^/]*\.)?kubernetes\.io\/)[^/]+\//.test(name);
  return Object.fromEntries(Object.entries(capacity).filter(isExtended));
}

/** The part of the status that is to be patched: what is no more in the capacity is not allocatable either. */
export function statusPatch(facts: NodeFacts, status: NodeStatus, before: NodeStatus | undefined): object {
  const allocatable: Record<string, string | null> = { ...status.allocatable };
  for (const name of Object.keys(before?.allocatable ?? {})) allocatable[name] ??= null;
  return { ...status, capacity: facts.capacity, allocatable };
}

/** The whole status, as it is to be. */
export function nodeStatus(
  facts: NodeFacts,
  health: Health,
  before: NodeStatus | undefined,
  now: string,
): NodeStatus {
  const all = { ...extendedResources(before?.capacity), ...facts.capacity };
  return {
    addresses: [
      ...facts.nodeIPs.map((address) => ({ type: "InternalIP", address })),
      { type: "Hostname", address: facts.name },
    ],
    capacity: all,
    allocatable: all,
    conditions: nodeConditions(health, before?.conditions, now),
    daemonEndpoints: { kubeletEndpoint: { Port: 10250 } },
    nodeInfo: facts.info,
  };
}

/** Whether two statuses say the same, heartbeats and the order of keys aside. */
export function sameNodeStatus(a: NodeStatus | undefined, b: NodeStatus): boolean {
  const essence = (status: NodeStatus | undefined) =>
    JSON.stringify([
      status?.addresses?.map((one) => [one.type, one.address]),
      Object.entries(status?.capacity ?? {}).sort(),
      Object.entries(status?.allocatable ?? {}).sort(),
      Object.entries(status?.nodeInfo ?? {}).sort(),
      (status?.conditions ?? [])
        .map((one) => [one.type, one.status, one.reason, one.message])
        .sort((x, y) => String(x[0]).localeCompare(String(y[0]))),
    ]);
  return essence(a) === essence(b);
}

export function internalIPs(node: Pick<Node, "status">): string[] {
  return (node.status?.addresses ?? []).filter((one) => one.type === "InternalIP").map((one) => one.address);
}

/** The other node that has one of the addresses already, if any, and which. */
export function addressHolder(
  nodes: readonly Stored<Node>[],
  facts: NodeFacts,
): { node: Stored<Node>; ip: string } | undefined {
  for (const node of nodes) {
    if (node.metadata.name === facts.name) continue;
    const ip = internalIPs(node).find((one) => facts.nodeIPs.includes(one));
    if (ip !== undefined) return { node, ip };
  }
  return undefined;
}
