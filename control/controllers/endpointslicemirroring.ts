// Mirrors Endpoints that a person or another program keeps (their Service has no selector) into EndpointSlices, which
// are what kube-proxy reads. What they should be is decided in endpointslicemirroring-plan.ts; here are the effects.
// Knows Services, Endpoints and EndpointSlices.

import { ENDPOINT_SLICES, ENDPOINTS, SERVICES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type EndpointSlice, type Endpoints, keyOf, type Service, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ControllerContext } from "./context.js";
import { MANAGED_BY, SERVICE_NAME } from "./endpointslice-plan.js";
import {
  isMirrored,
  MAX_MIRRORED,
  MIRROR_NAME,
  type MirrorChanges,
  planMirror,
} from "./endpointslicemirroring-plan.js";
import type { EventRecorder } from "./events.js";
import { Freshness, STALE_RETRY_MS } from "./freshness.js";
import { deleteIfPresent, isNamespaceTerminating, messageOf, namespaceOf } from "./objects.js";
import { onChange, type Reconciler } from "./reconcile.js";

const BY_MIRRORED = "kubeplumb:mirrored";

export class EndpointSliceMirroringController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #services: Informer<Service>;
  readonly #endpoints: Informer<Endpoints>;
  readonly #slices: Informer<EndpointSlice>;
  readonly #writes: Freshness<EndpointSlice>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#recorder = context.events.recorder("endpoint-slice-mirroring-controller");
    this.#services = context.informers.get(SERVICES);
    this.#endpoints = context.informers.get(ENDPOINTS);
    this.#slices = context.informers.get(ENDPOINT_SLICES);
    this.#slices.addIndex(BY_MIRRORED, (slice) => (isOurs(slice) ? [serviceKeyOf(slice)] : []));
    this.#writes = new Freshness(this.#slices, context.now);
    this.#queue = queue;
  }

  watch(): void {
    const enqueue = (object: Stored) => this.#queue.add(keyOf(object));
    this.#endpoints.subscribe(onChange(enqueue));
    this.#services.subscribe(onChange(enqueue));
    const look = (slice: Stored<EndpointSlice>) => {
      if (isOurs(slice)) this.#queue.add(serviceKeyOf(slice));
    };
    this.#slices.subscribe({
      ...onChange(look),
      update: (old, now) => {
        look(old);
        look(now);
      },
    });
  }

  async reconcile(key: string): Promise<void> {
    if (!this.#writes.isFresh(key)) {
      this.#queue.addAfter(key, STALE_RETRY_MS);
      return;
    }
    const existing = this.#slices
      .byIndex(BY_MIRRORED, key)
      .filter((slice) => !slice.metadata.deletionTimestamp);
    const endpoints = this.#endpoints.get(key);
    const service = this.#services.get(key);
    const selects = Object.keys(service?.spec?.selector ?? {}).length > 0;
    if (!endpoints || !isMirrored(endpoints) || !service || selects) {
      for (const slice of existing) await this.#delete(key, slice);
      return;
    }
    const changes = planMirror(endpoints, existing);
    this.#tell(endpoints, changes);
    try {
      await this.#apply(key, endpoints, changes);
    } catch (error) {
      if (isNamespaceTerminating(error)) return;
      const text = `Error updating Endpoint Slices for Endpoints ${key}: ${messageOf(error)}`;
      this.#recorder.event(endpoints, "Warning", "FailedToUpdateEndpointSlices", text);
      throw error;
    }
  }

  #tell(endpoints: Stored<Endpoints>, { invalid, skipped }: MirrorChanges): void {
    if (invalid > 0) {
      const text = `Skipped ${invalid} invalid IP addresses when mirroring to EndpointSlices`;
      this.#recorder.event(endpoints, "Warning", "InvalidIPAddress", text);
    }
    if (skipped > 0) {
      const text = `A max of ${MAX_MIRRORED} addresses can be mirrored to EndpointSlices per Endpoints subset. ${invalid + skipped} addresses were skipped`;
      this.#recorder.event(endpoints, "Warning", "TooManyAddressesToMirror", text);
    }
  }

  async #apply(key: string, endpoints: Stored<Endpoints>, changes: MirrorChanges): Promise<void> {
    const { client } = this.#context;
    const options = namespaceOf(endpoints);
    for (const slice of changes.create) {
      this.#writes.wrote(key, await client.create(ENDPOINT_SLICES, slice, options));
    }
    for (const slice of changes.update) {
      this.#writes.wrote(key, await client.update(ENDPOINT_SLICES, slice as EndpointSlice, options));
    }
    for (const slice of changes.delete) await this.#delete(key, slice);
  }

  async #delete(key: string, slice: Stored<EndpointSlice>): Promise<void> {
    await deleteIfPresent(this.#context.client, ENDPOINT_SLICES, slice);
    this.#writes.deleted(key, slice);
  }
}

function isOurs({ metadata }: Stored<EndpointSlice>): boolean {
  return metadata.labels?.[MANAGED_BY] === MIRROR_NAME;
}

function serviceKeyOf({ metadata }: Stored<EndpointSlice>): string {
  return `${metadata.namespace}/${metadata.labels?.[SERVICE_NAME] ?? ""}`;
}
