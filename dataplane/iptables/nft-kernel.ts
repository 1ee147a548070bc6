// Questions about nf_tables that the kernel answers over netlink in microseconds, where iptables needs a process:
// are there any rules at all, is a chain there, which rules does it hold, has anything changed.
// Knows linux/netfilter/nf_tables.h; what rules mean is nft-decode.ts's business.

import {
  type MessageWriter,
  type NetlinkMessage,
  parseAttributes,
  readString,
} from "../kernel/netlink/codec.js";
import { NETLINK_NETFILTER, NetlinkError, NetlinkSocket } from "../kernel/netlink/socket.js";
import type { NetNs } from "../kernel/netns.js";
import {
  CHAIN_ATTRIBUTE,
  FAMILY,
  GENERATION_ID,
  MESSAGE,
  NFGENMSG,
  RULE_ATTRIBUTE,
  TABLE_ATTRIBUTE,
} from "./nft-format.js";

export interface KernelRule {
  readonly table: string;
  readonly chain: string;
  readonly handle: number;
  /** As the kernel prints them, counters included. */
  readonly expressions: Buffer;
}

export interface KernelChain {
  readonly table: string;
  readonly name: string;
  /** ACCEPT or DROP of a base chain (one with a hook). */
  readonly policy?: "ACCEPT" | "DROP";
}

/** One namespace's nf_tables of one family. Valid inside {@link askNft} or as long as its socket. */
export class NftKernel {
  readonly #socket: NetlinkSocket;
  readonly #family: number;

  constructor(socket: NetlinkSocket, family: keyof typeof FAMILY) {
    this.#socket = socket;
    this.#family = FAMILY[family];
  }

  /** The number of the ruleset's present version: each change of any table of the namespace counts it up. */
  generation(): number {
    const label = { operation: "getGeneration", detail: "" };
    return this.#socket.get(
      label,
      MESSAGE.getGeneration,
      (w) => header(w, 0),
      ({ body }) => parseAttributes(body, NFGENMSG).get(GENERATION_ID)?.readUInt32BE(0) ?? 0,
    );
  }

  hasTables(): boolean {
    return this.tables().length > 0;
  }

  /** Names of the tables of the family. */
  tables(): string[] {
    const build = (w: MessageWriter) => header(w, this.#family);
    const label = { operation: "listTables", detail: "" };
    return this.#socket.dump(label, MESSAGE.getTable, build, ({ body }) => {
      const name = parseAttributes(body, NFGENMSG).get(TABLE_ATTRIBUTE.name);
      return name && readString(name);
    });
  }

  /** The number under which the kernel keeps the table; 0 when there is none. */
  tableHandle(table: string): number {
    const build = (w: MessageWriter) => {
      header(w, this.#family);
      w.string(TABLE_ATTRIBUTE.name, table);
    };
    const label = { operation: "getTable", detail: table };
    const read = ({ body }: NetlinkMessage) =>
      Number(parseAttributes(body, NFGENMSG).get(TABLE_ATTRIBUTE.handle)?.readBigUInt64BE(0) ?? 0);
    return this.#unlessAbsent(() => this.#socket.get(label, MESSAGE.getTable, build, read)) ?? 0;
  }

  hasChain(table: string, chain: string): boolean {
    return this.chain(table, chain) !== undefined;
  }

  chain(table: string, chain: string): KernelChain | undefined {
    const label = { operation: "getChain", detail: `${table} ${chain}` };
    const build = (w: MessageWriter) => {
      header(w, this.#family);
      w.string(CHAIN_ATTRIBUTE.table, table);
      w.string(CHAIN_ATTRIBUTE.name, chain);
    };
    return this.#unlessAbsent(() => this.#socket.get(label, MESSAGE.getChain, build, decodeChain));
  }

  /** All chains of the family. */
  chains(): KernelChain[] {
    const label = { operation: "listChains", detail: "" };
    return this.#socket.dump(label, MESSAGE.getChain, (w) => header(w, this.#family), decodeChain);
  }

  /** The rules of one chain, or of all tables, in their order; none when there is no such chain. */
  rules(table?: string, chain?: string): KernelRule[] {
    return this.#dumpRules(table, chain, ({ body }) => decodeRuleMessage(body));
  }

  ruleHandles(table: string, chain: string): number[] {
    return this.#dumpRules(table, chain, ({ body }) => handleOf(body));
  }

  #dumpRules<T>(table: string | undefined, chain: string | undefined, decode: (m: NetlinkMessage) => T): T[] {
    const label = { operation: "listRules", detail: `${table ?? ""} ${chain ?? ""}` };
    const build = (w: MessageWriter) => {
      header(w, this.#family);
      if (table !== undefined) w.string(RULE_ATTRIBUTE.table, table);
      if (chain !== undefined) w.string(RULE_ATTRIBUTE.chain, chain);
    };
    return this.#unlessAbsent(() => this.#socket.dump(label, MESSAGE.getRule, build, decode)) ?? [];
  }

  #unlessAbsent<T>(question: () => T): T | undefined {
    try {
      return question();
    } catch (error) {
      if (error instanceof NetlinkError && error.code === "ENOENT") return undefined;
      throw error;
    }
  }
}

function header(w: MessageWriter, family: number): void {
  w.fixed(NFGENMSG, (at) => at.writeUInt8(family, 0));
}

/** The handle in a message about a rule. */
export function handleOf(body: Buffer): number {
  return Number(parseAttributes(body, NFGENMSG).get(RULE_ATTRIBUTE.handle)?.readBigUInt64BE(0) ?? 0);
}

function decodeRuleMessage(body: Buffer): KernelRule {
  const attributes = parseAttributes(body, NFGENMSG);
  const text = (type: number) => readString(attributes.get(type) ?? Buffer.alloc(0));
  return {
    table: text(RULE_ATTRIBUTE.table),
    chain: text(RULE_ATTRIBUTE.chain),
    handle: handleOf(body),
    // The receive buffer is used again.
    expressions: Buffer.from(attributes.get(RULE_ATTRIBUTE.expressions) ?? Buffer.alloc(0)),
  };
}

function decodeChain({ body }: NetlinkMessage): KernelChain {
  const attributes = parseAttributes(body, NFGENMSG);
  const text = (type: number) => readString(attributes.get(type) ?? Buffer.alloc(0));
  const policy = attributes.get(CHAIN_ATTRIBUTE.policy)?.readUInt32BE(0);
  return {
    table: text(CHAIN_ATTRIBUTE.table),
    name: text(CHAIN_ATTRIBUTE.name),
    ...(attributes.has(CHAIN_ATTRIBUTE.hook) && { policy: policy === 0 ? "DROP" : "ACCEPT" }),
  };
}

/**
 * Puts questions; undefined when this kernel does not answer them (a version without nf_tables or without rights):
 * then iptables itself has to be asked. The socket lives as long as the question, for an open one keeps the
 * namespace alive.
 */
export function askNft<T>(
  ns: Pick<NetNs, "run" | "name">,
  family: keyof typeof FAMILY,
  question: (kernel: NftKernel) => T,
): T | undefined {
  const socket = NetlinkSocket.open(ns, NETLINK_NETFILTER);
  try {
    return question(new NftKernel(socket, family));
  } catch (error) {
    if (error instanceof NetlinkError) return undefined;
    throw error;
  } finally {
    socket.closeSlowly();
  }
}
