// Looks again and again whether a firewall of this machine stops what the cluster needs, and says so: in the log and to
// whoever else listens, once when it appears and once an hour while it lasts. Changes no rule of anybody.

import type { Logger } from "../../common/log.js";
import {
  FilterReader,
  type Finding,
  findPlaces,
  judge,
  type Need,
  type Place,
  type PlaceOptions,
} from "../../dataplane/firewall/index.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";

export interface FirewallWatchOptions {
  ns: NetNs;
  where: PlaceOptions;
  needs: (place: Place) => Need[];
  /** Of what is stopped, as often as it is logged. */
  tell?: (message: string) => void;
  log: Logger;
}

const PERIOD_MS = 10_000;
const REMIND_MS = 3_600_000;

export class FirewallWatch {
  readonly #options: FirewallWatchOptions;
  readonly #readers = new Map<4 | 6, FilterReader>();
  /** When each was last told, by {@link keyOf}. */
  readonly #told = new Map<string, { at: number; title: string }>();
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  /** What was last said of what nobody could look at. */
  #unread = "";

  constructor(options: FirewallWatchOptions) {
    this.#options = options;
  }

  start(): void {
    const look = () => {
      this.#running ??= this.#look().finally(() => {
        this.#running = undefined;
      });
    };
    this.#timer = setInterval(look, PERIOD_MS).unref();
    look();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }

  async #look(): Promise<void> {
    let unread: string;
    try {
      const { findings, unread: sentences } = await this.#findings();
      this.#report(findings);
      unread = sentences.join("; ");
    } catch (error) {
      unread = (error as Error).message;
    }
    if (unread !== "" && unread !== this.#unread)
      this.#options.log.warn({ why: unread }, "a firewall could not be looked at");
    this.#unread = unread;
  }

  async #findings(): Promise<{ findings: Finding[]; unread: string[] }> {
    const { ns, where, needs } = this.#options;
    const findings: Finding[] = [];
    const unread: string[] = [];
    for (const place of await findPlaces(ns, where)) {
      const reader = this.#readers.get(place.family) ?? new FilterReader(ns, place.family);
      this.#readers.set(place.family, reader);
      const filters = await reader.read();
      findings.push(...judge(filters, place, needs(place)));
      unread.push(...filters.unread);
    }
    return { findings, unread };
  }

  #report(findings: readonly Finding[]): void {
    const { log, tell } = this.#options;
    const now = performance.now();
    const current = new Map(findings.map((finding) => [keyOf(finding), finding]));
    for (const [key, { title, detail, commands, hint }] of current) {
      const last = this.#told.get(key);
      if (last && now - last.at < REMIND_MS) continue;
      this.#told.set(key, { at: now, title });
      const fix = commands.join(" && ");
      log.warn(
        { stopped: title, detail, fix, ...(hint && { hint }) },
        "a firewall stops what the cluster needs",
      );
      tell?.(`${title}, ${detail}. To let it through: ${fix}`);
    }
    for (const [key, { title }] of this.#told) {
      if (current.has(key)) continue;
      this.#told.delete(key);
      log.info({ stopped: title }, "a firewall lets through again what the cluster needs");
    }
  }
}

/** The same as long as the same is to be done: the first sender that is stopped may be another one each time. */
function keyOf({ need, commands }: Finding): string {
  return [need, ...commands].join("\n");
}
