// Takes a packet through a table of nf_tables that is not iptables' own, as `nft -j list table` prints it
// (libnftables-json(5)): does a firewall like firewalld's, or one of /etc/nftables.conf, stop it?
// Pure. What cannot be known, or is not known here, is taken as what lets the packet through: no false alarm.

import { Cidr, ipFamily, parseIp } from "../../common/ip.js";
import type { Flow } from "./needs.js";

type Json = unknown;
type Fields = Readonly<Record<string, Json>>;

interface NftChain {
  readonly name: string;
  readonly hook?: string;
  readonly policy: string;
  readonly rules: Fields[][];
}

export interface NftTable {
  readonly family: string;
  readonly name: string;
  readonly chains: ReadonlyMap<string, NftChain>;
  /** Elements of the named sets and maps. */
  readonly sets: ReadonlyMap<string, readonly Json[]>;
}

/** Where a packet ended: the chain, and its base chain. */
export interface NftStop {
  readonly chain: string;
  readonly base: string;
  /** Its last word: policy drop, drop, reject. */
  readonly by: string;
}

/** @throws SyntaxError for what is no JSON. */
export function parseTable(family: string, name: string, json: string): NftTable {
  const chains = new Map<string, NftChain>();
  const sets = new Map<string, readonly Json[]>();
  for (const object of (JSON.parse(json) as { nftables: Fields[] }).nftables) {
    const { chain, rule, set, map } = object as Record<string, Fields | undefined>;
    const named = set ?? map;
    if (named) sets.set(String(named.name), (named.elem as Json[] | undefined) ?? []);
    if (rule) chains.get(String(rule.chain))?.rules.push(rule.expr as Fields[]);
    if (!chain) continue;
    const { hook, policy = "accept" } = chain;
    const about = { name: String(chain.name), policy: String(policy), rules: [] };
    chains.set(about.name, hook === undefined ? about : { ...about, hook: String(hook) });
  }
  return { family, name, chains, sets };
}

/** Where the table stops a packet; undefined: it lets it through. */
export function stoppedByTable(table: NftTable, flow: Flow): NftStop | undefined {
  const family = ipFamily(flow.packet.dst);
  if (table.family !== "inet" && table.family !== (family === 6 ? "ip6" : "ip")) return undefined;
  const hook = flow.output === undefined ? "input" : "forward";
  // Each of them has to let it through, in whatever order.
  const bases = [...table.chains.values()].filter((chain) => chain.hook === hook);
  for (const base of bases) {
    const verdict = new Walk(table, flow).through(base, 0);
    if (verdict.kind === "stop") return { chain: verdict.chain, base: base.name, by: verdict.by };
    if (verdict.kind === "end" && base.policy === "drop")
      return { chain: base.name, base: base.name, by: "policy drop" };
  }
  return undefined;
}

/** Source addresses that rules of the table name. */
export function namedSources({ chains, sets }: NftTable): string[] {
  const found: string[] = [];
  const collect = (value: Json) => {
    if (typeof value === "string" && value.startsWith("@"))
      for (const one of sets.get(value.slice(1)) ?? []) collect(one);
    else if (typeof value === "string" && ipFamily(value)) found.push(value);
    else if (Array.isArray(value)) value.forEach(collect);
    else if (isFields(value)) {
      if (isFields(value.prefix)) found.push(blockOf(value.prefix).at(1));
      else collect(value.set ?? value.range ?? (isFields(value.elem) ? value.elem.val : undefined));
    }
  };
  for (const { rules } of chains.values())
    for (const { match } of rules.flat())
      if (isFields(match) && isFields(match.left) && isFields(match.left.payload))
        if (match.left.payload.field === "saddr") collect(match.right);
  return found;
}

/** `end`: the chain was left at its end, or returned from. */
type Verdict = { kind: "accept" } | { kind: "end" } | { kind: "stop"; chain: string; by: string };
const ACCEPT: Verdict = { kind: "accept" };
const END: Verdict = { kind: "end" };
/** The kernel's own limit (NFT_JUMP_STACK_SIZE). */
const DEEPEST = 16;

