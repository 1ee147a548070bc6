// PodDisruptionBudget: the declaration of the kind to the API engine.

import { POD_DISRUPTION_BUDGETS } from "../../common/client.js";
import type { PodDisruptionBudget } from "../../common/k8s.js";
import { ageColumn, column, nameColumn, specAndStatus } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { invalid, notSupported } from "./validation/field.js";
import { intOrPercent, labelSelector, nonNegative, notMoreThanAll } from "./validation/values.js";

const EVICTION_POLICIES = ["AlwaysAllow", "IfHealthyBudget"];
const COUNTERS = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] as const;

function validate({ spec, status }: PodDisruptionBudget): FieldError[] {
  const errors: FieldError[] = [];
  if (spec?.minAvailable !== undefined && spec.maxUnavailable !== undefined) {
    errors.push(invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set"));
  }
  for (const name of ["minAvailable", "maxUnavailable"] as const) {
    const value = spec?.[name];
    if (value === undefined) continue;
    errors.push(...intOrPercent(`spec.${name}`, value), ...notMoreThanAll(`spec.${name}`, value));
  }
  errors.push(...labelSelector("spec.selector", spec?.selector));
  const policy = spec?.unhealthyPodEvictionPolicy;
  if (policy !== undefined && !EVICTION_POLICIES.includes(policy)) {
    errors.push(notSupported("spec.unhealthyPodEvictionPolicy", policy, EVICTION_POLICIES));
  }
  for (const name of COUNTERS) errors.push(...nonNegative(`status.${name}`, status?.[name]));
  return errors;
}

const hooks = specAndStatus<PodDisruptionBudget>();

export const podDisruptionBudgetDefinition: ResourceDefinition<PodDisruptionBudget> = {
  resource: POD_DISRUPTION_BUDGETS,
  singular: "poddisruptionbudget",
  shortNames: ["pdb"],
  schema: "io.k8s.api.policy.v1.PodDisruptionBudget",
  hasStatus: true,
  columns: [
    nameColumn(),
    column("Min Available", (pdb) => String(pdb.spec?.minAvailable ?? "N/A")),
    column("Max Unavailable", (pdb) => String(pdb.spec?.maxUnavailable ?? "N/A")),
    column("Allowed Disruptions", (pdb) => pdb.status?.disruptionsAllowed ?? 0, { type: "integer" }),
    ageColumn(),
  ],
  prepareForCreate(draft, context) {
    hooks.prepareForCreate(draft, context);
    const none = { currentHealthy: 0, desiredHealthy: 0, disruptionsAllowed: 0, expectedPods: 0 };
    Object.assign(draft, { status: none });
  },
  prepareForUpdate: hooks.prepareForUpdate,
  validate,
};
