// Status of a HorizontalPodAutoscaler: its conditions, and a metric as it was found. Pure; knows the kind only.

import type { MetricSpec, MetricStatus } from "kubernetes-types/autoscaling/v2.js";
import type { HorizontalPodAutoscaler } from "../../common/k8s.js";
import type { Proposal } from "./autoscaler-metrics.js";

type Status = NonNullable<HorizontalPodAutoscaler["status"]>;
export type AutoscalerCondition = NonNullable<Status["conditions"]>[number];
export type ConditionType = "AbleToScale" | "ScalingActive" | "ScalingLimited";

/** Sets a condition; its transition time changes with its status only. */
export function setCondition(
  conditions: AutoscalerCondition[],
  type: ConditionType,
  status: boolean,
  { reason, message }: { reason: string; message: string },
  now: string,
): void {
  const text = status ? "True" : "False";
  const index = conditions.findIndex((one) => one.type === type);
  const before = conditions[index];
  const lastTransitionTime =
    before?.status === text && before.lastTransitionTime ? before.lastTransitionTime : now;
  const condition = { type, status: text, lastTransitionTime, reason, message };
  if (index < 0) conditions.push(condition);
  else conditions[index] = condition;
}

/** Thousandths as a quantity: 1500 is 1500m, 2000 is 2. */
function milliQuantity(milli: number): string {
  return milli % 1000 === 0 ? `${milli / 1000}` : `${milli}m`;
}

/** status.currentMetrics of a resource metric. */
export function metricStatus({ resource, containerResource }: MetricSpec, proposal: Proposal): MetricStatus {
  const current = {
    ...(proposal.utilization === undefined ? {} : { averageUtilization: proposal.utilization }),
    averageValue: milliQuantity(proposal.average),
  };
  if (containerResource) {
    const { name, container } = containerResource;
    return { type: "ContainerResource", containerResource: { name, container, current } };
  }
  return { type: "Resource", resource: { name: resource?.name ?? "", current } };
}

/** The metric in the reason of a rescale. */
export function metricName({ resource, containerResource }: MetricSpec): string {
  const { name = "", target } = resource ?? containerResource ?? {};
  const what = `${name} ${containerResource ? "container " : ""}resource`;
  return target?.averageUtilization === undefined ? what : `${what} utilization (percentage of request)`;
}

/** Why a metric that nobody serves here cannot be had: condition reason, what failed, and the API's answer. */
export function unserved(
  metric: MetricSpec,
  namespace: string,
): { reason: string; what: string; error: string } {
  const none = "unable to fetch metrics from custom metrics API: no known available metric versions found";
  if (metric.external) {
    const { name } = metric.external.metric;
    return {
      reason: "FailedGetExternalMetric",
      what: "external metric",
      error: `unable to get external metric ${namespace}/${name}/${labels(metric.external.metric.selector)}: unable to fetch metrics from external metrics API: the server could not find the requested resource (get ${name}.external.metrics.k8s.io)`,
    };
  }
  if (metric.object) {
    const { describedObject, metric: wanted } = metric.object;
    return {
      reason: "FailedGetObjectMetric",
      what: "object metric value",
      error: `unable to get metric ${wanted.name}: ${describedObject.kind} on ${namespace} ${describedObject.name}/${none}`,
    };
  }
  return {
    reason: "FailedGetPodsMetric",
    what: "pods metric value",
    error: `unable to get metric ${metric.pods?.metric.name}: ${none}`,
  };
}

/** A selector as Go prints it: a pointer to a struct, or nil. */
function labels(selector: { matchLabels?: Record<string, string> } | undefined): string {
  if (!selector) return "nil";
  const pairs = Object.entries(selector.matchLabels ?? {}).map(([key, value]) => `${key}: ${value},`);
  return `&LabelSelector{MatchLabels:map[string]string{${pairs.join("")}},MatchExpressions:[]LabelSelectorRequirement{},}`;
}
