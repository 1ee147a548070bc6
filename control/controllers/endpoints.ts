// Keeps the legacy Endpoints object of every Service with a selector. Pure: desiredSubsets; the rest are effects.
// Knows Services, Pods and Endpoints.

import { ENDPOINTS, isAlreadyExists, PODS, SERVICES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { ipFamily } from "../../common/ip.js";
import {
  type EndpointAddress,
  type EndpointSubset,
  type Endpoints,
  type EndpointsPort,
  keyOf,
  type Pod,
  type Service,
  type Stored,
} from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import { HEADLESS, withTrigger } from "./endpointslice-plan.js";
import type { EventRecorder } from "./events.js";
import { Freshness, STALE_RETRY_MS } from "./freshness.js";
import { deleteIfPresent, gatherTime, isNamespaceTerminating, messageOf, namespaceOf } from "./objects.js";
import { isPodReady, podAddresses } from "./pod-state.js";
import { onChange, onSight, type Reconciler } from "./reconcile.js";
import {
  endpointHostname,
  indexServicesAndPods,
  isEndpoint,
  podsBehind,
  serviceSelector,
  TriggerTimes,
  targetPortOf,
  watchPods,
} from "./service-pods.js";

/** An Endpoints object holds no more addresses than this; then it is marked as truncated. */
const MAX_ADDRESSES = 1000;
const OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY = "endpoints.kubernetes.io/managed-by";
const CONTROLLER_NAME = "endpoint-controller";

interface Subset {
  ports: EndpointsPort[];
  ready: EndpointAddress[];
  notReady: EndpointAddress[];
}

/** The subsets in a stable order, addresses with the same ports together, and whether some were left out. */
export function desiredSubsets(
  service: Stored<Service>,
  pods: readonly Stored<Pod>[],
): { subsets: EndpointSubset[]; truncated: boolean } {
  const publishNotReady = service.spec?.publishNotReadyAddresses ?? false;
  const family = service.spec?.ipFamilies?.[0] === "IPv6" ? 6 : 4;
  const byPorts = new Map<string, Subset>();
  let room = MAX_ADDRESSES;
  let truncated = false;
  // Ready ones first: when there are too many, those that do not work are the ones left out.
  const wanted = pods.filter((pod) => isEndpoint(pod, publishNotReady));
  const sorted = wanted.sort(
    (a, b) => Number(isPodReady(b)) - Number(isPodReady(a)) || (keyOf(a) < keyOf(b) ? -1 : 1),
  );
  for (const pod of sorted) {
    const ip = podAddresses(pod).find((address) => ipFamily(address) === family);
    if (!ip) continue;
    const ports = portsOf(service, pod);
    // Has none of the ports. (In EndpointSlices it is there all the same, without ports.)
    if (ports.length === 0 && (service.spec?.ports ?? []).length > 0) continue;
    if (room === 0) {
      truncated = true;
      break;
    }
    room--;
    const key = JSON.stringify(ports);
    const subset = byPorts.get(key) ?? { ports, ready: [], notReady: [] };
    byPorts.set(key, subset);
    const list = publishNotReady || isPodReady(pod) ? subset.ready : subset.notReady;
    list.push(addressOf(service, pod, ip));
  }
  const subsets = [...byPorts]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([, { ports, ready, notReady }]) => ({
      ...(ready.length > 0 ? { addresses: ready.sort(byIp) } : {}),
      ...(notReady.length > 0 ? { notReadyAddresses: notReady.sort(byIp) } : {}),
      ...(ports.length > 0 ? { ports } : {}),
    }));
  return { subsets, truncated };
}

const byIp = (a: EndpointAddress, b: EndpointAddress): number => (a.ip < b.ip ? -1 : 1);

function portsOf(service: Stored<Service>, pod: Stored<Pod>): EndpointsPort[] {
  return (service.spec?.ports ?? []).flatMap((servicePort) => {
    const port = targetPortOf(pod, servicePort);
    if (port === undefined) return [];
    const { name, protocol = "TCP", appProtocol } = servicePort;
    return [{ ...(name ? { name } : {}), port, protocol, ...(appProtocol ? { appProtocol } : {}) }];
  });
}

function addressOf(service: Stored<Service>, pod: Stored<Pod>, ip: string): EndpointAddress {
  const hostname = endpointHostname(pod, service);
  const { name, namespace, uid } = pod.metadata;
  return {
    ip,
    ...(hostname ? { hostname } : {}),
    ...(pod.spec?.nodeName ? { nodeName: pod.spec.nodeName } : {}),
    targetRef: { kind: "Pod", ...(namespace ? { namespace } : {}), name, uid },
  };
}

