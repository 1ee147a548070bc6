// Role, ClusterRole, RoleBinding and ClusterRoleBinding: the declarations of the kinds to the API engine. What they allow
// is in control/api/rbac.ts, those that every cluster has in bootstrap-roles.ts.

import {
  CLUSTER_ROLE_BINDINGS,
  CLUSTER_ROLES,
  type Resource,
  ROLE_BINDINGS,
  ROLES,
} from "../../common/client.js";
import type {
  ClusterRole,
  ClusterRoleBinding,
  KubeObject,
  PolicyRule,
  Role,
  RoleBinding,
  RoleSubject,
} from "../../common/k8s.js";
import { ageColumn, column, nameColumn, wideColumn } from "./object.js";
import type { Column, FieldError, ResourceDefinition } from "./types.js";
import { invalid, notSupported, required, same } from "./validation/field.js";
import { pathSegment } from "./validation/meta.js";
import { labelSelector, subdomain } from "./validation/values.js";

export const RBAC_GROUP = "rbac.authorization.k8s.io";

function validateRule(rule: PolicyRule, at: string, namespaced: boolean): FieldError[] {
  const { verbs, nonResourceURLs = [], apiGroups = [], resources = [], resourceNames = [] } = rule;
  const errors: FieldError[] = [];
  if (!verbs?.length) errors.push(required(`${at}.verbs`, "verbs must contain at least one value"));
  if (nonResourceURLs.length > 0) {
    const field = `${at}.nonResourceURLs`;
    if (namespaced)
      errors.push(invalid(field, nonResourceURLs, "namespaced rules cannot apply to non-resource URLs"));
    if (apiGroups.length > 0 || resources.length > 0 || resourceNames.length > 0)
      errors.push(
        invalid(field, nonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"),
      );
    return errors;
  }
  if (apiGroups.length === 0)
    errors.push(required(`${at}.apiGroups`, "resource rules must supply at least one api group"));
  if (resources.length === 0)
    errors.push(required(`${at}.resources`, "resource rules must supply at least one resource"));
  return errors;
}

function validateSubject(subject: RoleSubject, at: string): FieldError[] {
  const { kind, name, namespace, apiGroup = "" } = subject;
  const errors = name ? [] : [required(`${at}.name`)];
  if (kind === "ServiceAccount") {
    if (name) errors.push(...subdomain(`${at}.name`, name));
    if (apiGroup !== "") errors.push(notSupported(`${at}.apiGroup`, apiGroup, [""]));
    return namespace ? errors : [...errors, required(`${at}.namespace`)];
  }
  if (kind !== "User" && kind !== "Group")
    return [...errors, notSupported(`${at}.kind`, kind, ["ServiceAccount", "User", "Group"])];
  if (apiGroup !== RBAC_GROUP) errors.push(notSupported(`${at}.apiGroup`, apiGroup, [RBAC_GROUP]));
  return errors;
}

function validateBinding(binding: RoleBinding, kinds: readonly string[], old?: RoleBinding): FieldError[] {
  const { apiGroup, kind, name } = binding.roleRef ?? {};
  const errors: FieldError[] = [];
  if (apiGroup !== RBAC_GROUP) errors.push(notSupported("roleRef.apiGroup", apiGroup, [RBAC_GROUP]));
  if (!kinds.includes(kind ?? "")) errors.push(notSupported("roleRef.kind", kind, kinds));
  if (!name) errors.push(required("roleRef.name"));
  for (const [i, subject] of (binding.subjects ?? []).entries())
    errors.push(...validateSubject(subject, `subjects[${i}]`));
  if (old && !same(binding.roleRef, old.roleRef))
    errors.push(invalid("roleRef", binding.roleRef, "cannot change roleRef"));
  return errors;
}

function bindingDefaults(draft: RoleBinding): void {
  draft.roleRef ??= { apiGroup: "", kind: "", name: "" };
  draft.roleRef.apiGroup ||= RBAC_GROUP;
  for (const subject of draft.subjects ?? [])
    if (subject.kind !== "ServiceAccount") subject.apiGroup ||= RBAC_GROUP;
}

const subjectsOf = (binding: RoleBinding, wanted: string): string =>
  (binding.subjects ?? [])
    .filter(({ kind }) => kind === wanted)
    .map(({ namespace, name }) => (wanted === "ServiceAccount" ? `${namespace ?? ""}/${name}` : name))
    .join(", ");

function role<T extends Role>(
  resource: Resource<T>,
  validate: (draft: T) => FieldError[],
): ResourceDefinition<T> {
  return {
    resource,
    singular: resource.kind.toLowerCase(),
    schema: `io.k8s.api.rbac.v1.${resource.kind}`,
    hasStatus: false,
    columns: [
      nameColumn<T>(),
      column("Created At", ({ metadata }) => metadata.creationTimestamp) as Column<never>,
    ] as ResourceDefinition<T>["columns"],
    validateName: pathSegment,
    validate,
  };
}

function binding<T extends RoleBinding & KubeObject>(
  resource: Resource<T>,
  kinds: readonly string[],
): ResourceDefinition<T> {
  const subjects = (kind: string) => (one: unknown) => subjectsOf(one as RoleBinding, kind);
  const columns = [
    nameColumn(),
    column("Role", (one) => {
      const { roleRef } = one as unknown as RoleBinding;
      return `${roleRef.kind}/${roleRef.name}`;
    }),
    ageColumn(),
    wideColumn("Users", subjects("User")),
    wideColumn("Groups", subjects("Group")),
    wideColumn("ServiceAccounts", subjects("ServiceAccount")),
  ];
  return {
    resource,
    singular: resource.kind.toLowerCase(),
    schema: `io.k8s.api.rbac.v1.${resource.kind}`,
    hasStatus: false,
    columns: columns as unknown as ResourceDefinition<T>["columns"],
    setDefaults: bindingDefaults,
    validateName: pathSegment,
    validate: (draft, old) => validateBinding(draft, kinds, old as RoleBinding | undefined),
  };
}

const rules = (list: readonly PolicyRule[] | undefined, namespaced: boolean): FieldError[] =>
  (list ?? []).flatMap((rule, i) => validateRule(rule, `rules[${i}]`, namespaced));

function validateClusterRole({ rules: list, aggregationRule }: ClusterRole): FieldError[] {
  const errors = rules(list, false);
  if (!aggregationRule) return errors;
  const selectors = aggregationRule.clusterRoleSelectors ?? [];
  const at = "aggregationRule.clusterRoleSelectors";
  if (selectors.length === 0)
    errors.push(required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"));
  return [...errors, ...selectors.flatMap((selector, i) => labelSelector(`${at}[${i}]`, selector))];
}

export const rbacDefinitions = [
  role<Role>(ROLES, (draft) => rules(draft.rules, true)),
  role(CLUSTER_ROLES as Resource<Role>, (draft) => validateClusterRole(draft as unknown as ClusterRole)),
  binding<RoleBinding>(ROLE_BINDINGS, ["Role", "ClusterRole"]),
  binding(CLUSTER_ROLE_BINDINGS as Resource<ClusterRoleBinding & RoleBinding>, ["ClusterRole"]),
] as unknown as ResourceDefinition[];
