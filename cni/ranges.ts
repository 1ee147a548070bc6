// Which addresses a host gives away: blocks with bounds and exclusions, in sets of which a pod gets one address each
// (the words are those of the reference plugin host-local; `exclude` is ours). Pure.

import { BITS, type Cidr, type IpFamily, ipFamily, parseIp } from "../common/ip.js";
import { addressOf, blockOf, blockOrAddressOf, listOf, objectOf } from "./fields.js";
import { CniError, type CniRoute, CODE } from "./types.js";

/** Addresses of one block. */
export interface Range {
  block: Cidr;
  /** The bridge's address, the pods' gateway; never given away. */
  gateway: string;
  /** The first and the last one that may be given away; default all of the block. */
  first?: string;
  last?: string;
  exclude?: readonly Cidr[];
}

const RANGE_KEYS = ["subnet", "rangeStart", "rangeEnd", "gateway", "exclude"];

/** `{ subnet, rangeStart, rangeEnd, gateway, exclude }`. Throws CniError 2 or 7 naming field and value. */
export function readRange(field: string, raw: unknown): Range {
  const conf = objectOf(field, raw, RANGE_KEYS);
  const { block, gateway } = rangeOf(`${field}.subnet`, conf.subnet);
  const inBlock = (key: string): string | undefined => {
    if (conf[key] === undefined) return undefined;
    const ip = addressOf(`${field}.${key}`, conf[key]);
    if (block.contains(ip)) return ip;
    throw new CniError(CODE.invalidConfig, `${field}.${key} ${ip} is not in ${block}`);
  };
  const [first, last] = [inBlock("rangeStart"), inBlock("rangeEnd")];
  const range: Range = {
    block,
    gateway: inBlock("gateway") ?? gateway,
    ...(first !== undefined && { first }),
    ...(last !== undefined && { last }),
    ...(conf.exclude !== undefined && { exclude: readExclude(`${field}.exclude`, conf.exclude) }),
  };
  const [low, high] = bounds(range);
  if (low <= high) return range;
  throw new CniError(CODE.invalidConfig, `${field}: no address is between ${first} and ${last}`);
}

/** A whole block, its first address being the gateway. */
export function rangeOf(field: string, subnet: unknown): Range {
  const block = blockOf(field, subnet);
  // Network address, gateway and broadcast leave a few.
  const longest = BITS[block.family] - 3;
  if (block.prefix > longest) {
    throw new CniError(
      CODE.invalidConfig,
      `${field} must be a block of /${longest} or larger, not ${subnet}`,
    );
  }
  return { block, gateway: block.at(1) };
}

export function readExclude(field: string, raw: unknown): Cidr[] {
  return listOf(field, raw, { empty: true }).map((one, i) => blockOrAddressOf(`${field}[${i}]`, one));
}

/** A list of sets. In a set all ranges are of one family; no two ranges share an address. */
export function readSets(field: string, raw: unknown): Range[][] {
  const seen: { at: string; range: Range }[] = [];
  return listOf(field, raw).map((set, i) => {
    const ranges = listOf(`${field}[${i}]`, set).map((one, j) => {
      const at = `${field}[${i}][${j}]`;
      const range = readRange(at, one);
      const other = seen.find((known) => overlap(known.range, range));
      if (other) throw new CniError(CODE.invalidConfig, `${at} has addresses of ${other.at} too`);
      seen.push({ at, range });
      return range;
    });
    const families = new Set(ranges.map(({ block }) => block.family));
    if (families.size === 1) return ranges;
    throw new CniError(CODE.invalidConfig, `${field}[${i}]: all ranges of a set must be of one family`);
  });
}

const ROUTE_NUMBERS = ["mtu", "advmss", "priority", "table", "scope"] as const;

