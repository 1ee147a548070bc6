// Validation of what the scheduler and the node lifecycle read: taints, tolerations, affinity, spread. Texts are
// those of the real server. Knows these fields only.

import type {
  Affinity,
  NodeSelector,
  NodeSelectorRequirement,
  NodeSelectorTerm,
  PodAffinityTerm,
  PodSchedulingGate,
  TopologySpreadConstraint,
} from "kubernetes-types/core/v1.js";
import type { Taint, Toleration } from "../../../common/k8s.js";
import type { FieldError } from "../types.js";
import { duplicate, forbidden, invalid, invalids, notSupported, oneOf, required, same } from "./field.js";
import { labelValue } from "./meta.js";
import { label, labelSelector, qualified, subdomain } from "./values.js";

const EFFECTS = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

export function validateTaints(taints: readonly Taint[] | undefined, path: string): FieldError[] {
  const errors: FieldError[] = [];
  const seen = new Set<string>();
  for (const [i, taint] of (taints ?? []).entries()) {
    const at = `${path}[${i}]`;
    errors.push(...qualified(`${at}.key`, taint.key ?? ""));
    const wrong = labelValue(taint.value ?? "");
    if (wrong.length > 0) errors.push(invalid(`${at}.value`, taint.value, wrong.join(";")));
    errors.push(...oneOf(`${at}.effect`, taint.effect, EFFECTS));
    const key = `${taint.effect}/${taint.key}`;
    if (seen.has(key)) errors.push(duplicate(at, taint, "taints must be unique by key and effect pair"));
    seen.add(key);
  }
  return errors;
}

export function validateTolerations(
  tolerations: readonly Toleration[] | undefined,
  path: string,
): FieldError[] {
  const errors: FieldError[] = [];
  for (const [i, t] of (tolerations ?? []).entries()) {
    const at = `${path}[${i}]`;
    if (t.key) errors.push(...qualified(`${at}.key`, t.key));
    else if (t.operator !== "Exists") {
      const text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"';
      errors.push(invalid(`${at}.operator`, t.operator ?? "", text));
    }
    if (t.tolerationSeconds !== undefined && t.effect !== "NoExecute") {
      const text = "effect must be 'NoExecute' when `tolerationSeconds` is set";
      errors.push(invalid(`${at}.effect`, t.effect ?? "", text));
    }
    errors.push(...validateTolerationValue(t, `${at}.operator`));
    if (t.effect && !EFFECTS.includes(t.effect)) {
      errors.push(notSupported(`${at}.effect`, t.effect, EFFECTS));
    }
  }
  return errors;
}

function validateTolerationValue(t: Toleration, field: string): FieldError[] {
  if (t.operator === "Exists") {
    return t.value ? [invalid(field, t.value, "value must be empty when `operator` is 'Exists'")] : [];
  }
  if (t.operator && t.operator !== "Equal") return [notSupported(field, t.operator, ["Equal", "Exists"])];
  const wrong = labelValue(t.value ?? "");
  return wrong.length > 0 ? [invalid(field, t.value, wrong.join(";"))] : [];
}

/** On update tolerations may be added, and of the old ones only tolerationSeconds changed. */
export function validateOnlyAddedTolerations(
  now: readonly Toleration[] | undefined,
  old: readonly Toleration[] | undefined,
  path: string,
): FieldError[] {
  for (const before of old ?? []) {
    const kept = (now ?? []).some((t) => same({ ...t, tolerationSeconds: before.tolerationSeconds }, before));
    if (!kept) {
      return [forbidden(path, "existing toleration can not be modified except its tolerationSeconds")];
    }
  }
  return [];
}

export function validateSchedulingGates(
  gates: readonly PodSchedulingGate[] | undefined,
  path: string,
): FieldError[] {
  const errors: FieldError[] = [];
  const seen = new Set<string>();
  for (const [i, gate] of (gates ?? []).entries()) {
    errors.push(...qualified(`${path}[${i}]`, gate.name ?? ""));
    if (seen.has(gate.name)) errors.push(duplicate(`${path}[${i}]`, gate.name));
    seen.add(gate.name);
  }
  return errors;
}

export function validateAffinity(affinity: Affinity | undefined, path: string): FieldError[] {
  const errors: FieldError[] = [];
  const node = affinity?.nodeAffinity;
  const requiredNode = node?.requiredDuringSchedulingIgnoredDuringExecution;
  if (requiredNode) {
    const at = `${path}.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution`;
    errors.push(...validateNodeSelector(requiredNode, at));
  }
  for (const [i, term] of (node?.preferredDuringSchedulingIgnoredDuringExecution ?? []).entries()) {
    const at = `${path}.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[${i}]`;
    errors.push(...validateWeight(term.weight, at), ...validateNodeTerm(term.preference, `${at}.preference`));
  }
  for (const kind of ["podAffinity", "podAntiAffinity"] as const) {
    const pods = affinity?.[kind];
    for (const [i, term] of (pods?.requiredDuringSchedulingIgnoredDuringExecution ?? []).entries()) {
      const at = `${path}.${kind}.requiredDuringSchedulingIgnoredDuringExecution[${i}]`;
      errors.push(...validatePodTerm(term, at));
    }
    for (const [i, term] of (pods?.preferredDuringSchedulingIgnoredDuringExecution ?? []).entries()) {
      const at = `${path}.${kind}.preferredDuringSchedulingIgnoredDuringExecution[${i}]`;
      errors.push(...validateWeight(term.weight, at));
      errors.push(...validatePodTerm(term.podAffinityTerm, `${at}.podAffinityTerm`));
    }
  }
  return errors;
}

