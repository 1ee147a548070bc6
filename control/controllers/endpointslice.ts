// Keeps the EndpointSlices of every Service with a selector. What they should be is decided in
// endpointslice-plan.ts; here are the effects. Knows Services, Pods, Nodes and EndpointSlices.

import { ENDPOINT_SLICES, NODES, PODS, SERVICES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import {
  type EndpointSlice,
  keyOf,
  type Node,
  type Pod,
  type Service,
  type Stored,
} from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ControllerContext } from "./context.js";
import { hintsEvents, isTopologyAware } from "./endpointslice-hints.js";
import {
  CONTROLLER_NAME,
  MANAGED_BY,
  planSlices,
  SERVICE_NAME,
  type SliceChanges,
} from "./endpointslice-plan.js";
import type { EventRecorder } from "./events.js";
import { Freshness, STALE_RETRY_MS } from "./freshness.js";
import { deleteIfPresent, gatherTime, isNamespaceTerminating, messageOf, namespaceOf } from "./objects.js";
import { indexByNode, podsOnNode } from "./pod-index.js";
import { onChange, type Reconciler } from "./reconcile.js";
import {
  indexServicesAndPods,
  podsBehind,
  serviceSelector,
  servicesOf,
  TriggerTimes,
  watchPods,
} from "./service-pods.js";
import { cpuRatios, ZONE } from "./topology-hints.js";

const BY_SERVICE = "kubeplumb:service";
const BY_TOPOLOGY_MODE = "kubeplumb:topology-mode";
const AUTO = "Auto";

