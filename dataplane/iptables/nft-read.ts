// The rules of a namespace straight from the kernel, in the words of iptables-save. Chain by chain: a part is as cheap
// as it is short, and a dump of everything walks all rules again for each piece of its answer (iptables-save does so:
// for 10,000 Services from 1.5 s to more than a minute, by how far the machine's caches reach).
// Knows which chains iptables-save prints and in which order; a chain that it cannot read is left to the tool.

import { setImmediate as nextTurn } from "node:timers/promises";
import { NETLINK_NETFILTER, NetlinkSocket } from "../kernel/netlink/socket.js";
import type { NetNs } from "../kernel/netns.js";
import { decodeRule } from "./nft-decode.js";
import { UnsupportedRule } from "./nft-extensions.js";
import { type KernelChain, NftKernel } from "./nft-kernel.js";
import { renderChainLine } from "./render.js";
import {
  BUILT_IN_CHAINS,
  type Chain,
  type ChainAt,
  isBuiltIn,
  type Rule,
  type Ruleset,
  type TableName,
} from "./rules.js";

/** Milliseconds of work between two turns of the event loop. */
const TURN_MS = 10;
/** Readings that a change got into, before the tool has to do it. */
const ATTEMPTS = 4;
/** In which iptables-nft-save goes through the tables. */
const ORDER: readonly TableName[] = ["mangle", "raw", "security", "filter", "nat"];

/** A chain as iptables-save prints it. */
export interface PrintedChain<R> {
  readonly table: TableName;
  readonly name: string;
  readonly policy?: "ACCEPT" | "DROP";
  readonly rules: readonly R[];
}

export interface Printed<R> {
  /** The tables that there are. */
  readonly tables: readonly TableName[];
  readonly chains: readonly PrintedChain<R>[];
  /** Of the ruleset, as {@link NftKernel.generation}. */
  readonly generation: number;
}

export interface Reading<R> {
  /** Default: all. */
  readonly table?: TableName | undefined;
  /** Those of these that there are. Default: all. */
  readonly chains?: readonly ChainAt[] | undefined;
  /** The words after `-A CHAIN` as the caller wants them. */
  readonly rule: (words: string[]) => R;
  /** The words of a chain whose rules are in no form that this project writes, or why there are none (thrown). */
  readonly foreign: (chain: ChainAt, why: UnsupportedRule) => Promise<string[][]>;
}

/**
 * One consistent state of the chains, in the order of iptables-save.
 * @throws UnsupportedRule for tables that are not iptables' own, or when they change all the time. Throws NetlinkError,
 * and what `foreign` throws.
 */
export async function readChains<R>(ns: NetNs, family: 4 | 6, reading: Reading<R>): Promise<Printed<R>> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const socket = NetlinkSocket.open(ns, NETLINK_NETFILTER);
    try {
      const kernel = new NftKernel(socket, family);
      const generation = kernel.generation();
      const { tables, found } = chainsToRead(kernel, reading);
      const chains = await readOnce(kernel, family, found, reading);
      if (kernel.generation() === generation) return { tables, chains, generation };
    } finally {
      socket.closeSlowly();
    }
  }
  throw new UnsupportedRule("the ruleset changed during each reading");
}

type Found = KernelChain & { readonly table: TableName };

function chainsToRead(
  kernel: NftKernel,
  { table: only, chains: asked }: Pick<Reading<unknown>, "table" | "chains">,
): { tables: TableName[]; found: Found[] } {
  const there = kernel.tables();
  const tables = ORDER.filter((name) => there.includes(name) && (!only || name === only));
  const all = asked ? asked.flatMap(({ table, chain }) => kernel.chain(table, chain) ?? []) : kernel.chains();
  const byTable = new Map<string, KernelChain[]>(tables.map((table) => [table, []]));
  for (const chain of all) byTable.get(chain.table)?.push(chain);
  const found = tables.flatMap((table) => {
    const names = asked?.filter((at) => at.table === table).map(({ chain }) => chain);
    return printedChains(table, byTable.get(table) ?? [], names ?? BUILT_IN_CHAINS[table]);
  });
  return { tables, found };
}

/** The built-in chains, which iptables-save prints also where they are not made yet, then the others by name. */
function printedChains(table: TableName, found: readonly KernelChain[], wanted: readonly string[]): Found[] {
  const others = found.filter(({ name, policy }) => {
    const builtIn = isBuiltIn(table, name);
    if (builtIn !== (policy !== undefined)) throw new UnsupportedRule(`base chain ${name}`);
    return !builtIn;
  });
  const builtIn = BUILT_IN_CHAINS[table]
    .filter((name) => wanted.includes(name))
    .map((name) => found.find((chain) => chain.name === name) ?? ({ name, policy: "ACCEPT" } as const));
  const sorted = others.sort((a, b) => (a.name < b.name ? -1 : 1));
  return [...builtIn, ...sorted].map((chain) => ({ ...chain, table }));
}

async function readOnce<R>(
  kernel: NftKernel,
  family: 4 | 6,
  chains: readonly Found[],
  { rule, foreign }: Pick<Reading<R>, "rule" | "foreign">,
): Promise<PrintedChain<R>[]> {
  let since = performance.now();
  const turn = async () => {
    if (performance.now() - since < TURN_MS) return;
    await nextTurn();
    since = performance.now();
  };
  const out: PrintedChain<R>[] = [];
  for (const chain of chains) {
    const at = { table: chain.table, chain: chain.name };
    let rules: R[] = [];
    try {
      for (const { expressions } of kernel.rules(at.table, at.chain)) {
        rules.push(rule(decodeRule(expressions, family)));
        await turn();
      }
    } catch (error) {
      if (!(error instanceof UnsupportedRule)) throw error;
      rules = (await foreign(at, error)).map((words) => rule(words));
    }
    out.push({ ...chain, rules });
  }
  return out;
}

/** What `parseSave` would make of it. */
export function rulesetOf({ tables, chains }: Printed<Rule>): Ruleset {
  const ruleset = new Map<TableName, Map<string, Chain>>(tables.map((table) => [table, new Map()]));
  for (const chain of chains) ruleset.get(chain.table)?.set(chain.name, chain);
  return ruleset;
}

/** The lines of iptables-save, its remarks about the time left out. */
export function textOf({ tables, chains }: Printed<string>): string {
  return tables
    .map((table) => {
      const own = chains.filter((chain) => chain.table === table);
      const rules = own.flatMap(({ name, rules }) => rules.map((rule) => `-A ${name} ${rule}`.trimEnd()));
      return [`*${table}`, ...own.map(renderChainLine), ...rules, "COMMIT\n"].join("\n");
    })
    .join("");
}
