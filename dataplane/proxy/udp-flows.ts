// Forgets tracked UDP flows to backends that are no more, once the rules are right.
// Effects on the conntrack table of one namespace; which flows are stale is stale-flows.ts.

import { readFileSync } from "node:fs";
import type { Logger } from "../../common/log.js";
import { Conntrack } from "../kernel/conntrack.js";
import type { NetNs } from "../kernel/netns.js";
import { addressKey } from "./addresses.js";
import { changedUdpServices, staleFlows } from "./stale-flows.js";
import type { Change } from "./tracker.js";

const COUNT = "/proc/sys/net/netfilter/nf_conntrack_count";

export class UdpFlows {
  readonly #ns: Pick<NetNs, "run" | "name">;
  readonly #family: 4 | 6;
  readonly #log: Logger;
  #changes = new Map<string, Change>();
  #conntrack: Conntrack | undefined;

  constructor(ns: Pick<NetNs, "run" | "name">, family: 4 | 6, log: Logger) {
    this.#ns = ns;
    this.#family = family;
    this.#log = log;
  }

  /** A service port changed; changes of the same port add up until {@link forget}. */
  note(key: string, { before, now }: Change): void {
    if ((now ?? before)?.port.protocol !== "udp") return;
    const earlier = this.#changes.get(key);
    this.#changes.set(key, { before: earlier?.before ?? before, now });
  }

  /** Whether there is anything to look after. */
  get pending(): boolean {
    return this.#changes.size > 0;
  }

  /**
   * To be called after the rules: a flow that is forgotten too early would be tracked again by the old ones.
   * Returns the number of flows that were deleted. A failure is told and tried again by the next call.
   */
  forget(nodeAddresses: Iterable<string>): number {
    const changes = this.#changes;
    this.#changes = new Map();
    let deleted = 0;
    try {
      if (this.#tracksNothing()) return 0;
      this.#conntrack ??= Conntrack.open(this.#ns, this.#family);
      const own = new Set([...nodeAddresses].map(addressKey));
      const stale = staleFlows(this.#conntrack.udpFlows(), changedUdpServices(changes.values()), own);
      for (const flow of stale) if (this.#conntrack.delete(flow)) deleted++;
      if (deleted) this.#log.debug({ flows: deleted }, "forgot UDP flows to removed endpoints");
    } catch (error) {
      for (const [key, change] of changes) if (!this.#changes.has(key)) this.#changes.set(key, change);
      this.#log.warn({ err: error }, "could not clear stale UDP conntrack entries");
    }
    return deleted;
  }

  /**
   * Whether no flow is tracked in the namespace, as on every host of a new cluster. To list flows, the kernel walks the
   * table of all namespaces together: 10 ms and more, even when there is none of ours.
   */
  #tracksNothing(): boolean {
    try {
      return this.#ns.run(() => Number(readFileSync(COUNT, "utf8"))) === 0;
    } catch {
      // No such file where conntrack is a module that is not loaded: the dump says what is to be said.
      return false;
    }
  }

  close(): void {
    this.#conntrack?.close();
    this.#conntrack = undefined;
  }
}
