// What a DaemonSet needs next, and its status. Pure; knows Pods, Nodes and DaemonSets. The rules are those of
// kube-controller-manager's DaemonSet controller.

import type { DaemonSet, Node, Pod, Stored } from "../../common/k8s.js";
import { isUpdated, type Place, placeOn, targetNode } from "./daemonset-pod.js";
import { scaledValue } from "./deployment-plan.js";
import { availableAt, isPodReady, isPodTerminal } from "./pod-state.js";

/** A node, whether it should have a pod, and those it has or is to have, oldest first. */
export interface DaemonNode extends Place {
  name: string;
  pods: readonly Stored<Pod>[];
}

export interface DaemonPlan {
  /** Names of nodes. */
  create: string[];
  delete: Stored<Pod>[];
}

export type DaemonSetStatus = NonNullable<DaemonSet["status"]>;

/** What decides whether a pod counts as up to date and as available. */
export interface Measure {
  /** Of the present revision. */
  hash: string;
  minReadySeconds: number;
  /** Milliseconds since the epoch. */
  now: number;
}

function isAvailable(pod: Stored<Pod>, { minReadySeconds, now }: Measure): boolean {
  const at = availableAt(pod, minReadySeconds);
  return at !== undefined && at <= now;
}

/** Bound ones first, then the oldest. */
function bySeniority(a: Stored<Pod>, b: Stored<Pod>): number {
  const bound = Number(!!b.spec?.nodeName) - Number(!!a.spec?.nodeName);
  if (bound !== 0) return bound;
  const [x, y] = [a.metadata.creationTimestamp, b.metadata.creationTimestamp];
  return x === y ? (a.metadata.name < b.metadata.name ? -1 : 1) : x < y ? -1 : 1;
}

/** All nodes with their pods, and the pods that wait for a node which is gone. */
export function daemonNodes(
  ds: Stored<DaemonSet>,
  nodes: readonly Stored<Node>[],
  pods: readonly Stored<Pod>[],
): { nodes: DaemonNode[]; stranded: Stored<Pod>[] } {
  const byNode = new Map<string, Stored<Pod>[]>();
  for (const pod of pods) {
    const name = targetNode(pod);
    // One that has ended and is being deleted is out of the way already.
    if (name === undefined || (isPodTerminal(pod) && pod.metadata.deletionTimestamp)) continue;
    const list = byNode.get(name);
    if (list) list.push(pod);
    else byNode.set(name, [pod]);
  }
  const all = nodes.map((node) => {
    const { name } = node.metadata;
    const own = byNode.get(name)?.sort(bySeniority) ?? [];
    byNode.delete(name);
    return { name, ...placeOn(ds, node), pods: own };
  });
  const stranded = [...byNode.values()].flat().filter((pod) => !pod.spec?.nodeName);
  return { nodes: all, stranded: stranded.filter((pod) => !pod.metadata.deletionTimestamp) };
}

/** One pod on each node that should have one, none elsewhere; two while one is being replaced with maxSurge. */
export function planDaemons(
  ds: Stored<DaemonSet>,
  nodes: readonly DaemonNode[],
  measure: Measure,
): DaemonPlan & { ended: Stored<Pod>[] } {
  const plan: DaemonPlan & { ended: Stored<Pod>[] } = { create: [], delete: [], ended: [] };
  const surging = surgeOf(ds, 1) > 0;
  for (const { name, run, stay, pods } of nodes) {
    const living = pods.filter((pod) => !pod.metadata.deletionTimestamp);
    if (run && pods.length === 0) plan.create.push(name);
    else if (stay) {
      plan.ended.push(...living.filter(isPodTerminal));
      const running = living.filter((pod) => !isPodTerminal(pod));
      plan.delete.push(...(surging ? surplusWhileSurging(running, measure) : running.slice(1)));
    } else plan.delete.push(...living);
  }
  return plan;
}

/** Of the oldest new and the oldest old pod both stay only while the old one works and the new one not yet. */
function surplusWhileSurging(running: readonly Stored<Pod>[], measure: Measure): Stored<Pod>[] {
  const current = running.find((pod) => isUpdated(pod, measure.hash));
  const outdated = running.filter((pod) => !isUpdated(pod, measure.hash));
  // Of two old ones, left by an update that was overtaken by the next, not the one that serves has to go.
  const old = outdated.find(isPodReady) ?? outdated[0];
  const surplus = running.filter((pod) => pod !== current && pod !== old);
  if (current && old && (!isPodReady(old) || isAvailable(current, measure))) surplus.push(old);
  return surplus;
}

