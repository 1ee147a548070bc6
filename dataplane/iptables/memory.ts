// A kernel in memory: takes restore inputs with the semantics of iptables-restore and gives the rules back.
// For tests of what would be sent; it knows the syntax and the transactions, it forwards no packet.

import { canonicalRule } from "./canonical.js";
import type { IptablesDriver, Position, RestoreOptions } from "./driver.js";
import { RestoreError } from "./errors.js";
import type { PacketCounters } from "./nfacct.js";
import { parseCounters, ruleOfWords } from "./parse.js";
import { renderRestore } from "./render.js";
import {
  BUILT_IN_CHAINS,
  type Chain,
  isBuiltIn,
  isTable,
  type Rule,
  type RuleAt,
  type Ruleset,
  TABLES,
  type TableName,
} from "./rules.js";
import type { Variant } from "./variant.js";
import { quoteWord, splitWords } from "./words.js";

interface MutableChain {
  policy?: string;
  rules: Rule[];
}
type Table = Map<string, MutableChain>;

/** Targets that are no chains. Anything in capitals that is not a chain of the table must be one of them. */
const TARGETS = new Set(
  "ACCEPT DROP RETURN REJECT DNAT SNAT MASQUERADE MARK REDIRECT LOG TRACE NFQUEUE CONNMARK NOTRACK CT".split(
    " ",
  ),
);

/** Counters that somebody has to count with; `supported` false: a kernel without. */
class MemoryCounters implements PacketCounters {
  supported = true;
  readonly values = new Map<string, number>();

  ensure(names: readonly string[]): boolean {
    if (this.supported) for (const name of names) this.values.set(name, this.values.get(name) ?? 0);
    return this.supported;
  }

  packets(name: string): number | undefined {
    return this.values.get(name);
  }
}

/** The in-memory driver. `inputs` keeps every restore input that was applied. */
export class MemoryIptables implements IptablesDriver {
  readonly family: 4 | 6;
  readonly variant: Variant = "nft";
  readonly version = "1.8.9";
  readonly randomFully = true;
  readonly counters = new MemoryCounters();
  readonly inputs: string[] = [];
  /** When set, called before each restore; a throw is the failure of that restore. */
  beforeRestore: ((input: string) => void | Promise<void>) | undefined;
  #tables: Map<TableName, Table>;

  constructor(family: 4 | 6 = 4) {
    this.family = family;
    this.#tables = new Map(TABLES.map((table) => [table, emptyTable(table)]));
  }

  async restore(input: string, options: RestoreOptions = {}): Promise<void> {
    await this.beforeRestore?.(input);
    this.apply(input, options);
  }

