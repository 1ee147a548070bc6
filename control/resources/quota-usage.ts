// What objects take of a ResourceQuota, whether a quota speaks of them, and sums of it: the evaluators of the real
// server. Pure; knows Pods, Services, claims and quotas.

import type {
  Container,
  KubeObject,
  PersistentVolumeClaim,
  Pod,
  ResourceQuota,
  Service,
} from "../../common/k8s.js";
import { storageClassOf } from "./persistent-volume.js";
import { formatQuantity, type ParsedQuantity, parseQuantity } from "./validation/quantity.js";

type Amount = Pick<ParsedQuantity, "nanos" | "format">;
/** By the name of what is limited: "requests.cpu", "count/jobs.batch". */
export type Usage = ReadonlyMap<string, Amount>;
export type QuotaSpec = NonNullable<ResourceQuota["spec"]>;
interface Named {
  group: string;
  plural: string;
}

const ONE: Amount = { nanos: 1_000_000_000n, format: "DecimalSI" };
const ZERO: Amount = { nanos: 0n, format: "DecimalSI" };
/** Kinds of the core group that a quota may call by their plain name. */
export const COUNTED = [
  "configmaps",
  "persistentvolumeclaims",
  "pods",
  "replicationcontrollers",
  "resourcequotas",
  "secrets",
  "services",
];
/** Short names of requests. */
const SHORT = ["cpu", "ephemeral-storage", "memory"];
const MUST_SAY = new Set(["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"]);
const PER_CLASS = ".storageclass.storage.k8s.io/";

const is = (kind: Named, plural: string): boolean => kind.group === "" && kind.plural === plural;

/** What an object of that kind takes. */
export function usageOf(kind: Named, object: KubeObject): Usage {
  const usage = new Map<string, Amount>([[`count/${kind.plural}${kind.group ? `.${kind.group}` : ""}`, ONE]]);
  if (kind.group !== "" || !COUNTED.includes(kind.plural)) return usage;
  if (is(kind, "pods"))
    return isEnded(object as Pod) ? usage : new Map([...usage, ...podUsage(object as Pod)]);
  usage.set(kind.plural, ONE);
  if (is(kind, "services")) countPorts(object as Service, usage);
  if (is(kind, "persistentvolumeclaims")) countStorage(object as PersistentVolumeClaim, usage);
  return usage;
}

function countPorts({ spec }: Service, usage: Map<string, Amount>): void {
  const isBalanced = spec?.type === "LoadBalancer";
  if (isBalanced) usage.set("services.loadbalancers", ONE);
  if (!isBalanced && spec?.type !== "NodePort") return;
  const ports = (spec.ports ?? []).filter(
    ({ nodePort }) => nodePort || !isBalanced || spec.allocateLoadBalancerNodePorts !== false,
  );
  usage.set("services.nodeports", { ...ONE, nanos: ONE.nanos * BigInt(ports.length) });
}

function countStorage(claim: PersistentVolumeClaim, usage: Map<string, Amount>): void {
  const storage = parseQuantity(claim.spec?.resources?.requests?.storage ?? "0") ?? ZERO;
  usage.set("requests.storage", storage);
  const name = storageClassOf(claim);
  if (name === "") return;
  usage.set(`${name}${PER_CLASS}requests.storage`, storage);
  usage.set(`${name}${PER_CLASS}persistentvolumeclaims`, ONE);
}

/** It takes nothing any more. */
export function isEnded({ status }: Pod): boolean {
  return status?.phase === "Succeeded" || status?.phase === "Failed";
}

function podUsage(pod: Pod): Map<string, Amount> {
  const usage = new Map<string, Amount>([["pods", ONE]]);
  for (const list of ["requests", "limits"] as const)
    for (const [name, amount] of podTotal(pod, list)) {
      if (list === "requests" && SHORT.includes(name)) usage.set(name, amount);
      if (list === "requests" && name.startsWith("hugepages-")) usage.set(name, amount);
      usage.set(`${list}.${name}`, amount);
    }
  return usage;
}

/** Containers run together, init containers before them one after the other; those that stay count from then on. */
function podTotal({ spec }: Pod, list: "requests" | "limits"): Map<string, Amount> {
  const total = new Map<string, Amount>();
  const peak = new Map<string, Amount>();
  const stays = new Map<string, Amount>();
  const each = (
    container: Pick<Container, "resources">,
    use: (name: string, amount: Amount) => void,
  ): void => {
    for (const [name, text] of Object.entries(container.resources?.[list] ?? {})) {
      const amount = parseQuantity(text);
      if (amount) use(name, amount);
    }
  };
  for (const container of spec?.initContainers ?? []) {
    const isSidecar = container.restartPolicy === "Always";
    each(container, (name, amount) => {
      const needed = plus(stays.get(name), amount);
      if (needed.nanos > (peak.get(name)?.nanos ?? 0n)) peak.set(name, needed);
      if (!isSidecar) return;
      stays.set(name, needed);
      total.set(name, plus(total.get(name), amount));
    });
  }
  for (const container of spec?.containers ?? [])
    each(container, (name, amount) => total.set(name, plus(total.get(name), amount)));
  for (const [name, amount] of peak)
    if (amount.nanos > (total.get(name)?.nanos ?? 0n)) total.set(name, amount);
  if (spec?.overhead)
    each({ resources: { [list]: spec.overhead } }, (name, amount) => {
      if (list === "requests" || total.has(name)) total.set(name, plus(total.get(name), amount));
    });
  return total;
}

