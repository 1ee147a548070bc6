// The rules of a namespace as data, straight from the kernel. Chain by chain: a dump of everything walks all rules
// again for each piece of its answer, which is why iptables-save needs over a minute for 10,000 Services.
// Knows which chains iptables-save prints and in which order; what it cannot read is left to the tool.

import { setImmediate as nextTurn } from "node:timers/promises";
import { NETLINK_NETFILTER, NetlinkSocket } from "../kernel/netlink/socket.js";
import type { NetNs } from "../kernel/netns.js";
import { decodeRule } from "./nft-decode.js";
import { UnsupportedRule } from "./nft-extensions.js";
import { type KernelChain, NftKernel } from "./nft-kernel.js";
import { ruleOfWords } from "./parse.js";
import { BUILT_IN_CHAINS, type Chain, isBuiltIn, isTable, type Ruleset, type TableName } from "./rules.js";

/** Milliseconds of work between two turns of the event loop. */
const TURN_MS = 10;
/** Readings that a change got into, before the tool has to do it. */
const ATTEMPTS = 4;

/**
 * What `parseSave` makes of iptables-save, counters left out as there.
 * @throws UnsupportedRule when something is in no form that iptables-nft and this project write, or changes all the
 * time. Throws NetlinkError.
 */
export async function readRuleset(ns: NetNs, family: 4 | 6, only?: TableName): Promise<Ruleset> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const socket = NetlinkSocket.open(ns, NETLINK_NETFILTER);
    try {
      const kernel = new NftKernel(socket, family);
      const generation = kernel.generation();
      const ruleset = await readOnce(kernel, family, only);
      if (kernel.generation() === generation) return ruleset;
    } finally {
      socket.closeSlowly();
    }
  }
  throw new UnsupportedRule("the ruleset changed during each reading");
}

async function readOnce(kernel: NftKernel, family: 4 | 6, only: TableName | undefined): Promise<Ruleset> {
  const tables = kernel
    .tables()
    .filter((name): name is TableName => isTable(name) && (!only || name === only));
  const chains = new Map<string, KernelChain[]>(tables.map((table) => [table, []]));
  for (const chain of kernel.chains()) chains.get(chain.table)?.push(chain);
  const ruleset = new Map<TableName, Map<string, Chain>>();
  let since = performance.now();
  for (const table of tables) {
    const out = new Map<string, Chain>();
    for (const { name, policy } of chainsOf(table, chains.get(table) ?? [])) {
      const rules = kernel
        .rules(table, name)
        .map(({ expressions }) => ruleOfWords(decodeRule(expressions, family)));
      out.set(name, { table, name, ...(policy && { policy }), rules });
      if (performance.now() - since < TURN_MS) continue;
      await nextTurn();
      since = performance.now();
    }
    ruleset.set(table, out);
  }
  return ruleset;
}

/** The built-in chains, which iptables-save prints also where they are not made yet, then the others by name. */
function chainsOf(table: TableName, found: readonly KernelChain[]): KernelChain[] {
  const others = found.filter(({ name, policy }) => {
    const builtIn = isBuiltIn(table, name);
    if (builtIn !== (policy !== undefined)) throw new UnsupportedRule(`base chain ${name}`);
    return !builtIn;
  });
  const builtIn = BUILT_IN_CHAINS[table].map(
    (name) => found.find((chain) => chain.name === name) ?? ({ table, name, policy: "ACCEPT" } as const),
  );
  return [...builtIn, ...others.sort((a, b) => (a.name < b.name ? -1 : 1))];
}
