// Takes a packet through rules on paper: where it is sent, whether its source will be replaced, where it dies.
// The subset of matches and targets that the service proxy writes; anything else is an error, never a guess.

import { isIPv4 } from "node:net";
import { type Chain, type Ruleset, shapeOf, type TableName } from "../../dataplane/iptables/index.js";

export interface Packet {
  src: string;
  dst: string;
  dport: number;
  protocol: "tcp" | "udp" | "sctp";
  mark?: number;
}

export interface Walk {
  verdict: "accept" | "DROP" | "REJECT";
  packet: Required<Packet>;
  masqueraded: boolean;
  /** Chains entered, in order. */
  path: string[];
}

export interface World {
  /** Addresses of the host, for addrtype LOCAL. */
  local: string[];
  /** Answers for `statistic`: called with the probability (0…1). */
  dice: (probability: number) => boolean;
  /** For `recent`: whether the client is known at this list. */
  seen?: (list: string) => boolean;
}

const HOOKS: [TableName, string][][] = [
  [
    ["nat", "PREROUTING"],
    ["filter", "FORWARD"],
    ["nat", "POSTROUTING"],
  ],
  [
    ["nat", "PREROUTING"],
    ["filter", "INPUT"],
  ],
  [
    ["nat", "OUTPUT"],
    ["filter", "OUTPUT"],
    ["nat", "POSTROUTING"],
  ],
];

/** First packet of a connection: through the host, to the host, or from the host, as its addresses say. */
export function walk(rules: Ruleset, packet: Packet, world: World): Walk {
  const state: Walk = { verdict: "accept", packet: { mark: 0, ...packet }, masqueraded: false, path: [] };
  const isLocal = (ip: string) => world.local.includes(ip) || ip.startsWith("127.");
  const out = isLocal(packet.src);
  const first: [TableName, string] = ["nat", out ? "OUTPUT" : "PREROUTING"];
  run(rules, first, state, world);
  const hooks = out ? HOOKS[2] : isLocal(state.packet.dst) ? HOOKS[1] : HOOKS[0];
  for (const hook of (hooks ?? []).slice(1)) {
    if (state.verdict !== "accept") break;
    run(rules, hook, state, world);
  }
  return state;
}

/** True when a final verdict was reached and the hook is done. */
function run(rules: Ruleset, [table, name]: [TableName, string], state: Walk, world: World): boolean {
  const chain = rules.get(table)?.get(name);
  if (!chain) return false;
  state.path.push(name);
  for (const rule of chain.rules) {
    const { base, matches, target } = shapeOf(rule);
    if (
      ![...base].every(
        ([option, { not, values }]) => baseMatches(option, values[0] ?? "", state.packet) !== not,
      )
    )
      continue;
    if (!matches.every((match) => extensionMatches(match.name, match.options, state.packet, world))) continue;
    if (!target) continue;
    const { packet } = state;
    const value = (option: string) => target.options.get(option)?.values[0] ?? "";
    if (target.name === "RETURN") return false;
    if (target.name === "ACCEPT") return true;
    if (target.name === "DROP" || target.name === "REJECT") {
      state.verdict = target.name;
      return true;
    }
    if (target.name === "MASQUERADE") {
      state.masqueraded = true;
      return true;
    }
    if (target.name === "MARK") {
      const [mark = 0, mask = 0] = value("--set-xmark").split("/").map(Number);
      packet.mark = (packet.mark & ~mask) ^ mark;
    } else if (target.name === "DNAT") {
      const [ip = "", port = ""] = value("--to-destination").split(":");
      packet.dst = ip;
      packet.dport = Number(port);
      return true;
    } else if (rules.get(table)?.has(target.name)) {
      if (run(rules, [table, target.name], state, world)) return true;
    } else throw new Error(`cannot walk target ${target.name}`);
  }
  return false;
}

function baseMatches(option: string, value: string, packet: Packet): boolean {
  if (option === "-p") return packet.protocol === value;
  if (option === "-s") return within(packet.src, value);
  if (option === "-d") return within(packet.dst, value);
  throw new Error(`cannot match ${option}`);
}

export function within(ip: string, range: string): boolean {
  const [network = "", prefix = "32"] = range.split("/");
  if (!isIPv4(ip) || !isIPv4(network)) throw new Error(`not IPv4: ${ip} ${range}`);
  const number = (text: string) => text.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
  const size = 2 ** (32 - Number(prefix));
  return Math.floor(number(ip) / size) === Math.floor(number(network) / size);
}

type Options = ReadonlyMap<string, { not: boolean; values: readonly string[] }>;

function extensionMatches(name: string, options: Options, packet: Packet, world: World): boolean {
  const value = (option: string) => options.get(option)?.values[0] ?? "";
  const signed = (option: string, result: boolean) => result !== (options.get(option)?.not ?? false);
  const isLocal = (ip: string) => world.local.includes(ip) || ip.startsWith("127.");
  if (name === "comment") return true;
  if (name === packet.protocol) {
    return !options.has("--dport") || signed("--dport", Number(value("--dport")) === packet.dport);
  }
  if (name === "statistic") return world.dice(Number(value("--probability")) / 2 ** 31);
  if (name === "recent") return options.has("--set") || (world.seen?.(value("--name")) ?? false);
  if (name === "addrtype") {
    return options.has("--dst-type")
      ? signed("--dst-type", isLocal(packet.dst))
      : signed("--src-type", isLocal(packet.src));
  }
  if (name === "mark") {
    const [mark = 0, mask = 0] = value("--mark").split("/").map(Number);
    return signed("--mark", ((packet.mark ?? 0) & mask) === mark);
  }
  // The first packet of a connection that nobody has translated yet, or has just been.
  if (name === "conntrack") return signed("--ctstate", value("--ctstate").split(",").includes("NEW"));
  throw new Error(`cannot match -m ${name}`);
}

/** Probability of reaching each final destination: every outcome of the dice, weighted. */
export function distribution(rules: Ruleset, packet: Packet, local: string[]): Map<string, number> {
  const out = new Map<string, number>();
  const explore = (answers: readonly boolean[], weight: number) => {
    let asked = 0;
    let open: number | undefined;
    const end = walk(rules, packet, {
      local,
      dice: (probability) => {
        if (asked < answers.length) return answers[asked++] as boolean;
        open ??= probability;
        return true;
      },
    });
    if (open !== undefined) {
      explore([...answers, true], weight * open);
      explore([...answers, false], weight * (1 - open));
      return;
    }
    const key = end.verdict === "accept" ? `${end.packet.dst}:${end.packet.dport}` : end.verdict;
    out.set(key, (out.get(key) ?? 0) + weight);
  };
  explore([], 1);
  return out;
}

export function chainNames(rules: Ruleset, table: TableName): string[] {
  return [...(rules.get(table)?.values() ?? [])].map((chain: Chain) => chain.name).sort();
}
