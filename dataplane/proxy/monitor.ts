// Notices that somebody flushed our tables (a firewall service that reloads, an administrator) and says so.
// Knows the canary chains and a few rules that must stand; putting them back is the sync's business.

import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "../../common/log.js";
import type { IptablesDriver, RuleAt, TableName } from "../iptables/index.js";
import { KUBE_PROXY_CANARY } from "./names.js";

export const CANARY_TABLES: readonly TableName[] = ["mangle", "nat", "filter"];

export interface MonitorOptions {
  iptables: IptablesDriver;
  /** Milliseconds between two looks. */
  intervalMs: number;
  /** Rules that must stand; the canary tells of removed chains, these of emptied ones. */
  sentinels: () => readonly RuleAt[];
  /** The tables were flushed, and whoever did it seems to have finished. */
  onFlushed: () => void;
  log: Logger;
}

/** Whoever flushes does it table by table: wait so long, in steps, for the last one. */
const FLUSH_STEP_MS = 100;
const FLUSH_STEPS = 100;

export class FlushMonitor {
  readonly #options: MonitorOptions;
  #timer: NodeJS.Timeout | undefined;
  #checking: Promise<void> | undefined;
  readonly #abort = new AbortController();

  constructor(options: MonitorOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer ??= setInterval(() => {
      this.#checking ??= this.check().finally(() => {
        this.#checking = undefined;
      });
    }, this.#options.intervalMs).unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#abort.abort();
    await this.#checking;
  }

  /** One look; calls onFlushed when something is missing. */
  async check(): Promise<void> {
    const { iptables, sentinels, onFlushed, log } = this.#options;
    try {
      if (!(await iptables.chainExists("mangle", KUBE_PROXY_CANARY))) {
        log.warn({ chain: KUBE_PROXY_CANARY }, "iptables canary chain was deleted: the tables were flushed");
        await this.#flushFinished();
        onFlushed();
      } else if (!(await iptables.hasRules(sentinels()))) {
        log.warn("iptables rules of the proxy are missing: somebody emptied chains");
        onFlushed();
      }
    } catch (error) {
      if (!this.#abort.signal.aborted) log.warn({ err: error }, "could not look after the iptables canary");
    }
  }

  async #flushFinished(): Promise<void> {
    const { iptables } = this.#options;
    for (let step = 0; step < FLUSH_STEPS; step++) {
      const left = await Promise.all(
        CANARY_TABLES.map((table) => iptables.chainExists(table, KUBE_PROXY_CANARY)),
      );
      if (!left.includes(true)) return;
      await sleep(FLUSH_STEP_MS, undefined, { signal: this.#abort.signal });
    }
  }
}
