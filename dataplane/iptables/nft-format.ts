// Numbers of nf_tables (linux/netfilter/nf_tables.h) that the writer and the reader of rules share, and what
// iptables-nft makes of tables and built-in chains. Data only.

import type { TableName } from "./rules.js";

const SUBSYSTEM = 10 << 8;
export const MESSAGE = {
  batchBegin: 0x10,
  batchEnd: 0x11,
  newTable: SUBSYSTEM | 0,
  getTable: SUBSYSTEM | 1,
  newChain: SUBSYSTEM | 3,
  getChain: SUBSYSTEM | 4,
  delChain: SUBSYSTEM | 5,
  newRule: SUBSYSTEM | 6,
  getRule: SUBSYSTEM | 7,
  delRule: SUBSYSTEM | 8,
  getGeneration: SUBSYSTEM | 16,
} as const;
/** NFNL_SUBSYS_NFTABLES: whose transaction a batch is. */
export const SUBSYSTEM_ID = 10;
/** struct nfgenmsg: family, version, resource id. */
export const NFGENMSG = 4;
/** NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_INET: of tables for both, which iptables never makes. */
export const FAMILY = { 4: 2, 6: 10, inet: 1 } as const;

export const TABLE_ATTRIBUTE = { name: 1, handle: 4 } as const;
export const CHAIN_ATTRIBUTE = { table: 1, name: 3, hook: 4, policy: 5, type: 7 } as const;
export const HOOK_ATTRIBUTE = { number: 1, priority: 2 } as const;
export const RULE_ATTRIBUTE = {
  table: 1,
  chain: 2,
  handle: 3,
  expressions: 4,
  compat: 5,
  position: 6,
} as const;
export const COMPAT_ATTRIBUTE = { protocol: 1, flags: 2 } as const;
/** NFT_RULE_COMPAT_F_INV. */
export const COMPAT_INVERTED = 2;
export const GENERATION_ID = 1;

/** NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA. */
export const EXPRESSION = { element: 1, name: 1, data: 2 } as const;
export const META = { register: 1, key: 2 } as const;
export const META_KEY = { mark: 3, iifname: 6, oifname: 7, l4proto: 16 } as const;
export const PAYLOAD = { register: 1, base: 2, offset: 3, length: 4 } as const;
export const PAYLOAD_BASE = { network: 1, transport: 2 } as const;
export const CMP = { register: 1, operator: 2, data: 3 } as const;
export const RANGE = { register: 1, operator: 2, from: 3, to: 4 } as const;
/** NFT_CMP_EQ and NFT_RANGE_EQ, …NEQ. */
export const OPERATOR = { equal: 0, unequal: 1 } as const;
export const BITWISE = { source: 1, target: 2, length: 3, mask: 4, xor: 5, operation: 6 } as const;
export const DATA = { value: 1, verdict: 2 } as const;
export const VERDICT = { code: 1, chain: 2 } as const;
export const IMMEDIATE = { register: 1, data: 2 } as const;
export const COUNTER = { bytes: 1, packets: 2 } as const;
export const EXTENSION = { name: 1, revision: 2, info: 3 } as const;
/** NFT_REG_1; 0 is the verdict. */
export const REGISTER = 1;

export const VERDICTS: ReadonlyMap<string, number> = new Map([
  ["DROP", 0],
  ["ACCEPT", 1],
  ["RETURN", -5],
]);
export const JUMP = -3;
export const GOTO = -4;

/** Those that iptables-save prints by name whatever /etc/protocols says. */
export const PROTOCOLS: ReadonlyMap<string, number> = new Map([
  ["icmp", 1],
  ["tcp", 6],
  ["udp", 17],
  ["esp", 50],
  ["ah", 51],
  ["ipv6-icmp", 58],
  ["sctp", 132],
  ["udplite", 136],
]);

/** Where source and destination stand in the network header, and how long they are. */
export const ADDRESSES = {
  4: { source: 12, destination: 16, bytes: 4 },
  6: { source: 8, destination: 24, bytes: 16 },
} as const;

const HOOKS: readonly string[] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
const PRIORITIES = { raw: -300, mangle: -150, filter: 0, security: 150 } as const;

/** Hook number, priority and type that iptables-nft gives a built-in chain. */
export function builtInChain(
  table: TableName,
  chain: string,
): { hook: number; priority: number; type: string } {
  const hook = HOOKS.indexOf(chain);
  if (table === "nat") {
    const source = chain === "INPUT" || chain === "POSTROUTING";
    return { hook, priority: source ? 100 : -100, type: "nat" };
  }
  const type = table === "mangle" && chain === "OUTPUT" ? "route" : "filter";
  return { hook, priority: PRIORITIES[table], type };
}
