// Matches and targets that iptables-nft hands to the kernel as xtables extensions: the C structs behind them
// (linux/netfilter/xt_*.h), both ways. Pure. Bytes are those that iptables 1.8.9 writes, leftovers of its buffers
// included, so that a rule of ours and one of its are the same to the kernel.

import type { Extension, Option } from "./canonical.js";

export type Family = 4 | 6;

/** A rule in a form that only the iptables tools know how to write or read. */
export class UnsupportedRule extends Error {
  override readonly name = "UnsupportedRule";
}

/** How one revision of an extension looks in the kernel. */
export interface ExtensionFormat {
  /** Revision that the kernel is asked for. */
  readonly revision: number;
  /** The struct, valid until the next one is made (see {@link struct}). */
  encode(options: Options, family: Family): Buffer;
  /** The words behind `-m name` or `-j name`, as iptables-save prints them. */
  decode(info: Buffer, family: Family): string[];
}

/** The options of one extension; each must be asked for, what remains is unknown. */
export class Options {
  readonly #options: Map<string, Option>;
  readonly #owner: string;

  constructor({ name, options }: Extension) {
    this.#owner = name;
    this.#options = new Map(options);
  }

  /** An option with exactly one value. */
  take(name: string): { not: boolean; value: string } | undefined {
    const option = this.#options.get(name);
    if (!option) return undefined;
    const [value] = option.values;
    if (value === undefined || option.values.length > 1) throw new UnsupportedRule(`${this.#owner} ${name}`);
    this.#options.delete(name);
    return { not: option.not, value };
  }

  /** The value of an option that cannot be negated. */
  plain(name: string): string | undefined {
    const option = this.take(name);
    if (option?.not) throw new UnsupportedRule(`${this.#owner} ! ${name}`);
    return option?.value;
  }

  /** An option without a value. */
  word(name: string): { not: boolean } | undefined {
    const option = this.#options.get(name);
    if (option && option.values.length > 0) throw new UnsupportedRule(`${this.#owner} ${name}`);
    this.#options.delete(name);
    return option;
  }

  /** The same for one that cannot be negated. */
  flag(name: string): boolean {
    const option = this.word(name);
    if (option?.not) throw new UnsupportedRule(`${this.#owner} ! ${name}`);
    return option !== undefined;
  }

  /** @throws UnsupportedRule when something was not asked for. */
  finish(): void {
    for (const name of this.#options.keys()) throw new UnsupportedRule(`${this.#owner} ${name}`);
  }
}

/** @throws UnsupportedRule unless `text` is a decimal number up to `max`. */
export function decimal(text: string, max: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(value <= max)) throw new UnsupportedRule(`number ${text}`);
  return value;
}

const U32 = 0xffff_ffff;

/** "0x4000/0x4000" as canonical.ts leaves it. */
export function markPair(text: string): [value: number, mask: number] {
  const [value = Number.NaN, mask = U32] = text.split("/").map(Number);
  for (const n of [value, mask])
    if (!(Number.isInteger(n) && n >= 0 && n <= U32)) throw new UnsupportedRule(text);
  return [value, mask];
}

export const hex = (n: number): string => `0x${n.toString(16)}`;

/** "NEW,RELATED" to bits; a name that is not in the table is unknown. */
function bitsOf(text: string, bits: Readonly<Record<string, number>>): number {
  let out = 0;
  for (const name of text.split(",")) {
    const bit = Object.hasOwn(bits, name) ? bits[name] : undefined;
    if (bit === undefined) throw new UnsupportedRule(text);
    out |= bit;
  }
  return out;
}

function namesOf(value: number, bits: Readonly<Record<string, number>>): string {
  const found = Object.entries(bits).filter(([, bit]) => value & bit);
  if (found.reduce((sum, [, bit]) => sum | bit, 0) !== value) throw new UnsupportedRule(`bits ${value}`);
  return found.map(([name]) => name).join(",");
}

const not = (negated: boolean | number): string[] => (negated ? ["!"] : []);

const scratch = Buffer.alloc(512);
/** `size` zero bytes to fill, always the same: a new one for each of 100,000 rules would be tens of megabytes. */
export function struct(size: number): Buffer {
  return scratch.subarray(0, size).fill(0);
}

/** A decoder is sure of a struct only when encoding gives the same bytes again. */
function exactly(info: Buffer, again: Buffer): void {
  if (!info.equals(again)) throw new UnsupportedRule("a form of the struct that iptables-save has to print");
}