/** Routes of a result: `dst`, `gw` and what version 1.1 adds. */
export function readRoutes(field: string, raw: unknown): CniRoute[] {
  return listOf(field, raw, { empty: true }).map((one, i) => {
    const at = `${field}[${i}]`;
    const conf = objectOf(at, one, ["dst", "gw", ...ROUTE_NUMBERS]);
    const dst = blockOf(`${at}.dst`, conf.dst);
    const gw = conf.gw === undefined ? undefined : addressOf(`${at}.gw`, conf.gw);
    if (gw !== undefined && ipFamily(gw) !== dst.family) {
      throw new CniError(CODE.invalidConfig, `${at}.gw ${gw} is not of the family of ${dst}`);
    }
    const route: CniRoute = { dst: String(dst), ...(gw !== undefined && { gw }) };
    for (const key of ROUTE_NUMBERS) {
      const value = conf[key];
      if (value === undefined) continue;
      if (!Number.isInteger(value) || Number(value) < 0 || Number(value) > 0xffff_ffff) {
        throw new CniError(
          CODE.invalidConfig,
          `${at}.${key} must be an unsigned integer, not ${JSON.stringify(value)}`,
        );
      }
      route[key] = Number(value);
    }
    return route;
  });
}

/** First and last position in the block, inclusive; network address and broadcast are never among them. */
function bounds({ block, first, last }: Range): [bigint, bigint] {
  const [low, high] = [first ? block.indexOf(first) : 1n, last ? block.indexOf(last) : block.size - 2n];
  return [low < 1n ? 1n : low, high > block.size - 2n ? block.size - 2n : high];
}

function overlap(a: Range, b: Range): boolean {
  if (!a.block.overlaps(b.block)) return false;
  const [[aLow, aHigh], [bLow, bHigh]] = [bounds(a), bounds(b)];
  return a.block.base + aLow <= b.block.base + bHigh && b.block.base + bLow <= a.block.base + aHigh;
}

/** Whether the range may give the address away. */
export function gives(range: Range, ip: string): boolean {
  const { block, gateway, exclude = [] } = range;
  if (ipFamily(ip) !== block.family || ip === gateway || exclude.some((one) => one.contains(ip)))
    return false;
  const [low, high] = bounds(range);
  const at = block.indexOf(ip);
  return at >= low && at <= high;
}

/** More are not tried: whole subnets of IPv6 are never full. */
const MAX_TRIES = 1 << 20;

/** The addresses of a set in the order of trying: the one after `last` first, around to `last` itself. */
export function* candidates(set: readonly Range[], last?: string): Generator<string, void, undefined> {
  const from =
    last === undefined || ipFamily(last) === 0 ? -1 : set.findIndex((range) => covers(range, last));
  const parts = set.map((range): [Range, bigint, bigint] => [range, ...bounds(range)]);
  const at = set[from] && last !== undefined ? set[from].block.indexOf(last) : 0n;
  const [begun] = from < 0 ? [] : parts.splice(from, 1);
  const order = begun
    ? [
        [begun[0], at + 1n, begun[2]] as const,
        ...parts.slice(from),
        ...parts.slice(0, from),
        [begun[0], begun[1], at] as const,
      ]
    : parts;
  let tries = 0;
  for (const [range, low, high] of order) {
    const { block, gateway, exclude = [] } = range;
    for (let offset = low; offset <= high && tries < MAX_TRIES; offset++, tries++) {
      const ip = block.at(offset);
      const within = exclude.find((one) => one.contains(ip));
      if (within) {
        offset += within.base + within.size - 1n - (block.base + offset);
      } else if (ip !== gateway) yield ip;
    }
  }
}

function covers(range: Range, ip: string): boolean {
  if (!range.block.contains(ip)) return false;
  const [low, high] = bounds(range);
  const at = range.block.indexOf(ip);
  return at >= low && at <= high;
}

/** "10.0.0.5/24" or "10.0.0.5" without its length, in canonical text. */
export function bareAddress(field: string, text: unknown): string {
  return addressOf(field, String(text).replace(/\/\d+$/, ""));
}

export const familyOf = (ip: string): IpFamily => parseIp(ip).family;
