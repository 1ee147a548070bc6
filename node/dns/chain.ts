// One server block at work: a question through its plugins, in the order in which CoreDNS has them (loadbalance,
// cache, hosts, kubernetes, loop, forward). Knows them all, no socket of its own.

import { randomInt } from "node:crypto";
import { ReplyCache } from "./cache.js";
import type { Forwarder } from "./forward.js";
import { askHosts, type HostsTable } from "./hosts.js";
import { isWithin } from "./names.js";
import { bare, type Question, RCODE, type Record, type Reply } from "./reply.js";
import type { Settings } from "./settings.js";
import { type Transport, writeQuery } from "./wire.js";
import { type ClusterView, lookup, type ZoneAnswer } from "./zone.js";

export interface ChainParts {
  view: ClusterView | undefined;
  /** Addresses of the pod. */
  self: readonly string[];
  hosts: HostsTable | undefined;
  forwarders: readonly Forwarder[];
  /** Asks the whole server, since a CNAME may lead to another block's names. */
  server(question: Question, bytes: Buffer, transport: Transport): Reply | Promise<Reply>;
  /** A probe of the plugin "loop" has come back. */
  loops(probe: string): void;
}

/** How often the probe of "loop" may be seen: once when it is sent, once more by chance. */
const PROBES_SEEN = 2;

export class Chain {
  readonly settings: Settings;
  /** The name that the plugin "loop" asks for. */
  readonly probe: string;
  readonly #parts: ChainParts;
  readonly #cache: ReplyCache | undefined;
  #probesSeen = 0;

  constructor(settings: Settings, parts: ChainParts) {
    this.settings = settings;
    this.#parts = parts;
    this.#cache = settings.cache ? new ReplyCache(settings.cache) : undefined;
    const suffix = settings.zone === "." ? "" : `.${settings.zone}`;
    this.probe = `${randomInt(2 ** 47)}.${randomInt(2 ** 47)}${suffix}`;
  }

  /**
   * At once when nobody else has to be asked.
   * @param bytes The question as a message, for those who are asked.
   */
  resolve(
    question: Question,
    { bytes, dnssec, transport }: { bytes: Buffer; dnssec: boolean; transport: Transport },
  ): Reply | Promise<Reply> {
    const { name, type } = question;
    const key = `${type} ${dnssec ? "do" : ""} ${name}`;
    const kept = this.#cache?.get(key);
    if (kept) return this.#balanced(kept);
    const finish = (reply: Reply) => this.#balanced(this.#cache?.put(key, name, reply) ?? reply);
    const reply = this.#ask(question, bytes, transport);
    return reply instanceof Promise ? reply.then(finish) : finish(reply);
  }

  #ask(question: Question, bytes: Buffer, transport: Transport): Reply | Promise<Reply> {
    const { settings } = this;
    const { hosts, view, self, forwarders } = this.#parts;
    const own = hosts && settings.hosts ? askHosts(hosts, settings.hosts, question) : undefined;
    if (own) return own;
    const answer =
      view && settings.kubernetes ? lookup(settings.kubernetes, view, question, self) : undefined;
    if (answer) return answer.follow === undefined ? answer : this.#follow(question, answer, transport);
    if (settings.loop && question.name === this.probe && ++this.#probesSeen > PROBES_SEEN)
      this.#parts.loops(this.probe);
    const forwarder = longest(forwarders, question.name);
    if (forwarder) return forwarder.ask(bytes, transport);
    const error = `plugin/${lastPlugin(settings)}: no next plugin found`;
    return { ...bare(RCODE.SERVFAIL), error };
  }

  /** The addresses of a name outside of the zone, behind the CNAME that leads there; without them if there are none. */
  #follow(question: Question, answer: ZoneAnswer, transport: Transport): Reply | Promise<Reply> {
    const { follow = "", ...reply } = answer;
    const next = { name: follow, type: question.type };
    const found = this.#parts.server(next, writeQuery(follow, question.type, 0), transport);
    const join = (more: Reply): Reply => ({
      ...reply,
      truncated: more.truncated ?? false,
      answers: [...reply.answers, ...more.answers],
    });
    return found instanceof Promise ? found.then(join) : join(found);
  }

  #balanced(reply: Reply): Reply {
    if (!this.settings.loadbalance || reply.rcode !== RCODE.NOERROR) return reply;
    return {
      ...reply,
      answers: shuffled(reply.answers),
      additionals: shuffled(reply.additionals),
    };
  }
}

/** CNAMEs first, addresses last and in random order. */
export function shuffled(records: Record[]): Record[] {
  if (records.length < 2) return records;
  const isAddress = ({ type }: Record) => type === "A" || type === "AAAA";
  const addresses = records.filter(isAddress);
  for (let n = addresses.length - 1; n > 0; n--) {
    const other = Math.floor(Math.random() * (n + 1));
    [addresses[n], addresses[other]] = [addresses[other] as Record, addresses[n] as Record];
  }
  const names = records.filter(({ type }) => type === "CNAME");
  const rest = records.filter((one) => !isAddress(one) && one.type !== "CNAME");
  return [...names, ...rest, ...addresses];
}

function longest(forwarders: readonly Forwarder[], name: string): Forwarder | undefined {
  return forwarders
    .filter(
      ({ settings: { from, except } }) => isWithin(name, from) && !except.some((one) => isWithin(name, one)),
    )
    .sort((a, b) => b.settings.from.length - a.settings.from.length)[0];
}

/** CoreDNS blames the last plugin that would have gone on. */
function lastPlugin({ forwards, loop, kubernetes, hosts }: Settings): string {
  if (forwards.length > 0) return "forward";
  if (loop) return "loop";
  if (kubernetes) return "kubernetes";
  return hosts ? "hosts" : "cache";
}
