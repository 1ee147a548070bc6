// Gives Services of type LoadBalancer an address of the pool, and takes it back: the cloud provider's service
// controller, its cloud being the lab. How the address reaches a host is the lab's business (lab/load-balancer.ts).

import { SERVICES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { keyOf, type Service, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import {
  AddressPool,
  addressesOf,
  assign,
  LOAD_BALANCER_FINALIZER,
  wantsLoadBalancer,
} from "./load-balancer-plan.js";
import { namespaceOf } from "./objects.js";
import type { Reconciler } from "./reconcile.js";

/** A Service that could not have an address is tried again then, and whenever an address comes free. */
const RETRY_MS = 30_000;

/** Wants one worker: an address is chosen by what all Services have. */
export class LoadBalancerController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #services: Informer<Service>;
  readonly #recorder: EventRecorder;
  readonly #queue: WorkQueue;
  readonly #pool: AddressPool;
  /** Address → key of the Service that has it. The truth is the Services' status; this is ahead of the informer. */
  readonly #owners = new Map<string, string>();
  readonly #waiting = new Set<string>();

  /** @throws RangeError when the pool is no range of addresses. */
  constructor(context: ControllerContext, queue: WorkQueue, options: { pool: string }) {
    this.#context = context;
    this.#services = context.informers.get(SERVICES);
    this.#recorder = context.events.recorder("service-controller");
    this.#queue = queue;
    this.#pool = new AddressPool(options.pool);
  }

  watch(): void {
    // First who has what, then who wants something: a restart gives nobody another's address.
    for (const service of this.#services.list()) this.#remember(service);
    this.#services.subscribe({
      add: (service) => this.#look(service),
      update: (old, now) => {
        if (wantsLoadBalancer(old) && !wantsLoadBalancer(now)) this.#typeChanged(old, now);
        this.#look(now);
      },
      delete: (service) => this.#release(keyOf(service)),
    });
  }

  #look(service: Stored<Service>): void {
    const held = service.metadata.finalizers?.includes(LOAD_BALANCER_FINALIZER);
    if (held || wantsLoadBalancer(service)) this.#queue.add(keyOf(service));
  }

  #typeChanged(old: Stored<Service>, now: Stored<Service>): void {
    this.#recorder.event(now, "Normal", "Type", `${old.spec?.type} -> ${now.spec?.type}`);
  }

  #remember(service: Stored<Service>): void {
    const key = keyOf(service);
    if (!wantsLoadBalancer(service)) return;
    for (const ip of addressesOf(service)) if (!this.#owners.has(ip)) this.#owners.set(ip, key);
  }

  #release(key: string): void {
    this.#waiting.delete(key);
    let released = false;
    for (const [ip, owner] of this.#owners) {
      if (owner !== key) continue;
      this.#owners.delete(ip);
      released = true;
    }
    if (released) for (const other of this.#waiting) this.#queue.add(other);
  }

  async reconcile(key: string): Promise<void> {
    const service = this.#services.get(key);
    if (!service) return this.#release(key);
    if (service.metadata.deletionTimestamp || !wantsLoadBalancer(service)) await this.#cleanUp(key, service);
    else await this.#ensure(key, service);
  }

  async #cleanUp(key: string, service: Stored<Service>): Promise<void> {
    const { finalizers = [], name, resourceVersion } = service.metadata;
    if (!finalizers.includes(LOAD_BALANCER_FINALIZER)) return this.#release(key);
    this.#recorder.event(service, "Normal", "DeletingLoadBalancer", "Deleting load balancer");
    const kept = finalizers.filter((finalizer) => finalizer !== LOAD_BALANCER_FINALIZER);
    const patch = { metadata: { resourceVersion, finalizers: kept } };
    await this.#context.client.patch(SERVICES, name, "merge", patch, namespaceOf(service));
    this.#recorder.event(service, "Normal", "DeletedLoadBalancer", "Deleted load balancer");
    this.#release(key);
  }

  async #ensure(key: string, service: Stored<Service>): Promise<void> {
    const { client } = this.#context;
    const { name, resourceVersion, finalizers = [] } = service.metadata;
    const assigned = assign(service, this.#pool, this.#owners, key);
    if ("problem" in assigned) {
      const text = `Error syncing load balancer: failed to ensure load balancer: ${assigned.problem}`;
      this.#recorder.event(service, "Warning", "SyncLoadBalancerFailed", text);
      this.#waiting.add(key);
      this.#queue.addAfter(key, RETRY_MS);
      return;
    }
    this.#waiting.delete(key);
    const { ips } = assigned;
    const present = addressesOf(service);
    const held = finalizers.includes(LOAD_BALANCER_FINALIZER);
    if (held && ips.join() === present.join()) return;
    this.#recorder.event(service, "Normal", "EnsuringLoadBalancer", "Ensuring load balancer");
    for (const ip of ips) this.#owners.set(ip, key);
    if (!held) {
      const patch = { metadata: { resourceVersion, finalizers: [...finalizers, LOAD_BALANCER_FINALIZER] } };
      await client.patch(SERVICES, name, "merge", patch, namespaceOf(service));
    }
    if (ips.join() !== present.join()) {
      const status = { loadBalancer: { ingress: ips.map((ip) => ({ ip, ipMode: "VIP" })) } };
      await client.patch(
        SERVICES,
        name,
        "merge",
        { status },
        { subresource: "status", ...namespaceOf(service) },
      );
      this.#forget(key, ips);
    }
    this.#recorder.event(service, "Normal", "EnsuredLoadBalancer", "Ensured load balancer");
  }

  /** Gives back what the Service had before, once its status says so. */
  #forget(key: string, kept: readonly string[]): void {
    for (const [ip, owner] of this.#owners) if (owner === key && !kept.includes(ip)) this.#owners.delete(ip);
  }
}
