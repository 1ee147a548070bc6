// What Roles and ClusterRoles allow whom: kube-apiserver's RBAC authorizer, and its rule that nobody gives away what he
// has not got. Knows the store and roles; no HTTP.

import type {
  ClusterRole,
  ClusterRoleBinding,
  KubeObject,
  PolicyRule,
  RoleBinding,
  RoleSubject,
  Stored,
} from "../../common/k8s.js";
import { RBAC_GROUP } from "../resources/rbac.js";
import type { Attributes } from "../resources/reviews.js";
import type { Store } from "../store/store.js";
import type { Kind, User } from "./engine.js";
import { forbidden } from "./status.js";

const SUPERUSERS = "system:masters";

/** Whoever may do everything, whatever roles say. */
export const isSuperuser = ({ groups }: User): boolean => groups.includes(SUPERUSERS);

const has = (list: readonly string[] | undefined, ...wanted: string[]): boolean =>
  list?.some((one) => one === "*" || wanted.includes(one)) ?? false;

/** Whether one rule allows it. */
export function ruleAllows(rule: PolicyRule, { verb, resource, path }: Attributes): boolean {
  if (!has(rule.verbs, verb)) return false;
  if (!resource) {
    const urls = rule.nonResourceURLs ?? [];
    return urls.some((url) => url === path || (url.endsWith("*") && path.startsWith(url.slice(0, -1))));
  }
  const { group, plural, subresource, name } = resource;
  if (!has(rule.apiGroups, group)) return false;
  const full = subresource === undefined ? plural : `${plural}/${subresource}`;
  const any = subresource === undefined ? full : `*/${subresource}`;
  if (!has(rule.resources, full, any)) return false;
  return !rule.resourceNames?.length || (name !== undefined && rule.resourceNames.includes(name));
}

function isSubject({ name, groups }: User, subject: RoleSubject): boolean {
  if (subject.kind === "User") return subject.name === name;
  if (subject.kind === "Group") return groups.includes(subject.name);
  return name === `system:serviceaccount:${subject.namespace}:${subject.name}`;
}

export class Roles {
  readonly #store: Store<Stored>;

  constructor(store: Store<Stored>) {
    this.#store = store;
  }