/** The sum, in the format of what was there first. */
export function plus(a: Amount | undefined, b: Amount): Amount {
  return a && a.nanos !== 0n ? { nanos: a.nanos + b.nanos, format: a.format } : b;
}

export function amountsOf(list: Readonly<Record<string, string>> | undefined): Map<string, Amount> {
  return new Map(Object.entries(list ?? {}).map(([name, text]) => [name, parseQuantity(text) ?? ZERO]));
}

/** "pods=1,requests.cpu=500m": some of them, as the real server's errors tell amounts. */
export function amountsText(usage: Usage, names: readonly string[]): string {
  return [...names]
    .sort()
    .map((name) => `${name}=${formatQuantity(usage.get(name) ?? ZERO)}`)
    .join(",");
}

/** status.used of a quota, from everything that takes of it. */
export function usedBy(
  spec: QuotaSpec,
  objects: Iterable<readonly [Named, KubeObject]>,
): Record<string, string> {
  const names = Object.keys(spec.hard ?? {});
  const sum = new Map<string, Amount>(names.map((name) => [name, ZERO]));
  for (const [kind, object] of objects) {
    if (!isScoped(spec, kind, object)) continue;
    for (const [name, amount] of usageOf(kind, object)) {
      const before = sum.get(name);
      if (before) sum.set(name, plus(before, amount));
    }
  }
  return Object.fromEntries([...sum].map(([name, amount]) => [name, formatQuantity(amount)]));
}

/** The kinds on which something in `hard` depends. */
export function limitedKinds<T extends Named>(
  hard: Readonly<Record<string, string>>,
  served: readonly T[],
): T[] {
  const names = Object.keys(hard);
  return served.filter((kind) =>
    names.some((name) => {
      if (name === `count/${kind.plural}${kind.group ? `.${kind.group}` : ""}`) return true;
      if (kind.group !== "") return false;
      if (is(kind, "persistentvolumeclaims") && (name.includes(PER_CLASS) || name === "requests.storage"))
        return true;
      if (is(kind, "services") && name.startsWith("services.")) return true;
      if (is(kind, "pods") && !name.startsWith("count/") && !name.includes(PER_CLASS))
        return name === "pods" || /^(requests|limits)\.|^hugepages-/.test(name) || SHORT.includes(name);
      return name === kind.plural && COUNTED.includes(name);
    }),
  );
}

type Scope = NonNullable<NonNullable<QuotaSpec["scopeSelector"]>["matchExpressions"]>[number];

/** All that the quota says of which objects it is for; only pods can be told apart. */
export function scopesOf({ scopes = [], scopeSelector }: QuotaSpec): Scope[] {
  return [
    ...scopes.map((scopeName) => ({ scopeName, operator: "Exists" })),
    ...(scopeSelector?.matchExpressions ?? []),
  ];
}

export function isScoped(spec: QuotaSpec, kind: Named, object: KubeObject): boolean {
  const scopes = scopesOf(spec);
  if (scopes.length === 0) return true;
  return is(kind, "pods") && scopes.every((scope) => isInScope(object as Pod, scope));
}

function isInScope({ spec, status }: Pod, { scopeName, operator, values = [] }: Scope): boolean {
  const bestEffort = status?.qosClass === "BestEffort";
  const ends = spec?.activeDeadlineSeconds !== undefined;
  switch (scopeName) {
    case "BestEffort":
      return bestEffort;
    case "NotBestEffort":
      return !bestEffort;
    case "Terminating":
      return ends;
    case "NotTerminating":
      return !ends;
    case "PriorityClass":
      return isSelected(spec?.priorityClassName ?? "", operator, values);
    case "CrossNamespacePodAffinity":
      return looksIntoOthers(spec?.affinity);
    default:
      return false;
  }
}

function isSelected(name: string, operator: string, values: readonly string[]): boolean {
  if (operator === "Exists") return name !== "";
  if (operator === "DoesNotExist") return name === "";
  return operator === "In" ? values.includes(name) : !values.includes(name);
}

function looksIntoOthers(affinity: NonNullable<Pod["spec"]>["affinity"]): boolean {
  return [affinity?.podAffinity, affinity?.podAntiAffinity]
    .flatMap((one) => [
      ...(one?.requiredDuringSchedulingIgnoredDuringExecution ?? []),
      ...(one?.preferredDuringSchedulingIgnoredDuringExecution ?? []).map((term) => term.podAffinityTerm),
    ])
    .some(
      ({ namespaces = [], namespaceSelector }) => namespaces.length > 0 || namespaceSelector !== undefined,
    );
}

/** What containers of a pod have to say where the quota limits it, and do not; undefined when all is said. */
export function unsaid({ spec }: Pod, { hard }: QuotaSpec): string | undefined {
  const wanted = Object.keys(hard ?? {}).filter((name) => MUST_SAY.has(name));
  const missing = wanted.sort().flatMap((name) => {
    const [list, resource] = name.includes(".") ? name.split(".") : ["requests", name];
    const silent = [...(spec?.containers ?? []), ...(spec?.initContainers ?? [])]
      .filter(({ resources }) => resources?.[list as "limits" | "requests"]?.[resource ?? ""] === undefined)
      .map((container) => container.name);
    return silent.length > 0 ? [`${name} for: ${[...new Set(silent)].sort().join(",")}`] : [];
  });
  return missing.length > 0 ? `must specify ${missing.join("; ")}` : undefined;
}
