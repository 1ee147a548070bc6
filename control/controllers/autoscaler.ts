// Scales what a HorizontalPodAutoscaler names after what its pods use. How many replicas a metric asks for is decided
// in autoscaler-metrics.ts, how fast they may come in autoscaler-limits.ts; here are the effects.

import type { MetricSpec, MetricStatus } from "kubernetes-types/autoscaling/v2.js";
import { HORIZONTAL_POD_AUTOSCALERS, PODS, type Resource } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import {
  type HorizontalPodAutoscaler,
  type KubeObject,
  keyOf,
  type Pod,
  type PodMetrics,
  type Scale,
  type Stored,
} from "../../common/k8s.js";
import { matchLabels, parseLabelSelector } from "../../common/selector.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ScalingRules } from "../resources/validation/autoscaler.js";
import { parseQuantity } from "../resources/validation/quantity.js";
import { limitReplicas, type Past, recent } from "./autoscaler-limits.js";
import { type MetricQuestion, type Proposal, proposeReplicas, type Usage } from "./autoscaler-metrics.js";
import {
  type AutoscalerCondition,
  type ConditionType,
  metricName,
  metricStatus,
  setCondition,
  unserved,
} from "./autoscaler-status.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import { messageOf, namespaceOf } from "./objects.js";
import type { Reconciler } from "./reconcile.js";
import { resourceOf } from "./served.js";
import { timestamp } from "./time.js";

/** --horizontal-pod-autoscaler-sync-period */
const PERIOD_MS = 15_000;
/** --horizontal-pod-autoscaler-tolerance */
const TOLERANCE = 0.1;

/** What the metrics API knows of the pods of a namespace. */
export type PodMetricsSource = (namespace: string) => readonly Stored<PodMetrics>[];

type Spec = NonNullable<HorizontalPodAutoscaler["spec"]>;
type Autoscaler = Stored<HorizontalPodAutoscaler> & { spec: Spec };

/** One look at one autoscaler. */
interface Look {
  hpa: Autoscaler;
  conditions: AutoscalerCondition[];
  now: number;
}

class MetricError extends Error {
  constructor(
    readonly reason: string,
    /** How the summary of all metrics calls it. */
    readonly what: string,
    message: string,
  ) {
    super(message);
  }
}

