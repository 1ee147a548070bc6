// From a plan to the text of one restore input.
// Pure. Tables stand from the smallest to the largest: what a failed restore takes back is read before (driver.ts).

import { quoteWord, type RuleAt, type TableName } from "../iptables/index.js";
import { type Plan, splitChainId } from "./desired.js";

const TABLE_ORDER: readonly TableName[] = ["mangle", "filter", "nat"];

export interface RestoreInput {
  readonly text: string;
  /** Rules in the input, per table. */
  readonly rules: Readonly<Record<"filter" | "nat", number>>;
}

/** `jumps` are put on top of their chains, the first given ending up first. Empty text: nothing to do. */
export function restoreInput(plan: Plan, jumps: readonly RuleAt[] = []): RestoreInput {
  const declare = new Map<TableName, string[]>(TABLE_ORDER.map((table) => [table, []]));
  const fill = new Map<TableName, string[]>(TABLE_ORDER.map((table) => [table, []]));
  const rules = { filter: 0, nat: 0 };
  for (const [id, body] of plan.write) {
    const { table, name } = splitChainId(id);
    declare.get(table)?.push(`:${name} - [0:0]`);
    if (body.text) fill.get(table)?.push(body.text);
    if (table === "filter" || table === "nat") rules[table] += body.rules;
  }
  for (const id of plan.remove) {
    const { table, name } = splitChainId(id);
    declare.get(table)?.push(`:${name} - [0:0]`);
  }
  for (const { table, chain, rule } of [...jumps].reverse()) {
    fill.get(table)?.push(`-I ${chain} ${rule.map(quoteWord).join(" ")}`);
    if (table === "filter" || table === "nat") rules[table]++;
  }
  for (const id of plan.remove) {
    const { table, name } = splitChainId(id);
    fill.get(table)?.push(`-X ${name}`);
  }
  const out: string[] = [];
  for (const table of TABLE_ORDER) {
    const lines = [...(declare.get(table) ?? []), ...(fill.get(table) ?? [])];
    if (lines.length) out.push(`*${table}`, ...lines, "COMMIT");
  }
  return { text: out.length ? `${out.join("\n")}\n` : "", rules };
}
