// What a Pod's status says: ready, available, finished. Knows the Pod type, nothing else.

import type { Pod, PodCondition } from "../../common/k8s.js";
import { parseTime } from "./time.js";

/** A Pod, stored or not. */
export type PodLike = Pick<Pod, "metadata" | "spec" | "status">;

export function podCondition(pod: PodLike, type: string): PodCondition | undefined {
  return pod.status?.conditions?.find((condition) => condition.type === type);
}

/** Stored objects never change, so what is read from one is read once. */
const known = new WeakMap<PodLike, { ready: boolean; addresses: readonly string[] }>();

function factsOf(pod: PodLike): { ready: boolean; addresses: readonly string[] } {
  let facts = known.get(pod);
  if (!facts) {
    const listed = (pod.status?.podIPs ?? []).flatMap((entry) => (entry.ip ? [entry.ip] : []));
    const addresses = listed.length > 0 ? listed : pod.status?.podIP ? [pod.status.podIP] : [];
    facts = { ready: podCondition(pod, "Ready")?.status === "True", addresses };
    known.set(pod, facts);
  }
  return facts;
}

export function isPodReady(pod: PodLike): boolean {
  return factsOf(pod).ready;
}

/** Succeeded or Failed: it will never run again. */
export function isPodTerminal(pod: PodLike): boolean {
  const phase = pod.status?.phase;
  return phase === "Succeeded" || phase === "Failed";
}

/** Counts towards the replicas of its controller. */
export function isPodActive(pod: PodLike): boolean {
  return !isPodTerminal(pod) && !pod.metadata?.deletionTimestamp;
}

/** Since when it is ready, in milliseconds since the epoch; undefined when it is not. */
export function readySince(pod: PodLike): number | undefined {
  const condition = podCondition(pod, "Ready");
  return condition?.status === "True" ? (parseTime(condition.lastTransitionTime) ?? 0) : undefined;
}

/** When a ready pod becomes available, in milliseconds since the epoch; undefined when it is not ready. */
export function availableAt(pod: PodLike, minReadySeconds: number): number | undefined {
  const since = readySince(pod);
  return since === undefined ? undefined : minReadySeconds === 0 ? 0 : since + minReadySeconds * 1000;
}

/** The highest number of restarts of any of its containers. */
export function maxRestarts(pod: PodLike): number {
  return Math.max(0, ...(pod.status?.containerStatuses ?? []).map((status) => status.restartCount));
}

/** The pod's addresses, of all families. */
export function podAddresses(pod: PodLike): readonly string[] {
  return factsOf(pod).addresses;
}