export function validateNodeSelector(selector: NodeSelector, path: string): FieldError[] {
  const at = `${path}.nodeSelectorTerms`;
  const terms = selector.nodeSelectorTerms ?? [];
  if (terms.length === 0) return [required(at, "must have at least one node selector term")];
  return terms.flatMap((term, i) => validateNodeTerm(term, `${at}[${i}]`));
}

function validateWeight(weight: number | undefined, at: string): FieldError[] {
  const ok = weight !== undefined && weight >= 1 && weight <= 100;
  return ok ? [] : [invalid(`${at}.weight`, weight ?? 0, "must be in the range 1-100")];
}

function validateNodeTerm(term: NodeSelectorTerm | undefined, path: string): FieldError[] {
  const errors: FieldError[] = [];
  for (const [i, { key, operator, values }] of (term?.matchExpressions ?? []).entries()) {
    const at = `${path}.matchExpressions[${i}]`;
    const count = values?.length ?? 0;
    switch (operator) {
      case "In":
      case "NotIn":
        if (count === 0) {
          errors.push(required(`${at}.values`, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        break;
      case "Exists":
      case "DoesNotExist":
        if (count > 0) {
          const text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
          errors.push(forbidden(`${at}.values`, text));
        }
        break;
      case "Gt":
      case "Lt":
        if (count !== 1) {
          const text = "must be specified single value when `operator` is 'Lt' or 'Gt'";
          errors.push(required(`${at}.values`, text));
        }
        break;
      default:
        errors.push(invalid(`${at}.operator`, operator ?? "", "not a valid selector operator"));
    }
    errors.push(...qualified(`${at}.key`, key ?? ""));
    for (const [j, value] of (values ?? []).entries()) {
      errors.push(...invalids(`${at}.values[${j}]`, value, labelValue(value)));
    }
  }
  for (const [i, requirement] of (term?.matchFields ?? []).entries())
    errors.push(...validateNodeField(requirement, `${path}.matchFields[${i}]`));
  return errors;
}

/** There is one field to select by, and one way. */
function validateNodeField(
  { key, operator, values = [] }: NodeSelectorRequirement,
  at: string,
): FieldError[] {
  const errors: FieldError[] = [];
  if (operator !== "In" && operator !== "NotIn") {
    errors.push(invalid(`${at}.operator`, operator ?? "", "not a valid selector operator"));
  } else if (values.length !== 1) {
    const text = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
    errors.push(required(`${at}.values`, text));
  }
  if (key !== "metadata.name") {
    return [...errors, invalid(`${at}.key`, key ?? "", "not a valid field selector key")];
  }
  return [...errors, ...values.flatMap((value, i) => subdomain(`${at}.values[${i}]`, value))];
}

function validatePodTerm(term: PodAffinityTerm | undefined, at: string): FieldError[] {
  const errors = labelSelector(`${at}.labelSelector`, term?.labelSelector);
  errors.push(...labelSelector(`${at}.namespaceSelector`, term?.namespaceSelector));
  for (const name of term?.namespaces ?? []) errors.push(...label(`${at}.namespace`, name));
  const { topologyKey = "" } = term ?? {};
  if (topologyKey === "") errors.push(required(`${at}.topologyKey`, "can not be empty"));
  errors.push(...qualified(`${at}.topologyKey`, topologyKey));
  return errors;
}

export function validateTopologySpread(
  constraints: readonly TopologySpreadConstraint[] | undefined,
  path: string,
): FieldError[] {
  const errors: FieldError[] = [];
  const pairs = new Map<string, string>();
  for (const [i, c] of (constraints ?? []).entries()) {
    const at = `${path}[${i}]`;
    if (!(c.maxSkew > 0)) errors.push(invalid(`${at}.maxSkew`, c.maxSkew ?? 0, "must be greater than zero"));
    if (!c.topologyKey) errors.push(required(`${at}.topologyKey`, "can not be empty"));
    else errors.push(...qualified(`${at}.topologyKey`, c.topologyKey));
    if (c.whenUnsatisfiable !== "DoNotSchedule" && c.whenUnsatisfiable !== "ScheduleAnyway") {
      const supported = ["DoNotSchedule", "ScheduleAnyway"];
      errors.push(notSupported(`${at}.whenUnsatisfiable`, c.whenUnsatisfiable ?? "", supported));
    }
    const pair = `{${c.topologyKey}, ${c.whenUnsatisfiable}}`;
    const first = pairs.get(pair);
    // The real server names the first of the two.
    if (first !== undefined) errors.push(duplicate(`${first}.{topologyKey, whenUnsatisfiable}`, pair));
    else pairs.set(pair, at);
    errors.push(...labelSelector(`${at}.labelSelector`, c.labelSelector));
  }
  return errors;
}
