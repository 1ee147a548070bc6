// Questions about nf_tables that the kernel answers over netlink in microseconds, where iptables needs a process:
// are there any rules at all, is a chain there, has anything changed. Knows linux/netfilter/nf_tables.h, no rules.

import { type MessageWriter, parseAttributes } from "../kernel/netlink/codec.js";
import { NETLINK_NETFILTER, NetlinkError, NetlinkSocket } from "../kernel/netlink/socket.js";
import type { NetNs } from "../kernel/netns.js";

const SUBSYSTEM = 10 << 8;
const NFT_MSG_GETTABLE = SUBSYSTEM | 1;
const NFT_MSG_GETCHAIN = SUBSYSTEM | 4;
const NFT_MSG_GETGEN = SUBSYSTEM | 16;
const NFTA_GEN_ID = 1;
const NFTA_CHAIN_TABLE = 1;
const NFTA_CHAIN_NAME = 3;
/** nfgenmsg: family, version, resource id. */
const NFGENMSG = 4;
/** NFPROTO_IPV4, NFPROTO_IPV6. */
const FAMILY = { 4: 2, 6: 10 } as const;

/** One namespace's nf_tables of one family. Valid inside {@link askNft}. */
export class NftKernel {
  readonly #socket: NetlinkSocket;
  readonly #family: number;

  constructor(socket: NetlinkSocket, family: 4 | 6) {
    this.#socket = socket;
    this.#family = FAMILY[family];
  }

  /** The number of the ruleset's present version: each change of any table of the namespace counts it up. */
  generation(): number {
    const label = { operation: "getGeneration", detail: "" };
    return this.#socket.get(
      label,
      NFT_MSG_GETGEN,
      (w) => header(w, 0),
      ({ body }) => parseAttributes(body, NFGENMSG).get(NFTA_GEN_ID)?.readUInt32BE(0) ?? 0,
    );
  }

  hasTables(): boolean {
    const build = (w: MessageWriter) => header(w, this.#family);
    const label = { operation: "listTables", detail: "" };
    return this.#socket.dump(label, NFT_MSG_GETTABLE, build, () => true).length > 0;
  }

  hasChain(table: string, chain: string): boolean {
    const label = { operation: "getChain", detail: `${table} ${chain}` };
    const build = (w: MessageWriter) => {
      header(w, this.#family);
      w.string(NFTA_CHAIN_TABLE, table);
      w.string(NFTA_CHAIN_NAME, chain);
    };
    try {
      return this.#socket.get(label, NFT_MSG_GETCHAIN, build, () => true);
    } catch (error) {
      if (error instanceof NetlinkError && error.code === "ENOENT") return false;
      throw error;
    }
  }
}

function header(w: MessageWriter, family: number): void {
  w.fixed(NFGENMSG, (at) => at.writeUInt8(family, 0));
}

/**
 * Puts questions; undefined when this kernel does not answer them (a version without nf_tables or without rights):
 * then iptables itself has to be asked. The socket lives as long as the question, for an open one keeps the
 * namespace alive.
 */
export function askNft<T>(
  ns: Pick<NetNs, "run" | "name">,
  family: 4 | 6,
  question: (kernel: NftKernel) => T,
): T | undefined {
  const socket = NetlinkSocket.open(ns, NETLINK_NETFILTER);
  try {
    return question(new NftKernel(socket, family));
  } catch (error) {
    if (error instanceof NetlinkError) return undefined;
    throw error;
  } finally {
    socket.close();
  }
}
