// DNS messages as bytes (RFC 1035, EDNS0: RFC 6891): queries read, replies written so that they fit. The records
// themselves are dns-packet's work. Pure.

import { type Answer, decode, encode, type OptAnswer, type RecordType } from "dns-packet";
import { bare, type Question, RCODE, type Reply } from "./reply.js";

const HEADER = 12;
/** What every resolver takes over UDP, and the most a message may have. */
const LEAST_UDP = 512;
const MOST = 65_535;
/** Larger ones are compressed even when they would fit as they are, lest they travel in fragments. */
const UNFRAGMENTED = 1220;

const QR = 0x8000;
const OPCODE = 0x7800;
const AA = 0x0400;
const TC = 0x0200;
const RD = 0x0100;
const RA = 0x0080;
const CD = 0x0010;

/** EDNS options that go back as they came: NSID, EXPIRE, COOKIE, TCP_KEEPALIVE, PADDING. */
const ECHOED = new Set([3, 9, 10, 11, 12]);

/** Types whose data begins with names, and how many bytes are before them (RFC 1035: only these may be compressed). */
const NAMES_IN: Record<number, { skip: number; names: number }> = {
  2: { skip: 0, names: 1 },
  5: { skip: 0, names: 1 },
  6: { skip: 0, names: 2 },
  12: { skip: 0, names: 1 },
  15: { skip: 2, names: 1 },
};
const OPT = 41;

export type Transport = "udp" | "tcp";

export interface Query extends Question {
  id: number;
  /** The whole message. */
  bytes: Buffer;
  /** The first question as it came. */
  question: Buffer;
  /** The client's size for UDP and whether it wants DNSSEC; absent without EDNS. */
  edns: { size: number; dnssec: boolean; options: OptAnswer["options"] } | undefined;
}

/**
 * A query taken apart; or the answer to one that is none; or undefined for what is to be left unanswered.
 * What is refused here is what the DNS library under CoreDNS (miekg/dns) refuses before any plugin sees it.
 */
export function readQuery(bytes: Buffer): Query | Buffer | undefined {
  if (bytes.length < HEADER) return undefined;
  const flags = bytes.readUInt16BE(2);
  if (flags & QR) return undefined;
  if (flags & OPCODE) return headerOnly(bytes, RCODE.NOTIMP);
  const [questions = 0, answers = 0, authorities = 0, additionals = 0] = [4, 6, 8, 10].map((at) =>
    bytes.readUInt16BE(at),
  );
  if (questions !== 1 || answers > 1 || authorities > 1 || additionals > 2)
    return headerOnly(bytes, RCODE.FORMERR);
  try {
    const packet = decode(bytes);
    const [question] = packet.questions ?? [];
    if (!question) return headerOnly(bytes, RCODE.FORMERR);
    const end = skipName(bytes, HEADER) + 4;
    const query: Query = {
      id: packet.id ?? 0,
      bytes,
      name: question.name,
      type: question.type,
      question: bytes.subarray(HEADER, end),
      edns: undefined,
    };
    const opt = packet.additionals?.find((one): one is OptAnswer => one.type === "OPT");
    if (opt) {
      query.edns = {
        size: opt.udpPayloadSize,
        dnssec: opt.flag_do,
        options: opt.options.filter(({ code }) => ECHOED.has(code)),
      };
      if (opt.ednsVersion !== 0) return writeReply(query, bare(RCODE.BADVERS), "udp");
    }
    if (question.class !== "IN") return writeReply(query, bare(RCODE.REFUSED), "udp");
    return query;
  } catch {
    return headerOnly(bytes, RCODE.FORMERR);
  }
}

function headerOnly(query: Buffer, rcode: number): Buffer {
  const out = Buffer.alloc(HEADER);
  query.copy(out, 0, 0, 2);
  out.writeUInt16BE(QR | (query.readUInt16BE(2) & (OPCODE | RD | CD)) | rcode, 2);
  return out;
}

/** The bytes of a reply, cut to what the client takes (then with TC, so that it asks again over TCP). */
export function writeReply(query: Query, reply: Reply, transport: Transport): Buffer {
  const asked = query.bytes.readUInt16BE(2);
  const set = (when: boolean | undefined, flag: number) => (when ? flag : 0);
  const flags =
    (asked & (RD | CD)) |
    set(reply.authoritative, AA) |
    set(reply.recursive, RA) |
    set(reply.truncated, TC) |
    (reply.rcode & 0xf);
  const records = encode({
    id: query.id,
    type: "response",
    flags,
    answers: reply.answers as Answer[],
    authorities: reply.authorities as Answer[],
    additionals: [...(reply.additionals as Answer[]), ...optOf(query, reply)],
  });
  // The question goes back byte for byte: some names have no text that would lead back to them.
  const message = Buffer.concat([records.subarray(0, HEADER), query.question, records.subarray(HEADER)]);
  message.writeUInt16BE(1, 4);
  const limit = transport === "tcp" ? MOST : Math.max(LEAST_UDP, query.edns?.size ?? 0);
  return message.length <= Math.min(limit, UNFRAGMENTED) ? message : compressed(message, limit);
}

