// Validation of a HorizontalPodAutoscaler (autoscaling/v2). Field paths and texts are those of the real server
// (pkg/apis/autoscaling/validation). Knows no measurement.

import type { HPAScalingRules, MetricSpec, MetricTarget } from "kubernetes-types/autoscaling/v2.js";
import type { HorizontalPodAutoscaler } from "../../../common/k8s.js";
import type { FieldError } from "../types.js";
import { forbidden, invalid, invalids, notSupported, required } from "./field.js";
import { pathSegment } from "./meta.js";
import { parseQuantity } from "./quantity.js";
import { labelSelector } from "./values.js";

/** metric type → the field that describes it. */
const SOURCES = {
  ContainerResource: "containerResource",
  External: "external",
  Object: "object",
  Pods: "pods",
  Resource: "resource",
} as const;
const TARGETS = ["AverageValue", "Utilization", "Value"];
const MAX_STABILIZATION_SECONDS = 3600;
const MAX_PERIOD_SECONDS = 1800;

function segment(field: string, value: string | undefined): FieldError[] {
  return value ? invalids(field, value, pathSegment(value)) : [required(field)];
}

function validateTarget(target: MetricTarget | undefined, at: string): FieldError[] {
  const errors: FieldError[] = [];
  if (!target?.type) errors.push(required(`${at}.type`, "must specify a metric target type"));
  else if (!TARGETS.includes(target.type)) errors.push(notSupported(`${at}.type`, target.type, TARGETS));
  for (const name of ["value", "averageValue"] as const) {
    const value = target?.[name];
    if (value !== undefined && (parseQuantity(value)?.value ?? 0) <= 0)
      errors.push(invalid(`${at}.${name}`, value, "must be positive"));
  }
  const utilization = target?.averageUtilization;
  if (utilization !== undefined && utilization < 1)
    errors.push(invalid(`${at}.averageUtilization`, utilization, "must be greater than 0"));
  return errors;
}

function validateUsage(
  source: { name: string; container?: string; target: MetricTarget },
  at: string,
): FieldError[] {
  const errors = source.name ? [] : [required(`${at}.name`, "must specify a resource name")];
  errors.push(...validateTarget(source.target, `${at}.target`));
  const { averageUtilization, averageValue } = source.target ?? {};
  if (averageUtilization === undefined && averageValue === undefined)
    errors.push(
      required(
        `${at}.target.averageUtilization`,
        "must set either a target raw value or a target utilization",
      ),
    );
  if (averageUtilization !== undefined && averageValue !== undefined)
    errors.push(
      forbidden(`${at}.target.averageValue`, "may not set both a target raw value and a target utilization"),
    );
  return errors;
}

function validateSource(metric: MetricSpec, at: string): FieldError[] {
  const { resource, containerResource, pods, object, external } = metric;
  if (resource) return validateUsage(resource, `${at}.resource`);
  if (containerResource) {
    const path = `${at}.containerResource`;
    const missing = containerResource.container
      ? []
      : [required(`${path}.container`, "must specify a container")];
    return [...missing, ...validateUsage(containerResource, path)];
  }
  const [name, source] = pods
    ? (["pods", pods] as const)
    : object
      ? (["object", object] as const)
      : (["external", external] as const);
  if (!source) return [];
  const path = `${at}.${name}`;
  const { averageValue, value } = source.target ?? {};
  const errors: FieldError[] = [];
  if (object) {
    errors.push(...segment(`${path}.describedObject.kind`, object.describedObject?.kind));
    errors.push(...segment(`${path}.describedObject.name`, object.describedObject?.name));
  }
  errors.push(...segment(`${path}.metric.name`, source.metric?.name));
  errors.push(...labelSelector(`${path}.metric.selector`, source.metric?.selector));
  errors.push(...validateTarget(source.target, `${path}.target`));
  if (name === "external" && averageValue !== undefined && value !== undefined) {
    const text = "may not set both a target value for metric and a per-pod target";
    errors.push(forbidden(`${path}.target.value`, text));
  }
  if (pods && averageValue === undefined)
    errors.push(required(`${path}.target.averageValue`, "must specify a positive target averageValue"));
  else if (!pods && averageValue === undefined && value === undefined)
    errors.push(required(`${path}.target.averageValue`, "must set either a target value or averageValue"));
  return errors;
}

