// A host's rules in groups that people think in: the way in, one Service port after the other, what serves them all,
// and the rest. Pure; each rule with a note.

import {
  type Chain,
  type ChainAt,
  chainsOf,
  isBuiltIn,
  type Rule,
  type Ruleset,
  renderRuleSpec,
} from "../../dataplane/iptables/index.js";
import type { ServicePort } from "../../dataplane/proxy/index.js";
import { isPortChain, KUBE_NODEPORTS } from "../../dataplane/proxy/names.js";
import {
  type Names,
  noteOf,
  type Owner,
  placeText,
  portOf,
  SHARED_CHAINS,
} from "../../dataplane/trace/index.js";

export interface AnnotatedRule {
  /** In its chain, from 1. */
  readonly number: number;
  readonly note: string;
  readonly rule: Rule;
}

/** A chain, or those of its rules that belong to the group. */
export interface ChainPart {
  readonly chain: Chain;
  /** What the chain is for; "" when its rules say it. */
  readonly note: string;
  readonly rules: readonly AnnotatedRule[];
}

export interface Group {
  readonly title: string;
  /** Of a Service's group. */
  readonly port?: ServicePort;
  readonly parts: readonly ChainPart[];
}

const ROLES: Readonly<Record<Owner["role"], string>> = {
  cluster: "any usable endpoint (traffic policy Cluster)",
  local: "endpoints of this node (traffic policy Local)",
  external: "what comes by an address for outsiders",
  firewall: "loadBalancerSourceRanges",
  endpoint: "",
};
const ORDER: readonly Owner["role"][] = ["firewall", "external", "cluster", "local", "endpoint"];

/** The chains that {@link groupsOf} needs for a Service. */
export function chainsFor(names: Names, service: string | undefined): ChainAt[] {
  const own = [...names.owners].filter(([, { port }]) => port.service === service);
  return [...SHARED_CHAINS, ...own.map(([chain]) => ({ table: "nat" as const, chain }))];
}

/** The whole ruleset, or with `service` (`namespace/name`) only what belongs to that Service. Empty groups are left out. */
export function groupsOf(rules: Ruleset, names: Names, service?: string): Group[] {
  const parts = chainsOf(rules)
    .filter(
      ({ name }) => service === undefined || (names.owners.get(name)?.port.service ?? service) === service,
    )
    .map((chain) => partOf(chain, names));
  const ofPorts = partsByPort(parts, names);
  const groups = names.ports
    .filter(({ port }) => service === undefined || port.service === service)
    .map(({ port }) => port)
    .sort((a, b) => (a.key < b.key ? -1 : 1))
    .map((port) => ({ title: port.id, port, parts: ofPorts.get(port) ?? [] }));
  if (service !== undefined) return groups.filter(isFilled);
  const isKube = ({ chain }: ChainPart) => chain.name.startsWith("KUBE-");
  const isEntry = ({ chain }: ChainPart) => isBuiltIn(chain.table, chain.name);
  const entries = natFirst(parts.filter(isEntry));
  const toKube = ({ rule }: AnnotatedRule) => jumpTarget(rule).startsWith("KUBE-");
  const own = parts.filter((part) => !isEntry(part) && !names.owners.has(part.chain.name));
  const isStale = ({ chain }: ChainPart) => isPortChain(chain.name);
  const shared = own.filter((part) => isKube(part) && !isStale(part));
  return [
    { title: "Entry points", parts: only(entries, toKube) },
    ...groups,
    { title: "For all Services", parts: only(shared, (rule, part) => !belongsTo(rule, part, names)) },
    { title: "Of Services that the API does not have", parts: own.filter(isStale) },
    {
      title: "Not the proxy's",
      parts: [...only(entries, (rule) => !toKube(rule)), ...own.filter((part) => !isKube(part))],
    },
  ].filter(isFilled);
}

function isFilled({ parts }: Group): boolean {
  return parts.some(({ rules }) => rules.length > 0);
}

function partOf(chain: Chain, names: Names): ChainPart {
  const owner = names.owners.get(chain.name);
  const endpoint = owner?.endpoint && placeText(names, owner.endpoint.ip);
  const rules = chain.rules.map((rule, index) => ({
    number: index + 1,
    note: noteOf({ table: chain.table, chain: chain.name, rule }, names),
    rule,
  }));
  return { chain, note: endpoint ?? (owner ? ROLES[owner.role] : ""), rules };
}