class Walk {
  readonly #table: NftTable;
  readonly #flow: Flow;

  constructor(table: NftTable, flow: Flow) {
    this.#table = table;
    this.#flow = flow;
  }

  through(chain: NftChain, depth: number): Verdict {
    if (depth > DEEPEST) return ACCEPT;
    for (const rule of chain.rules) {
      const verdict = this.#rule(rule, chain, depth);
      if (verdict) return verdict === "return" ? END : verdict;
    }
    return END;
  }

  /** Undefined: on to the next rule. */
  #rule(rule: readonly Fields[], chain: NftChain, depth: number): Verdict | "return" | undefined {
    let sure = true;
    for (const statement of rule) {
      const answer = this.#statement(statement);
      if (answer === false) return undefined;
      if (answer === "unknown") sure = false;
      if (typeof answer !== "object") continue;
      const verdict = this.#act(answer, chain, depth);
      // What may be stopped by a rule that may match is taken as let by.
      if (sure || (verdict !== "return" && verdict?.kind === "accept")) return verdict;
      return undefined;
    }
    return undefined;
  }

  /** False: no match; an object: the verdict that is spoken. */
  #statement(statement: Fields): boolean | "unknown" | Fields {
    if (isFields(statement.match)) return this.#match(statement.match);
    if (isFields(statement.vmap)) return this.#verdictOf(statement.vmap);
    if (VERDICTS.some((word) => word in statement)) return statement;
    return HARMLESS.some((word) => word in statement) || "unknown";
  }

  #act(verdict: Fields, { name }: NftChain, depth: number): Verdict | "return" | undefined {
    if ("accept" in verdict || "queue" in verdict) return ACCEPT;
    if ("drop" in verdict) return { kind: "stop", chain: name, by: "drop" };
    if ("reject" in verdict) return { kind: "stop", chain: name, by: "reject" };
    if ("return" in verdict) return "return";
    const way = (verdict.jump ?? verdict.goto) as Fields | undefined;
    const chain = way && this.#table.chains.get(String(way.target));
    if (!chain) return undefined;
    const inner = this.through(chain, depth + 1);
    if (inner.kind !== "end") return inner;
    return "goto" in verdict ? "return" : undefined;
  }

  #verdictOf({ key, data }: Fields): boolean | "unknown" | Fields {
    const value = this.#valueOf(key);
    if (value === undefined) return "unknown";
    if (value === false) return false;
    for (const element of this.#elements(data)) {
      const [on, verdict] = Array.isArray(element) ? element : [];
      if (this.#holds(value, on) === true && isFields(verdict)) return verdict;
    }
    return false;
  }

  #match({ op, left, right }: Fields): boolean | "unknown" {
    const value = this.#valueOf(left);
    if (value === undefined) return "unknown";
    // A rule for another protocol, which nft does not print when the field says it.
    if (value === false) return false;
    const holds = this.#holds(value, right);
    if (holds === undefined) return "unknown";
    if (op === "!=") return !holds;
    return op === "==" || op === "in" ? holds : "unknown";
  }

  #elements(data: Json): readonly Json[] {
    if (typeof data === "string" && data.startsWith("@")) return this.#table.sets.get(data.slice(1)) ?? [];
    if (isFields(data) && Array.isArray(data.set)) return data.set;
    return Array.isArray(data) ? data : [data];
  }

  /** Whether a value is, or is among, what stands there; undefined: not known. */
  #holds(value: Value, right: Json): boolean | undefined {
    if (typeof value === "object") return this.#holdsAll(value, right);
    const answers = this.#elements(right).map((element) => equals(value, element));
    return answers.includes(true) || (answers.includes(undefined) ? undefined : false);
  }

  /** Of a concatenation, or of flags (any of them). */
  #holdsAll(values: readonly Scalar[], right: Json): boolean | undefined {
    const elements = this.#elements(right);
    const answers = elements.map((element) => {
      const parts = isFields(element) && Array.isArray(element.concat) ? element.concat : undefined;
      if (!parts) return values.some((value) => equals(value, element) === true);
      const each = parts.map((part, n) => equals(values[n] ?? "", part));
      return each.includes(false) ? false : each.includes(undefined) ? undefined : true;
    });
    return answers.includes(true) || (answers.includes(undefined) ? undefined : false);
  }

  /** What the packet has there; false: it is of another protocol; undefined: not known here. */
  #valueOf(left: Json): Value | false | undefined {
    if (!isFields(left)) return undefined;
    const { packet, output = "", translated } = this.#flow;
    const family = ipFamily(packet.dst);
    if (Array.isArray(left.concat)) {
      const values = left.concat.map((part) => this.#valueOf(part));
      if (values.includes(false)) return false;
      return values.includes(undefined) ? undefined : (values as Scalar[]);
    }
    const { meta, payload, ct, fib } = left as Record<string, Fields | undefined>;
    if (meta) {
      const known: Record<string, Value> = {
        iifname: packet.input,
        iif: packet.input,
        oifname: output,
        oif: output,
        l4proto: packet.protocol,
        nfproto: family === 6 ? "ipv6" : "ipv4",
        protocol: family === 6 ? "ip6" : "ip",
        mark: packet.mark ?? 0,
      };
      return known[String(meta.key)];
    }
    if (ct) {
      if (ct.key === "state") return ["new"];
      if (ct.key === "direction") return "original";
      return ct.key === "status" ? (translated ? ["dnat"] : []) : undefined;
    }
    if (payload) return this.#payload(String(payload.protocol), String(payload.field));
    const isLocal = fib?.result === "type" && String(fib.flags) === "daddr";
    return isLocal ? (output === "" ? "local" : "unicast") : undefined;
  }

  #payload(protocol: string, field: string): Value | false | undefined {
    const { packet } = this.#flow;
    if (protocol === "ip" || protocol === "ip6") {
      if ((ipFamily(packet.dst) === 6) !== (protocol === "ip6")) return false;
      const known: Record<string, Value> = {
        saddr: packet.src,
        daddr: packet.dst,
        protocol: packet.protocol,
        nexthdr: packet.protocol,
      };
      return known[field];
    }
    if (protocol !== "th" && protocol !== packet.protocol) return false;
    return field === "dport" ? packet.dport : undefined;
  }
}

