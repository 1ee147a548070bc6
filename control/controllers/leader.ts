// Of several control planes on one store one runs the controllers: who holds the Lease. Starts them when it is won, stops
// them when it is lost. Knows the Lease, nothing of what is started.

import { setTimeout as sleep } from "node:timers/promises";
import { isAlreadyExists, isConflict, isNotFound, type KubeClient, LEASES } from "../../common/client.js";
import type { Lease, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import { claim, type Observation, observe, RENEW_DEADLINE_MS, RETRY_MS } from "./leader-plan.js";

const NAME = "kube-controller-manager";
const NAMESPACE = "kube-system";

export interface ElectionOptions {
  client: KubeClient;
  /** Of this control plane, unlike any other's. */
  identity: string;
  /** Begins to lead. Returns what ends that. */
  lead: () => () => Promise<void>;
  log: Logger;
}

/** Why nobody runs the controllers now, undefined when somebody does; `now` in milliseconds since the epoch. */
export async function leaderFailure(client: KubeClient, now = Date.now()): Promise<string | undefined> {
  const lease = await client.get(LEASES, NAME, NAMESPACE).catch((error: unknown) => {
    if (!isNotFound(error)) throw error;
    return undefined;
  });
  const { renewTime, leaseDurationSeconds = 0 } = lease?.spec ?? {};
  if (renewTime && now < Date.parse(renewTime) + leaseDurationSeconds * 1000) return undefined;
  return `lease ${NAMESPACE}/${NAME} was ${renewTime ? `last renewed at ${renewTime}` : "never held"}`;
}

const microTime = (): string => new Date().toISOString().replace("Z", "000Z");

export class Election {
  readonly #options: ElectionOptions;
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;
  #seen: Observation | undefined;
  #renewedAt = 0;
  #end: (() => Promise<void>) | undefined;

  /** Takes part at once. */
  constructor(options: ElectionOptions) {
    this.#options = options;
    this.#running = this.#run();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      await this.#turn();
      await sleep(RETRY_MS, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  async #turn(): Promise<void> {
    const { identity, lead, log } = this.#options;
    const asked = Date.now();
    // An answer that is not there in time does not keep the controllers running.
    const deadline =
      this.#end && setTimeout(() => void this.#resign(), this.#renewedAt + RENEW_DEADLINE_MS - asked);
    try {
      const holds = await this.#claim();
      if (!holds) await this.#resign();
      else if (!this.#stopping.signal.aborted) {
        this.#renewedAt = asked;
        if (!this.#end) {
          log.info({ identity }, "this control plane leads");
          this.#end = lead();
        }
      }
    } catch (error) {
      log.warn({ err: error }, "the lease of the controllers was not renewed");
      if (Date.now() - this.#renewedAt >= RENEW_DEADLINE_MS) await this.#resign();
    } finally {
      clearTimeout(deadline);
    }
  }

  async #resign(): Promise<void> {
    const end = this.#end;
    if (!end) return;
    this.#end = undefined;
    this.#options.log.warn({ identity: this.#options.identity }, "this control plane leads no longer");
    await end();
  }

  /** Takes or renews the Lease; false while another has it. @throws StatusError when that is not known */
  async #claim(): Promise<boolean> {
    const { client, identity } = this.#options;
    const time = microTime();
    try {
      const lease = await this.#lease();
      const now = performance.now();
      this.#seen = observe(lease, this.#seen, now);
      const spec = claim(lease, identity, this.#seen, now, time);
      if (!spec) return false;
      await client.update(LEASES, { ...lease, spec } as Lease, { namespace: NAMESPACE });
      return true;
    } catch (error) {
      if (isConflict(error) || isAlreadyExists(error)) return false;
      throw error;
    }
  }

  async #lease(): Promise<Stored<Lease>> {
    const { client } = this.#options;
    return await client.get(LEASES, NAME, NAMESPACE).catch((error: unknown) => {
      if (!isNotFound(error)) throw error;
      const metadata = { name: NAME, namespace: NAMESPACE };
      const lease: Lease = { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata, spec: {} };
      return client.create(LEASES, lease, { namespace: NAMESPACE });
    });
  }

  /** Stops leading, and lets the next one begin at once. */
  async stop(): Promise<void> {
    const led = this.#end !== undefined;
    this.#stopping.abort();
    await this.#running;
    await this.#resign();
    if (!led) return;
    const { client, log } = this.#options;
    const spec = { holderIdentity: null, leaseDurationSeconds: 1, renewTime: microTime() };
    await client
      .patch(LEASES, NAME, "merge", { spec }, { namespace: NAMESPACE })
      .catch((error: unknown) => log.warn({ err: error }, "the lease of the controllers was not given back"));
  }
}
