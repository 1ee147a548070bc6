// Chains and rules to the text that iptables-restore takes.
// Pure; the inverse is parse.ts.

import type { Chain, Counters, Rule, TableName } from "./rules.js";
import { quoteWord } from "./words.js";

const ZERO = "[0:0]";

function counters(value: Counters | undefined): string | undefined {
  return value && `[${value.packets}:${value.bytes}]`;
}

/** The words after the chain's name: `-m comment --comment "…" -s … -j …`. Throws RangeError, see quoteWord. */
export function renderRuleSpec(rule: Pick<Rule, "args" | "comment">): string {
  const args = rule.args.map(quoteWord).join(" ");
  if (rule.comment === undefined) return args;
  const comment = `-m comment --comment ${quoteWord(rule.comment)}`;
  return args ? `${comment} ${args}` : comment;
}

/** `:KUBE-SERVICES - [0:0]`: with --noflush it makes a user-defined chain or empties it. */
export function renderChainLine(chain: Pick<Chain, "name" | "policy" | "counters">): string {
  return `:${chain.name} ${chain.policy ?? "-"} ${counters(chain.counters) ?? ZERO}`;
}

/** One `-A` line a rule, no line break at the end. */
export function renderRuleLine(chain: string, rule: Rule, verb = "-A"): string {
  const prefix = counters(rule.counters);
  const spec = renderRuleSpec(rule);
  return `${prefix ? `${prefix} ` : ""}${verb} ${chain}${spec ? ` ${spec}` : ""}`;
}

/** What a restore input does to one table, in the order in which the lines stand. */
export interface TableInput {
  readonly table: TableName;
  /** Declared (made or emptied), then filled. */
  readonly chains: readonly Chain[];
  /** Lines between the rules and the deletions, as `-I PREROUTING …`, rendered already. */
  readonly lines?: readonly string[];
  /** Chains to remove (`-X`); each is emptied in the same transaction. */
  readonly deleteChains?: readonly string[];
}

/** Text for `iptables-restore --noflush --counters`; each table is one transaction of the kernel. */
export function renderTables(tables: readonly TableInput[]): string {
  const out: string[] = [];
  for (const { table, chains, lines = [], deleteChains = [] } of tables) {
    if (chains.length + lines.length + deleteChains.length === 0) continue;
    out.push(`*${table}`);
    for (const chain of chains) out.push(renderChainLine(chain));
    for (const name of deleteChains) out.push(renderChainLine({ name }));
    for (const chain of chains) for (const rule of chain.rules) out.push(renderRuleLine(chain.name, rule));
    out.push(...lines);
    for (const name of deleteChains) out.push(`-X ${name}`);
    out.push("COMMIT");
  }
  return out.length ? `${out.join("\n")}\n` : "";
}

/** Chains of any tables, grouped by table in order of first appearance. */
export function renderRestore(chains: Iterable<Chain>): string {
  const byTable = new Map<TableName, Chain[]>();
  for (const chain of chains) {
    const list = byTable.get(chain.table);
    if (list) list.push(chain);
    else byTable.set(chain.table, [chain]);
  }
  return renderTables([...byTable].map(([table, list]) => ({ table, chains: list })));
}
