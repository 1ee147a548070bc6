// The plugin "cache": replies kept for as long as their records may be, with what is left of that time in them.
// Knows replies and a clock.

import { zoneOf } from "./names.js";
import { RCODE, type Record, type Reply } from "./reply.js";
import type { CachePart, CacheSettings } from "./settings.js";

interface Kept {
  reply: Reply;
  /** Milliseconds. */
  since: number;
  until: number;
}

export class ReplyCache {
  readonly #settings: CacheSettings;
  readonly #now: () => number;
  readonly #success = new Map<string, Kept>();
  readonly #denial = new Map<string, Kept>();

  constructor(settings: CacheSettings, now: () => number = Date.now) {
    this.#settings = settings;
    this.#now = now;
  }

  get(key: string): Reply | undefined {
    const kept = this.#success.get(key) ?? this.#denial.get(key);
    const now = this.#now();
    if (!kept || kept.until <= now) return undefined;
    const age = Math.floor((now - kept.since) / 1000);
    return mapRecords(kept.reply, (one) => ({ ...one, ttl: Math.max(0, one.ttl - age) }));
  }

  /** Keeps the reply if it may be kept; returns it with the TTLs that it is then given out with. */
  put(key: string, name: string, reply: Reply): Reply {
    const { zones, success, denial } = this.#settings;
    const denied = reply.rcode === RCODE.NXDOMAIN || reply.answers.length === 0;
    const part = denied ? denial : success;
    const known = reply.rcode === RCODE.NOERROR || reply.rcode === RCODE.NXDOMAIN;
    if (!known || reply.truncated || zoneOf(name, zones) === undefined) return reply;
    if (zoneOf(name, part.disabled) !== undefined) return reply;
    const all = [...reply.answers, ...reply.authorities];
    if (all.length === 0) return reply;
    const least = Math.min(...all.map(({ ttl }) => ttl));
    const seconds = Math.min(part.maxTtl, Math.max(part.minTtl, least));
    const capped = mapRecords(reply, (one) => ({ ...one, ttl: Math.min(one.ttl, seconds) }));
    this.#keep(denied ? this.#denial : this.#success, part, key, {
      reply: capped,
      since: this.#now(),
      until: this.#now() + seconds * 1000,
    });
    return capped;
  }

  #keep(entries: Map<string, Kept>, { capacity }: CachePart, key: string, kept: Kept): void {
    this.#success.delete(key);
    this.#denial.delete(key);
    entries.set(key, kept);
    // The oldest first: a Map keeps the order in which keys came.
    for (const old of entries.keys()) {
      if (entries.size <= capacity) break;
      entries.delete(old);
    }
  }
}

function mapRecords(reply: Reply, change: (record: Record) => Record): Reply {
  return {
    ...reply,
    answers: reply.answers.map(change),
    authorities: reply.authorities.map(change),
    additionals: reply.additionals.map(change),
  };
}
