// One HTTP server a Service with externalTrafficPolicy Local and a healthCheckNodePort: tells load balancers whether
// this node has endpoints of it. Level-triggered: made to agree with a list of checks. Knows HTTP and namespaces.

import { createServer, type Server, type ServerResponse } from "node:http";
import type { Logger } from "../../common/log.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import type { ServiceHealthCheck } from "../../dataplane/proxy/index.js";
import { closed } from "./status-servers.js";

export interface HealthCheckServersOptions {
  ns: Pick<NetNs, "listen">;
  /** Addresses to listen on: those that answer on node ports. */
  addresses(): readonly string[];
  /** The proxy keeps up with changes; otherwise its endpoints may be yesterday's. */
  healthy(): boolean;
  /** A port that cannot be bound: for an Event on the Service. */
  onFailure(check: ServiceHealthCheck, message: string): void;
  log: Logger;
}

interface Running {
  check: ServiceHealthCheck;
  addresses: string;
  servers: Server[];
}

const keyOf = ({ namespace, name }: ServiceHealthCheck): string => `${namespace}/${name}`;

export class HealthCheckServers {
  readonly #options: HealthCheckServersOptions;
  readonly #running = new Map<string, Running>();
  #wanted: readonly ServiceHealthCheck[] = [];
  #work: Promise<void> = Promise.resolve();

  constructor(options: HealthCheckServersOptions) {
    this.#options = options;
  }

  /** From now on these are served. Resolves when they are; the last call wins. */
  sync(checks: readonly ServiceHealthCheck[]): Promise<void> {
    this.#wanted = checks;
    this.#work = this.#work.then(() => this.#reconcile());
    return this.#work;
  }

  async stop(): Promise<void> {
    await this.sync([]);
  }

  async #reconcile(): Promise<void> {
    const wanted = new Map(this.#wanted.map((check) => [keyOf(check), check]));
    const addresses = this.#options.addresses();
    const where = addresses.join(" ");
    for (const [key, running] of this.#running) {
      const check = wanted.get(key);
      if (check && check.port === running.check.port && where === running.addresses) running.check = check;
      else {
        this.#running.delete(key);
        await Promise.all(running.servers.map(closed));
      }
    }
    for (const [key, check] of wanted) if (!this.#running.has(key)) await this.#open(key, check, addresses);
  }

  async #open(key: string, check: ServiceHealthCheck, addresses: readonly string[]): Promise<void> {
    const running: Running = { check, addresses: addresses.join(" "), servers: [] };
    this.#running.set(key, running);
    for (const host of addresses) {
      const server = createServer((_req, res) => this.#answer(res, running.check));
      try {
        await this.#options.ns.listen(server, { host, port: check.port });
        running.servers.push(server);
      } catch (error) {
        const { message } = error as Error;
        this.#options.log.error(
          { service: key, port: check.port, host, err: error },
          "no health check server",
        );
        this.#options.onFailure(check, message);
      }
    }
    // Nothing is served: the next sync tries again.
    if (running.servers.length === 0) this.#running.delete(key);
  }

  #answer(res: ServerResponse, { namespace, name, localEndpoints }: ServiceHealthCheck): void {
    const serviceProxyHealthy = this.#options.healthy();
    res
      .writeHead(localEndpoints > 0 && serviceProxyHealthy ? 200 : 503, {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": String(localEndpoints),
      })
      .end(JSON.stringify({ service: { namespace, name }, localEndpoints, serviceProxyHealthy }, null, "\t"));
  }
}
