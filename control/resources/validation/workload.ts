// Validation that the kinds with a selector and a template of pods share. Field paths and texts are those of the
// real server (pkg/apis/apps/validation). Knows no status of a rollout.

import type { LabelSelector, PodTemplateSpec } from "../../../common/k8s.js";
import { matchLabels, selectorOf } from "../../../common/selector.js";
import type { FieldError } from "../types.js";
import { forbidden, immutable, invalid, notSupported, required } from "./field.js";
import { validatePodTemplate } from "./pod.js";
import { isEmptySelector, labelSelector, nonNegative } from "./values.js";

/** What Deployments and ReplicaSets have in common. */
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
  const { selector, template } = spec ?? {};
  return [
    ...nonNegative("spec.replicas", spec?.replicas),
    ...nonNegative("spec.minReadySeconds", spec?.minReadySeconds),
    ...(selector ? [] : [required("spec.selector")]),
    ...validateSelection(selector, template, "deployment"),
    ...validatePodTemplate(template, "spec.template"),
    ...validateKeptTemplate(template, "ReplicaSet"),
    ...(old ? immutable("spec.selector", selector, old.selector) : []),
  ];
}

/** The selector by itself, and whether it selects what the template makes. `kind` is how the text names it. */
export function validateSelection(
  selector: LabelSelector | undefined,
  template: PodTemplateSpec | undefined,
  kind: string,
): FieldError[] {
  const errors = labelSelector("spec.selector", selector);
  let comparable = errors.length === 0;
  if (selector && isEmptySelector(selector)) {
    comparable = false;
    errors.push(invalid("spec.selector", selector, `empty selector is invalid for ${kind}`));
  }
  const labels = template?.metadata?.labels ?? {};
  if (comparable && !matchLabels(selectorOf(selector), labels)) {
    errors.push(
      invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"),
    );
  }
  return errors;
}

/** What a template may not say whose pods are to run for ever. `kind` is how the text names the owner. */
export function validateKeptTemplate(template: PodTemplateSpec | undefined, kind: string): FieldError[] {
  const errors: FieldError[] = [];
  const policy = template?.spec?.restartPolicy;
  if (policy !== undefined && policy !== "Always") {
    errors.push(notSupported("spec.template.spec.restartPolicy", policy, ["Always"]));
  }
  if (template?.spec?.activeDeadlineSeconds !== undefined) {
    const text = `activeDeadlineSeconds in ${kind} is not Supported`;
    errors.push(forbidden("spec.template.spec.activeDeadlineSeconds", text));
  }
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
      errors.push(invalid(`status.${name}`, count ?? 0, "cannot be greater than status.replicas"));
    }
  }
  return errors;
}
