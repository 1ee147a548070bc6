// The admission plugin LimitRanger, for pods: default requests and limits from the namespace's LimitRanges, then
// whether the pod keeps within them, with the real plugin's texts. Decides on a pod and LimitRanges; reads no store.

import type { LimitRangeItem, ResourceRequirements } from "kubernetes-types/core/v1.js";
import type { Container, LimitRange, Pod, PodSpec } from "../../common/k8s.js";
import { formatQuantity, type ParsedQuantity, parseQuantity } from "../resources/validation/quantity.js";

const ANNOTATION = "kubernetes.io/limit-ranger";

type Amounts = Readonly<Record<string, string>>;

const nanosOf = (text: string): bigint => parseQuantity(text)?.nanos ?? 0n;

/** Fills in what containers leave out, and notes what it was. */
export function defaultLimits(pod: Pod, { spec }: Pick<LimitRange, "spec">): void {
  const items = (spec?.limits ?? []).filter(({ type }) => type === "Container");
  const limits: Amounts = Object.assign({}, ...items.map((item) => item.default));
  const requests: Amounts = Object.assign({}, ...items.map((item) => item.defaultRequest));
  const { containers = [], initContainers = [] } = pod.spec ?? {};
  const notes = [
    ...containers.flatMap((one) => fill(one, "container", limits, requests)),
    ...initContainers.flatMap((one) => fill(one, "init container", limits, requests)),
  ];
  if (notes.length === 0) return;
  const annotations = { ...pod.metadata?.annotations };
  annotations[ANNOTATION] = `LimitRanger plugin set: ${notes.join("; ")}`;
  pod.metadata = { ...pod.metadata, annotations };
}

function fill(container: Container, what: string, limits: Amounts, requests: Amounts): string[] {
  const { resources = {} } = container;
  const added = (defaults: Amounts, own: Amounts = {}): string[] =>
    Object.keys(defaults)
      .filter((name) => own[name] === undefined)
      .sort();
  const newRequests = added(requests, resources.requests);
  const newLimits = added(limits, resources.limits);
  container.resources = {
    ...resources,
    ...(newLimits.length > 0 ? { limits: { ...limits, ...resources.limits } } : {}),
    ...(newRequests.length > 0 ? { requests: { ...requests, ...resources.requests } } : {}),
  };
  return [
    ...(newRequests.length > 0 ? [`${newRequests.join(", ")} request for ${what} ${container.name}`] : []),
    ...(newLimits.length > 0 ? [`${newLimits.join(", ")} limit for ${what} ${container.name}`] : []),
  ];
}

/** What of the LimitRange the pod does not keep; empty when all is well. */
export function beyondLimits(pod: Pod, { spec }: Pick<LimitRange, "spec">): string[] {
  const { containers = [], initContainers = [] } = pod.spec ?? {};
  return (spec?.limits ?? []).flatMap((item) => {
    if (item.type === "Container")
      return [...containers, ...initContainers].flatMap(({ resources }) => check(item, resources ?? {}));
    if (item.type !== "Pod") return [];
    return check(item, { requests: podSum(pod.spec, "requests"), limits: podSum(pod.spec, "limits") });
  });
}

function check(item: LimitRangeItem, { requests = {}, limits = {} }: ResourceRequirements): string[] {
  const { type, min = {}, max = {}, maxLimitRequestRatio = {} } = item;
  const errors: string[] = [];
  for (const [name, bound] of Object.entries(min)) {
    const [request, limit] = [requests[name], limits[name]];
    const rule = `minimum ${name} usage per ${type} is ${bound}`;
    if (request === undefined) errors.push(`${rule}. No request is specified`);
    else if (nanosOf(request) < nanosOf(bound)) errors.push(`${rule}, but request is ${request}`);
    else if (limit !== undefined && nanosOf(limit) < nanosOf(bound))
      errors.push(`${rule}, but limit is ${limit}`);
  }
  for (const [name, bound] of Object.entries(max)) {
    const [request, limit] = [requests[name], limits[name]];
    const rule = `maximum ${name} usage per ${type} is ${bound}`;
    if (limit === undefined) errors.push(`${rule}. No limit is specified`);
    else if (nanosOf(limit) > nanosOf(bound)) errors.push(`${rule}, but limit is ${limit}`);
    else if (request !== undefined && nanosOf(request) > nanosOf(bound))
      errors.push(`${rule}, but request is ${request}`);
  }
  for (const [name, bound] of Object.entries(maxLimitRequestRatio)) {
    const request = nanosOf(requests[name] ?? "0");
    const limit = nanosOf(limits[name] ?? "0");
    const rule = `${name} max limit to request ratio per ${type} is ${bound}`;
    if (request === 0n) errors.push(`${rule}, but no request is specified or request is 0`);
    else if (limit === 0n) errors.push(`${rule}, but no limit is specified or limit is 0`);
    else {
      const ratio = Number(limit) / Number(request);
      if (ratio > Number(nanosOf(bound)) / 1e9)
        errors.push(`${rule}, but provided ratio is ${ratio.toFixed(6)}`);
    }
  }
  return errors;
}

/** Of a whole pod: its containers together, or the init container that takes most, whichever is more. */
function podSum(spec: PodSpec | undefined, list: "requests" | "limits"): Amounts {
  const { containers = [], initContainers = [] } = spec ?? {};
  const sum = new Map<string, Pick<ParsedQuantity, "nanos" | "format">>();
  const isSidecar = ({ restartPolicy }: Container) => restartPolicy === "Always";
  const each = (of: readonly Container[], join: (before: bigint, now: bigint) => bigint): void => {
    for (const { resources } of of)
      for (const [name, text] of Object.entries(resources?.[list] ?? {})) {
        const parsed = parseQuantity(text);
        if (!parsed) continue;
        const { nanos, format } = sum.get(name) ?? { nanos: 0n, format: parsed.format };
        sum.set(name, { nanos: join(nanos, parsed.nanos), format });
      }
  };
  each([...containers, ...initContainers.filter(isSidecar)], (before, now) => before + now);
  const alone = initContainers.filter((one) => !isSidecar(one));
  each(alone, (before, now) => {
    if (now > before) return now;
    return before;
  });
  return Object.fromEntries([...sum].map(([name, amount]) => [name, formatQuantity(amount)]));
}
