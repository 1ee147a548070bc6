// What a restore input asks for, chain by chain, and the difference between two contents of a chain.
// Pure; sending it is nft-ruleset.ts's business.

import { UnsupportedRule } from "./nft-extensions.js";
import { parseCounters } from "./parse.js";
import { sectionsOf, type TableSection } from "./rollback.js";
import { type Counters, isBuiltIn, MAX_CHAIN_NAME, type TableName } from "./rules.js";
import { splitWords } from "./words.js";

export type Verb = "A" | "I" | "D" | "F";

export interface RuleLine {
  readonly verb: Verb;
  readonly text: string;
  /** 1-based, in the whole input. */
  readonly line: number;
}

export interface ChainPlan {
  readonly name: string;
  /** Number of the line. */
  readonly line: number;
  /** Made unless there, and emptied (`:KUBE-SERVICES - [0:0]`). */
  readonly declared: boolean;
  /** Made; it must not be there yet (-N). */
  readonly created: boolean;
  /** Nothing but -A: with `declared` the lines are the new content. */
  appendsOnly: boolean;
  readonly lines: RuleLine[];
}

export interface TablePlan {
  readonly table: TableName;
  readonly chains: ReadonlyMap<string, ChainPlan>;
  /** -X, with the line's number. */
  readonly remove: ReadonlyMap<string, number>;
}

const COMMAND = /^(?:\[\d+:\d+\] )?-([A-Z]) (\S+)/;

/**
 * Reads a restore input.
 * @throws UnsupportedRule for what only the restore tool understands or has to refuse.
 */
export function plansOf(input: string): TablePlan[] {
  const sections = sectionsOf(input, (text) => {
    throw new UnsupportedRule(`outside any table: ${text}`);
  });
  if (new Set(sections.map(({ table }) => table)).size < sections.length) {
    throw new UnsupportedRule("a table occurs twice");
  }
  return sections.map(planOf);
}

function planOf({ table, firstLine, lines }: TableSection): TablePlan {
  const chains = new Map<string, ChainPlan>();
  const remove = new Map<string, number>();
  const chainAt = (name: string, line: number, how: { declared?: boolean; created?: boolean }): ChainPlan => {
    const chain = { name, line, declared: false, created: false, appendsOnly: true, lines: [], ...how };
    chains.set(name, chain);
    return chain;
  };
  lines.forEach((text, index) => {
    const line = firstLine + 1 + index;
    const first = text.charCodeAt(0);
    if (text === "" || first === HASH) return;
    if (first === COLON) {
      const name = text.slice(1, text.indexOf(" "));
      if (chains.has(name) || isBuiltIn(table, name) || !/^:\S+ - \[0:0\]$/.test(text)) {
        throw new UnsupportedRule(text);
      }
      chainAt(checked(name), line, { declared: true });
      return;
    }
    const [, verb, name = ""] = COMMAND.exec(text) ?? [];
    if (verb === "N" || verb === "X") {
      if (text !== `-${verb} ${name}` || isBuiltIn(table, name)) throw new UnsupportedRule(text);
      if (verb === "X") remove.set(name, line);
      else if (chains.has(name)) throw new UnsupportedRule(text);
      else chainAt(checked(name), line, { created: true });
      return;
    }
    if (verb !== "A" && verb !== "I" && verb !== "D" && verb !== "F") throw new UnsupportedRule(text);
    if (remove.has(name)) throw new UnsupportedRule(text);
    const chain = chains.get(name) ?? chainAt(checked(name), line, {});
    // What it deletes would have to be looked for among rules that are not there yet.
    if (verb === "D" && (chain.declared || chain.created || chain.lines.some((one) => one.verb !== "D"))) {
      throw new UnsupportedRule(text);
    }
    if (verb !== "A") chain.appendsOnly = false;
    chain.lines.push({ verb, text, line });
  });
  return { table, chains, remove };
}

const HASH = 35;
const COLON = 58;

function checked(name: string): string {
  if (name.length > MAX_CHAIN_NAME || !/^[\w.:+-]+$/.test(name) || name.startsWith("-")) {
    throw new UnsupportedRule(`chain ${name}`);
  }
  return name;
}

/** The words after `-A CHAIN` and the counters before. Throws UnsupportedRule for `-I CHAIN 3 …`. */
export function specOf(text: string, withCounters: boolean): { words: string[]; counters?: Counters } {
  const words = splitWords(text);
  const counted = text.startsWith("[");
  const counters = counted && withCounters ? parseCounters(words[0]) : undefined;
  const spec = words.slice(counted ? 3 : 2);
  if (/^\d+$/.test(spec[0] ?? "")) throw new UnsupportedRule(text);
  return { words: spec, ...(counters && { counters }) };
}

/**
 * For each line of `after` the line of `before` that stays as it, or -1: a longest series in the old order. Equal
 * lines are told apart by their order.
 */
export function keptLines(before: readonly string[], after: readonly string[]): number[] {
  const origin = new Array<number>(after.length).fill(-1);
  let head = 0;
  while (head < before.length && head < after.length && before[head] === after[head]) {
    origin[head] = head;
    head++;
  }
  let tail = 0;
  const most = Math.min(before.length, after.length) - head;
  while (tail < most && before[before.length - 1 - tail] === after[after.length - 1 - tail]) {
    tail++;
    origin[after.length - tail] = before.length - tail;
  }
  const places = new Map<string, number[]>();
  for (let i = before.length - tail - 1; i >= head; i--) {
    const line = before[i] as string;
    const list = places.get(line);
    if (list) list.push(i);
    else places.set(line, [i]);
  }
  const middle: { at: number; from: number }[] = [];
  for (let i = head; i < after.length - tail; i++) {
    const from = places.get(after[i] as string)?.pop();
    if (from !== undefined) middle.push({ at: i, from });
  }
  for (const { at, from } of increasing(middle)) origin[at] = from;
  return origin;
}

/** A longest subsequence with growing `from` (patience sorting). */
function increasing(items: readonly { at: number; from: number }[]): { at: number; from: number }[] {
  const tops: number[] = [];
  const previous: number[] = [];
  items.forEach(({ from }, index) => {
    let [low, high] = [0, tops.length];
    while (low < high) {
      const half = (low + high) >> 1;
      if ((items[tops[half] as number]?.from ?? 0) < from) low = half + 1;
      else high = half;
    }
    previous[index] = low > 0 ? (tops[low - 1] as number) : -1;
    tops[low] = index;
  });
  const out: { at: number; from: number }[] = [];
  for (let index = tops.at(-1) ?? -1; index >= 0; index = previous[index] ?? -1) {
    out.push(items[index] as { at: number; from: number });
  }
  return out.reverse();
}
