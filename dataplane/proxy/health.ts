// What others ask about the proxy: whether it keeps up, and how many endpoints each load-balanced Service has here.
// Knows no HTTP: the node serves /healthz, /livez and the healthCheckNodePorts from these facts.

import type { PortState } from "./model.js";

/** One Service with externalTrafficPolicy Local and a healthCheckNodePort. */
export interface ServiceHealthCheck {
  readonly namespace: string;
  readonly name: string;
  /** healthCheckNodePort: where to listen, on the addresses that answer on node ports. */
  readonly port: number;
  /** Distinct addresses of this node's ready endpoints; a load balancer shall send nothing when it is 0. */
  readonly localEndpoints: number;
}

export interface ProxyHealth {
  /** No change waits for longer than twice the sync period: what /livez answers. */
  readonly healthy: boolean;
  /** The node is neither being deleted nor about to be taken away; /healthz answers `healthy && nodeEligible`. */
  readonly nodeEligible: boolean;
  /** When the last sync ended well (ms since 1970); undefined before the first. */
  readonly lastUpdated: number | undefined;
  /** When the last change was queued (ms since 1970); undefined before the first. */
  readonly lastQueued: number | undefined;
}

/** How long changes wait. By the clock's time: a wall clock that is put right must not make a proxy sick. */
export class SyncHealth {
  readonly #timeoutMs: number;
  readonly #now: () => number;
  /** When the oldest change was queued that no sync has taken yet. */
  #waiting: number | undefined;
  /** The same of those that the running sync has taken, or a failed one had. */
  #taken: number | undefined;
  #lastUpdated: number | undefined;
  #lastQueued: number | undefined;

  /** @param timeoutMs a change may wait so long; kube-proxy gives it two sync periods. */
  constructor(timeoutMs: number, now: () => number) {
    this.#timeoutMs = timeoutMs;
    this.#now = now;
  }

  queued(): void {
    this.#waiting ??= this.#now();
    this.#lastQueued = Date.now();
  }

  begin(): void {
    this.#taken ??= this.#waiting;
    this.#waiting = undefined;
  }

  succeeded(): void {
    this.#taken = undefined;
    this.#lastUpdated = Date.now();
  }

  facts(nodeEligible: boolean): ProxyHealth {
    const oldest = this.#taken ?? this.#waiting;
    return {
      healthy: oldest === undefined || this.#now() - oldest < this.#timeoutMs,
      nodeEligible,
      lastUpdated: this.#lastUpdated,
      lastQueued: this.#lastQueued,
    };
  }
}

/** The Services whose load balancers ask, kept up to date port by port. */
export class ServiceHealthChecks {
  /** Ports that have a healthCheckNodePort, by Service and key. */
  readonly #services = new Map<string, Map<string, PortState>>();

  update(key: string, before: PortState | undefined, now: PortState | undefined): void {
    if (before) this.#remove(before.port.service, key);
    if (!now?.port.healthCheckNodePort) return;
    const ports = this.#services.get(now.port.service) ?? new Map<string, PortState>();
    this.#services.set(now.port.service, ports.set(key, now));
  }

  #remove(service: string, key: string): void {
    const ports = this.#services.get(service);
    if (ports?.delete(key) && ports.size === 0) this.#services.delete(service);
  }

  /** Sorted by namespace and name. */
  list(): ServiceHealthCheck[] {
    return [...this.#services]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([service, ports]) => {
        const [namespace = "", name = ""] = service.split("/");
        const states = [...ports.values()];
        const local = states.flatMap(({ endpoints }) => endpoints.filter((one) => one.local && one.ready));
        return {
          namespace,
          name,
          port: states[0]?.port.healthCheckNodePort ?? 0,
          localEndpoints: new Set(local.map(({ ip }) => ip)).size,
        };
      });
  }
}
