// The one spelling of an address that chain names, rules and comparisons use.
// Pure.

import { formatIp, ipFamily, ipToBytes, parseIp } from "../../common/ip.js";

/**
 * An address of the family as the kernel prints it (IPv6 may be written in many ways); undefined for anything else.
 */
export function addressOf(family: 4 | 6, text: string | undefined): string | undefined {
  if (text === undefined || ipFamily(text) !== family) return undefined;
  return family === 4 ? text : formatIp(parseIp(text).value, 6);
}

/** IPv4 as it is, IPv6 as 32 hexadecimal digits: the form that flows of the conntrack table have. */
export function addressKey(ip: string): string {
  return ip.includes(":") ? Buffer.from(ipToBytes(ip)).toString("hex") : ip;
}