type Scalar = string | number;
type Value = Scalar | readonly Scalar[];

const VERDICTS = ["accept", "drop", "reject", "return", "jump", "goto", "queue", "continue"];
/** Statements that let the packet go on, whatever they do. */
const HARMLESS = ["counter", "log", "mangle", "notrack", "comment", "set", "map", "ct helper", "flow"];

function isFields(value: Json): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function blockOf({ addr, len }: Fields): Cidr {
  return Cidr.of(parseIp(String(addr)), Number(len));
}

/** Undefined: not known. */
function equals(value: Scalar, element: Json): boolean | undefined {
  if (typeof element === "boolean" || element === null) return undefined;
  if (isFields(element)) {
    if (isFields(element.elem)) return equals(value, element.elem.val);
    if (isFields(element.prefix))
      return ipFamily(String(value)) !== 0 && inBlock(value, blockOf(element.prefix));
    if (Array.isArray(element.range)) return inRange(value, element.range);
    return undefined;
  }
  if (typeof element === "string" && element.endsWith("*"))
    return String(value).startsWith(element.slice(0, -1));
  return String(value) === String(element) || element === "*";
}

function inBlock(value: Scalar, block: Cidr): boolean {
  return ipFamily(String(value)) === block.family && block.contains(String(value));
}

function inRange(value: Scalar, [from, to]: readonly Json[]): boolean | undefined {
  const number = (text: Json) =>
    ipFamily(String(text)) ? parseIp(String(text)).value : BigInt(Number(text));
  try {
    return number(value) >= number(from) && number(value) <= number(to);
  } catch {
    return undefined;
  }
}