function belongsTo({ rule }: AnnotatedRule, { chain }: ChainPart, names: Names): ServicePort | undefined {
  return portOf({ table: chain.table, chain: chain.name, rule }, names);
}

function only(
  parts: readonly ChainPart[],
  keep: (rule: AnnotatedRule, part: ChainPart) => boolean,
): ChainPart[] {
  return parts
    .map((part) => ({ ...part, rules: part.rules.filter((rule) => keep(rule, part)) }))
    .filter(({ rules }) => rules.length > 0);
}

/** Of each service port its rules in shared chains first, then its own chains in the order in which packets meet them. */
function partsByPort(parts: readonly ChainPart[], names: Names): Map<ServicePort, ChainPart[]> {
  const shared = new Map<ServicePort, ChainPart[]>();
  const own = new Map<ServicePort, ChainPart[]>();
  for (const part of parts) {
    const owner = names.owners.get(part.chain.name);
    if (owner) put(own, owner.port, part);
    else for (const [port, rules] of rulesByPort(part, names)) put(shared, port, { ...part, rules });
  }
  const place = ({ chain }: ChainPart) => {
    const { role = "endpoint", endpoint } = names.owners.get(chain.name) ?? {};
    return `${ORDER.indexOf(role)} ${endpoint?.text ?? ""}`;
  };
  return new Map(
    names.ports.map(({ port }) => {
      const chains = (own.get(port) ?? []).sort((a, b) => (place(a) < place(b) ? -1 : 1));
      return [port, [...natFirst(shared.get(port) ?? []), ...chains]];
    }),
  );
}

function rulesByPort(part: ChainPart, names: Names): Map<ServicePort, AnnotatedRule[]> {
  const found = new Map<ServicePort, AnnotatedRule[]>();
  for (const rule of part.rules) {
    const port = belongsTo(rule, part, names);
    if (port) put(found, port, rule);
  }
  return found;
}

function put<K, V>(lists: Map<K, V[]>, key: K, value: V): void {
  const list = lists.get(key);
  if (list) list.push(value);
  else lists.set(key, [value]);
}

/** The nat table decides where to; the filter table only says no. */
function natFirst(parts: readonly ChainPart[]): ChainPart[] {
  const rank = ({ chain: { table, name } }: ChainPart) =>
    (table === "nat" ? 0 : 2) + (name === KUBE_NODEPORTS ? 1 : 0);
  return [...parts].sort((a, b) => rank(a) - rank(b));
}

function jumpTarget({ args }: Rule): string {
  const at = args.findIndex((word) => word === "-j" || word === "-g");
  return at < 0 ? "" : (args[at + 1] ?? "");
}

/** The rule in iptables's words, without comments: the note is beside it. */
export function ruleText({ args }: Rule): string {
  const words: string[] = [];
  for (let i = 0; i < args.length; i++) {
    if (args[i] === "-m" && args[i + 1] === "comment" && args[i + 2] === "--comment") i += 3;
    else words.push(args[i] ?? "");
  }
  return renderRuleSpec({ args: words });
}

/** The groups' lines as they stand in iptables-save's text, in its order, chains without chosen rules left out. */
export function rawText(save: string, groups: readonly Group[]): string {
  const chosen = new Map<string, Set<number>>();
  for (const { chain, rules } of groups.flatMap(({ parts }) => parts)) {
    const key = `${chain.table} ${chain.name}`;
    const numbers = chosen.get(key) ?? new Set();
    chosen.set(key, numbers);
    for (const { number } of rules) numbers.add(number);
  }
  const out: string[] = [];
  const seen = new Map<string, number>();
  let table = "";
  for (const line of save.split("\n")) {
    const [first = "", name = ""] = line.split(" ");
    if (first.startsWith("*")) {
      table = first.slice(1);
      if ([...chosen.keys()].some((key) => key.startsWith(`${table} `))) out.push(line);
    } else if (first.startsWith(":")) {
      if (chosen.has(`${table} ${first.slice(1)}`)) out.push(line);
    } else if (first === "COMMIT") {
      if (out.length > 0 && out.at(-1) !== line) out.push(line);
    } else if (first === "-A") {
      const key = `${table} ${name}`;
      const number = (seen.get(key) ?? 0) + 1;
      seen.set(key, number);
      if (chosen.get(key)?.has(number)) out.push(line);
    }
  }
  return out.join("\n");
}