const COMMENT_BYTES = 256;
const comment: ExtensionFormat = {
  revision: 0,
  encode(options) {
    const text = options.plain("--comment") ?? "";
    if (text === "" || Buffer.byteLength(text) >= COMMENT_BYTES) throw new UnsupportedRule("comment");
    const out = struct(COMMENT_BYTES);
    out.write(text);
    return out;
  },
  decode: (info) => ["--comment", cString(info)],
};

function cString(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString("utf8", 0, end < 0 ? bytes.length : end);
}

// XT_CONNTRACK_STATE_BIT of each, in the order in which iptables-save names them.
const CT_STATES = {
  INVALID: 1,
  NEW: 8,
  RELATED: 4,
  ESTABLISHED: 2,
  UNTRACKED: 256,
  SNAT: 64,
  DNAT: 128,
} as const;
const XT_CONNTRACK_STATE = 1;
const conntrack: ExtensionFormat = {
  revision: 3,
  encode(options) {
    const state = options.take("--ctstate");
    if (!state) throw new UnsupportedRule("conntrack");
    return conntrackInfo(bitsOf(state.value, CT_STATES), state.not);
  },
  decode(info) {
    const negated = info.readUInt16LE(148) === XT_CONNTRACK_STATE;
    const states = info.readUInt16LE(150);
    exactly(info, conntrackInfo(states, negated));
    return [...not(negated), "--ctstate", namesOf(states, CT_STATES)];
  },
};

function conntrackInfo(states: number, negated: boolean): Buffer {
  const out = struct(168);
  out.writeUInt16LE(XT_CONNTRACK_STATE, 146);
  out.writeUInt16LE(negated ? XT_CONNTRACK_STATE : 0, 148);
  out.writeUInt16LE(states, 150);
  return out;
}

const ADDRESS_TYPES = {
  UNSPEC: 1,
  UNICAST: 2,
  LOCAL: 4,
  BROADCAST: 8,
  ANYCAST: 16,
  MULTICAST: 32,
  BLACKHOLE: 64,
  UNREACHABLE: 128,
  PROHIBIT: 256,
} as const;
const ADDRTYPE_FLAGS = { invertSource: 1, invertDestination: 2, limitIn: 4, limitOut: 8 } as const;
const addrtype: ExtensionFormat = {
  revision: 1,
  encode(options) {
    const out = struct(8);
    const source = options.take("--src-type");
    const destination = options.take("--dst-type");
    if (!source && !destination) throw new UnsupportedRule("addrtype");
    if (source) out.writeUInt16LE(bitsOf(source.value, ADDRESS_TYPES), 0);
    if (destination) out.writeUInt16LE(bitsOf(destination.value, ADDRESS_TYPES), 2);
    const flags =
      (source?.not ? ADDRTYPE_FLAGS.invertSource : 0) |
      (destination?.not ? ADDRTYPE_FLAGS.invertDestination : 0) |
      (options.flag("--limit-iface-in") ? ADDRTYPE_FLAGS.limitIn : 0) |
      (options.flag("--limit-iface-out") ? ADDRTYPE_FLAGS.limitOut : 0);
    out.writeUInt32LE(flags, 4);
    return out;
  },
  decode(info) {
    const [source, destination, flags] = [info.readUInt16LE(0), info.readUInt16LE(2), info.readUInt32LE(4)];
    const side = (invert: number, name: string, types: number) =>
      types ? [...not(flags & invert), name, namesOf(types, ADDRESS_TYPES)] : [];
    return [
      ...side(ADDRTYPE_FLAGS.invertSource, "--src-type", source),
      ...side(ADDRTYPE_FLAGS.invertDestination, "--dst-type", destination),
      ...(flags & ADDRTYPE_FLAGS.limitIn ? ["--limit-iface-in"] : []),
      ...(flags & ADDRTYPE_FLAGS.limitOut ? ["--limit-iface-out"] : []),
    ];
  },
};

const SCALE = 0x8000_0000;
const statistic: ExtensionFormat = {
  revision: 0,
  encode(options) {
    if (options.plain("--mode") !== "random") throw new UnsupportedRule("statistic --mode");
    // canonical.ts has made the kernel's fixed-point number of it.
    const probability = options.take("--probability");
    if (!probability) throw new UnsupportedRule("statistic");
    return statisticInfo(decimal(probability.value, SCALE), probability.not);
  },
  decode(info) {
    const negated = info.readUInt16LE(2) === 1;
    const value = info.readUInt32LE(4);
    exactly(info, statisticInfo(value, negated));
    return ["--mode", "random", ...not(negated), "--probability", (value / SCALE).toFixed(11)];
  },
};

