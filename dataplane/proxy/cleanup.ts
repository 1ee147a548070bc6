// The restore input that takes away everything that a proxy in iptables mode made, ours or kube-proxy's, and nothing
// else. Pure: from the kernel's rules as read, whatever options they were made with.

import {
  canonicalRule,
  type Rule,
  type RuleAt,
  type Ruleset,
  renderRuleLine,
  ruleOfWords,
} from "../iptables/index.js";
import { isPortChain, KUBE_FIREWALL, KUBE_KUBELET_CANARY, TOP_CHAINS } from "./names.js";
import { entryJumps } from "./rules/fixed.js";

const TABLE_ORDER = ["mangle", "filter", "nat"] as const;
type OwnTable = (typeof TABLE_ORDER)[number];

/** A kubelet makes KUBE-FIREWALL and its jumps too, and needs them. */
function kubeletHere(kernel: Ruleset): boolean {
  return [...kernel.values()].some((chains) => chains.has(KUBE_KUBELET_CANARY));
}

/**
 * Jumps, then chains. A chain to which somebody else's rule jumps (the port mapper uses KUBE-MARK-MASQ) cannot be
 * removed without breaking that rule: it is left, empty.
 */
export function cleanupInput(kernel: Ruleset): string {
  const kept = kubeletHere(kernel) ? KUBE_FIREWALL : undefined;
  const isOwn = (table: OwnTable, name: string): boolean =>
    name !== kept &&
    ((TOP_CHAINS[table] as readonly string[]).includes(name) || (table === "nat" && isPortChain(name)));
  const allJumps = entryJumps({ localhostNodePorts: true });
  const out: string[] = [];
  for (const table of TABLE_ORDER) {
    const chains = kernel.get(table) ?? new Map<string, never>();
    const jumps = allJumps.filter((jump) => jump.table === table && jump.rule.at(-1) !== kept);
    const ours = new Set([...chains.keys()].filter((name) => isOwn(table, name)));
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
