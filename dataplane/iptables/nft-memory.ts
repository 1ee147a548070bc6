// What the long chains of one namespace hold, line by line with the kernel's handles, so that a new content is sent
// as its difference to the old. Short chains are not worth it: they are emptied and filled.
//
// A handle is never used twice in a table and a rule never changes under its handle. So when somebody else has
// changed the ruleset (its generation is not ours any more), the list of handles tells which lines still stand.

import type { NftKernel } from "./nft-kernel.js";
import type { TableName } from "./rules.js";

/** From this many rules on a chain is remembered. */
export const LONG_CHAIN = 48;

export interface KnownChain {
  readonly table: TableName;
  readonly name: string;
  /** Of the table: one that was removed and made anew counts its handles from the start. */
  readonly tableHandle: number;
  lines: string[];
  handles: number[];
  /** Version of the ruleset in which this was true. */
  generation: number;
}

/** The version that follows: the kernel leaves 0 out. */
export const following = (generation: number): number => (generation + 1) >>> 0 || 1;

/** Stands for a rule that is not ours; no line of an input is empty. */
export const FOREIGN = "";

export class ChainMemory {
  readonly #chains = new Map<string, KnownChain>();

  /** What the chain holds now, or undefined when nothing is remembered of it. Asks the kernel when it may be outdated. */
  current(kernel: NftKernel, generation: number, table: TableName, name: string): KnownChain | undefined {
    const known = this.#chains.get(`${table} ${name}`);
    if (!known || known.generation === generation) return known;
    const handles = kernel.tableHandle(table) === known.tableHandle ? kernel.ruleHandles(table, name) : [];
    const lineOf = new Map(known.handles.map((handle, i) => [handle, known.lines[i] ?? FOREIGN]));
    known.lines = handles.map((handle) => lineOf.get(handle) ?? FOREIGN);
    known.handles = handles;
    known.generation = generation;
    return known;
  }

  /** Our own change from one version to the next; what it did to chains in here was noted by {@link set}. */
  committed(before: number, after: number): void {
    for (const known of this.#chains.values()) if (known.generation === before) known.generation = after;
  }

  has(table: TableName, name: string): boolean {
    return this.#chains.has(`${table} ${name}`);
  }

  set(known: KnownChain): void {
    this.#chains.set(`${known.table} ${known.name}`, known);
  }

  /** Its rules were changed in a way that is not followed here. */
  forget(table: TableName, name: string): void {
    this.#chains.delete(`${table} ${name}`);
  }

  clear(): void {
    this.#chains.clear();
  }
}

/** A copy that does not keep the whole input alive, of which the line is a part. */
export function ownCopy(line: string): string {
  return Buffer.from(line).toString();
}
