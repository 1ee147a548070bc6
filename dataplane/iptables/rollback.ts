// iptables-restore commits table by table: when a later table is refused, the earlier ones are changed already.
// Pure: from the state before and the input, the input that takes such tables back.

import { renderChainLine, renderRuleLine } from "./render.js";
import { isBuiltIn, isTable, type Ruleset, type TableName } from "./rules.js";

/** The part of a restore input that is about one table. */
export interface TableSection {
  readonly table: TableName;
  /** 1-based line numbers of `*table` and `COMMIT`. */
  readonly firstLine: number;
  readonly lastLine: number;
  /** Lines between the two. */
  readonly lines: readonly string[];
}

/**
 * Splits a restore input; what is outside tables, or in a table that does not exist, is left to the tool to refuse.
 * @param stray told what that is.
 */
export function sectionsOf(input: string, stray: (text: string) => void = () => {}): TableSection[] {
  const all = input.split("\n");
  const sections: TableSection[] = [];
  let start = -1;
  all.forEach((text, index) => {
    if (text.startsWith("*")) {
      if (start >= 0) stray(all[start] ?? "");
      start = index;
    } else if (start < 0 && text !== "" && !text.startsWith("#")) stray(text);
    const table = all[start]?.slice(1) ?? "";
    if (text !== "COMMIT" || start < 0 || !isTable(table)) return;
    const lines = all.slice(start + 1, index);
    sections.push({ table, firstLine: start + 1, lastLine: index + 1, lines });
    start = -1;
  });
  if (start >= 0) stray(all[start] ?? "");
  return sections;
}

function touchedChains(section: TableSection): Set<string> {
  const touched = new Set<string>();
  for (const line of section.lines) {
    const name = line.startsWith(":")
      ? line.slice(1).split(" ", 1)[0]
      : /^(?:\[\d+:\d+\] )?-[AIDFXNR] (\S+)/.exec(line)?.[1];
    if (name) touched.add(name);
  }
  return touched;
}

/** The input that gives every chain which `sections` touch the content that it has in `before`. */
export function rollbackInput(before: Ruleset, sections: readonly TableSection[]): string {
  const out: string[] = [];
  for (const section of sections) {
    const old = before.get(section.table);
    const touched = touchedChains(section);
    const [declare, fill, remove]: [string[], string[], string[]] = [[], [], []];
    for (const name of touched) {
      const chain = old?.get(name);
      declare.push(renderChainLine(chain ?? { name }));
      if (isBuiltIn(section.table, name)) declare.push(`-F ${name}`);
      if (chain) for (const rule of chain.rules) fill.push(renderRuleLine(name, rule));
      else if (!isBuiltIn(section.table, name)) remove.push(`-X ${name}`);
    }
    if (declare.length) out.push(`*${section.table}`, ...declare, ...fill, ...remove, "COMMIT");
  }
  return out.length ? `${out.join("\n")}\n` : "";
}
