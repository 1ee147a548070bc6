// One transaction of nf_tables as bytes: messages between NFNL_MSG_BATCH_BEGIN and …END, all done or none.
// Knows how the objects of iptables-nft are asked for, not when.

import { MessageWriter } from "../kernel/netlink/codec.js";
import {
  builtInChain,
  CHAIN_ATTRIBUTE,
  FAMILY,
  GENERATION_ID,
  HOOK_ATTRIBUTE,
  MESSAGE,
  NFGENMSG,
  RULE_ATTRIBUTE,
  SUBSYSTEM_ID,
  TABLE_ATTRIBUTE,
} from "./nft-format.js";
import { isBuiltIn, type TableName } from "./rules.js";

const NLM_F_REQUEST = 0x1;
const NLM_F_ACK = 0x4;
const NLM_F_ECHO = 0x8;
const NLM_F_EXCL = 0x200;
const NLM_F_CREATE = 0x400;
const NLM_F_APPEND = 0x800;
const HEADER_SEQ_AT = 8;
const HEADER_FLAGS_AT = 6;
const NF_ACCEPT = 1;
const FIRST_BYTES = 16 * 1024;

/** Where a rule shall stand. */
export type Place = "first" | "last" | { readonly before: number };

const writer = new MessageWriter();

export class NftBatch {
  readonly #family: number;
  #buffer: Buffer;
  #length = 0;
  #last = 0;
  #seq = 0;
  #changes = 0;

  /**
   * @param generation the version of the ruleset that it is for: the kernel refuses another (ERESTART). Default any.
   * @param buffer of a batch that was sent and is not needed any more ({@link NftBatch.buffer}).
   */
  constructor(family: 4 | 6, generation?: number, buffer: Buffer = Buffer.allocUnsafe(FIRST_BYTES)) {
    this.#buffer = buffer;
    this.#family = FAMILY[family];
    this.#message(MESSAGE.batchBegin, 0, 0, SUBSYSTEM_ID, (w) => {
      if (generation !== undefined) w.u32be(GENERATION_ID, generation);
    });
  }

  /** Whether nothing is asked for but tables, which may be there already. */
  get isIdle(): boolean {
    return this.#changes === 0;
  }

  get buffer(): Buffer {
    return this.#buffer;
  }

  get bytes(): number {
    return this.#length;
  }

  /** Makes the table unless it is there. */
  table(table: TableName): void {
    const changes = this.#changes;
    this.#change(MESSAGE.newTable, NLM_F_CREATE, (w) => w.string(TABLE_ATTRIBUTE.name, table));
    this.#changes = changes;
  }

  /** Makes the chain; one that is there stays as it is, or is refused (EEXIST) when it has to be new. */
  chain(table: TableName, chain: string, mustBeNew = false): number {
    const flags = NLM_F_CREATE | (mustBeNew ? NLM_F_EXCL : 0);
    return this.#change(MESSAGE.newChain, flags, (w) => {
      w.string(CHAIN_ATTRIBUTE.table, table);
      w.string(CHAIN_ATTRIBUTE.name, chain);
      if (!isBuiltIn(table, chain)) return;
      const { hook, priority, type } = builtInChain(table, chain);
      w.list(CHAIN_ATTRIBUTE.hook, () => {
        w.u32be(HOOK_ATTRIBUTE.number, hook);
        w.u32be(HOOK_ATTRIBUTE.priority, priority);
      });
      w.u32be(CHAIN_ATTRIBUTE.policy, NF_ACCEPT);
      w.string(CHAIN_ATTRIBUTE.type, type);
    });
  }

  flush(table: TableName, chain: string): void {
    this.#change(MESSAGE.delRule, 0, (w) => place(w, table, chain));
  }

  deleteChain(table: TableName, chain: string): number {
    return this.#change(MESSAGE.delChain, 0, (w) => {
      w.string(CHAIN_ATTRIBUTE.table, table);
      w.string(CHAIN_ATTRIBUTE.name, chain);
    });
  }

  deleteRule(table: TableName, chain: string, handle: number): void {
    this.#change(MESSAGE.delRule, 0, (w) => {
      place(w, table, chain);
      w.u64be(RULE_ATTRIBUTE.handle, BigInt(handle));
    });
  }

  /**
   * @param echo asks the kernel to tell the rule's handle, in a message with the number that is returned.
   */
  rule(
    at: { table: TableName; chain: string; place: Place; echo?: boolean },
    write: (w: MessageWriter) => void,
  ): number {
    const flags = NLM_F_CREATE | (at.place === "last" ? NLM_F_APPEND : 0) | (at.echo ? NLM_F_ECHO : 0);
    return this.#change(MESSAGE.newRule, flags, (w) => {
      place(w, at.table, at.chain);
      write(w);
      if (typeof at.place === "object") w.u64be(RULE_ATTRIBUTE.position, BigInt(at.place.before));
    });
  }

  /** The whole, once. The last change asks for an acknowledgement: the kernel tells refusals of all. */
  end(): { request: Buffer; acknowledged: number } {
    const flags = this.#buffer.readUInt16LE(this.#last + HEADER_FLAGS_AT);
    this.#buffer.writeUInt16LE(flags | NLM_F_ACK, this.#last + HEADER_FLAGS_AT);
    const acknowledged = this.#buffer.readUInt32LE(this.#last + HEADER_SEQ_AT);
    this.#message(MESSAGE.batchEnd, 0, 0, SUBSYSTEM_ID, () => {});
    return { request: this.#buffer.subarray(0, this.#length), acknowledged };
  }

  #change(type: number, flags: number, build: (w: MessageWriter) => void): number {
    const at = this.#length;
    this.#message(type, flags, this.#family, 0, build);
    this.#last = at;
    this.#changes++;
    return this.#seq;
  }

  #message(
    type: number,
    flags: number,
    family: number,
    resource: number,
    build: (w: MessageWriter) => void,
  ): void {
    writer.begin(type, flags | NLM_F_REQUEST, this.#seq + 1);
    writer.fixed(NFGENMSG, (at) => {
      at.writeUInt8(family, 0);
      at.writeUInt16BE(resource, 2);
    });
    build(writer);
    const message = writer.end();
    if (this.#length + message.length > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(2 * (this.#length + message.length));
      this.#buffer.copy(larger, 0, 0, this.#length);
      this.#buffer = larger;
    }
    // The writer keeps messages aligned already.
    message.copy(this.#buffer, this.#length);
    this.#length += message.length;
    this.#seq++;
  }
}

function place(w: MessageWriter, table: TableName, chain: string): void {
  w.string(RULE_ATTRIBUTE.table, table);
  w.string(RULE_ATTRIBUTE.chain, chain);
}