  /** The rules that hold for the user in the namespace, or for what is in none; and roles that are not there. */
  async rulesFor(
    user: User,
    namespace: string | undefined,
  ): Promise<{ rules: PolicyRule[]; missing: string[] }> {
    const bindings = (await this.#all("clusterrolebindings/")) as Stored<ClusterRoleBinding>[];
    const local = namespace ? ((await this.#all(`rolebindings/${namespace}/`)) as Stored<RoleBinding>[]) : [];
    const rules: PolicyRule[] = [];
    const missing: string[] = [];
    for (const { subjects = [], roleRef } of [...bindings, ...local]) {
      if (!subjects.some((subject) => isSubject(user, subject))) continue;
      const role = await this.#role(roleRef, namespace);
      if (role) rules.push(...(role.rules ?? []));
      else
        missing.push(`${roleRef.kind.toLowerCase()}.${RBAC_GROUP} ${JSON.stringify(roleRef.name)} not found`);
    }
    return { rules, missing };
  }

  async #all(prefix: string): Promise<Stored[]> {
    const { entries } = await this.#store.range(`/registry/${prefix}`);
    return entries.map(({ value }) => value);
  }

  async #role(
    { kind, name }: RoleBinding["roleRef"],
    namespace: string | undefined,
  ): Promise<Stored<ClusterRole> | undefined> {
    const key = kind === "Role" ? `roles/${namespace}/${name}` : `clusterroles/${name}`;
    return (await this.#store.get(`/registry/${key}`))?.value as Stored<ClusterRole> | undefined;
  }

  /** Undefined: allowed. Otherwise why not, which is mostly nothing that could be told: "". */
  async problem(user: User, attributes: Attributes): Promise<string | undefined> {
    if (isSuperuser(user)) return undefined;
    const { rules, missing } = await this.rulesFor(user, attributes.resource?.namespace);
    if (rules.some((rule) => ruleAllows(rule, attributes))) return undefined;
    return missing.length > 0 ? `RBAC: ${missing.length > 1 ? `[${missing.join(", ")}]` : missing[0]}` : "";
  }

  /**
   * Refuses a role with more in it than the user has, and a binding to a role that has.
   * @throws StatusError Forbidden
   */
  async checkEscalation(kind: Kind, user: User, object: KubeObject): Promise<void> {
    const { group, plural } = kind.resource;
    if (group !== RBAC_GROUP || isSuperuser(user)) return;
    const { name = "", namespace } = object.metadata ?? {};
    const { roleRef, rules = [] } = object as Partial<RoleBinding & ClusterRole>;
    const verb = roleRef ? "bind" : "escalate";
    const [what, which] = roleRef ? [`${roleRef.kind.toLowerCase()}s`, roleRef.name] : [plural, name];
    const resource = { group: RBAC_GROUP, plural: what, subresource: undefined, namespace, name: which };
    if ((await this.problem(user, { verb, resource, path: "" })) === undefined) return;
    const granted = roleRef ? ((await this.#role(roleRef, namespace))?.rules ?? []) : rules;
    const { rules: own } = await this.rulesFor(user, namespace);
    const beyond = granted.flatMap(parts).filter((part) => !own.some((rule) => covers(rule, part)));
    if (beyond.length === 0 && (!roleRef || (await this.#role(roleRef, namespace)))) return;
    const groups = user.groups.map((one) => JSON.stringify(one)).join(" ");
    const list = beyond.map(compact).join("\n");
    throw forbidden(
      kind.resource,
      name,
      `user ${JSON.stringify(user.name)} (groups=[${groups}]) is attempting to grant RBAC permissions not currently held:\n${list}`,
    );
  }
}

/** A rule as single permissions. */
function parts(rule: PolicyRule): PolicyRule[] {
  const names = rule.resourceNames?.length ? rule.resourceNames.map((name) => [name]) : [undefined];
  return rule.verbs.flatMap((verb) => [
    ...(rule.nonResourceURLs ?? []).map((url) => ({ verbs: [verb], nonResourceURLs: [url] })),
    ...(rule.apiGroups ?? []).flatMap((group) =>
      (rule.resources ?? []).flatMap((resource) =>
        names.map((resourceNames) => ({
          verbs: [verb],
          apiGroups: [group],
          resources: [resource],
          ...(resourceNames ? { resourceNames } : {}),
        })),
      ),
    ),
  ]);
}

/** Whether a rule gives the single permission. */
function covers(rule: PolicyRule, part: PolicyRule): boolean {
  const [verb = ""] = part.verbs;
  const [url] = part.nonResourceURLs ?? [];
  if (url !== undefined) return ruleAllows(rule, { verb, resource: undefined, path: url } as Attributes);
  const [group = ""] = part.apiGroups ?? [];
  const [plural = "", subresource] = (part.resources?.[0] ?? "").split("/");
  const name = part.resourceNames?.[0];
  return ruleAllows(rule, {
    verb,
    resource: { group, plural, subresource, namespace: undefined, name },
    path: "",
  });
}

/** {APIGroups:[""], Resources:["pods"], Verbs:["get"]}, as the real server tells a rule. */
function compact({ apiGroups, resources, resourceNames, nonResourceURLs, verbs }: PolicyRule): string {
  const told: [string, readonly string[] | undefined][] = [
    ["APIGroups", apiGroups],
    ["Resources", resources],
    ["ResourceNames", resourceNames],
    ["NonResourceURLs", nonResourceURLs],
    ["Verbs", verbs],
  ];
  const texts = told.flatMap(([name, list]) => (list ? [`${name}:${JSON.stringify(list)}`] : []));
  return `{${texts.join(", ")}}`;
}
