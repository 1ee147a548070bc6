// A range of ClusterIPs of one family as numbered places in a pool. Knows addresses and who holds them, no Services.

import { Cidr, formatIp, parseIp } from "../../common/ip.js";
import { Pool, type RandomInt, staticBand } from "./allocator.js";

export type FamilyName = "IPv4" | "IPv6";

/** KEP-3070: 16 to 256 addresses, a sixteenth of the range. */
const BAND = { min: 16, max: 256, step: 16 };
/** The real server's limit for a service range (20 bits). */
const MAX_HOST_BITS = 20;

export class AddressRange {
  readonly cidr: Cidr;
  readonly family: FamilyName;
  /** Offset 0 is the first address after the network's own. */
  readonly pool: Pool;

  /** @throws RangeError for a range that cannot be used, naming it. */
  constructor(text: string, random?: RandomInt) {
    const cidr = Cidr.parse(text);
    const width = cidr.family === 4 ? 32 : 128;
    if (cidr.prefix < width - MAX_HOST_BITS || cidr.prefix > width - 2) {
      const allowed = `IPv${cidr.family} with a prefix of /${width - MAX_HOST_BITS} to /${width - 2}`;
      throw new RangeError(`service CIDR ${text} cannot be used: it must be ${allowed}`);
    }
    this.cidr = cidr;
    this.family = `IPv${cidr.family}`;
    // Without the network's address, and IPv4's broadcast address.
    const size = Number(cidr.size);
    this.pool = new Pool(size - (cidr.family === 4 ? 2 : 1), staticBand(size, BAND), random);
  }

  /** Undefined when the text is no address of the range. */
  offsetOf(ip: string): number | undefined {
    let address: ReturnType<typeof parseIp>;
    try {
      address = parseIp(ip);
    } catch (error) {
      if (error instanceof RangeError) return undefined;
      throw error;
    }
    if (address.family !== this.cidr.family) return undefined;
    const offset = address.value - this.cidr.base - 1n;
    return offset >= 0n && offset < BigInt(this.pool.size) ? Number(offset) : undefined;
  }

  at(offset: number): string {
    return formatIp(this.cidr.base + BigInt(offset + 1), this.cidr.family);
  }
}

/**
 * One range, or one of each family; the first gives the cluster its default family.
 * @throws RangeError for ranges that cannot be used.
 */
export function parseServiceCIDRs(texts: readonly string[], random?: RandomInt): AddressRange[] {
  const ranges = texts.map((text) => new AddressRange(text, random));
  if (ranges.length === 0 || ranges.length > 2) {
    throw new RangeError(`service CIDRs ${texts.join(",") || '""'} cannot be used: there must be one or two`);
  }
  if (ranges[0]?.family === ranges[1]?.family) {
    throw new RangeError(`service CIDRs ${texts.join(",")} cannot be used: two must be IPv4 and IPv6`);
  }
  return ranges;
}