function optOf({ edns }: Query, { rcode }: Reply): OptAnswer[] {
  if (!edns) return [];
  const { size, dnssec, options } = edns;
  return [
    {
      type: "OPT",
      name: ".",
      udpPayloadSize: size,
      extendedRcode: rcode >> 4,
      ednsVersion: 0,
      flags: dnssec ? 0x8000 : 0,
      flag_do: dnssec,
      options,
    },
  ];
}

/** Behind a name; those of a message without compression, and pointers. @throws RangeError beyond the end. */
function skipName(message: Buffer, from: number): number {
  let at = from;
  for (;;) {
    const length = message.readUInt8(at);
    if (length === 0) return at + 1;
    if (length >= 0xc0) return at + 2;
    at += length + 1;
  }
}

/** A message made anew with names pointing back to earlier ones, and with as many of its records as fit. */
function compressed(message: Buffer, limit: number): Buffer {
  const packer = new Packer(message);
  const counts = [6, 8, 10].map((at) => message.readUInt16BE(at));
  const left = [...counts];
  let at = packer.question();
  const records: { section: number; at: number }[] = [];
  for (const [section, count] of counts.entries()) {
    for (let n = 0; n < count; n++) {
      records.push({ section, at });
      at = afterRecord(message, at);
    }
  }
  const last = records.at(-1);
  const opt = last && message.readUInt16BE(skipName(message, last.at)) === OPT ? records.pop() : undefined;
  const room = limit - (opt ? message.length - opt.at : 0);
  for (const [n, record] of records.entries()) {
    if (packer.record(record.at, room)) continue;
    for (const { section } of records.slice(n)) left[section] = (left[section] ?? 0) - 1;
    packer.out.writeUInt16BE(packer.out.readUInt16BE(2) | TC, 2);
    break;
  }
  if (opt) packer.record(opt.at, limit);
  for (const [section, count] of left.entries()) packer.out.writeUInt16BE(count, 6 + 2 * section);
  return packer.out.subarray(0, packer.length);
}

function afterRecord(message: Buffer, at: number): number {
  const fixed = skipName(message, at);
  return fixed + 10 + message.readUInt16BE(fixed + 8);
}

class Packer {
  readonly out: Buffer;
  length = HEADER;
  readonly #from: Buffer;
  /** Ends of names as they stand in the message, and where. */
  readonly #known = new Map<string, number>();

  constructor(message: Buffer) {
    this.#from = message;
    this.out = Buffer.alloc(message.length);
    message.copy(this.out, 0, 0, HEADER);
  }

  /** Returns where the first record is. */
  question(): number {
    const end = this.#name(HEADER);
    this.#copy(end, end + 4);
    return end + 4;
  }

  /** False when the record would go beyond the limit; nothing is written then. */
  record(at: number, limit: number): boolean {
    const before = this.length;
    const from = this.#from;
    const fixed = this.#name(at);
    const type = from.readUInt16BE(fixed);
    const end = fixed + 10 + from.readUInt16BE(fixed + 8);
    this.#copy(fixed, fixed + 10);
    const data = this.length;
    const { skip, names } = NAMES_IN[type] ?? { skip: 0, names: 0 };
    let next = fixed + 10 + skip;
    this.#copy(fixed + 10, next);
    for (let n = 0; n < names; n++) next = this.#name(next);
    this.#copy(next, end);
    this.out.writeUInt16BE(this.length - data, data - 2);
    if (this.length <= limit) return true;
    this.length = before;
    return false;
  }

  #copy(from: number, to: number): void {
    this.length += this.#from.copy(this.out, this.length, from, to);
  }

  /** Returns what is behind the name in the original. */
  #name(at: number): number {
    const end = skipName(this.#from, at);
    for (let label = at; this.#from[label]; label += (this.#from[label] ?? 0) + 1) {
      const rest = this.#from.toString("latin1", label, end);
      const known = this.#known.get(rest);
      if (known !== undefined) {
        this.length = this.out.writeUInt16BE(0xc000 | known, this.length);
        return end;
      }
      // A pointer has 14 bits.
      if (this.length < 0x4000) this.#known.set(rest, this.length);
      this.#copy(label, label + (this.#from[label] ?? 0) + 1);
    }
    this.out[this.length++] = 0;
    return end;
  }
}

/** For logs: what flags a reply had. */
export function flagNames(message: Buffer): string {
  const flags = message.readUInt16BE(2);
  const names: [number, string][] = [
    [QR, "qr"],
    [AA, "aa"],
    [TC, "tc"],
    [RD, "rd"],
    [RA, "ra"],
    [0x20, "ad"],
    [CD, "cd"],
  ];
  return names.flatMap(([flag, name]) => (flags & flag ? [name] : [])).join(",");
}

/** A query of our own. */
export function writeQuery(name: string, type: string, id: number): Buffer {
  return encode({ id, type: "query", flags: RD, questions: [{ name, type: type as RecordType }] });
}
