// Messages in, messages out: finds the server block for a question, lets its plugins answer, counts and logs. Knows
// blocks and bytes; the sockets are its caller's.

import { hostPort } from "../../common/ip.js";
import type { Chain } from "./chain.js";
import type { DnsMetrics } from "./metrics.js";
import { zoneOf } from "./names.js";
import { bare, type Question, RCODE, type Reply } from "./reply.js";
import { absolute } from "./settings.js";
import { flagNames, type Query, readQuery, type Transport, writeReply } from "./wire.js";

const NAMES = new Map<number, string>(Object.entries(RCODE).map(([name, code]) => [code, name]));

export interface Peer {
  address: string;
  port: number;
}

export interface ServerParts {
  metrics: DnsMetrics;
  print(line: string): void;
}

interface Exchange {
  query: Query;
  peer: Peer;
  transport: Transport;
  /** performance.now() of its begin. */
  began: number;
}

/** Every server block of one port. */
export class DnsServer {
  readonly port: number;
  #chains: ReadonlyMap<string, Chain> = new Map();
  readonly #parts: ServerParts;

  constructor(port: number, parts: ServerParts) {
    this.port = port;
    this.#parts = parts;
  }

  /** From now on these answer. */
  use(chains: readonly Chain[]): void {
    this.#chains = new Map(chains.map((chain) => [chain.settings.zone, chain]));
  }

  /** The name that the plugin "loop" asks for in a zone. */
  probe(zone: string): string | undefined {
    return this.#chains.get(zone)?.probe;
  }

  /** The answer to one message; undefined: none. At once when nobody else has to be asked. */
  handle(
    message: Buffer,
    peer: Peer,
    transport: Transport,
  ): Buffer | Promise<Buffer | undefined> | undefined {
    const began = performance.now();
    const query = readQuery(message);
    if (query === undefined || Buffer.isBuffer(query)) return query;
    const chain = this.#chainFor(query.name);
    if (!chain) return writeReply(query, bare(RCODE.REFUSED), transport);
    const exchange: Exchange = { query, peer, transport, began };
    const dnssec = query.edns?.dnssec ?? false;
    const reply = guarded(() => chain.resolve(query, { bytes: message, dnssec, transport }));
    return reply instanceof Promise
      ? reply.catch(failure).then((one) => this.#finish(chain, exchange, one))
      : this.#finish(chain, exchange, reply);
  }

  #chainFor(name: string): Chain | undefined {
    const zone = zoneOf(name, [...this.#chains.keys()]);
    return zone === undefined ? undefined : this.#chains.get(zone);
  }

  /** What is said to a question of the server's own. */
  resolve(question: Question, bytes: Buffer, transport: Transport): Reply | Promise<Reply> {
    const how = { bytes, dnssec: false, transport };
    return this.#chainFor(question.name)?.resolve(question, how) ?? bare(RCODE.REFUSED);
  }

  #finish({ settings }: Chain, { query, peer, transport, began }: Exchange, wanted: Reply): Buffer {
    const { metrics, print } = this.#parts;
    const { message, reply } = written(query, wanted, transport);
    const rcode = NAMES.get(reply.rcode) ?? String(reply.rcode);
    const { name, type, edns, id } = query;
    if (settings.errors && reply.error)
      print(`[ERROR] plugin/errors: ${reply.rcode} ${shown(name)} ${type}: ${reply.error}`);
    if (!settings.log && !settings.prometheus) return message;
    const seconds = (performance.now() - began) / 1000;
    if (settings.log) {
      const asked = `${type} IN ${shown(name)} ${transport} ${query.bytes.length} ${edns?.dnssec ?? false} ${edns?.size ?? 512}`;
      const said = `${rcode} ${flagNames(message)} ${message.length} ${seconds.toFixed(9)}s`;
      print(`[INFO] ${hostPort(peer.address, peer.port)} - ${id} "${asked}" ${said}`);
    }
    if (settings.prometheus) {
      const family = peer.address.includes(":") ? 2 : 1;
      const [server, zone] = [`dns://:${this.port}`, absolute(settings.zone)];
      metrics.observe({ server, zone, transport, family, type, rcode, seconds });
    }
    return message;
  }
}

/** No question may end the process that many others are in: a plugin that fails has no answer, as with CoreDNS. */
function guarded(work: () => Reply | Promise<Reply>): Reply | Promise<Reply> {
  try {
    return work();
  } catch (error) {
    return failure(error);
  }
}

function failure(error: unknown): Reply {
  return { ...bare(RCODE.SERVFAIL), error: error instanceof Error ? error.message : String(error) };
}

/** Not every name that the API takes is one that DNS can carry. */
function written(query: Query, reply: Reply, transport: Transport): { message: Buffer; reply: Reply } {
  try {
    return { message: writeReply(query, reply, transport), reply };
  } catch (error) {
    const failed = failure(error);
    return { message: writeReply(query, failed, transport), reply: failed };
  }
}

/** A name in a log: what is no printable character by its number. */
function shown(name: string): string {
  return absolute(name).replace(/[^\x21-\x7e]/g, (one) => `\\${String(one.charCodeAt(0)).padStart(3, "0")}`);
}