function surgeOf(ds: Stored<DaemonSet>, desired: number): number {
  if (ds.spec?.updateStrategy?.type !== "RollingUpdate") return 0;
  return scaledValue(ds.spec.updateStrategy.rollingUpdate?.maxSurge ?? 0, desired, "up");
}

/** One step of a rolling update, for nodes that {@link planDaemons} finds in order. */
export function planRollingUpdate(
  ds: Stored<DaemonSet>,
  nodes: readonly DaemonNode[],
  measure: Measure,
): DaemonPlan {
  const desired = nodes.filter(({ run }) => run).length;
  const maxSurge = surgeOf(ds, desired);
  const { maxUnavailable = 1 } = ds.spec?.updateStrategy?.rollingUpdate ?? {};
  const concerned = nodes.filter(({ run, pods }) => run || pods.length > 0);
  if (maxSurge > 0) return replaceSurging(concerned, maxSurge, measure);
  return replaceInPlace(concerned, Math.max(1, scaledValue(maxUnavailable, desired, "up")), measure);
}

/** The one new and the one old pod of a node; undefined when there are more, which is not for the update to solve. */
function pairOf({ pods }: DaemonNode, { hash }: Measure) {
  const living = pods.filter((pod) => !pod.metadata.deletionTimestamp);
  const current = living.filter((pod) => isUpdated(pod, hash));
  const old = living.filter((pod) => !isUpdated(pod, hash));
  return current.length > 1 || old.length > 1 ? undefined : { current: current[0], old: old[0] };
}

/** Deletes old pods; those that do not work do not count, nobody misses them. */
function replaceInPlace(nodes: readonly DaemonNode[], maxUnavailable: number, measure: Measure): DaemonPlan {
  const broken: Stored<Pod>[] = [];
  const working: Stored<Pod>[] = [];
  let unavailable = 0;
  for (const node of nodes) {
    const { current, old } = pairOf(node, measure) ?? {};
    if (old && !current) (isAvailable(old, measure) ? working : broken).push(old);
    else if (!current || old || !isAvailable(current, measure)) unavailable++;
  }
  const room = Math.max(0, maxUnavailable - unavailable);
  return { create: [], delete: [...broken, ...working.slice(0, room)] };
}

/** Makes new pods beside old ones, which go when the new ones are available. */
function replaceSurging(nodes: readonly DaemonNode[], maxSurge: number, measure: Measure): DaemonPlan {
  const plan: DaemonPlan = { create: [], delete: [] };
  const candidates: string[] = [];
  let surging = 0;
  for (const node of nodes) {
    const pair = pairOf(node, measure);
    if (!pair) surging++;
    const { current, old } = pair ?? {};
    if (!old || !node.run) continue;
    if (!current) (isAvailable(old, measure) ? candidates : plan.create).push(node.name);
    else if (!isAvailable(old, measure) || isAvailable(current, measure)) plan.delete.push(old);
    else surging++;
  }
  plan.create.push(...candidates.slice(0, Math.max(0, maxSurge - surging)));
  return plan;
}

export function daemonSetStatus(
  ds: Stored<DaemonSet>,
  nodes: readonly DaemonNode[],
  measure: Measure,
  collisionCount: number,
): DaemonSetStatus {
  const wanted = nodes.filter(({ run }) => run);
  const firsts = wanted.flatMap(({ pods }) => pods[0] ?? []);
  const ready = firsts.filter(isPodReady).length;
  const updated = firsts.filter((pod) => isUpdated(pod, measure.hash)).length;
  const available = firsts.filter((pod) => isAvailable(pod, measure)).length;
  return {
    currentNumberScheduled: firsts.length,
    desiredNumberScheduled: wanted.length,
    numberMisscheduled: nodes.filter(({ run, pods }) => !run && pods.length > 0).length,
    numberReady: ready,
    observedGeneration: ds.metadata.generation ?? 0,
    ...(updated > 0 ? { updatedNumberScheduled: updated } : {}),
    ...(available > 0 ? { numberAvailable: available } : {}),
    ...(wanted.length > available ? { numberUnavailable: wanted.length - available } : {}),
    ...(collisionCount > 0 ? { collisionCount } : {}),
    ...(ds.status?.conditions ? { conditions: ds.status.conditions } : {}),
  };
}
