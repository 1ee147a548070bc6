// Whether a rule matches a packet: yes, no, or a question that only the packet's hour can answer.
// Pure; what each match means is from iptables(8) and iptables-extensions(8). Never guesses: an option that is not
// known here makes the whole match unknown.

import { Cidr } from "../../common/ip.js";
import { type Rule, type RuleShape, shapeOf } from "../iptables/index.js";
import type { Host, Packet, Question } from "./packet.js";
import { addressType } from "./routing.js";

/** What a rule sees. */
export interface View {
  readonly packet: Packet;
  readonly host: Host;
  /** Names of the devices; "" where the hook has none. */
  readonly input: string;
  readonly output: string;
  /** Conntrack has a new destination for it. */
  readonly translated: boolean;
  /** Whether a client is in a list of `recent`; undefined: nobody knows. */
  readonly seen?: ((list: string) => boolean | undefined) | undefined;
}

export type Answer = boolean | Question;

type Options = RuleShape["base"];
/** Answers one option, before negation; undefined: not known here. */
type Test = (values: readonly string[], view: View, options: Options) => Answer | undefined;

const IP_PROTOCOLS: Readonly<Record<string, string>> = { "6": "tcp", "17": "udp", "132": "sctp" };
const PROTOCOL_MATCHES = new Set(["tcp", "udp", "sctp"]);

const shapes = new WeakMap<Rule, RuleShape>();

export function shape(rule: Rule): RuleShape {
  const known = shapes.get(rule);
  if (known) return known;
  const fresh = shapeOf(rule);
  shapes.set(rule, fresh);
  return fresh;
}

export function matchRule(rule: Rule, view: View): Answer {
  const { base, matches } = shape(rule);
  const questions: Question[] = [];
  const ask = (name: string, options: Options): boolean => {
    const answer = matchAll(name, options, view);
    if (typeof answer === "object") questions.push(answer);
    return answer !== false;
  };
  if (!ask("", base)) return false;
  for (const { name, options } of matches) if (!ask(name, options)) return false;
  const [first, second] = questions;
  if (!first) return true;
  if (!second) return first;
  const kinds = questions.map((one) => (one.kind === "unknown" ? one.what : one.kind));
  return { kind: "unknown", what: kinds.join(" and ") };
}

function matchAll(name: string, options: Options, view: View): Answer {
  if (name === "comment" || name === "nfacct") return true;
  const own = name === "statistic" ? statistic : name === "recent" ? recent : undefined;
  if (own) return own(options, view) ?? unknown(name, options);
  const tests = name === "" ? BASE : PROTOCOL_MATCHES.has(name) ? PORTS : EXTENSIONS[name];
  if (!tests) return unknown(name, options);
  let open: Question | undefined;
  for (const [option, { not, values }] of options) {
    const answer = tests[option]?.(values, view, options);
    if (typeof answer === "boolean") {
      if (answer === not) return false;
    } else open ??= answer ?? unknown(name, new Map([[option, { not, values }]]));
  }
  return open ?? true;
}

function unknown(name: string, options: Options): Question {
  const words = [...options].flatMap(([option, { not, values }]) => [
    ...(not ? ["!"] : []),
    option,
    ...values,
  ]);
  return { kind: "unknown", what: [...(name ? ["-m", name] : []), ...words].join(" ") };
}

/** Undefined for a mask that is no prefix length. */
function inBlock(ip: string, text: string): boolean | undefined {
  try {
    return text.includes("/")
      ? Cidr.parse(text).contains(ip)
      : Cidr.parse(`${text}/${bits(text)}`).contains(ip);
  } catch {
    return undefined;
  }
}

function bits(ip: string): number {
  return ip.includes(":") ? 128 : 32;
}

function deviceIs(name: string, pattern: string): boolean {
  return pattern.endsWith("+") ? name.startsWith(pattern.slice(0, -1)) : name === pattern;
}