function statisticInfo(probability: number, negated: boolean): Buffer {
  const out = struct(24);
  out.writeUInt16LE(negated ? 1 : 0, 2);
  out.writeUInt32LE(probability, 4);
  // The counter of the other mode, which shares its memory with this one.
  out.writeUInt32LE(probability, 12);
  return out;
}

const RECENT = { "--set": 2, "--rcheck": 1, "--update": 4, "--remove": 8 } as const;
const RECENT_REAP = 32;
const ALL_ONES_6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
const RECENT_NAME = { at: 10, bytes: 200 };
const recent: ExtensionFormat = {
  revision: 1,
  encode(options) {
    const out = struct(232);
    const found = Object.entries(RECENT).flatMap(([name, bit]) => {
      const word = options.word(name);
      return word ? [{ bit, negated: word.not }] : [];
    });
    const [what] = found;
    if (!what || found.length > 1) throw new UnsupportedRule("recent");
    const [seconds, hits] = [options.plain("--seconds"), options.plain("--hitcount")];
    const reap = options.flag("--reap");
    if (reap && seconds === undefined) throw new UnsupportedRule("recent --reap");
    if (seconds === "0" || hits === "0") throw new UnsupportedRule("recent 0");
    out.writeUInt32LE(decimal(seconds ?? "0", U32), 0);
    out.writeUInt32LE(decimal(hits ?? "0", U32), 4);
    out.writeUInt8(what.bit | (reap ? RECENT_REAP : 0), 8);
    out.writeUInt8(what.negated ? 1 : 0, 9);
    const name = options.plain("--name") ?? "";
    if (Buffer.byteLength(name) >= RECENT_NAME.bytes) throw new UnsupportedRule("recent --name");
    // The tool copies the name over its default and leaves what is longer.
    out.write("DEFAULT", RECENT_NAME.at);
    out[RECENT_NAME.at + out.write(name, RECENT_NAME.at)] = 0;
    const mask = options.plain("--mask");
    if (mask !== undefined && mask !== "255.255.255.255" && mask !== ALL_ONES_6) {
      throw new UnsupportedRule("recent --mask");
    }
    out.writeUInt8(options.flag("--rdest") ? 1 : 0, 210);
    options.flag("--rsource");
    out.fill(0xff, 212, 228);
    return out;
  },
  decode(info, family) {
    const bits = info.readUInt8(8);
    const what = Object.entries(RECENT).find(([, bit]) => (bits & ~RECENT_REAP) === bit)?.[0];
    if (!what || info.subarray(212, 228).some((byte) => byte !== 0xff)) throw new UnsupportedRule("recent");
    const [seconds, hits] = [info.readUInt32LE(0), info.readUInt32LE(4)];
    return [
      ...not(info.readUInt8(9)),
      what,
      ...(seconds ? ["--seconds", String(seconds)] : []),
      ...(bits & RECENT_REAP ? ["--reap"] : []),
      ...(hits ? ["--hitcount", String(hits)] : []),
      "--name",
      cString(info.subarray(RECENT_NAME.at, RECENT_NAME.at + RECENT_NAME.bytes)),
      "--mask",
      family === 6 ? ALL_ONES_6 : "255.255.255.255",
      info.readUInt8(210) === 1 ? "--rdest" : "--rsource",
    ];
  },
};

const NFACCT = { bytes: 40, name: 32 };
const nfacct: ExtensionFormat = {
  revision: 1,
  encode(options) {
    const name = options.plain("--nfacct-name") ?? "";
    if (name === "" || Buffer.byteLength(name) >= NFACCT.name) throw new UnsupportedRule("nfacct");
    const out = struct(NFACCT.bytes);
    out.write(name);
    return out;
  },
  decode: (info) => ["--nfacct-name", cString(info.subarray(0, NFACCT.name))],
};

const EVERY_PORT = 0xffff;
/** tcp and udp without ports; ports themselves are expressions of nf_tables (nft-expressions.ts). */
function portless(size: number): ExtensionFormat {
  const info = Buffer.alloc(size);
  info.writeUInt16LE(EVERY_PORT, 2);
  info.writeUInt16LE(EVERY_PORT, 6);
  return {
    revision: 0,
    encode: () => info,
    decode(found) {
      exactly(found, info);
      return [];
    },
  };
}

