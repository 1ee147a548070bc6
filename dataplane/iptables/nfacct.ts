// Named packet counters of a namespace (nfacct) that rules count with, made and read over nfnetlink.
// Knows linux/netfilter/nfnetlink_acct.h, and how to ask for a match; what is counted is the rule writer's business.

import type { Logger } from "../../common/log.js";
import { SyscallError } from "../kernel/libc.js";
import { type MessageWriter, parseAttributes } from "../kernel/netlink/codec.js";
import {
  NETLINK_NETFILTER,
  NetlinkError,
  NetlinkSocket,
  NLM_F_CREATE,
  NLM_F_EXCL,
} from "../kernel/netlink/socket.js";
import type { NetNs } from "../kernel/netns.js";
import { EXTENSION, FAMILY, NFGENMSG } from "./nft-format.js";

/** NFNL_SUBSYS_ACCT, NFNL_SUBSYS_NFT_COMPAT. */
const MESSAGE = { newCounter: 7 << 8, getCounter: (7 << 8) | 1, getExtension: 11 << 8 } as const;
const ATTRIBUTE = { name: 1, packets: 2 } as const;
/** NFTA_COMPAT_NAME and _REV are numbered as those of an extension. */
const COMPAT_TYPE = 3;
const MATCH = { type: 0, revision: 1 } as const;

export interface PacketCounters {
  /** Makes those that are missing. False where rules cannot count with them; the log says why (debug). */
  ensure(names: readonly string[]): boolean;
  /** Packets counted so far; undefined when there is no such counter. */
  packets(name: string): number | undefined;
}

/** The kernel's. A socket lives as long as a question, for an open one keeps the namespace alive. */
export class KernelCounters implements PacketCounters {
  readonly #ns: NetNs;
  readonly #family: 4 | 6;
  readonly #log: Logger | undefined;

  constructor(ns: NetNs, family: 4 | 6, log: Logger | undefined) {
    this.#ns = ns;
    this.#family = family;
    this.#log = log;
  }

  ensure(names: readonly string[]): boolean {
    try {
      this.#ask((socket) => {
        for (const name of names) this.#make(socket, name);
        this.#needMatch(socket);
      });
      return true;
    } catch (error) {
      if (!refused(error)) throw error;
      this.#log?.debug(
        { host: this.#ns.name, why: error.message },
        "rules cannot count packets here (nfacct)",
      );
      return false;
    }
  }

  packets(name: string): number | undefined {
    const label = { operation: "getCounter", detail: name };
    const build = (w: MessageWriter) => header(w, 0).string(ATTRIBUTE.name, name);
    const read = ({ body }: { body: Buffer }) =>
      Number(parseAttributes(body, NFGENMSG).get(ATTRIBUTE.packets)?.readBigUInt64BE(0) ?? 0);
    try {
      return this.#ask((socket) => socket.get(label, MESSAGE.getCounter, build, read));
    } catch (error) {
      if (refused(error)) return undefined;
      throw error;
    }
  }

  #make(socket: NetlinkSocket, name: string): void {
    const label = { operation: "newCounter", detail: name };
    try {
      socket.change(label, MESSAGE.newCounter, NLM_F_CREATE | NLM_F_EXCL, (w) =>
        header(w, 0).string(ATTRIBUTE.name, name),
      );
    } catch (error) {
      if (!(error instanceof NetlinkError && error.code === "EEXIST")) throw error;
    }
  }

  /** A kernel may have counters and no match. One without nf_tables cannot be asked and is believed. */
  #needMatch(socket: NetlinkSocket): void {
    const label = { operation: "getExtension", detail: "nfacct" };
    const build = (w: MessageWriter) =>
      header(w, FAMILY[this.#family])
        .string(EXTENSION.name, "nfacct")
        .u32be(EXTENSION.revision, MATCH.revision)
        .u32be(COMPAT_TYPE, MATCH.type);
    try {
      socket.get(label, MESSAGE.getExtension, build, () => true);
    } catch (error) {
      if (error instanceof NetlinkError && error.code === "EINVAL") return;
      throw error;
    }
  }

  #ask<T>(question: (socket: NetlinkSocket) => T): T {
    const socket = NetlinkSocket.open(this.#ns, NETLINK_NETFILTER);
    try {
      return question(socket);
    } finally {
      socket.closeSlowly();
    }
  }
}

/** A kernel without nfnetlink has no such socket. */
function refused(error: unknown): error is Error {
  return error instanceof NetlinkError || error instanceof SyscallError;
}

function header(w: MessageWriter, family: number): MessageWriter {
  return w.fixed(NFGENMSG, (at) => at.writeUInt8(family, 0));
}