export class AutoscalerController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #autoscalers: Informer<HorizontalPodAutoscaler>;
  readonly #pods: Informer<Pod>;
  readonly #metrics: PodMetricsSource;
  readonly #past = new Map<string, Past>();
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue, metrics: PodMetricsSource) {
    this.#context = context;
    this.#recorder = context.events.recorder("horizontal-pod-autoscaler");
    this.#autoscalers = context.informers.get(HORIZONTAL_POD_AUTOSCALERS);
    this.#pods = context.informers.get(PODS);
    this.#metrics = metrics;
    this.#queue = queue;
  }

  watch(): void {
    const add = (hpa: Stored<HorizontalPodAutoscaler>) => this.#queue.add(keyOf(hpa));
    this.#autoscalers.subscribe({
      add,
      // Its own status is no reason to look again; the period is.
      update: (old, now) => old.metadata.generation !== now.metadata.generation && add(now),
      delete: (hpa) => this.#past.delete(keyOf(hpa)),
    });
  }

  async reconcile(key: string): Promise<void> {
    const hpa = this.#autoscalers.get(key);
    if (!hpa?.spec || hpa.metadata.deletionTimestamp) return;
    this.#queue.addAfter(key, PERIOD_MS);
    const look: Look = {
      hpa: hpa as Autoscaler,
      conditions: [...(hpa.status?.conditions ?? [])],
      now: this.#context.now(),
    };
    const target = await this.#target(look);
    if (!target) return await this.#write(look, {});
    await this.#autoscale(key, look, target);
  }

  #set(look: Look, type: ConditionType, status: boolean, reason: string, message: string): void {
    setCondition(look.conditions, type, status, { reason, message }, timestamp(look.now));
  }

  #warn({ hpa }: Look, reason: string, message: string): void {
    this.#recorder.event(hpa, "Warning", reason, message);
  }

  /** The scale of what is to be scaled; undefined when it cannot be had, which is told then. */
  async #target(look: Look): Promise<{ resource: Resource; scale: Stored<Scale> } | undefined> {
    const { kind, name, apiVersion = "" } = look.hpa.spec.scaleTargetRef;
    try {
      const resource = resourceOf({ apiVersion, kind });
      if (!resource)
        throw new Error(
          `no matches for kind ${JSON.stringify(kind)} in group ${JSON.stringify(apiVersion.split("/")[0])}`,
        );
      const scale = await this.#scale(look, resource, name, {}, true);
      const text = "the HPA controller was able to get the target's current scale";
      this.#set(look, "AbleToScale", true, "SucceededGetScale", text);
      return { resource, scale };
    } catch (error) {
      const text = messageOf(error);
      this.#warn(look, "FailedGetScale", text);
      const message = `the HPA controller was unable to get the target's current scale: ${text}`;
      this.#set(look, "AbleToScale", false, "FailedGetScale", message);
      return undefined;
    }
  }

  /** The scale subresource with that change; a dry run of no change reads it. */
  async #scale(
    { hpa }: Look,
    resource: Resource,
    name: string,
    patch: object,
    dryRun = false,
  ): Promise<Stored<Scale>> {
    const options = { ...namespaceOf(hpa), subresource: "scale" as const, dryRun };
    const answer: Stored<KubeObject> = await this.#context.client.patch(
      resource,
      name,
      "merge",
      patch,
      options,
    );
    return answer as Stored<Scale>;
  }

  async #autoscale(
    key: string,
    look: Look,
    { resource, scale }: { resource: Resource; scale: Stored<Scale> },
  ): Promise<void> {
    const { spec, metadata } = look.hpa;
    const { minReplicas = 1, maxReplicas } = spec;
    const current = scale.spec?.replicas ?? 0;
    const past = recent(
      this.#past.get(key) ?? { recommendations: [{ replicas: current, at: look.now }], changes: [] },
      look.now,
    );
    this.#past.set(key, past);
    let desired = current;
    let reason = "";
    let currentMetrics: MetricStatus[] | undefined = look.hpa.status?.currentMetrics;
    if (current === 0 && minReplicas !== 0) {
      const text = "scaling is disabled since the replica count of the target is zero";
      this.#set(look, "ScalingActive", false, "ScalingDisabled", text);
    } else if (current > maxReplicas) {
      [desired, reason] = [maxReplicas, "Current number of replicas above Spec.MaxReplicas"];
    } else if (current < minReplicas) {
      [desired, reason] = [minReplicas, "Current number of replicas below Spec.MinReplicas"];
    } else {
      const found = this.#measure(look, scale, current);
      currentMetrics = found.statuses;
      if (found.replicas === undefined) {
        return await this.#write(look, {
          currentReplicas: current,
          desiredReplicas: current,
          currentMetrics,
        });
      }
      past.recommendations.push({ replicas: found.replicas, at: look.now });
      const decision = limitReplicas(spec, current, found.replicas, past, look.now);
      this.#set(look, "AbleToScale", true, decision.able.reason, decision.able.message);
      this.#set(look, "ScalingLimited", decision.limited, decision.limit.reason, decision.limit.message);
      desired = decision.replicas;
      reason = desired > current ? `${found.name} above target` : "All metrics below target";
    }
    let rescaled = false;
    if (desired !== current) {
      rescaled = await this.#rescale(look, resource, scale, desired, reason);
      if (rescaled) past.changes.push({ by: desired - current, at: look.now });
    }
    this.#context.log.debug({ hpa: metadata.name, current, desired }, "autoscaler looked");
    await this.#write(look, {
      currentReplicas: current,
      desiredReplicas: rescaled || desired === current ? desired : current,
      currentMetrics,
      ...(rescaled ? { lastScaleTime: timestamp(look.now) } : {}),
    });
  }

  async #rescale(
    look: Look,
    resource: Resource,
    scale: Stored<Scale>,
    desired: number,
    reason: string,
  ): Promise<boolean> {
    const { name, resourceVersion } = scale.metadata;
    try {
      await this.#scale(look, resource, name, { metadata: { resourceVersion }, spec: { replicas: desired } });
    } catch (error) {
      const text = messageOf(error);
      this.#warn(look, "FailedRescale", `New size: ${desired}; reason: ${reason}; error: ${text}`);
      const message = `the HPA controller was unable to update the target scale: ${text}`;
      this.#set(look, "AbleToScale", false, "FailedUpdateScale", message);
      return false;
    }
    const message = `the HPA controller was able to update the target scale to ${desired}`;
    this.#set(look, "AbleToScale", true, "SucceededRescale", message);
    this.#recorder.event(look.hpa, "Normal", "SuccessfulRescale", `New size: ${desired}; reason: ${reason}`);
    return true;
  }

  /** The largest proposal of all metrics; no replicas when they cannot be trusted to say it. */
  #measure(
    look: Look,
    scale: Stored<Scale>,
    current: number,
  ): { replicas?: number; name: string; statuses: MetricStatus[] } {
    const statuses: MetricStatus[] = [];
    const selector = (scale.status as { selector?: string } | undefined)?.selector ?? "";
    if (selector === "") {
      this.#warn(look, "SelectorRequired", "selector is required");
      const text = "the HPA target's scale is missing a selector";
      this.#set(look, "ScalingActive", false, "InvalidSelector", text);
      return { name: "", statuses };
    }
    const metrics = look.hpa.spec.metrics ?? [];
    let best: { replicas: number; name: string } | undefined;
    let first: MetricError | undefined;
    let invalid = 0;
    for (const metric of metrics) {
      try {
        const proposal = this.#propose(look, metric, selector, current);
        statuses.push(metricStatus(metric, proposal));
        if (!best || proposal.replicas > best.replicas)
          best = { replicas: proposal.replicas, name: metricName(metric) };
      } catch (error) {
        if (!(error instanceof MetricError)) throw error;
        this.#warn(look, error.reason, error.message);
        first ??= error;
        invalid++;
      }
    }
    // With a part of the metrics unknown it may go up, never down.
    if (!best || (first && best.replicas < current)) {
      const text = first?.message ?? "";
      const message = `the HPA was unable to compute the replica count: ${text}`;
      this.#set(look, "ScalingActive", false, first?.reason ?? "FailedGetResourceMetric", message);
      const summary = `invalid metrics (${invalid} invalid out of ${metrics.length}), first error is: failed to get ${first?.what}: ${text}`;
      this.#warn(look, "FailedComputeMetricsReplicas", summary);
      return { name: "", statuses };
    }
    const text = `the HPA was able to successfully calculate a replica count from ${best.name}`;
    this.#set(look, "ScalingActive", true, "ValidMetricFound", text);
    return { ...best, statuses };
  }

  /** @throws MetricError */
  #propose(look: Look, metric: MetricSpec, selector: string, currentReplicas: number): Proposal {
    const { hpa, now } = look;
    const { resource, containerResource } = metric;
    const namespace = hpa.metadata.namespace ?? "";
    const source = resource ?? containerResource;
    if (!source) {
      const { reason, what, error } = unserved(metric, namespace);
      throw new MetricError(reason, what, error);
    }
    const { averageUtilization, averageValue } = source.target;
    const requirements = parseLabelSelector(selector);
    const pods = this.#pods
      .list()
      .filter(
        (pod) => pod.metadata.namespace === namespace && matchLabels(requirements, pod.metadata.labels ?? {}),
      );
    const question: MetricQuestion = {
      resource: source.name,
      container: containerResource?.container,
      target:
        averageUtilization === undefined
          ? { milli: (parseQuantity(averageValue ?? "0")?.value ?? 0) * 1000 }
          : { utilization: averageUtilization },
      currentReplicas,
      pods,
      usage: this.#usage(namespace, pods, source.name, containerResource?.container),
      tolerances: tolerancesOf(hpa.spec),
      now,
    };
    try {
      return proposeReplicas(question);
    } catch (error) {
      const reason = containerResource ? "FailedGetContainerResourceMetric" : "FailedGetResourceMetric";
      const kind = averageUtilization === undefined ? "usage" : "utilization";
      const what = `${source.name} ${containerResource ? "container " : ""}resource metric value`;
      throw new MetricError(reason, what, `failed to get ${source.name} ${kind}: ${messageOf(error)}`);
    }
  }

  #usage(
    namespace: string,
    pods: readonly Stored<Pod>[],
    resource: string,
    container: string | undefined,
  ): Map<string, Usage> {
    const wanted = new Set(pods.map((pod) => pod.metadata.name));
    const usage = new Map<string, Usage>();
    for (const { metadata, timestamp: at, window, containers } of this.#metrics(namespace)) {
      if (!wanted.has(metadata.name)) continue;
      const counted = containers.filter((one) => container === undefined || one.name === container);
      if (counted.length === 0) continue;
      const milli = counted.reduce((sum, one) => sum + milliOf(one.usage[resource]), 0);
      usage.set(metadata.name, {
        milli,
        timestamp: Date.parse(at),
        windowMs: Number.parseFloat(window) * 1000,
      });
    }
    return usage;
  }

  async #write(look: Look, changes: Partial<NonNullable<HorizontalPodAutoscaler["status"]>>): Promise<void> {
    const { hpa, conditions } = look;
    const before = hpa.status;
    const { generation } = hpa.metadata;
    const status = {
      ...before,
      desiredReplicas: before?.desiredReplicas ?? 0,
      ...(generation === undefined ? {} : { observedGeneration: generation }),
      ...changes,
      conditions,
    };
    if (semanticallyEqual(status, before)) return;
    const options = { ...namespaceOf(hpa), subresource: "status" as const };
    await this.#context.client.patch(
      HORIZONTAL_POD_AUTOSCALERS,
      hpa.metadata.name,
      "merge",
      { metadata: { uid: hpa.metadata.uid }, status },
      options,
    );
  }
}

function milliOf(quantity: string | undefined): number {
  return Math.ceil((parseQuantity(quantity ?? "0")?.value ?? 0) * 1000);
}

function tolerancesOf({ behavior }: Spec): { up: number; down: number } {
  const of = (rules: ScalingRules | undefined) =>
    rules?.tolerance === undefined ? TOLERANCE : (parseQuantity(rules.tolerance)?.value ?? TOLERANCE);
  return { up: of(behavior?.scaleUp), down: of(behavior?.scaleDown) };
}