const SCTP = { sourcePorts: 1, destinationPorts: 2 } as const;
/** "80", "80:90" as canonical.ts leaves it. */
export function portRange(text: string): [from: number, to: number] {
  const found = /^(\d{1,5})(?::(\d{1,5}))?$/.exec(text);
  const from = Number(found?.[1] ?? Number.NaN);
  const to = Number(found?.[2] ?? from);
  if (!(from <= to && to <= EVERY_PORT) || (from === 0 && to === EVERY_PORT)) {
    throw new UnsupportedRule(`port ${text}`);
  }
  return [from, to];
}

export const portText = (from: number, to: number): string => (from === to ? String(from) : `${from}:${to}`);

const sctp: ExtensionFormat = {
  revision: 0,
  encode(options) {
    const out = struct(296);
    let [flags, inverted] = [0, 0];
    const side = (name: string, at: number, flag: number) => {
      const option = options.take(name);
      if (!option) return;
      const [from, to] = portRange(option.value);
      out.writeUInt16LE(from, at);
      out.writeUInt16LE(to, at + 2);
      flags |= flag;
      if (option.not) inverted |= flag;
    };
    side("--dport", 0, SCTP.destinationPorts);
    side("--sport", 4, SCTP.sourcePorts);
    for (let at = 268; at < 280; at += 3) out.writeUInt8(0xff, at);
    out.writeUInt32LE(flags, 284);
    out.writeUInt32LE(inverted, 288);
    return out;
  },
  decode(info) {
    const [flags, inverted] = [info.readUInt32LE(284), info.readUInt32LE(288)];
    if (flags & ~(SCTP.sourcePorts | SCTP.destinationPorts)) throw new UnsupportedRule("sctp");
    const side = (name: string, at: number, flag: number) =>
      flags & flag
        ? [...not(inverted & flag), name, portText(info.readUInt16LE(at), info.readUInt16LE(at + 2))]
        : [];
    return [...side("--sport", 4, SCTP.sourcePorts), ...side("--dport", 0, SCTP.destinationPorts)];
  },
};

/** By the number that the kernel has for each. */
const MULTIPORT_OPTIONS = ["--sports", "--dports", "--ports"] as const;
const MAX_MULTIPORTS = 15;

/** struct xt_multiport_v1; a range takes two places, the first flagged. */
const multiport: ExtensionFormat = {
  revision: 1,
  encode(options) {
    const out = struct(48);
    for (const [mode, name] of MULTIPORT_OPTIONS.entries()) {
      const option = options.take(name);
      if (!option) continue;
      const ports = option.value.split(",").flatMap((text) => {
        const [from, to] = portRange(text);
        return from === to
          ? [{ port: from, begins: 0 }]
          : [
              { port: from, begins: 1 },
              { port: to, begins: 0 },
            ];
      });
      if (ports.length > MAX_MULTIPORTS) throw new UnsupportedRule(`multiport ${name}`);
      out.writeUInt8(mode, 0);
      out.writeUInt8(ports.length, 1);
      for (const [n, { port, begins }] of ports.entries()) {
        out.writeUInt16LE(port, 2 + 2 * n);
        out.writeUInt8(begins, 32 + n);
      }
      out.writeUInt8(option.not ? 1 : 0, 47);
      return out;
    }
    throw new UnsupportedRule("multiport");
  },
  decode(info) {
    const [mode, count] = [info.readUInt8(0), info.readUInt8(1)];
    const name = MULTIPORT_OPTIONS[mode];
    if (name === undefined || count > MAX_MULTIPORTS) throw new UnsupportedRule("multiport");
    let text = "";
    for (let n = 0; n < count; n++) {
      text += info.readUInt16LE(2 + 2 * n) + (n === count - 1 ? "" : info.readUInt8(32 + n) ? ":" : ",");
    }
    return [...not(info.readUInt8(47)), name, text];
  },
};

export const MATCHES: ReadonlyMap<string, ExtensionFormat> = new Map([
  ["comment", comment],
  ["conntrack", conntrack],
  ["addrtype", addrtype],
  ["statistic", statistic],
  ["recent", recent],
  ["nfacct", nfacct],
  ["tcp", portless(16)],
  ["udp", portless(16)],
  ["sctp", sctp],
  ["multiport", multiport],
]);
