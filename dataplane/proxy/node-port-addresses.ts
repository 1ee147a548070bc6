// Which of the node's addresses answer on node ports (--nodeport-addresses).
// Pure: the addresses that the host has are given.

import { Cidr, formatIp, parseIp } from "../../common/ip.js";

export interface NodePortAddresses {
  /** Every address of the host. */
  readonly all: boolean;
  /** Whether 127.0.0.0/8 is among them. */
  readonly loopback: boolean;
  /** Those of the host's addresses that answer, sorted; empty when `all`. */
  matching(addresses: Iterable<string>): string[];
}

/**
 * @param ranges CIDRs of both families, or `primary` alone: the node's own address. None of this family: all addresses.
 * @param nodeIPs the node's addresses, for `primary`.
 * @throws RangeError for anything else.
 */
export function nodePortAddresses(
  ranges: readonly string[],
  family: 4 | 6,
  nodeIPs: readonly string[],
): NodePortAddresses {
  if (ranges.includes("primary") && ranges.length > 1) {
    throw new RangeError("nodePortAddresses: `primary` stands alone");
  }
  const texts = ranges[0] === "primary" ? primaryOf(nodeIPs) : ranges;
  const cidrs = texts.map(Cidr.parse).filter((cidr) => cidr.family === family);
  const all = cidrs.length === 0 || cidrs.some(({ prefix }) => prefix === 0);
  return {
    all,
    loopback: family === 4 && (all || cidrs.some((cidr) => cidr.overlaps(Cidr.parse("127.0.0.0/8")))),
    matching(addresses) {
      if (all) return [];
      const values = [...new Set(addresses)].map(parseIp).filter((ip) => ip.family === family);
      return values
        .map(({ value }) => formatIp(value, family))
        .filter((ip) => cidrs.some((cidr) => cidr.contains(ip)))
        .sort();
    },
  };
}

/** A loopback address stands for one that nobody knows. */
function primaryOf(nodeIPs: readonly string[]): string[] {
  const known = nodeIPs.filter((ip) => !ip.startsWith("127.") && ip !== "::1");
  return known.map((ip) => `${ip}/${ip.includes(":") ? 128 : 32}`);
}
