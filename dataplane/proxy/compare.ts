// What of the desired ruleset the kernel holds already, by meaning, not by text.
// Pure but for giving the event loop its turns: a kernel with 10,000 Services is 80,000 rules to take apart.

import { setImmediate as nextTurn } from "node:timers/promises";
import {
  canonicalRule,
  type Rule,
  type RuleAt,
  type Ruleset,
  ruleOfWords,
  splitWords,
} from "../iptables/index.js";
import { type ChainId, chainId, type DesiredRuleset } from "./desired.js";

const CHAINS_A_TURN = 200;

/** A rule that shall have no comment is right with any: growing past the large-cluster limit sends nothing again. */
function isInPlace(wanted: Rule, found: Rule): boolean {
  return canonicalRule(wanted) === canonicalRule(wanted.comment === undefined ? { args: found.args } : found);
}

function sameRules(kernel: readonly Rule[], text: string): boolean {
  const lines = text === "" ? [] : text.split("\n");
  if (lines.length !== kernel.length) return false;
  return lines.every((line, index) => {
    const found = kernel[index];
    return found !== undefined && isInPlace(ruleOfWords(splitWords(line).slice(2)), found);
  });
}

/** Ids of the desired chains that the kernel has with the same rules in the same order. */
export async function chainsInPlace(desired: DesiredRuleset, kernel: Ruleset): Promise<Set<ChainId>> {
  const same = new Set<ChainId>();
  let count = 0;
  for (const [table, chains] of kernel) {
    for (const [name, { rules }] of chains) {
      const id = chainId(table, name);
      const body = desired.body(id);
      if (body && sameRules(rules, body.text)) same.add(id);
      if (++count % CHAINS_A_TURN === 0) await nextTurn();
    }
  }
  return same;
}

/** The rules of the list that stand in no chain of the kernel. */
export function missingRules(wanted: readonly RuleAt[], kernel: Ruleset): RuleAt[] {
  return wanted.filter(({ table, chain, rule }) => {
    const canonical = canonicalRule(ruleOfWords(rule));
    const rules = kernel.get(table)?.get(chain)?.rules ?? [];
    return !rules.some((other) => canonicalRule(other) === canonical);
  });
}

export function kernelChains(kernel: Ruleset): ChainId[] {
  return [...kernel].flatMap(([table, chains]) => [...chains.keys()].map((name) => chainId(table, name)));
}
