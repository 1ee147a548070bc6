// The restore input that takes away everything that the proxy made, and nothing else.
// Pure: from the kernel's rules as read.

import {
  canonicalRule,
  type Rule,
  type RuleAt,
  type Ruleset,
  renderRuleLine,
  ruleOfWords,
  type TableName,
} from "../iptables/index.js";
import { CANARY_TABLES } from "./monitor.js";
import { isPortChain, KUBE_PROXY_CANARY } from "./names.js";
import { SHARED_CHAINS } from "./render.js";
import type { RuleContext } from "./rules/context.js";
import { entryJumps, fixedChains } from "./rules/fixed.js";

const TABLE_ORDER: readonly TableName[] = ["mangle", "filter", "nat"];

/** Names of the chains in `table` that the proxy makes, of those that exist. */
function ownChains(table: TableName, existing: Iterable<string>, context: RuleContext): Set<string> {
  const named = [...fixedChains(context), ...SHARED_CHAINS].filter((chain) => chain.table === table);
  const names = new Set(named.map(({ name }) => name));
  if (CANARY_TABLES.includes(table)) names.add(KUBE_PROXY_CANARY);
  return new Set([...existing].filter((name) => names.has(name) || (table === "nat" && isPortChain(name))));
}

/**
 * Jumps, then chains. A chain to which somebody else's rule jumps (the port mapper uses KUBE-MARK-MASQ) cannot be
 * removed without breaking that rule: it is left, empty.
 */
export function cleanupInput(kernel: Ruleset, context: RuleContext): string {
  const out: string[] = [];
  for (const table of TABLE_ORDER) {
    const chains = kernel.get(table) ?? new Map<string, never>();
    const jumps = entryJumps(context).filter((jump) => jump.table === table);
    const ours = ownChains(table, chains.keys(), context);
    const deletions: string[] = [];
    const needed = new Set<string>();
    for (const [name, { rules }] of chains) {
      if (ours.has(name)) continue;
      for (const rule of rules) {
        if (isOwnJump(rule, name, jumps)) deletions.push(renderRuleLine(name, withoutCounters(rule), "-D"));
        else for (const word of rule.args) if (ours.has(word)) needed.add(word);
      }
    }
    const gone = [...ours].filter((name) => !needed.has(name));
    const lines = [
      ...[...ours].map((name) => `:${name} - [0:0]`),
      ...deletions,
      ...gone.map((name) => `-X ${name}`),
    ];
    if (lines.length) out.push(`*${table}`, ...lines, "COMMIT");
  }
  return out.length ? `${out.join("\n")}\n` : "";
}

function withoutCounters({ args, comment }: Rule): Rule {
  return comment === undefined ? { args } : { args, comment };
}

function isOwnJump(rule: Rule, chain: string, jumps: readonly RuleAt[]): boolean {
  const canonical = canonicalRule(rule);
  return jumps.some((jump) => jump.chain === chain && canonicalRule(ruleOfWords(jump.rule)) === canonical);
}
