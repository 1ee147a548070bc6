// Rules, chains and tables as plain data, and the words that the other files of this room share.
// Knows the iptables-save format (iptables-save(8), iptables-restore(8)), nothing of the kernel or Kubernetes.

export type TableName = "filter" | "nat" | "mangle" | "raw" | "security";

export const TABLES: readonly TableName[] = ["raw", "mangle", "nat", "filter", "security"];

/** The chains that the kernel itself enters, per table; they can be neither made nor deleted. */
export const BUILT_IN_CHAINS: Readonly<Record<TableName, readonly string[]>> = {
  filter: ["INPUT", "FORWARD", "OUTPUT"],
  nat: ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
  mangle: ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
  raw: ["PREROUTING", "OUTPUT"],
  security: ["INPUT", "FORWARD", "OUTPUT"],
};

/** Longest chain name that both variants take (XT_EXTENSION_MAXNAMELEN − 1). */
export const MAX_CHAIN_NAME = 28;

export interface Counters {
  readonly packets: bigint;
  readonly bytes: bigint;
}

export interface Rule {
  /**
   * Everything after `-A CHAIN` as separate words, unquoted, without the leading comment:
   * `["-s", "10.244.1.2", "-j", "KUBE-MARK-MASQ"]`; negation is a word of its own, before its option.
   */
  readonly args: readonly string[];
  /** Written first, as `-m comment --comment …`. At most 255 bytes, one line. */
  readonly comment?: string;
  readonly counters?: Counters;
}

export interface Chain {
  readonly table: TableName;
  readonly name: string;
  /** ACCEPT or DROP for a built-in chain, absent for a user-defined one. */
  readonly policy?: string;
  readonly counters?: Counters;
  readonly rules: readonly Rule[];
}

/** What a packet sees: every chain of every table that was read, in the order of the text. */
export type Ruleset = ReadonlyMap<TableName, ReadonlyMap<string, Chain>>;

/** Which chain. */
export interface ChainAt {
  readonly table: TableName;
  readonly chain: string;
}

/** Where a rule stands or shall stand. */
export interface RuleAt extends ChainAt {
  readonly rule: readonly string[];
}

export function isTable(name: string): name is TableName {
  return Object.hasOwn(BUILT_IN_CHAINS, name);
}

export function isBuiltIn(table: TableName, chain: string): boolean {
  return BUILT_IN_CHAINS[table].includes(chain);
}
