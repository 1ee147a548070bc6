// ResourceQuota: the declaration of the kind to the API engine. What it counts is in quota-usage.ts, what it refuses in
// control/api/quota.ts.

import { RESOURCE_QUOTAS } from "../../common/client.js";
import type { ResourceQuota, Stored } from "../../common/k8s.js";
import { ageColumn, column, draftOf, keepStatus, nameColumn } from "./object.js";
import { COUNTED, type QuotaSpec, scopesOf } from "./quota-usage.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { validateQuantity } from "./validation/container.js";
import { immutable, invalid, required } from "./validation/field.js";
import { canonicalResourceList, parseQuantity } from "./validation/quantity.js";
import { qualified } from "./validation/values.js";

const COMPUTE = [
  "cpu",
  "memory",
  "ephemeral-storage",
  "requests.cpu",
  "requests.memory",
  "requests.ephemeral-storage",
  "limits.cpu",
  "limits.memory",
  "limits.ephemeral-storage",
];
const STANDARD = new Set([
  ...COMPUTE,
  ...COUNTED,
  "requests.storage",
  "services.loadbalancers",
  "services.nodeports",
]);
const SCOPES: Readonly<Record<string, readonly string[]>> = {
  BestEffort: ["pods"],
  CrossNamespacePodAffinity: ["pods", ...COMPUTE],
  NotBestEffort: ["pods", ...COMPUTE],
  NotTerminating: ["pods", ...COMPUTE],
  PriorityClass: ["pods", ...COMPUTE],
  Terminating: ["pods", ...COMPUTE],
};
const OPPOSITES = [
  ["BestEffort", "NotBestEffort"],
  ["Terminating", "NotTerminating"],
] as const;
const OPERATORS = ["DoesNotExist", "Exists", "In", "NotIn"];

function validateHard(hard: Record<string, string>): FieldError[] {
  return Object.entries(hard).flatMap(([name, text]) => {
    const at = `spec.hard[${name}]`;
    const errors = qualified(at, name);
    if (!name.includes("/") && !STANDARD.has(name) && !/^(requests\.)?hugepages-/.test(name)) {
      errors.push(invalid(at, name, "must be a standard resource type or fully qualified"));
      errors.push(invalid(at, name, "must be a standard resource for quotas"));
    }
    errors.push(...validateQuantity(at, text));
    const counts = COUNTED.includes(name) || name.startsWith("services.") || name.startsWith("count/");
    if (counts && (parseQuantity(text)?.nanos ?? 0n) % 1_000_000_000n !== 0n)
      errors.push(invalid(at, text, "must be an integer"));
    return errors;
  });
}

function validateScopes(spec: QuotaSpec): FieldError[] {
  const { scopes = [], scopeSelector } = spec;
  const names = scopesOf(spec).map(({ scopeName }) => scopeName);
  const field = scopes.length > 0 ? "spec.scopes" : "spec.scopeSelector.matchExpressions.scopeName";
  const value = scopes.length > 0 ? scopes : names;
  const errors: FieldError[] = [];
  for (const name of names) {
    const allowed = SCOPES[name];
    if (!allowed) errors.push(invalid(field, value, "unsupported scope"));
    else
      for (const resource of Object.keys(spec.hard ?? {}))
        if (!allowed.includes(resource))
          errors.push(invalid(field, value, "unsupported scope applied to resource"));
  }
  for (const pair of OPPOSITES)
    if (pair.every((name) => names.includes(name))) errors.push(invalid(field, value, "conflicting scopes"));
  for (const { scopeName, operator, values = [] } of scopeSelector?.matchExpressions ?? []) {
    const at = "spec.scopeSelector.matchExpressions";
    if (!OPERATORS.includes(operator))
      errors.push(invalid(`${at}.operator`, operator, "not a valid selector operator"));
    else if (operator.endsWith("In") && values.length === 0)
      errors.push(
        required(
          `${at}.values`,
          "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
      );
    else if (operator.endsWith("t") && operator !== "In" && values.length > 0)
      errors.push(
        invalid(
          `${at}.values`,
          values,
          "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
        ),
      );
    if (scopeName !== "PriorityClass" && operator !== "Exists")
      errors.push(
        invalid(
          `${at}.operator`,
          operator,
          "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
        ),
      );
  }
  return errors;
}

/** "pods: 1/10, requests.cpu: 0/1": of the limits or of everything else. */
function usedText({ status }: Stored<ResourceQuota>, limits: boolean): string {
  const { hard = {}, used = {} } = status ?? {};
  return Object.keys(hard)
    .filter((name) => name.startsWith("limits") === limits)
    .sort()
    .map((name) => `${name}: ${used[name] ?? "0"}/${hard[name]}`)
    .join(", ");
}

export const resourceQuotaDefinition: ResourceDefinition<ResourceQuota> = {
  resource: RESOURCE_QUOTAS,
  singular: "resourcequota",
  shortNames: ["quota"],
  schema: "io.k8s.api.core.v1.ResourceQuota",
  hasStatus: true,
  returnsDeleted: true,
  columns: [
    nameColumn(),
    column("Request", (quota) => usedText(quota, false)),
    column("Limit", (quota) => usedText(quota, true)),
    ageColumn(),
  ],
  setDefaults({ spec, status }) {
    for (const list of [spec?.hard, status?.hard, status?.used]) canonicalResourceList(list);
  },
  prepareForCreate(draft) {
    draftOf(draft).status = {};
  },
  prepareForUpdate: keepStatus,
  validate({ spec = {} }, old) {
    return [
      ...validateHard(spec.hard ?? {}),
      ...validateScopes(spec),
      ...(old ? immutable("spec.scopes", spec.scopes, old.spec?.scopes) : []),
      ...(old ? immutable("spec.scopeSelector", spec.scopeSelector, old.spec?.scopeSelector) : []),
    ];
  },
};