  /** The synchronous core of {@link restore}: all tables of the input change or none. */
  apply(input: string, { noflush = true }: RestoreOptions = {}): void {
    if (input === "") return;
    const next = new Map([...this.#tables].map(([name, table]) => [name, copy(table)]));
    let table: Table | undefined;
    let tableName: TableName | undefined;
    input.split("\n").forEach((text, index) => {
      const fail = (why: string) =>
        new RestoreError("memory", input, `iptables-restore: line ${index + 1} failed: ${why}`, undefined);
      if (text === "" || text.startsWith("#")) return;
      if (text.startsWith("*")) {
        const name = text.slice(1);
        if (!isTable(name)) throw fail(`no table ${name}`);
        tableName = name;
        table = noflush ? next.get(name) : emptyTable(name);
        if (table) next.set(name, table);
        return;
      }
      if (!table || !tableName) throw fail("outside any table");
      if (text === "COMMIT") {
        table = undefined;
        return;
      }
      const problem = this.#counterMissing(text) ?? applyLine(tableName, table, text);
      if (problem) throw fail(problem);
    });
    if (table) throw new RestoreError("memory", input, "no COMMIT at the end", undefined);
    this.#tables = next;
    this.inputs.push(input);
  }

  #counterMissing(text: string): string | undefined {
    const name = / --nfacct-name (\S+)/.exec(text)?.[1];
    return name !== undefined && !this.counters.values.has(name) ? `no counter ${name}` : undefined;
  }

  read(table?: TableName): Promise<Ruleset> {
    return Promise.resolve(this.ruleset(table));
  }

  /** What {@link read} resolves with. */
  ruleset(only?: TableName): Ruleset {
    const out = new Map<TableName, Map<string, Chain>>();
    for (const [table, chains] of this.#tables) {
      if (only && table !== only) continue;
      out.set(
        table,
        new Map(
          [...chains].map(([name, chain]) => [name, { table, name, ...chain, rules: [...chain.rules] }]),
        ),
      );
    }
    return out;
  }

  save(table?: TableName): Promise<string> {
    const all = [...this.ruleset(table).values()].flatMap((chains) => [...chains.values()]);
    return Promise.resolve(renderRestore(all));
  }

  hasRules(rules: readonly RuleAt[]): Promise<boolean> {
    return Promise.resolve(rules.every((at) => this.#find(at) >= 0));
  }

  async ensureChain(table: TableName, chain: string): Promise<void> {
    if (!(await this.chainExists(table, chain))) this.apply(`*${table}\n-N ${chain}\nCOMMIT\n`);
  }

  ensureRule(table: TableName, chain: string, rule: readonly string[], position: Position): Promise<void> {
    return this.ensureRules([{ table, chain, rule, position }]);
  }

  async ensureRules(rules: readonly (RuleAt & { position: Position })[]): Promise<void> {
    const missing = rules.filter((at) => this.#find(at) < 0);
    const ordered = [
      ...missing.filter((at) => at.position === "prepend").reverse(),
      ...missing.filter((at) => at.position === "append"),
    ];
    for (const { table, chain, rule, position } of ordered) {
      const verb = position === "prepend" ? "-I" : "-A";
      this.apply(`*${table}\n${verb} ${chain} ${rule.map(quoteWord).join(" ")}\nCOMMIT\n`);
    }
  }

  deleteRule(table: TableName, chain: string, rule: readonly string[]): Promise<boolean> {
    const rules = this.#tables.get(table)?.get(chain)?.rules ?? [];
    const before = rules.length;
    for (let at = 0; at >= 0; ) {
      at = this.#find({ table, chain, rule });
      if (at >= 0) rules.splice(at, 1);
    }
    return Promise.resolve(rules.length < before);
  }

  async deleteChain(table: TableName, chain: string): Promise<void> {
    await this.restore(`*${table}\n:${chain} - [0:0]\n-X ${chain}\nCOMMIT\n`);
  }

  chainExists(table: TableName, chain: string): Promise<boolean> {
    return Promise.resolve(this.#tables.get(table)?.has(chain) ?? false);
  }

  #find({ table, chain, rule }: RuleAt): number {
    return findRule(this.#tables.get(table)?.get(chain), ruleOfWords(rule));
  }
}

function emptyTable(name: TableName): Table {
  return new Map(BUILT_IN_CHAINS[name].map((chain) => [chain, { policy: "ACCEPT", rules: [] }]));
}

function copy(table: Table): Table {
  return new Map([...table].map(([name, chain]) => [name, { ...chain, rules: [...chain.rules] }]));
}

function findRule(chain: MutableChain | undefined, rule: Rule): number {
  const wanted = canonicalRule(rule);
  return chain?.rules.findIndex((other) => canonicalRule(other) === wanted) ?? -1;
}

function targetOf(rule: Rule): string | undefined {
  const at = rule.args.findIndex((word) => word === "-j" || word === "-g");
  return at < 0 ? undefined : rule.args[at + 1];
}

/** Changes the table by one line; returns why it cannot. */
function applyLine(tableName: TableName, table: Table, text: string): string | undefined {
  if (text.startsWith(":")) {
    const [name = "", policy = "-"] = text.slice(1).split(" ");
    const chain = table.get(name);
    if (!chain) table.set(name, { rules: [] });
    else if (isBuiltIn(tableName, name)) {
      if (policy !== "-") chain.policy = policy;
    } else chain.rules = [];
    return undefined;
  }
  const words = splitWords(text);
  const counters = parseCounters(words[0]);
  if (/^\[\d+:\d+\]$/.test(words[0] ?? "")) words.shift();
  const [verb, name = "", ...spec] = words;
  if (verb === "-N") {
    if (table.has(name)) return "Chain already exists";
    table.set(name, { rules: [] });
    return undefined;
  }
  const chain = table.get(name);
  if (!chain) return `Chain '${name}' does not exist`;
  if (verb === "-X") return deleteChain(tableName, table, name, chain);
  if (verb === "-F") {
    chain.rules = [];
    return undefined;
  }
  const rule = ruleOfWords(spec, counters);
  const target = targetOf(rule);
  if (target && !table.has(target) && !TARGETS.has(target)) return `Chain '${target}' does not exist`;
  if (verb === "-A") chain.rules.push(rule);
  else if (verb === "-I") chain.rules.unshift(rule);
  else if (verb === "-C" || verb === "-D") {
    const at = findRule(chain, rule);
    if (at < 0) return "Bad rule (does a matching rule exist in that chain?)";
    if (verb === "-D") chain.rules.splice(at, 1);
  } else return `unknown command ${verb}`;
  return undefined;
}

function deleteChain(
  tableName: TableName,
  table: Table,
  name: string,
  chain: MutableChain,
): string | undefined {
  if (isBuiltIn(tableName, name)) return "cannot delete a built-in chain";
  if (chain.rules.length > 0) return `Directory not empty: chain ${name}`;
  for (const [other, { rules }] of table) {
    if (rules.some((rule) => targetOf(rule) === name)) return `chain ${name} is used in ${other}`;
  }
  table.delete(name);
  return undefined;
}