export class EndpointSliceController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #services: Informer<Service>;
  readonly #pods: Informer<Pod>;
  readonly #nodes: Informer<Node>;
  readonly #slices: Informer<EndpointSlice>;
  readonly #writes: Freshness<EndpointSlice>;
  readonly #triggers = new TriggerTimes();
  /** Service → number of its pods when last looked at. */
  readonly #sizes = new Map<string, number>();
  /** Services that have hints in proportion to CPU. */
  readonly #hinted = new Set<string>();
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#recorder = context.events.recorder("endpoint-slice-controller");
    this.#services = context.informers.get(SERVICES);
    this.#pods = context.informers.get(PODS);
    this.#nodes = context.informers.get(NODES);
    this.#slices = context.informers.get(ENDPOINT_SLICES);
    indexServicesAndPods(this.#services, this.#pods);
    indexByNode(this.#pods);
    this.#services.addIndex(BY_TOPOLOGY_MODE, (service) => (isTopologyAware(service) ? [AUTO] : []));
    this.#slices.addIndex(BY_SERVICE, (slice) => (isManaged(slice) ? [serviceKeyOf(slice)] : []));
    this.#writes = new Freshness(this.#slices, context.now);
    this.#queue = queue;
  }

  watch(): void {
    const enqueue = (key: string) => this.#enqueue(key);
    this.#services.subscribe(onChange((service) => enqueue(keyOf(service))));
    watchPods(this.#services, this.#pods, enqueue);
    this.#slices.subscribe({
      ...onChange((slice) => this.#sliceChanged(slice)),
      update: (old, now) => {
        if (serviceKeyOf(old) !== serviceKeyOf(now) || isManaged(old) !== isManaged(now))
          this.#sliceChanged(old);
        this.#sliceChanged(now);
      },
    });
    this.#nodes.subscribe({
      ...onChange((node) => this.#nodeChanged(node)),
      update: (old, now) => {
        if (old.metadata.labels?.[ZONE] !== now.metadata.labels?.[ZONE]) this.#nodeChanged(now);
        else if (capacityView(old) !== capacityView(now)) this.#capacityChanged();
      },
    });
  }

  #enqueue(key: string): void {
    this.#queue.addAfter(key, gatherTime(this.#sizes.get(key) ?? 0));
  }

  #sliceChanged(slice: Stored<EndpointSlice>): void {
    if (isManaged(slice)) this.#enqueue(serviceKeyOf(slice));
  }

  #nodeChanged(node: Stored<Node>): void {
    for (const pod of podsOnNode(this.#pods, node.metadata.name)) {
      for (const service of servicesOf(pod, this.#services)) this.#enqueue(keyOf(service));
    }
    this.#capacityChanged();
  }

  /** The shares of the zones are others now. */
  #capacityChanged(): void {
    for (const service of this.#services.byIndex(BY_TOPOLOGY_MODE, AUTO)) this.#enqueue(keyOf(service));
  }

  #zoneOf(nodeName: string): string | undefined {
    const node = this.#nodes.get(nodeName);
    return node && (node.metadata.labels?.[ZONE] ?? "");
  }

  async reconcile(key: string): Promise<void> {
    const service = this.#services.get(key);
    if (!service) {
      // Its slices are its dependents: the garbage collector takes them.
      this.#triggers.forget(key);
      this.#sizes.delete(key);
      this.#writes.forget(key);
      this.#hinted.delete(key);
      return;
    }
    if (!serviceSelector(service) || service.metadata.deletionTimestamp) return;
    if (!this.#writes.isFresh(key)) {
      this.#queue.addAfter(key, STALE_RETRY_MS);
      return;
    }
    const pods = podsBehind(service, this.#pods);
    this.#sizes.set(key, pods.length);
    const trigger = this.#triggers.since(service, pods);
    const changes = planSlices({
      service,
      pods,
      existing: this.#slices.byIndex(BY_SERVICE, key).filter((slice) => !slice.metadata.deletionTimestamp),
      zoneOf: (nodeName) => this.#zoneOf(nodeName),
      triggerTime: trigger.time,
      cpuRatios: () => cpuRatios(this.#nodes.list()),
    });
    try {
      await this.#apply(key, service, changes);
    } catch (error) {
      if (isNamespaceTerminating(error)) return;
      const text = `Error updating Endpoint Slices for Service ${key}: ${messageOf(error)}`;
      this.#recorder.event(service, "Warning", "FailedToUpdateEndpointSlices", text);
      throw error;
    }
    trigger.commit();
    this.#tellOfHints(key, service, changes.hintProblems);
  }

  #tellOfHints(key: string, service: Stored<Service>, problems: SliceChanges["hintProblems"]): void {
    const events = hintsEvents(service, this.#hinted.has(key), problems);
    for (const { type, reason, message } of events) this.#recorder.event(service, type, reason, message);
    const hinted = isTopologyAware(service) && [...problems.values()].includes(undefined);
    if (hinted) this.#hinted.add(key);
    else this.#hinted.delete(key);
  }

  async #apply(key: string, service: Stored<Service>, changes: SliceChanges): Promise<void> {
    const { client } = this.#context;
    const options = namespaceOf(service);
    for (const slice of changes.create) {
      this.#writes.wrote(key, await client.create(ENDPOINT_SLICES, slice, options));
    }
    for (const slice of changes.update) {
      this.#writes.wrote(key, await client.update(ENDPOINT_SLICES, slice as EndpointSlice, options));
    }
    for (const slice of changes.delete) {
      await deleteIfPresent(client, ENDPOINT_SLICES, slice);
      this.#writes.deleted(key, slice);
    }
  }
}

/** What of a Node the share of its zone depends on, besides the zone. */
function capacityView({ status }: Stored<Node>): string {
  const ready = status?.conditions?.find(({ type }) => type === "Ready")?.status;
  return `${ready} ${status?.allocatable?.cpu}`;
}

function isManaged(slice: Stored<EndpointSlice>): boolean {
  return slice.metadata.labels?.[MANAGED_BY] === CONTROLLER_NAME;
}

function serviceKeyOf(slice: Stored<EndpointSlice>): string {
  return `${slice.metadata.namespace}/${slice.metadata.labels?.[SERVICE_NAME] ?? ""}`;
}
