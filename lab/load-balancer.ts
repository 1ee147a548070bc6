// Lets the external addresses of Services lead to a host from outside: elects a host for each and keeps a route to it
// in the underlay's namespace. Knows Services, Nodes, slices and the wire; who gives out addresses is control's matter.

import { ENDPOINT_SLICES, NODES, SERVICES } from "../common/client.js";
import type { Informer, InformerFactory } from "../common/informer.js";
import { ipFamily } from "../common/ip.js";
import { type EndpointSlice, keyOf, type Node, type Service, type Stored } from "../common/k8s.js";
import type { Logger } from "../common/log.js";
import { WorkQueue } from "../common/workqueue.js";
import type { EventRecorder } from "../node/pods/events.js";
import { addressesOf, candidates, elect, isEligible } from "./load-balancer-plan.js";
import type { ResolvedNode } from "./types.js";
import type { Underlay } from "./underlay.js";

const SERVICE_NAME = "kubernetes.io/service-name";

/** Milliseconds after which routes are put back that somebody removed. */
const CHECK_PERIOD_MS = 10_000;

export interface LoadBalancerOptions {
  underlay: Pick<Underlay, "route" | "unroute" | "connected" | "onConnection">;
  nodes: readonly ResolvedNode[];
  informers: InformerFactory;
  events: Pick<EventRecorder, "record">;
  log: Logger;
}

export class LoadBalancer {
  readonly #options: LoadBalancerOptions;
  readonly #services: Informer<Service>;
  readonly #nodes: Informer<Node>;
  readonly #slices: Informer<EndpointSlice>;
  readonly #queue: WorkQueue;
  /** Address → where it leads, and whose it is. */
  readonly #routes = new Map<string, { host: string; service: string }>();
  /** Keys of the Services that have addresses. */
  readonly #balanced = new Set<string>();
  #stopWatching: () => void = () => {};
  #check: NodeJS.Timeout | undefined;

  constructor(options: LoadBalancerOptions) {
    this.#options = options;
    this.#services = options.informers.get(SERVICES);
    this.#nodes = options.informers.get(NODES);
    this.#slices = options.informers.get(ENDPOINT_SLICES);
    this.#queue = new WorkQueue({
      name: "load-balancer",
      worker: (key) => this.#sync(key),
      log: options.log,
    });
  }

  start(): void {
    const all = () => {
      for (const key of this.#balanced) this.#queue.add(key);
    };
    const look = (service: Stored<Service>) => {
      const key = keyOf(service);
      if (addressesOf(service).length > 0) this.#balanced.add(key);
      if (this.#balanced.has(key)) this.#queue.add(key);
    };
    this.#services.subscribe({ add: look, update: (_old, now) => look(now), delete: look });
    this.#nodes.subscribe({
      add: all,
      update: (old, now) => {
        if (isEligible(old) !== isEligible(now)) all();
      },
      delete: all,
    });
    const slice = ({ metadata }: Stored<EndpointSlice>) => {
      const key = `${metadata.namespace}/${metadata.labels?.[SERVICE_NAME]}`;
      if (this.#balanced.has(key)) this.#queue.add(key);
    };
    this.#slices.subscribe({ add: slice, update: (_old, now) => slice(now), delete: slice });
    // A host that is cut off may go on telling the API that it is well: its end of the wire is seen at once.
    this.#stopWatching = this.#options.underlay.onConnection(all);
    this.#check = setInterval(all, CHECK_PERIOD_MS).unref();
    this.#queue.start();
  }

  async stop(): Promise<void> {
    this.#stopWatching();
    clearInterval(this.#check);
    await this.#queue.stop();
  }

  async #sync(key: string): Promise<void> {
    const { underlay, log } = this.#options;
    const service = this.#services.get(key);
    const addresses = service ? addressesOf(service) : [];
    if (addresses.length === 0) this.#balanced.delete(key);
    for (const [address, { service: owner }] of this.#routes)
      if (owner === key && !addresses.includes(address)) await this.#withdraw(address);
    if (!service) return;
    const connected = await underlay.connected();
    const nodes = this.#nodes.list().filter((node) => connected.has(node.metadata.name) && isEligible(node));
    const names = nodes.map(({ metadata }) => metadata.name);
    // Who has endpoints is of interest only then, and there may be many slices.
    const slices = service.spec?.externalTrafficPolicy === "Local" ? this.#slicesOf(key) : [];
    for (const address of addresses) {
      const host = elect(address, candidates(service, address, names, slices));
      const present = this.#routes.get(address);
      const via = host && this.#addressOf(host, address);
      if (host === undefined) await this.#withdraw(address);
      if (host === undefined || via === undefined) continue;
      // Also when nothing has changed: the kernel drops routes by itself, with a bridge that goes down for one.
      await underlay.route(address, via);
      if (host === present?.host && present.service === key) continue;
      this.#routes.set(address, { host, service: key });
      log.info({ address, host, service: key }, "address announced");
      this.#tell(service, `announcing ${address} from node "${host}"`);
    }
  }

  #slicesOf(key: string): Stored<EndpointSlice>[] {
    return this.#slices
      .list()
      .filter(({ metadata }) => `${metadata.namespace}/${metadata.labels?.[SERVICE_NAME]}` === key);
  }

  #addressOf(host: string, address: string): string | undefined {
    const node = this.#options.nodes.find(({ name }) => name === host);
    return node?.ips.find((ip) => ipFamily(ip) === ipFamily(address));
  }

  async #withdraw(address: string): Promise<void> {
    if (!this.#routes.delete(address)) return;
    this.#options.log.info({ address }, "address withdrawn");
    await this.#options.underlay.unroute(address);
  }

  #tell({ apiVersion, kind, metadata }: Stored<Service>, message: string): void {
    const { name, namespace, uid } = metadata;
    const target = { apiVersion, kind, name, uid, ...(namespace ? { namespace } : {}) };
    this.#options.events.record(target, "Normal", "nodeAssigned", message);
  }
}
