// What a rule means, whatever the order and spelling of its words: the kernel prints `-d 10.0.0.1/32 -p tcp -m tcp
// --dport 80` for `-m tcp -p tcp -d 10.0.0.1 --dport 80`. Pure; the base for comparing rules and walking packets.

import { fixedPoint } from "./probability.js";
import type { Rule } from "./rules.js";

/** An option with its values; `not` when `!` stood before it. */
export interface Option {
  readonly not: boolean;
  readonly values: readonly string[];
}

export interface Extension {
  readonly name: string;
  readonly options: ReadonlyMap<string, Option>;
}

/** A rule taken apart. Options carry their long or short name as iptables-save prints it. */
export interface RuleShape {
  /** -s, -d, -p, -i, -o and what else iptables itself knows. */
  readonly base: ReadonlyMap<string, Option>;
  readonly matches: readonly Extension[];
  /** -j or -g. */
  readonly target?: Extension & { readonly goto: boolean };
}

const BASE: Readonly<Record<string, string>> = {
  "-s": "-s",
  "--source": "-s",
  "--src": "-s",
  "-d": "-d",
  "--destination": "-d",
  "--dst": "-d",
  "-p": "-p",
  "--protocol": "-p",
  "--proto": "-p",
  "-i": "-i",
  "--in-interface": "-i",
  "-o": "-o",
  "--out-interface": "-o",
};

const PORT_OPTIONS = new Set([
  "--dport",
  "--sport",
  "--destination-port",
  "--source-port",
  "--tcp-flags",
  "--syn",
  "--tcp-option",
  "--icmp-type",
  "--icmpv6-type",
]);
const PORT_NAMES: Readonly<Record<string, string>> = {
  "--destination-port": "--dport",
  "--source-port": "--sport",
};
const PROTOCOL_MATCHES = new Set(["tcp", "udp", "sctp", "icmp", "icmp6", "udplite", "dccp"]);
/** Values that are sets, whose order means nothing. */
const SET_OPTIONS = new Set(["--ctstate", "--state", "--ctstatus", "--dports", "--sports"]);
const MARK_OPTIONS = new Set([
  "--mark",
  "--set-xmark",
  "--set-mark",
  "--or-mark",
  "--and-mark",
  "--xor-mark",
]);

interface Building {
  name: string;
  options: Map<string, Option>;
}

/** Takes a rule apart; the comment counts as the match that it is. */
export function shapeOf(rule: Pick<Rule, "args" | "comment">): RuleShape {
  const base = new Map<string, Option>();
  const matches: Building[] = [];
  let target: (Building & { goto: boolean }) | undefined;
  if (rule.comment !== undefined) {
    const text = { not: false, values: [rule.comment] };
    matches.push({ name: "comment", options: new Map([["--comment", text]]) });
  }
  const words = rule.args;
  let not = false;
  for (let i = 0; i < words.length; ) {
    const word = words[i++] ?? "";
    if (word === "!") {
      not = true;
      continue;
    }
    const value = () => words[i++] ?? "";
    const baseName = BASE[word];
    if (word === "-m" || word === "--match") matches.push({ name: value(), options: new Map() });
    else if (word === "-j" || word === "--jump") target = { name: value(), goto: false, options: new Map() };
    else if (word === "-g" || word === "--goto") target = { name: value(), goto: true, options: new Map() };
    else if (baseName) base.set(baseName, { not, values: [baseValue(baseName, value())] });
    else {
      const values: string[] = [];
      while (i < words.length && !isWordOfSyntax(words[i] ?? "")) values.push(value());
      const owner = target ?? ownerOf(word, matches, base);
      const option = optionOf(PORT_NAMES[word] ?? word, values, owner?.name ?? "");
      // Nobody's option (-f, say): it is iptables's own.
      (owner?.options ?? base).set(option.name, { not, values: option.values });
    }
    not = false;
  }
  for (const match of matches) addDefaults(match);
  if (target) addTargetDefaults(target);
  dropAnywhere(base);
  return { base, matches, ...(target && { target }) };
}

function isWordOfSyntax(word: string): boolean {
  return word === "!" || /^-(-|[a-z]$)/i.test(word);
}

/** Port options belong to the protocol's match wherever they stand, and load it when nobody did. */
function ownerOf(
  option: string,
  matches: Building[],
  base: ReadonlyMap<string, Option>,
): Building | undefined {
  if (PORT_OPTIONS.has(option)) {
    const loaded = matches.findLast((match) => PROTOCOL_MATCHES.has(match.name));
    if (loaded) return loaded;
    const implied = { name: base.get("-p")?.values[0] ?? "", options: new Map<string, Option>() };
    matches.push(implied);
    return implied;
  }
  return matches.findLast((match) => !PROTOCOL_MATCHES.has(match.name)) ?? matches.at(-1);
}

