// iptables-save text to chains and rules.
// Pure; the inverse is render.ts. What rules mean is canonical.ts's business.

import { normaliseProbability } from "./probability.js";
import { type Chain, type Counters, isTable, type Rule, type Ruleset, type TableName } from "./rules.js";
import { splitWords } from "./words.js";

/** Text that is not in the iptables-save format; says which line. */
export class ParseError extends Error {
  override readonly name = "ParseError";
  /** 1-based. */
  readonly line: number;
  constructor(line: number, text: string, why: string) {
    super(`line ${line}: ${why}: ${text}`);
    this.line = line;
  }
}

const COUNTERS = /^\[(\d+):(\d+)\]$/;

export function parseCounters(text: string | undefined): Counters | undefined {
  const found = text === undefined ? null : COUNTERS.exec(text);
  if (!found) return undefined;
  const [packets, bytes] = [BigInt(found[1] ?? 0), BigInt(found[2] ?? 0)];
  return packets === 0n && bytes === 0n ? undefined : { packets, bytes };
}

/**
 * The words after the chain's name as a Rule. The comment becomes a field when it stands before every other match
 * (as it does in rules of this project); further comments stay where they are, in `args`.
 */
export function ruleOfWords(words: readonly string[], counters?: Counters): Rule {
  const args = normaliseProbability(words);
  const first = args.findIndex((word) => word === "-m" || word === "--match");
  const rule: { args: string[]; comment?: string; counters?: Counters } = { args };
  const comment = args[first + 3];
  if (first >= 0 && args[first + 1] === "comment" && args[first + 2] === "--comment" && comment) {
    rule.args = args.toSpliced(first, 4);
    rule.comment = comment;
  }
  if (counters) rule.counters = counters;
  return rule;
}

interface Building {
  table: TableName;
  name: string;
  policy?: string;
  counters?: Counters;
  rules: Rule[];
}

/**
 * Reads what iptables-save prints, or a restore input that consists of tables, chains and `-A` lines.
 * @throws ParseError naming the line.
 */
export function parseSave(text: string): Ruleset {
  const tables = new Map<TableName, Map<string, Building>>();
  let table: TableName | undefined;
  text.split("\n").forEach((line, index) => {
    const fail = (why: string) => new ParseError(index + 1, line, why);
    const start = line.charAt(0);
    if (line === "" || start === "#") return;
    if (line === "COMMIT") {
      table = undefined;
      return;
    }
    if (start === "*") {
      const name = line.slice(1).trim();
      if (!isTable(name)) throw fail("unknown table");
      table = name;
      if (!tables.has(name)) tables.set(name, new Map());
      return;
    }
    const chains = table && tables.get(table);
    if (!table || !chains) throw fail("outside any table");
    if (start === ":") {
      const chain = chainOfLine(table, line);
      chains.set(chain.name, chain);
      return;
    }
    const words = splitWords(line);
    const counters = parseCounters(words[0]);
    if (COUNTERS.test(words[0] ?? "")) words.shift();
    const [verb, name, ...spec] = words;
    if (verb !== "-A" || name === undefined) throw fail("expected a rule (-A CHAIN …)");
    const chain = chains.get(name);
    if (!chain) throw fail(`chain ${name} is not declared`);
    chain.rules.push(ruleOfWords(spec, counters));
  });
  return tables;
}

function chainOfLine(table: TableName, line: string): Building {
  const [name = "", policy = "-", counted] = line.slice(1).split(" ");
  const counters = parseCounters(counted);
  return { table, name, ...(policy !== "-" && { policy }), ...(counters && { counters }), rules: [] };
}

/** All chains of a ruleset, table by table. */
export function chainsOf(ruleset: Ruleset): Chain[] {
  return [...ruleset.values()].flatMap((chains) => [...chains.values()]);
}