function validateMetric(metric: MetricSpec, at: string): FieldError[] {
  const { type } = metric;
  if (!type) return [required(`${at}.type`, "must specify a metric source type")];
  if (!Object.hasOwn(SOURCES, type)) return [notSupported(`${at}.type`, type, Object.keys(SOURCES))];
  const own = SOURCES[type as keyof typeof SOURCES];
  const errors = validateSource(metric, at);
  if (!metric[own])
    errors.push(required(`${at}.${own}`, "must populate information for the given metric source"));
  for (const other of Object.values(SOURCES))
    if (other !== own && metric[other])
      errors.push(forbidden(`${at}.${other}`, "must populate the given metric source only"));
  return errors;
}

/** `tolerance` is newer than the published types. */
export type ScalingRules = HPAScalingRules & { tolerance?: string };

function validateRules(rules: ScalingRules | undefined, at: string): FieldError[] {
  if (!rules) return [];
  const errors: FieldError[] = [];
  const { stabilizationWindowSeconds: window, selectPolicy, policies = [], tolerance } = rules;
  if (window !== undefined && window < 0)
    errors.push(invalid(`${at}.stabilizationWindowSeconds`, window, "must be greater than or equal to zero"));
  if (window !== undefined && window > MAX_STABILIZATION_SECONDS)
    errors.push(
      invalid(
        `${at}.stabilizationWindowSeconds`,
        window,
        `must be less than or equal to ${MAX_STABILIZATION_SECONDS}`,
      ),
    );
  const selects = ["Disabled", "Max", "Min"];
  if (selectPolicy !== undefined && !selects.includes(selectPolicy))
    errors.push(notSupported(`${at}.selectPolicy`, selectPolicy, selects));
  if (policies.length === 0) errors.push(required(`${at}.policies`, "must specify at least one Policy"));
  for (const [i, policy] of policies.entries()) {
    const where = `${at}.policies[${i}]`;
    if (policy.type !== "Percent" && policy.type !== "Pods")
      errors.push(notSupported(`${where}.type`, policy.type ?? "", ["Percent", "Pods"]));
    for (const name of ["value", "periodSeconds"] as const)
      if ((policy[name] ?? 0) <= 0)
        errors.push(invalid(`${where}.${name}`, policy[name] ?? 0, "must be greater than zero"));
    if ((policy.periodSeconds ?? 0) > MAX_PERIOD_SECONDS)
      errors.push(
        invalid(
          `${where}.periodSeconds`,
          policy.periodSeconds,
          `must be less than or equal to ${MAX_PERIOD_SECONDS}`,
        ),
      );
  }
  if (tolerance !== undefined && (parseQuantity(tolerance)?.value ?? -1) < 0)
    errors.push(invalid(`${at}.tolerance`, tolerance, "must be greater than or equal to 0"));
  return errors;
}

export function validateAutoscaler({ spec }: HorizontalPodAutoscaler): FieldError[] {
  const { minReplicas, maxReplicas = 0, scaleTargetRef, metrics = [], behavior } = spec ?? {};
  const errors: FieldError[] = [];
  if (minReplicas !== undefined && minReplicas < 1)
    errors.push(invalid("spec.minReplicas", minReplicas, "must be greater than or equal to 1"));
  if (maxReplicas < 1) errors.push(invalid("spec.maxReplicas", maxReplicas, "must be greater than 0"));
  if (minReplicas !== undefined && maxReplicas < minReplicas)
    errors.push(invalid("spec.maxReplicas", maxReplicas, "must be greater than or equal to `minReplicas`"));
  errors.push(...segment("spec.scaleTargetRef.kind", scaleTargetRef?.kind));
  errors.push(...segment("spec.scaleTargetRef.name", scaleTargetRef?.name));
  for (const [i, metric] of metrics.entries()) errors.push(...validateMetric(metric, `spec.metrics[${i}]`));
  if (minReplicas === 0 && !metrics.some(({ type }) => type === "Object" || type === "External")) {
    const text = "must specify at least one Object or External metric to support scaling to zero replicas";
    errors.push(forbidden("spec.metrics", text));
  }
  return [
    ...errors,
    ...validateRules(behavior?.scaleUp, "spec.behavior.scaleUp"),
    ...validateRules(behavior?.scaleDown, "spec.behavior.scaleDown"),
  ];
}