function baseValue(name: string, value: string): string {
  if (name === "-p") return value.toLowerCase();
  if (name !== "-s" && name !== "-d") return value;
  if (value.includes(":")) return value.replace(/\/128$/, "");
  const [address = "", prefix] = value.split("/");
  return prefix === undefined || prefix === "32" ? address : `${address}/${prefix}`;
}

/** An address match that matches everything is none. */
function dropAnywhere(base: Map<string, Option>): void {
  for (const name of ["-s", "-d"]) {
    const option = base.get(name);
    if (option && !option.not && /^(0\.0\.0\.0\/0|::\/0)$/.test(option.values[0] ?? "")) base.delete(name);
  }
  if (base.get("-p")?.values[0] === "all") base.delete("-p");
}

function optionOf(name: string, values: string[], owner: string): { name: string; values: string[] } {
  const [first = ""] = values;
  if (MARK_OPTIONS.has(name)) return markOption(name, first, owner === "MARK" || owner === "CONNMARK");
  if (SET_OPTIONS.has(name)) return { name, values: [first.split(",").sort().join(",")] };
  if (name === "--probability") return { name, values: [String(fixedPoint(Number(first)))] };
  return { name, values };
}

/** All spellings of the MARK target come out as --set-xmark value/mask, as in libxt_MARK. */
function markOption(name: string, text: string, target: boolean): { name: string; values: string[] } {
  const [value = 0, mask = 0xffff_ffff] = text.split("/").map(Number);
  const hex = (n: number) => `0x${(n >>> 0).toString(16)}`;
  if (!target) return { name, values: [`${hex(value)}/${hex(mask)}`] };
  const xmark = (v: number, m: number) => ({ name: "--set-xmark", values: [`${hex(v)}/${hex(m)}`] });
  if (name === "--or-mark") return xmark(value, value);
  if (name === "--and-mark") return xmark(0, ~value);
  if (name === "--xor-mark") return xmark(value, 0);
  if (name === "--set-mark") return xmark(value, value | mask);
  return xmark(value, mask);
}

/** What iptables-save prints although nobody wrote it. */
function addDefaults(match: Building): void {
  if (match.name !== "recent") return;
  if (!match.options.has("--rdest")) match.options.set("--rsource", { not: false, values: [] });
  if (!match.options.has("--mask")) match.options.set("--mask", { not: false, values: ["255.255.255.255"] });
  if (!match.options.has("--name")) match.options.set("--name", { not: false, values: ["DEFAULT"] });
}

function addTargetDefaults(target: Building): void {
  if (target.name === "REJECT" && !target.options.has("--reject-with")) {
    target.options.set("--reject-with", { not: false, values: ["icmp-port-unreachable"] });
  }
}

function optionText([name, { not, values }]: [string, Option]): string {
  return JSON.stringify([...(not ? ["!"] : []), name, ...values]);
}

/** What is printed although nobody wrote it, in the words of either family: says nothing. */
const DEFAULTS = new Set([
  "--mask 255.255.255.255",
  "--mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
  "--reject-with icmp-port-unreachable",
  "--reject-with icmp6-port-unreachable",
]);

function extensionText({ name, options }: Extension): string {
  const telling = [...options].filter(([option, { values }]) => !DEFAULTS.has(`${option} ${values[0]}`));
  return `${name}{${telling.map(optionText).sort().join("")}}`;
}

/** Equal for two rules that mean the same, however they are written. For comparing, not for reading. */
export function canonicalRule(rule: Pick<Rule, "args" | "comment">): string {
  const { base, matches, target } = shapeOf(rule);
  const parts = [[...base].map(optionText).sort().join("")];
  // A bare protocol match says no more than -p does, and where it stands among the others says nothing. The others
  // keep their order: recent or limit behind another match see only what that one let through.
  const isProtocol = (match: Extension) => PROTOCOL_MATCHES.has(match.name);
  const telling = matches.filter((match) => match.options.size > 0 || !isProtocol(match));
  const ordered = [...telling.filter(isProtocol), ...telling.filter((match) => !isProtocol(match))];
  parts.push(ordered.map(extensionText).join(""));
  if (target) parts.push(`${target.goto ? "goto " : ""}${extensionText(target)}`);
  return parts.join(" ");
}
