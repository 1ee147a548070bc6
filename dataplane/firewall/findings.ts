// What the firewalls of a machine stop that a cluster needs, and the commands that change it. Pure.
// Whose rules they are is told by names: ufw's and firewalld's chains, firewalld's table.

import { ipFamily } from "../../common/ip.js";
import type { Ruleset } from "../iptables/index.js";
import { DEVICE } from "../overlay/index.js";
import { namedSources, stoppedByIptables, withOverlayRules } from "./iptables-rules.js";
import { BRIDGE, type Flow, type Need, type Place } from "./needs.js";
import { type NftTable, namedSources as sourcesOfTable, stoppedByTable } from "./nft-rules.js";

/** The rules of iptables, in one of its two forms. */
export interface IptablesFilter {
  /** The program that shows and changes them: iptables, ip6tables-legacy, … */
  readonly command: string;
  /** The form that the node's own rules are written in. */
  readonly own: boolean;
  readonly rules: Ruleset;
}

export interface Filters {
  readonly iptables: readonly IptablesFilter[];
  readonly tables: readonly NftTable[];
  /** What is there and could not be looked at: sentences. */
  readonly unread: readonly string[];
}

export interface Finding {
  readonly need: Need["id"];
  /** What is stopped. */
  readonly title: string;
  /** Who stops it, and where. */
  readonly detail: string;
  /** For sh(1), as root, in this order; after them it is let through. */
  readonly commands: readonly string[];
  /** What to know beside. */
  readonly hint?: string;
}

/** In the order of the needs. */
export function judge(filters: Filters, place: Place, needs: readonly Need[]): Finding[] {
  const judges = [
    ...filters.iptables.map((filter) => judgeOfIptables(filter, place)),
    ...filters.tables.map((table) => judgeOfTable(table, place)),
  ];
  return needs.flatMap((need) => judges.flatMap((judged) => judged(need) ?? []));
}

type Judge = (need: Need) => Finding | undefined;

/** The first flow that is stopped; where nobody knows who sends, only when all sources are. */
function firstStop<S>(
  { flows, fromAnybody }: Need,
  sources: () => string[],
  stopped: (flow: Flow) => S | undefined,
): { stop: S; flow: Flow } | undefined {
  for (const flow of flows) {
    const stop = stopped(flow);
    if (!stop) continue;
    const others = fromAnybody ? sources() : [];
    const isOpen = others.some((src) => {
      const isRemote = ipFamily(src) === ipFamily(flow.packet.dst) && !/^(127\.|::1$)/.test(src);
      return isRemote && !stopped({ ...flow, packet: { ...flow.packet, src } });
    });
    if (!isOpen) return { stop, flow };
  }
  return undefined;
}

function judgeOfIptables(filter: IptablesFilter, place: Place): Judge {
  const { command, own } = filter;
  const rules = own ? withOverlayRules(filter.rules, place) : filter.rules;
  const chains = [...(rules.get("filter")?.keys() ?? [])];
  const isUfw = chains.some((name) => /^ufw6?-before-input$/.test(name));
  // Its older back-end.
  const isFirewalld = chains.includes("INPUT_ZONES");
  return (need) => {
    const found = firstStop(
      need,
      () => namedSources(rules),
      // Where kube-proxy writes, it lets what it has translated through itself, first of all (KUBE-FORWARD).
      (flow) => (own && flow.translated ? undefined : stoppedByIptables(rules, place, flow)),
    );
    if (!found) return undefined;
    const { stop, flow } = found;
    const where = `${command}, chain ${stop.chain}: ${stop.by}`;
    if (isUfw) return finding(need, flow, `ufw (${where})`, ufw(need));
    if (isFirewalld) return finding(need, flow, `firewalld (${where})`, firewalld(need, place, ""));
    const hint = own ? KEEP : `${KEEP}; other programs use ${command} here, kubeplumb does not`;
    return finding(need, flow, where, iptables(need, place, command), hint);
  };
}

function judgeOfTable(table: NftTable, place: Place): Judge {
  return (need) => {
    const found = firstStop(
      need,
      () => sourcesOfTable(table),
      (flow) => stoppedByTable(table, flow),
    );
    if (!found) return undefined;
    const { stop, flow } = found;
    const where = `nftables, table ${table.family} ${table.name}, chain ${stop.chain}: ${stop.by}`;
    if (table.name !== "firewalld")
      return finding(need, flow, where, nft(need, place, `${table.family} ${table.name} ${stop.base}`), KEEP);
    const zone = /^filter_IN_(.+)$/.exec(stop.chain)?.[1] ?? "";
    return finding(need, flow, `firewalld (${where})`, firewalld(need, place, zone));
  };
}

const KEEP = "and keep that where this machine keeps its rules";

function finding(
  need: Need,
  { packet, output }: Flow,
  by: string,
  commands: string[],
  hint?: string,
): Finding {
  const from = need.fromAnybody ? "from other machines" : `from ${packet.src}`;
  const way = output === undefined ? from : `${packet.input} to ${output}`;
  const about = { need: need.id, title: need.title, detail: `${way}: stopped by ${by}`, commands };
  return hint === undefined ? about : { ...about, hint };
}

function ufw({ port }: Need): string[] {
  if (port) return [`ufw allow ${port.number}/${port.protocol}`];
  return [`ufw route allow in on ${BRIDGE}`, `ufw route allow out on ${BRIDGE}`];
}

/**
 * At once, and for good: a reload would take the rules of iptables away too, which come back half a minute later.
 * @param zone "" for the default one.
 */
function firewalld({ port }: Need, { family }: Place, zone: string): string[] {
  const inZone = zone ? `--zone=${zone} ` : "";
  const changes = port
    ? [`${inZone}--add-port=${port.number}/${port.protocol}`]
    : [BRIDGE, DEVICE[family]].map((device) => `--zone=trusted --add-interface=${device}`);
  return changes.flatMap((change) => [`firewall-cmd ${change}`, `firewall-cmd --permanent ${change}`]);
}

function iptables({ port }: Need, { network, uplink }: Place, command: string): string[] {
  if (port) return [`${command} -I INPUT -i ${uplink} -p ${port.protocol} --dport ${port.number} -j ACCEPT`];
  return ["-s", "-d"].map((side) => `${command} -I FORWARD ${side} ${network} -j ACCEPT`);
}

function nft({ port }: Need, { family, network, uplink }: Place, chain: string): string[] {
  const insert = `nft insert rule ${chain}`;
  if (port) return [`${insert} iifname ${uplink} ${port.protocol} dport ${port.number} accept`];
  const ip = family === 6 ? "ip6" : "ip";
  return ["saddr", "daddr"].map((side) => `${insert} ${ip} ${side} ${network} accept`);
}

/** Both forms of iptables hold rules that may stop something: a sentence, and what to do; undefined when not. */
export function mixedVariants({ iptables: both }: Filters): { detail: string; remedy: string } | undefined {
  const own = both.find((one) => one.own);
  const other = both.find((one) => !one.own && hasRules(one.rules));
  if (!own || !other) return undefined;
  return {
    detail: `${own.command} is what kubeplumb uses, and there are rules of ${other.command} too: both are in force, and iptables-save shows only one`,
    remedy: `see ${other.command}-save; choose one for all programs with update-alternatives --config iptables, then reboot`,
  };
}

function hasRules(rules: Ruleset): boolean {
  return [...rules.values()].some((table) =>
    [...table.values()].some((chain) => chain.rules.length > 0 || chain.policy === "DROP"),
  );
}
