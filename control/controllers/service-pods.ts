// Which pods stand behind a Service and which Services a pod stands behind, by indexes both ways; and the ports and
// flags of a pod as an endpoint. Knows Services and Pods.

import type { Informer } from "../../common/informer.js";
import { keyOf, type Pod, type Service, type ServicePort, type Stored } from "../../common/k8s.js";
import { indexBySelector, selectorCandidates, selectsMap } from "./owners.js";
import { indexByLabel, podsWithLabel } from "./pod-index.js";
import { isPodTerminal, podAddresses, podCondition } from "./pod-state.js";
import { parseTime } from "./time.js";

/** The selector by which a Service gets endpoints; undefined when somebody else takes care of them. */
export function serviceSelector(service: Stored<Service>): Record<string, string> | undefined {
  const { selector, type } = service.spec ?? {};
  if (!selector || type === "ExternalName" || Object.keys(selector).length === 0) return undefined;
  return selector;
}

/** Needed once before {@link podsBehind} and {@link servicesOf}. */
export function indexServicesAndPods(services: Informer<Service>, pods: Informer<Pod>): void {
  indexBySelector(services, serviceSelector);
  indexByLabel(pods);
}

/** The pods a Service selects, in whatever state. */
export function podsBehind(service: Stored<Service>, pods: Informer<Pod>): Stored<Pod>[] {
  const selector = serviceSelector(service);
  const [first] = Object.entries(selector ?? {});
  if (!selector || !first) return [];
  return podsWithLabel(pods, service.metadata.namespace ?? "", first).filter((pod) =>
    selectsMap(selector, pod.metadata.labels),
  );
}

/** The Services that select a pod. */
export function servicesOf(pod: Stored<Pod>, services: Informer<Service>): Stored<Service>[] {
  const candidates = selectorCandidates(services, pod.metadata.namespace ?? "", pod.metadata.labels);
  return candidates.filter((service) => selectsMap(serviceSelector(service) ?? {}, pod.metadata.labels));
}

/** What of a pod its endpoints depend on, as a text to compare. */
function endpointView(pod: Stored<Pod>): string {
  const ready = podCondition(pod, "Ready");
  const { nodeName, hostname, subdomain } = pod.spec ?? {};
  return JSON.stringify([
    podAddresses(pod),
    ready?.status,
    ready?.lastTransitionTime,
    pod.metadata.deletionTimestamp,
    isPodTerminal(pod),
    nodeName,
    hostname,
    subdomain,
    pod.metadata.labels,
  ]);
}

/**
 * Calls `enqueue` with the key of each Service whose endpoints a change of a pod may touch.
 * Returns what ends the subscription.
 */
export function watchPods(
  services: Informer<Service>,
  pods: Informer<Pod>,
  enqueue: (key: string) => void,
): () => void {
  const touch = (pod: Stored<Pod>) => {
    for (const service of servicesOf(pod, services)) enqueue(keyOf(service));
  };
  return pods.subscribe({
    add: (pod) => {
      if (podAddresses(pod).length > 0) touch(pod);
    },
    update: (old, now) => {
      // Without an address it is nobody's endpoint.
      if (podAddresses(old).length === 0 && podAddresses(now).length === 0) return;
      if (endpointView(old) === endpointView(now)) return;
      touch(old);
      touch(now);
    },
    delete: touch,
  });
}

/** Whether a pod is an endpoint at all; a terminating one only where that is wanted. */
export function isEndpoint(pod: Stored<Pod>, includeTerminating: boolean): boolean {
  if (isPodTerminal(pod) || podAddresses(pod).length === 0) return false;
  return includeTerminating || !pod.metadata.deletionTimestamp;
}

/** The port of a pod that a Service port sends to; undefined when the pod has none of that name and protocol. */
export function targetPortOf(pod: Stored<Pod>, port: ServicePort): number | undefined {
  const target = port.targetPort ?? port.port;
  if (typeof target === "number") return target;
  const protocol = port.protocol ?? "TCP";
  const sidecars = (pod.spec?.initContainers ?? []).filter(({ restartPolicy }) => restartPolicy === "Always");
  for (const container of [...(pod.spec?.containers ?? []), ...sidecars]) {
    for (const { name, containerPort, protocol: own } of container.ports ?? []) {
      if (name === target && (own ?? "TCP") === protocol) return containerPort;
    }
  }
  return undefined;
}

/** The DNS name of a pod under a headless Service of its subdomain. */
export function endpointHostname(pod: Stored<Pod>, service: Stored<Service>): string | undefined {
  const { hostname, subdomain } = pod.spec ?? {};
  return hostname && subdomain === service.metadata.name ? hostname : undefined;
}

interface SeenTimes {
  service: number;
  /** Pod name → its Ready condition, status and time: within one second the time alone does not show a change. */
  pods: ReadonlyMap<string, string>;
}

/**
 * The value of endpoints.kubernetes.io/last-change-trigger-time: of all changes since the last sync the earliest, so
 * that the latency measured from it is the longest. For a new Service it is its creation. (Kubernetes' network
 * programming latency SLI is defined on this.)
 */
export class TriggerTimes {
  readonly #seen = new Map<string, SeenTimes>();

  /** Milliseconds since the epoch; undefined when nothing that has a time changed. `commit` after success. */
  since(
    service: Stored<Service>,
    pods: readonly Stored<Pod>[],
  ): { time: number | undefined; commit: () => void } {
    const key = keyOf(service);
    const seen = this.#seen.get(key);
    const states = new Map<string, string>();
    let earliest: number | undefined;
    const changed = (time: number) => {
      earliest = earliest === undefined ? time : Math.min(earliest, time);
    };
    for (const pod of pods) {
      const condition = podCondition(pod, "Ready");
      const time = parseTime(condition?.lastTransitionTime);
      if (time === undefined) continue;
      const state = `${condition?.status}@${time}`;
      states.set(pod.metadata.name, state);
      if (state !== seen?.pods.get(pod.metadata.name)) changed(time);
    }
    const created = parseTime(service.metadata.creationTimestamp) ?? 0;
    if (created > (seen?.service ?? 0)) changed(created);
    return {
      time: seen ? earliest : created,
      commit: () => this.#seen.set(key, { service: created, pods: states }),
    };
  }

  forget(key: string): void {
    this.#seen.delete(key);
  }
}

export const TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time";
