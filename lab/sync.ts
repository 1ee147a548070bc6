// When the data plane has caught up: the EndpointSlices say what the pods are, every informer has what the API has,
// every proxy has written what it knows. For tests and demos, which otherwise would have to sleep.

import { setTimeout as sleep } from "node:timers/promises";
import { ENDPOINT_SLICES, type KubeClient, NODES, PODS, type Resource, SERVICES } from "../common/client.js";
import type { InformerFactory } from "../common/informer.js";
import { ipFamily } from "../common/ip.js";
import {
  type EndpointSlice,
  type KubeObject,
  keyOf,
  type Pod,
  type Service,
  type Stored,
} from "../common/k8s.js";
import { matchLabels, selectorOf } from "../common/selector.js";

const TIMEOUT_MS = 30_000;
const SERVICE_NAME = "kubernetes.io/service-name";

interface Flushable {
  proxy: { flush(): Promise<void> };
}

/**
 * Resolves when the rules of every host reflect what the API held at the call.
 * @throws Error after 30 s, naming what is behind.
 */
export async function dataPlaneInSync(
  client: KubeClient,
  informers: InformerFactory,
  agents: readonly Flushable[],
): Promise<void> {
  const deadline = Date.now() + TIMEOUT_MS;
  await until(deadline, async () => {
    const [services, slices, pods] = await Promise.all([
      client.list(SERVICES),
      client.list(ENDPOINT_SLICES),
      client.list(PODS),
    ]);
    return staleService(services.items, slices.items, pods.items);
  });
  for (const resource of [SERVICES, ENDPOINT_SLICES, NODES] as Resource<KubeObject>[]) {
    const { items } = await client.list(resource);
    await until(deadline, async () => behind(items, informers.get(resource).list(), resource.plural));
  }
  await Promise.all(agents.map(({ proxy }) => proxy.flush()));
}

/** Calls `problem` until it finds none. */
async function until(deadline: number, problem: () => Promise<string | undefined>): Promise<void> {
  for (;;) {
    const found = await problem();
    if (!found) return;
    if (Date.now() > deadline) throw new Error(`not in sync after ${TIMEOUT_MS / 1000} s: ${found}`);
    await sleep(5);
  }
}

/** A Service whose EndpointSlices do not name exactly its ready pods, or undefined. Pure. */
export function staleService(
  services: readonly Stored<Service>[],
  slices: readonly Stored<EndpointSlice>[],
  pods: readonly Stored<Pod>[],
): string | undefined {
  for (const service of services) {
    const { selector, publishNotReadyAddresses, ipFamilies } = service.spec ?? {};
    if (!selector || Object.keys(selector).length === 0 || publishNotReadyAddresses) continue;
    const { name, namespace } = service.metadata;
    const requirements = selectorOf({ matchLabels: selector });
    if (!requirements) continue;
    const wanted = pods
      .filter((pod) => pod.metadata.namespace === namespace && isServing(pod))
      .filter((pod) => matchLabels(requirements, pod.metadata.labels ?? {}))
      .flatMap((pod) => addressesOf(pod, ipFamilies));
    const present = slices
      .filter((s) => s.metadata.namespace === namespace && s.metadata.labels?.[SERVICE_NAME] === name)
      .flatMap((slice) => slice.endpoints ?? [])
      .filter((endpoint) => endpoint.conditions?.ready !== false)
      .flatMap((endpoint) => endpoint.addresses);
    if (!sameSet(wanted, present)) return `EndpointSlices of Service ${namespace}/${name}`;
  }
  return undefined;
}

/** Those of a pod that belong into a Service's slices. */
function addressesOf({ status }: Stored<Pod>, families: readonly string[] | undefined): string[] {
  const ips = (status?.podIPs ?? []).flatMap(({ ip }) => ip ?? []);
  if (!families || ips.length === 0) return [status?.podIP ?? ""];
  return ips.filter((ip) => families.includes(`IPv${ipFamily(ip)}`));
}

function isServing(pod: Stored<Pod>): boolean {
  const ready = pod.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True");
  return Boolean(ready && pod.status?.podIP && !pod.metadata.deletionTimestamp);
}

function sameSet(a: readonly string[], b: readonly string[]): boolean {
  const left = new Set(a);
  const right = new Set(b);
  return left.size === right.size && [...left].every((one) => right.has(one));
}

/** An object that a cache has older than the API had it, or still, or not yet; undefined when there is none. Pure. */
export function behind(
  items: readonly Stored[],
  cached: readonly Stored[],
  what: string,
): string | undefined {
  const known = new Map(cached.map((object) => [keyOf(object), object]));
  const newest = Math.max(0, ...items.map(version));
  for (const object of items) {
    const mine = known.get(keyOf(object));
    if (!mine || version(mine) < version(object)) return `${what} ${keyOf(object)}`;
    known.delete(keyOf(object));
  }
  // What the cache has beyond the list is either newer than the list or deleted and not yet heard of.
  const gone = [...known.values()].find((object) => version(object) <= newest);
  return gone ? `deleted ${what} ${keyOf(gone)}` : undefined;
}

function version(object: Stored): number {
  return Number(object.metadata.resourceVersion);
}