function labelsOf(service: Stored<Service>): Record<string, string> {
  const { [HEADLESS]: _headless, ...labels } = service.metadata.labels ?? {};
  return {
    ...labels,
    [MANAGED_BY]: CONTROLLER_NAME,
    ...(service.spec?.clusterIP === "None" ? { [HEADLESS]: "" } : {}),
  };
}

export class EndpointsController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #services: Informer<Service>;
  readonly #pods: Informer<Pod>;
  readonly #endpoints: Informer<Endpoints>;
  readonly #writes: Freshness<Endpoints>;
  readonly #triggers = new TriggerTimes();
  /** Service → number of its pods when last looked at. */
  readonly #sizes = new Map<string, number>();
  /** Services seen to go: their Endpoints go with them, even those that a person made. */
  readonly #orphaned = new Set<string>();
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#recorder = context.events.recorder("endpoint-controller");
    this.#services = context.informers.get(SERVICES);
    this.#pods = context.informers.get(PODS);
    this.#endpoints = context.informers.get(ENDPOINTS);
    indexServicesAndPods(this.#services, this.#pods);
    this.#writes = new Freshness(this.#endpoints, context.now);
    this.#queue = queue;
  }

  watch(): void {
    const enqueue = (key: string) => this.#queue.addAfter(key, gatherTime(this.#sizes.get(key) ?? 0));
    this.#services.subscribe({
      ...onSight((service) => enqueue(keyOf(service))),
      delete: (service) => {
        this.#orphaned.add(keyOf(service));
        enqueue(keyOf(service));
      },
    });
    watchPods(this.#services, this.#pods, enqueue);
    // Also those whose Service went while nobody looked.
    this.#endpoints.subscribe(onChange((endpoints) => enqueue(keyOf(endpoints))));
  }

  async reconcile(key: string): Promise<void> {
    if (!this.#writes.isFresh(key)) {
      this.#queue.addAfter(key, STALE_RETRY_MS);
      return;
    }
    const service = this.#services.get(key);
    if (!service) {
      this.#triggers.forget(key);
      this.#sizes.delete(key);
      await this.#remove(key);
      this.#orphaned.delete(key);
      return;
    }
    this.#orphaned.delete(key);
    if (!serviceSelector(service) || service.metadata.deletionTimestamp) return;
    const pods = podsBehind(service, this.#pods);
    this.#sizes.set(key, pods.length);
    const trigger = this.#triggers.since(service, pods);
    const wanted = desiredSubsets(service, pods);
    try {
      await this.#write(key, service, wanted, trigger.time);
    } catch (error) {
      if (isNamespaceTerminating(error)) return;
      const text = `Failed to update endpoint ${key}: ${messageOf(error)}`;
      this.#recorder.event(service, "Warning", "FailedToUpdateEndpoint", text);
      throw error;
    }
    trigger.commit();
  }

  async #remove(key: string): Promise<void> {
    const present = this.#endpoints.get(key);
    if (!present) return;
    if (present.metadata.labels?.[MANAGED_BY] !== CONTROLLER_NAME && !this.#orphaned.has(key)) return;
    await deleteIfPresent(this.#context.client, ENDPOINTS, present);
    this.#writes.deleted(key, present);
  }

  async #write(
    key: string,
    service: Stored<Service>,
    wanted: { subsets: EndpointSubset[]; truncated: boolean },
    triggerTime: number | undefined,
  ): Promise<void> {
    const { client } = this.#context;
    const present = this.#endpoints.get(key);
    const labels = labelsOf(service);
    const capacityMark = wanted.truncated ? "truncated" : undefined;
    if (
      present &&
      semanticallyEqual(present.subsets ?? [], wanted.subsets) &&
      semanticallyEqual(present.metadata.labels ?? {}, labels) &&
      present.metadata.annotations?.[OVER_CAPACITY] === capacityMark
    ) {
      return;
    }
    const { [OVER_CAPACITY]: _mark, ...others } = withTrigger(present?.metadata.annotations, triggerTime);
    const annotations = capacityMark ? { ...others, [OVER_CAPACITY]: capacityMark } : others;
    const { name, namespace } = service.metadata;
    const draft: Endpoints = {
      apiVersion: "v1",
      kind: "Endpoints",
      metadata: present
        ? { ...present.metadata, labels, annotations }
        : { name, ...(namespace ? { namespace } : {}), labels, annotations },
      subsets: wanted.subsets,
    };
    const options = namespaceOf(service);
    try {
      const written = present
        ? await client.update(ENDPOINTS, draft, options)
        : await client.create(ENDPOINTS, draft, options);
      this.#writes.wrote(key, written);
    } catch (error) {
      // Made by somebody in this moment: its event brings us back.
      if (!isAlreadyExists(error)) throw error;
      this.#queue.addAfter(key, STALE_RETRY_MS);
    }
  }
}
