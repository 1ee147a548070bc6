// The rules of one host as far as packets meet them: a walk that comes to a chain which is not here yet is gone again
// when the chain has been read. A packet meets a few dozen chains where 10,000 Services have made 50,000.
// Knows the walker and a function that reads chains; runs nothing.

import {
  type Chain,
  type ChainAt,
  type Printout,
  parseSave,
  TABLES,
  type TableName,
} from "../../dataplane/iptables/index.js";
import { type Host, type Packet, type Trace, walk } from "../../dataplane/trace/index.js";

export type ReadChains = (chains: readonly ChainAt[]) => Promise<Printout>;

/** Rulesets that change while they are read, before chains of different moments are put up with. */
const RESTARTS = 4;

/** Notes what it is asked for and does not know. */
class KnownChains extends Map<string, Chain> {
  readonly absent = new Set<string>();
  readonly missing = new Set<string>();
  whole = false;

  override has(name: string): boolean {
    if (super.has(name)) return true;
    if (!this.whole && !this.absent.has(name)) this.missing.add(name);
    return false;
  }
}

export class LazyRules {
  readonly #read: ReadChains;
  #tables = emptyTables();
  #version: number | undefined;
  #restarts = 0;

  constructor(read: ReadChains) {
    this.#read = read;
  }

  /** As {@link walk} by all rules of the host. Throws what it throws, and what reading throws. */
  async walk(facts: Host, packet: Packet): Promise<Trace> {
    for (;;) {
      const trace = walk(this.#tables, facts, packet);
      const missing = [...this.#tables].flatMap(([table, chains]) =>
        [...chains.missing].map((chain) => ({ table, chain })),
      );
      if (missing.length === 0) return trace;
      this.#add(missing, await this.#read(missing));
    }
  }

  #add(asked: readonly ChainAt[], { text, whole, version }: Printout): void {
    if (version !== this.#version && this.#version !== undefined && this.#restarts < RESTARTS) {
      this.#restarts += 1;
      this.#tables = emptyTables();
    }
    this.#version = version;
    const found = parseSave(text);
    for (const [table, chains] of this.#tables) {
      for (const [name, chain] of found.get(table) ?? []) chains.set(name, chain);
      chains.missing.clear();
      chains.whole = whole;
    }
    for (const { table, chain } of asked) this.#tables.get(table)?.absent.add(chain);
  }
}

function emptyTables(): Map<TableName, KnownChains> {
  return new Map(TABLES.map((table) => [table, new KnownChains()]));
}
