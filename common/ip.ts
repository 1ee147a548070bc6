// IP addresses and CIDR blocks as numbers: parsing, printing, counting through a range.
// Knows the textual forms of RFC 791 and RFC 4291/5952 and nothing of who owns an address.

/** 4 or 6. */
export type IpFamily = 4 | 6;

/** An address without its text: `value` is the big-endian number. */
export interface IpValue {
  family: IpFamily;
  value: bigint;
}

/** Length of an address. */
export const BITS: Record<IpFamily, number> = { 4: 32, 6: 128 };
const V4 = /^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$/;

function parse4(text: string): bigint | undefined {
  const match = V4.exec(text);
  if (!match) return undefined;
  let value = 0;
  for (let i = 1; i <= 4; i++) {
    const octet = Number(match[i]);
    if (octet > 255) return undefined;
    value = value * 256 + octet;
  }
  return BigInt(value);
}

/** Groups of one side of "::"; the last may be a dotted quad when `last` is true. */
function groups(text: string, last: boolean): number[] | undefined {
  if (text === "") return [];
  const out: number[] = [];
  const parts = text.split(":");
  for (const [i, part] of parts.entries()) {
    if (last && i === parts.length - 1 && part.includes(".")) {
      const v4 = parse4(part);
      if (v4 === undefined) return undefined;
      out.push(Number(v4 >> 16n), Number(v4 & 0xffffn));
    } else if (/^[0-9a-fA-F]{1,4}$/.test(part)) {
      out.push(Number.parseInt(part, 16));
    } else {
      return undefined;
    }
  }
  return out;
}

function parse6(text: string): bigint | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const [head = "", tail] = halves;
  const left = groups(head, tail === undefined);
  const right = tail === undefined ? [] : groups(tail, true);
  if (!left || !right) return undefined;
  const missing = 8 - left.length - right.length;
  if (tail === undefined ? missing !== 0 : missing < 1) return undefined;
  let value = 0n;
  for (const group of [...left, ...new Array<number>(missing).fill(0), ...right]) {
    value = (value << 16n) | BigInt(group);
  }
  return value;
}

function tryParse(text: string): IpValue | undefined {
  const family: IpFamily = text.includes(":") ? 6 : 4;
  const value = family === 6 ? parse6(text) : parse4(text);
  return value === undefined ? undefined : { family, value };
}

/**
 * Parses an IPv4 or IPv6 literal. IPv4 must be canonical: four decimal octets without leading zeros (what
 * Kubernetes calls strict validation); IPv6 in any form of RFC 4291, without a zone.
 * @throws RangeError naming the value.
 */
export function parseIp(text: string): IpValue {
  const parsed = tryParse(text);
  if (!parsed) {
    throw new RangeError(`${JSON.stringify(text)} is not an IP address (like 10.9.8.7 or 2001:db8::ffff)`);
  }
  return parsed;
}

/** 4, 6, or 0 for text that is no address. */
export function ipFamily(text: string): IpFamily | 0 {
  return tryParse(text)?.family ?? 0;
}

/** `host:port` as URLs and Go programs have it: an IPv6 address in brackets. */
export function hostPort(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Canonical text; IPv6 as RFC 5952 wants it. Throws RangeError when the value does not fit the family. */
export function formatIp(value: bigint, family: IpFamily): string {
  if (value < 0n || value >> BigInt(BITS[family]) !== 0n) {
    throw new RangeError(`${value} is outside the IPv${family} address space`);
  }
  if (family === 4) {
    const n = Number(value);
    return `${n >>> 24}.${(n >>> 16) & 255}.${(n >>> 8) & 255}.${n & 255}`;
  }
  // RFC 5952 section 5: addresses that are known to embed IPv4 keep the dotted quad.
  if (value >> 32n === 0xffffn) return `::ffff:${formatIp(value & 0xffff_ffffn, 4)}`;
  const words = Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(112 - 16 * i)) & 0xffffn));
  const run = longestZeroRun(words);
  const hex = (from: number, to: number) =>
    words
      .slice(from, to)
      .map((w) => w.toString(16))
      .join(":");
  return run ? `${hex(0, run.start)}::${hex(run.end, 8)}` : hex(0, 8);
}

/** The leftmost longest run of two or more zero words. */
function longestZeroRun(words: readonly number[]): { start: number; end: number } | undefined {
  let best: { start: number; end: number } | undefined;
  for (let start = 0; start < words.length; start++) {
    let end = start;
    while (words[end] === 0) end++;
    if (end - start >= 2 && (!best || end - start > best.end - best.start)) best = { start, end };
    start = Math.max(start, end - 1);
  }
  return best;
}

