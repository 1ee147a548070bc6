// ServiceCIDRs: makes the one of the cluster's own ranges, says when one is ready, and lets one go when no Service has
// an address of it any more. What the ranges mean for Services is the allocator's matter.

import { isAlreadyExists, SERVICE_CIDRS, SERVICES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { Cidr, ipFamily } from "../../common/ip.js";
import type { Service, ServiceCIDR, Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ControllerContext } from "./context.js";
import { onSight, type Reconciler } from "./reconcile.js";
import { timestamp } from "./time.js";

const DEFAULT_NAME = "kubernetes";
const FINALIZER = "networking.k8s.io/service-cidr-finalizer";

interface Condition {
  type: "Ready";
  status: "True" | "False";
  reason: string;
  message: string;
}

const READY: Condition = {
  type: "Ready",
  status: "True",
  reason: "",
  message: "Kubernetes Service CIDR is ready",
};
const TERMINATING: Condition = {
  type: "Ready",
  status: "False",
  reason: "Terminating",
  message:
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
};

function contains({ spec }: Stored<ServiceCIDR>, ip: string): boolean {
  return (spec?.cidrs ?? []).some((text) => {
    const cidr = Cidr.parse(text);
    return cidr.family === ipFamily(ip) && cidr.contains(ip);
  });
}

/** Whether one may go: every address of it that a Service has is also one of another ServiceCIDR that stays. */
export function canGo(
  going: Stored<ServiceCIDR>,
  all: readonly Stored<ServiceCIDR>[],
  services: readonly Stored<Service>[],
): boolean {
  const others = all.filter((one) => one !== going && !one.metadata.deletionTimestamp);
  const ips = services.flatMap(({ spec }) => (spec?.clusterIPs ?? []).filter((ip) => ipFamily(ip) !== 0));
  return ips.every((ip) => !contains(going, ip) || others.some((other) => contains(other, ip)));
}

export class ServiceCidrController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #cidrs: Informer<ServiceCIDR>;
  readonly #services: Informer<Service>;
  readonly #queue: WorkQueue;
  readonly #own: readonly string[];

  constructor(context: ControllerContext, queue: WorkQueue, options: { serviceCIDRs: readonly string[] }) {
    this.#context = context;
    this.#cidrs = context.informers.get(SERVICE_CIDRS);
    this.#services = context.informers.get(SERVICES);
    this.#queue = queue;
    this.#own = options.serviceCIDRs;
  }

  watch(): void {
    this.#queue.add(DEFAULT_NAME);
    this.#cidrs.subscribe({
      ...onSight<ServiceCIDR>(({ metadata }) => {
        this.#queue.add(metadata.name);
        this.#addTerminating();
      }),
      delete: () => this.#queue.add(DEFAULT_NAME),
    });
    const less = () => this.#addTerminating();
    this.#services.subscribe({ update: less, delete: less });
  }

  #addTerminating(): void {
    for (const { metadata } of this.#cidrs.list())
      if (metadata.deletionTimestamp) this.#queue.add(metadata.name);
  }

  async reconcile(name: string): Promise<void> {
    const cidr = this.#cidrs.get(name);
    if (!cidr) {
      if (name === DEFAULT_NAME) await this.#create();
    } else if (cidr.metadata.deletionTimestamp) {
      await this.#release(cidr);
    } else {
      await this.#setFinalizer(cidr, true);
      await this.#setCondition(cidr, READY);
    }
  }

  async #create(): Promise<void> {
    const cidr: ServiceCIDR = {
      apiVersion: "networking.k8s.io/v1",
      kind: "ServiceCIDR",
      metadata: { name: DEFAULT_NAME },
      spec: { cidrs: [...this.#own] },
    };
    try {
      await this.#context.client.create(SERVICE_CIDRS, cidr);
    } catch (error) {
      if (!isAlreadyExists(error)) throw error;
    }
  }

  /** First nobody may get an address any more; then who has one is asked of the store, not of a cache. */
  async #release(cidr: Stored<ServiceCIDR>): Promise<void> {
    await this.#setCondition(cidr, TERMINATING);
    const { items } = await this.#context.client.list(SERVICES);
    if (canGo(cidr, this.#cidrs.list(), items)) await this.#setFinalizer(cidr, false);
  }

  async #setFinalizer({ metadata }: Stored<ServiceCIDR>, wanted: boolean): Promise<void> {
    const present = metadata.finalizers ?? [];
    if (present.includes(FINALIZER) === wanted) return;
    const finalizers = wanted ? [...present, FINALIZER] : present.filter((one) => one !== FINALIZER);
    await this.#context.client.patch(SERVICE_CIDRS, metadata.name, "merge", { metadata: { finalizers } });
  }

  async #setCondition({ metadata, status }: Stored<ServiceCIDR>, wanted: Condition): Promise<void> {
    const present = status?.conditions?.find(({ type }) => type === wanted.type);
    if (present?.status === wanted.status && present.reason === wanted.reason) return;
    const condition = { ...wanted, lastTransitionTime: timestamp(this.#context.now()) };
    const patch = { status: { conditions: [condition] } };
    await this.#context.client.patch(SERVICE_CIDRS, metadata.name, "merge", patch, { subresource: "status" });
  }
}
