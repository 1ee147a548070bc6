// How many replicas a resource metric asks for: the pods that count, the ratio of what they use to the target, and
// what is assumed of pods that have not been measured. Source: "Algorithm details" of the HorizontalPodAutoscaler's
// documentation. Pure; knows Pods and numbers. All amounts are in thousandths of the resource's unit.

import type { Pod, Stored } from "../../common/k8s.js";
import { parseQuantity } from "../resources/validation/quantity.js";
import { podCondition } from "./pod-state.js";
import { parseTime } from "./time.js";

/** While a pod is younger than this, its first CPU figures are not believed until it has been ready for a while. */
const INITIALIZATION_MS = 300_000;
const READINESS_DELAY_MS = 30_000;

/** One pod's usage over the `windowMs` that ended at `timestamp` (milliseconds since the epoch). */
export interface Usage {
  milli: number;
  timestamp: number;
  windowMs: number;
}

/** Fractions of the ratio by which it may be off the target before anything is done. */
export interface Tolerances {
  up: number;
  down: number;
}

export interface Proposal {
  replicas: number;
  /** Of a target in percent. */
  utilization?: number;
  /** Thousandths of the unit, a pod. */
  average: number;
}

export interface MetricQuestion {
  resource: string;
  /** Only this container counts; undefined: all. */
  container?: string | undefined;
  /** Percent of the requests, or an amount a pod. */
  target: { utilization: number } | { milli: number };
  currentReplicas: number;
  pods: readonly Stored<Pod>[];
  /** By name of the pod. */
  usage: ReadonlyMap<string, Usage>;
  tolerances: Tolerances;
  now: number;
}

interface Groups {
  ready: number;
  unready: string[];
  missing: string[];
  ignored: string[];
}

function groupPods({ pods, usage, resource, now }: MetricQuestion): Groups {
  const groups: Groups = { ready: 0, unready: [], missing: [], ignored: [] };
  for (const pod of pods) {
    const { name, deletionTimestamp } = pod.metadata;
    const phase = pod.status?.phase;
    const measured = usage.get(name);
    if (deletionTimestamp || phase === "Failed" || phase === "Succeeded") groups.ignored.push(name);
    else if (phase === "Pending") groups.unready.push(name);
    else if (!measured) groups.missing.push(name);
    else if (resource === "cpu" && isUnready(pod, measured, now)) groups.unready.push(name);
    else groups.ready++;
  }
  return groups;
}

function isUnready(pod: Stored<Pod>, { timestamp, windowMs }: Usage, now: number): boolean {
  const condition = podCondition(pod, "Ready");
  const started = parseTime(pod.status?.startTime);
  const changed = parseTime(condition?.lastTransitionTime);
  if (!condition || started === undefined || changed === undefined) return true;
  if (started + INITIALIZATION_MS > now)
    return condition.status === "False" || timestamp < changed + windowMs;
  return condition.status === "False" && started + READINESS_DELAY_MS > changed;
}

/** The pods' requests. @throws Error naming a container that has none. */
function requestsOf({ pods, resource, container }: MetricQuestion): Map<string, number> {
  const requests = new Map<string, number>();
  for (const pod of pods) {
    let sum = 0;
    const sidecars = (pod.spec?.initContainers ?? []).filter((one) => one.restartPolicy === "Always");
    for (const one of [...(pod.spec?.containers ?? []), ...sidecars]) {
      if (container !== undefined && one.name !== container) continue;
      const amount = one.resources?.requests?.[resource];
      if (amount === undefined)
        throw new Error(
          `missing request for ${resource} in container ${one.name} of Pod ${pod.metadata.name}`,
        );
      sum += (parseQuantity(amount)?.value ?? 0) * 1000;
    }
    requests.set(pod.metadata.name, sum);
  }
  return requests;
}

/** Usage of all pods in relation to the target. */
interface Ratio {
  ratio: number;
  utilization?: number;
  average: number;
}

type Measure = (used: ReadonlyMap<string, number>) => Ratio;

const sumOf = (values: Iterable<number>): number => [...values].reduce((sum, value) => sum + value, 0);

function byUtilization(requests: ReadonlyMap<string, number>, target: number): Measure {
  return (used) => {
    const total = sumOf(used.values());
    const requested = sumOf([...used.keys()].map((name) => requests.get(name) ?? 0));
    if (requested === 0) throw new Error("no metrics returned matched known pods");
    const utilization = Math.trunc((total * 100) / requested);
    return { ratio: utilization / target, utilization, average: Math.trunc(total / used.size) };
  };
}

function byAmount(target: number): Measure {
  return (used) => {
    const average = Math.trunc(sumOf(used.values()) / used.size);
    return { ratio: average / target, average };
  };
}

const within = (ratio: number, { up, down }: Tolerances): boolean => 1 - down <= ratio && ratio <= 1 + up;

/**
 * The replicas that would bring the metric to its target.
 * @throws Error when nothing can be said, in the real controller's words.
 */
export function proposeReplicas(question: MetricQuestion): Proposal {
  const { pods, usage, target, currentReplicas, tolerances } = question;
  if (usage.size === 0)
    throw new Error(
      `unable to get metrics for resource ${question.resource}: no metrics returned from resource metrics API`,
    );
  if (pods.length === 0) throw new Error("no pods returned by selector while calculating replica count");
  const { ready, unready, missing, ignored } = groupPods(question);
  const used = new Map([...usage].map(([name, { milli }]) => [name, milli]));
  for (const name of [...ignored, ...unready]) used.delete(name);
  if (used.size === 0) throw new Error("did not receive metrics for targeted pods (pods might be unready)");
  const requests = "utilization" in target ? requestsOf(question) : new Map<string, number>();
  const measure =
    "utilization" in target ? byUtilization(requests, target.utilization) : byAmount(target.milli);
  const first = measure(used);
  const told = (replicas: number): Proposal => {
    const { ratio: _, ...figures } = first;
    return { ...figures, replicas };
  };
  const withUnready = unready.length > 0 && first.ratio > 1;
  if (!withUnready && missing.length === 0)
    return told(within(first.ratio, tolerances) ? currentReplicas : Math.ceil(first.ratio * ready));
  // Of what is not known the assumption is that which dampens: on the way down it is at its target or above, on the
  // way up it uses nothing.
  for (const name of missing) {
    const low =
      "utilization" in target
        ? ((requests.get(name) ?? 0) * Math.max(100, target.utilization)) / 100
        : target.milli;
    used.set(name, first.ratio < 1 ? low : 0);
  }
  if (withUnready) for (const name of unready) used.set(name, 0);
  const { ratio } = measure(used);
  const turned = (first.ratio < 1 && ratio > 1) || (first.ratio > 1 && ratio < 1);
  if (within(ratio, tolerances) || turned) return told(currentReplicas);
  const replicas = Math.ceil(ratio * used.size);
  const against = (ratio < 1 && replicas > currentReplicas) || (ratio > 1 && replicas < currentReplicas);
  return told(against ? currentReplicas : replicas);
}