/** Network byte order: 4 or 16 bytes. Throws RangeError for text that is no address. */
export function ipToBytes(text: string): Uint8Array {
  const { family, value } = parseIp(text);
  const out = new Uint8Array(BITS[family] / 8);
  let rest = value;
  for (let i = out.length - 1; i >= 0; i--) {
    out[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  return out;
}

/** The inverse of {@link ipToBytes}. Throws RangeError when there are not 4 or 16 bytes. */
export function bytesToIp(bytes: Uint8Array): string {
  if (bytes.length !== 4 && bytes.length !== 16) {
    throw new RangeError(`an IP address has 4 or 16 bytes, not ${bytes.length}`);
  }
  let value = 0n;
  for (const byte of bytes) value = (value << 8n) | BigInt(byte);
  return formatIp(value, bytes.length === 4 ? 4 : 6);
}

/** A block of addresses in CIDR notation; immutable. */
export class Cidr {
  readonly family: IpFamily;
  /** The network address as a number: host bits are zero. */
  readonly base: bigint;
  /** Prefix length in bits. */
  readonly prefix: number;

  private constructor(family: IpFamily, base: bigint, prefix: number) {
    this.family = family;
    this.base = base;
    this.prefix = prefix;
  }

  /**
   * Parses "10.244.0.0/16". Host bits are cleared: "10.244.1.7/16" is the block 10.244.0.0/16.
   * @throws RangeError naming the value.
   */
  static parse(text: string): Cidr {
    const slash = text.indexOf("/");
    const address = slash < 0 ? undefined : tryParse(text.slice(0, slash));
    const bits = text.slice(slash + 1);
    if (!address || !/^(0|[1-9]\d{0,2})$/.test(bits) || Number(bits) > BITS[address.family]) {
      throw new RangeError(
        `${JSON.stringify(text)} is not a CIDR block (like 10.244.0.0/16 or 2001:db8::/64)`,
      );
    }
    return Cidr.of(address, Number(bits));
  }

  /** The block of `prefix` bits that contains the address. Throws RangeError for a prefix out of range. */
  static of(address: IpValue, prefix: number): Cidr {
    const bits = BITS[address.family];
    if (!Number.isInteger(prefix) || prefix < 0 || prefix > bits) {
      throw new RangeError(`prefix length ${prefix} is not in 0..${bits} (IPv${address.family})`);
    }
    const host = BigInt(bits - prefix);
    return new Cidr(address.family, (address.value >> host) << host, prefix);
  }

  /** Number of addresses, network and broadcast included. */
  get size(): bigint {
    return 1n << BigInt(BITS[this.family] - this.prefix);
  }

  /** The network address as text. */
  get network(): string {
    return formatIp(this.base, this.family);
  }

  /** The last address as text: IPv4's broadcast. */
  get broadcast(): string {
    return formatIp(this.base + this.size - 1n, this.family);
  }

  /** The netmask as an address: 255.255.255.0. */
  get mask(): string {
    const all = (1n << BigInt(BITS[this.family])) - 1n;
    return formatIp(all ^ (this.size - 1n), this.family);
  }

  /** Whether an address, or a whole block (text with a slash, or a Cidr), lies inside. Throws RangeError. */
  contains(other: string | Cidr): boolean {
    if (typeof other === "string" && !other.includes("/")) {
      const { family, value } = parseIp(other);
      return family === this.family && value >= this.base && value < this.base + this.size;
    }
    const block = typeof other === "string" ? Cidr.parse(other) : other;
    return (
      block.family === this.family &&
      block.prefix >= this.prefix &&
      block.base >= this.base &&
      block.base < this.base + this.size
    );
  }

  /** Whether the two blocks share an address. */
  overlaps(other: Cidr): boolean {
    return this.contains(other) || other.contains(this);
  }

  /** The n-th address, 0 being the network address; negative counts from the end. Throws RangeError. */
  at(n: number | bigint): string {
    const offset = BigInt(n) < 0n ? this.size + BigInt(n) : BigInt(n);
    if (offset < 0n || offset >= this.size) {
      throw new RangeError(`${this} has ${this.size} addresses: there is no number ${n}`);
    }
    return formatIp(this.base + offset, this.family);
  }

  /** The position of an address in the block; -1n when it is outside. Throws RangeError for no address. */
  indexOf(ip: string): bigint {
    const { family, value } = parseIp(ip);
    if (family !== this.family || value < this.base || value >= this.base + this.size) return -1n;
    return value - this.base;
  }

  /** The blocks of `prefix` bits inside this one, in order. Throws RangeError for a prefix out of range. */
  *subnets(prefix: number): Generator<Cidr, void, undefined> {
    const bits = BITS[this.family];
    if (!Number.isInteger(prefix) || prefix < this.prefix || prefix > bits) {
      throw new RangeError(
        `${this} has no subnets of prefix length ${prefix}: allowed ${this.prefix}..${bits}`,
      );
    }
    const step = 1n << BigInt(bits - prefix);
    for (let base = this.base; base < this.base + this.size; base += step) {
      yield new Cidr(this.family, base, prefix);
    }
  }

  /** "10.244.0.0/16". */
  toString(): string {
    return `${this.network}/${this.prefix}`;
  }

  toJSON(): string {
    return this.toString();
  }
}
