// Taints and tolerations, and which taints a node's state calls for. Pure; knows Nodes and Pods' tolerations.

import type { Node, Stored, Taint, Toleration } from "../../common/k8s.js";

export const NOT_READY = "node.kubernetes.io/not-ready";
export const UNREACHABLE = "node.kubernetes.io/unreachable";
export const UNSCHEDULABLE = "node.kubernetes.io/unschedulable";
export const OUT_OF_SERVICE = "node.kubernetes.io/out-of-service";

/** Node conditions and the taint each value calls for; Ready is its own case. */
const PRESSURE_TAINTS: Record<string, string> = {
  MemoryPressure: "node.kubernetes.io/memory-pressure",
  DiskPressure: "node.kubernetes.io/disk-pressure",
  PIDPressure: "node.kubernetes.io/pid-pressure",
  NetworkUnavailable: "node.kubernetes.io/network-unavailable",
};

/** Taints with the effect NoSchedule that belong to the node lifecycle controller: nobody else sets or keeps them. */
export const MANAGED_NO_SCHEDULE = new Set([
  NOT_READY,
  UNREACHABLE,
  UNSCHEDULABLE,
  ...Object.values(PRESSURE_TAINTS),
]);

export function tolerates(toleration: Toleration, taint: Taint): boolean {
  if (toleration.effect && toleration.effect !== taint.effect) return false;
  if (toleration.key && toleration.key !== taint.key) return false;
  if (toleration.operator === "Exists") return true;
  if (!toleration.key) return false;
  return (toleration.value ?? "") === (taint.value ?? "");
}

export function isTolerated(taint: Taint, tolerations: readonly Toleration[] | undefined): boolean {
  return tolerations?.some((toleration) => tolerates(toleration, taint)) ?? false;
}

/** "True", "False", "Unknown"; undefined when the node never said. */
export function readyStatus(node: Stored<Node>): string | undefined {
  return node.status?.conditions?.find((condition) => condition.type === "Ready")?.status;
}

/** The NoSchedule taints that conditions and spec.unschedulable call for. */
export function noScheduleTaints(node: Stored<Node>): Taint[] {
  const keys: string[] = [];
  const ready = readyStatus(node);
  if (ready === "Unknown") keys.push(UNREACHABLE);
  else if (ready !== "True") keys.push(NOT_READY);
  for (const { type, status } of node.status?.conditions ?? []) {
    const key = PRESSURE_TAINTS[type];
    if (key && status === "True") keys.push(key);
  }
  if (node.spec?.unschedulable) keys.push(UNSCHEDULABLE);
  return keys.map((key) => ({ key, effect: "NoSchedule" }));
}

/** The NoExecute taint that the Ready condition calls for. */
export function noExecuteTaint(node: Stored<Node>): Taint | undefined {
  const ready = readyStatus(node);
  if (ready === "False") return { key: NOT_READY, effect: "NoExecute" };
  if (ready === "Unknown") return { key: UNREACHABLE, effect: "NoExecute" };
  return undefined;
}

export function sameTaint(a: Taint, b: Taint): boolean {
  return a.key === b.key && a.effect === b.effect;
}