const BASE: Readonly<Record<string, Test>> = {
  "-s": ([block = ""], { packet }) => inBlock(packet.src, block),
  "-d": ([block = ""], { packet }) => inBlock(packet.dst, block),
  "-p": ([name = ""], { packet }) => (IP_PROTOCOLS[name] ?? name) === packet.protocol,
  "-i": ([pattern = ""], { input }) => deviceIs(input, pattern),
  "-o": ([pattern = ""], { output }) => deviceIs(output, pattern),
};

/** `80`, `1024:2048`, `:80`, `1024:`. */
function inRange(port: number | undefined, text: string): boolean | undefined {
  if (port === undefined || !/^\d*(:\d*)?$/.test(text)) return undefined;
  const [from = "", to = from] = text.split(":");
  return port >= Number(from || 0) && port <= Number(to || 65_535);
}

/** The one flag that the first packet of a connection carries. */
const FIRST_FLAG = "SYN";

const PORTS: Readonly<Record<string, Test>> = {
  "--dport": ([range = ""], { packet }) => inRange(packet.dport, range),
  "--sport": ([range = ""], { packet }) => inRange(packet.sport, range),
  "--syn": () => true,
  "--tcp-flags": ([mask = "", set = ""]) => {
    const looked = mask === "ALL" || mask.split(",").includes(FIRST_FLAG) ? FIRST_FLAG : "NONE";
    return looked === set;
  },
};

function anyOf(port: number | undefined, list: string): boolean | undefined {
  const answers = list.split(",").map((range) => inRange(port, range));
  return answers.includes(true) || (answers.includes(undefined) ? undefined : false);
}

function markIs([text = ""]: readonly string[], { packet }: View): boolean {
  const [value = 0, mask = 0xffff_ffff] = text.split("/").map(Number);
  return ((packet.mark ?? 0) & mask) >>> 0 === value >>> 0;
}

/** The states that the first packet is in: NEW, and DNAT as soon as its destination was replaced. */
function stateIs([list = ""]: readonly string[], { translated }: View): boolean {
  return list.split(",").some((state) => state === "NEW" || (state === "DNAT" && translated));
}

function typeIs(side: "src" | "dst"): Test {
  return ([list = ""], { packet, host }, options) => {
    if ([...options.keys()].some((option) => option.startsWith("--limit-iface"))) return undefined;
    const wanted = list.split(",");
    if (wanted.some((type) => !["LOCAL", "UNICAST", "BROADCAST", "MULTICAST"].includes(type)))
      return undefined;
    return wanted.includes(addressType(host, packet[side]));
  };
}

const EXTENSIONS: Readonly<Record<string, Readonly<Record<string, Test>>>> = {
  addrtype: {
    "--src-type": typeIs("src"),
    "--dst-type": typeIs("dst"),
  },
  mark: { "--mark": markIs },
  conntrack: { "--ctstate": stateIs },
  state: { "--state": stateIs },
  multiport: {
    "--dports": ([list = ""], { packet }) => anyOf(packet.dport, list),
    "--sports": ([list = ""], { packet }) => anyOf(packet.sport, list),
  },
};

/** Random mode only: what the n-th packet is depends on all before it. */
function statistic(options: Options): Answer | undefined {
  const probability = options.get("--probability");
  if (options.get("--mode")?.values[0] !== "random" || !probability) return undefined;
  const share = Number(probability.values[0]) / 2 ** 31;
  return { kind: "chance", probability: probability.not ? 1 - share : share };
}

/** By source address only; `--set` writes the address down and always matches. */
function recent(options: Options, view: View): Answer | undefined {
  const list = options.get("--name")?.values[0] ?? "";
  if (options.has("--rttl") || options.has("--hitcount") || options.has("--rdest")) return undefined;
  const set = options.get("--set");
  if (set) return !set.not;
  const check = options.get("--rcheck") ?? options.get("--update");
  if (!check) return undefined;
  const answer = view.seen?.(list);
  if (answer !== undefined) return answer !== check.not;
  if (check.not) return undefined;
  const seconds = options.get("--seconds")?.values[0];
  return { kind: "seen", list, ...(seconds !== undefined && { seconds: Number(seconds) }) };
}
