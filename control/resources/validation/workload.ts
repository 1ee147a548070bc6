// Validation that Deployments and ReplicaSets share: replicas, selector, template. Field paths and texts are
// those of the real server (pkg/apis/apps/validation). Knows no status of a rollout.

import type { LabelSelector, PodTemplateSpec } from "../../../common/k8s.js";
import { matchLabels, selectorOf } from "../../../common/selector.js";
import type { FieldError } from "../types.js";
import { forbidden, immutable, invalid, notSupported, required } from "./field.js";
import { validatePodTemplate } from "./pod.js";
import { isEmptySelector, labelSelector, nonNegative } from "./values.js";

/** What the two kinds have in common. */
export interface WorkloadSpec {
  replicas?: number;
  minReadySeconds?: number;
  selector?: LabelSelector;
  template?: PodTemplateSpec;
}

export function validateWorkload(
  spec: WorkloadSpec | undefined,
  old: WorkloadSpec | undefined,
): FieldError[] {
  const errors = [
    ...nonNegative("spec.replicas", spec?.replicas),
    ...nonNegative("spec.minReadySeconds", spec?.minReadySeconds),
  ];
  const selector = spec?.selector;
  let comparable = true;
  if (!selector) {
    errors.push(required("spec.selector"));
  } else {
    const wrong = labelSelector("spec.selector", selector);
    errors.push(...wrong);
    comparable = wrong.length === 0;
    if (isEmptySelector(selector)) {
      comparable = false;
      errors.push(invalid("spec.selector", selector, "empty selector is invalid for deployment"));
    }
  }
  const { template } = spec ?? {};
  const labels = template?.metadata?.labels ?? {};
  if (comparable && !matchLabels(selectorOf(selector), labels)) {
    errors.push(
      invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"),
    );
  }
  errors.push(...validatePodTemplate(template, "spec.template"));
  const policy = template?.spec?.restartPolicy;
  if (policy !== undefined && policy !== "Always") {
    errors.push(notSupported("spec.template.spec.restartPolicy", policy, ["Always"]));
  }
  if (template?.spec?.activeDeadlineSeconds !== undefined) {
    const text = "activeDeadlineSeconds in ReplicaSet is not Supported";
    errors.push(forbidden("spec.template.spec.activeDeadlineSeconds", text));
  }
  if (old) errors.push(...immutable("spec.selector", selector, old.selector));
  return errors;
}

/** Counters of a status: none negative, none above the number of replicas. */
export function validateReplicaCounts(
  status: { replicas?: number } | undefined,
  counts: Readonly<Record<string, number | undefined>>,
): FieldError[] {
  const replicas = status?.replicas ?? 0;
  const errors = nonNegative("status.replicas", replicas);
  for (const [name, count] of Object.entries(counts)) {
    errors.push(...nonNegative(`status.${name}`, count));
    if ((count ?? 0) > replicas) {
      errors.push(invalid(`status.${name}`, count, "cannot be greater than status.replicas"));
    }
  }
  return errors;
}
