// One node's kube-proxy: a service proxy an address family, and the servers that tell of them. Knows informers and
// servers; what the rules are is the dataplane's business.

import { networkInterfaces } from "node:os";
import type { Informer } from "../../common/informer.js";
import type { EndpointSlice, Node, Service, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import type { IptablesDriver } from "../../dataplane/iptables/index.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import {
  createMetrics,
  nodePortAddresses,
  type ProxyHealth,
  type ServiceHealthCheck,
  ServiceProxy,
} from "../../dataplane/proxy/index.js";
import type { EventTarget } from "../pods/events.js";
import type { KubeProxyConfiguration } from "./configuration.js";
import { configurationFile, conntrackOf, detectLocalOf } from "./configuration-file.js";
import { HealthCheckServers } from "./health-check-servers.js";
import { StatusServers } from "./status-servers.js";

export interface KubeProxyOptions {
  ns: NetNs;
  nodeName: string;
  /** The node's addresses, its primary one first. */
  nodeIPs: readonly string[];
  /** One a family that this node has, the primary one first. */
  iptables: readonly [IptablesDriver, ...IptablesDriver[]];
  configuration: KubeProxyConfiguration;
  /** Says on an object what happened to it. */
  record(target: EventTarget, type: "Normal" | "Warning", reason: string, message: string): void;
  log: Logger;
}

/** Where the objects come from; may be narrowed to those that a proxy looks at. */
export interface KubeProxyInformers {
  services: Informer<Service>;
  endpointSlices: Informer<EndpointSlice>;
}

export class KubeProxy {
  readonly proxies: readonly ServiceProxy[];
  readonly #options: KubeProxyOptions;
  readonly #metrics = createMetrics();
  readonly #servers: StatusServers;
  readonly #healthChecks: readonly HealthCheckServers[];
  readonly #endings: (() => void)[] = [];

  /** @throws RangeError for a configuration that no rules can be made of. */
  constructor(options: KubeProxyOptions) {
    const { ns, iptables, configuration } = options;
    this.#options = options;
    const pairs = iptables.map((driver) => this.#family(driver));
    this.proxies = pairs.map(({ proxy }) => proxy);
    this.#healthChecks = pairs.map(({ servers }) => servers);
    this.#servers = new StatusServers({
      ns,
      ...configuration,
      health: () => this.health(),
      metrics: this.#metrics,
      configuration: configurationFile(configuration),
    });
  }

  /** The node's own Node: its zone, podCIDRs, and whether it is on its way out. */
  nodeChanged(node: Stored<Node>): void {
    this.#each((proxy) => proxy.nodeChanged(node));
  }

  /** Takes what the informers have and will have. */
  watch({ services, endpointSlices }: KubeProxyInformers): void {
    this.#endings.push(
      services.subscribe({
        add: (service) => this.#each((proxy) => proxy.serviceChanged(undefined, service)),
        update: (old, service) => this.#each((proxy) => proxy.serviceChanged(old, service)),
        delete: (service) => this.#each((proxy) => proxy.serviceChanged(service, undefined)),
        synced: () => this.#each((proxy) => proxy.setSynced("services")),
      }),
      endpointSlices.subscribe({
        add: (slice) => this.#each((proxy) => proxy.endpointSliceChanged(undefined, slice)),
        update: (old, slice) => this.#each((proxy) => proxy.endpointSliceChanged(old, slice)),
        delete: (slice) => this.#each((proxy) => proxy.endpointSliceChanged(slice, undefined)),
        synced: () => this.#each((proxy) => proxy.setSynced("endpointslices")),
      }),
    );
  }

  /**
   * Keeps the kernel right from now on, and serves.
   * @throws Error when a server's port is taken and the configuration says bindAddressHardFail.
   */
  async start(): Promise<void> {
    this.#each((proxy) => proxy.start());
    const failures = await this.#servers.start();
    if (failures.length === 0) return;
    if (this.#options.configuration.bindAddressHardFail) throw new Error(failures.join("; "));
    for (const failure of failures) this.#options.log.error(`${failure}; tried again every 5 s`);
  }

  /** Resolves when what is known now is in the kernel. @throws Error when stopped before. */
  async flush(): Promise<void> {
    await Promise.all(this.proxies.map((proxy) => proxy.flush()));
  }

  /** Of all families: as well as the sickest, as old as the oldest. */
  health(): ProxyHealth {
    const all = this.proxies.map((proxy) => proxy.health());
    const oldest = (times: (number | undefined)[]) =>
      times.includes(undefined) ? undefined : Math.min(...(times as number[]));
    return {
      healthy: all.every(({ healthy }) => healthy),
      nodeEligible: all.every(({ nodeEligible }) => nodeEligible),
      lastUpdated: oldest(all.map(({ lastUpdated }) => lastUpdated)),
      lastQueued: oldest(all.map(({ lastQueued }) => lastQueued)),
    };
  }

  /** Ends; the rules stay, so that traffic goes on. */
  async stop(): Promise<void> {
    for (const end of this.#endings.splice(0)) end();
    await Promise.all([
      ...this.proxies.map((proxy) => proxy.stop()),
      ...this.#healthChecks.map((servers) => servers.stop()),
      this.#servers.stop(),
    ]);
  }

  #each(work: (proxy: ServiceProxy) => void): void {
    for (const proxy of this.proxies) work(proxy);
  }

  #family(iptables: IptablesDriver): { proxy: ServiceProxy; servers: HealthCheckServers } {
    const { ns, nodeName, nodeIPs, configuration, log } = this.#options;
    const { family } = iptables;
    const { nodePortAddresses: ranges } = configuration;
    const nodePorts = nodePortAddresses(ranges, family, nodeIPs);
    const servers: HealthCheckServers = new HealthCheckServers({
      ns,
      addresses: () => {
        if (nodePorts.all) return [family === 4 ? "0.0.0.0" : "::"];
        const found = ns.run(() => Object.values(networkInterfaces()).flatMap((list) => list ?? []));
        return nodePorts.matching(found.map(({ address }) => address));
      },
      healthy: () => this.health().healthy,
      onFailure: (check, message) => this.#recordFailure(check, message),
      log,
    });
    const proxy = new ServiceProxy({
      ns,
      iptables,
      nodeName,
      nodeIPs,
      detectLocal: detectLocalOf(configuration),
      ...configuration.iptables,
      nodePortAddresses: ranges,
      conntrack: conntrackOf(configuration),
      onHealthChecks: (checks) => {
        servers.sync(checks).catch((error: Error) => log.error({ err: error }, "health check servers"));
      },
      metrics: this.#metrics,
      log: log.child({ family }),
    });
    return { proxy, servers };
  }

  #recordFailure({ namespace, name, port }: ServiceHealthCheck, why: string): void {
    const { nodeName, record } = this.#options;
    const key = `${namespace}/${name}`;
    // Like kube-proxy's reference to the Service, which knows its name only.
    const target = { kind: "Service", apiVersion: "v1", namespace, name, uid: key };
    const message = `node ${nodeName} failed to start healthcheck "${key}" on port ${port}: ${why}`;
    record(target, "Warning", "FailedToStartServiceHealthcheck", message);
  }
}
