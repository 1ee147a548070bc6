// What one value of a configuration must look like: each function says what is wrong, or undefined. Pure.

import { Cidr, ipFamily } from "../common/ip.js";

/** What is wrong with `name` as a DNS-1123 label, or undefined. */
export function dnsLabelProblem(name: string): string | undefined {
  if (/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(name)) return undefined;
  return "allowed are 1 to 63 of a-z, 0-9 and -, the first and the last not -";
}

export function subnetProblem(text: string, minPrefix: number, maxPrefix: number): string | undefined {
  const expected = `an IPv4 network like 10.244.0.0/16 with a prefix from /${minPrefix} to /${maxPrefix} is expected`;
  let cidr: Cidr;
  try {
    cidr = Cidr.parse(text);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return expected;
  }
  if (cidr.family !== 4 || cidr.prefix < minPrefix || cidr.prefix > maxPrefix) return expected;
  if (cidr.toString() !== text) return `bits are set beyond the prefix; the network is ${cidr}`;
  const reserved = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"].find(
    (range) => Cidr.parse(range).contains(cidr) || cidr.contains(range),
  );
  return reserved ? `overlaps ${reserved}, which is reserved (RFC 6890)` : undefined;
}

export function portRangeProblem(text: string): string | undefined {
  const match = /^(\d{1,5})-(\d{1,5})$/.exec(text);
  const [first, last] = [Number(match?.[1]), Number(match?.[2])];
  if (match && first >= 1 && last <= 65535 && first <= last) return undefined;
  return "first-last with 1 <= first <= last <= 65535 is expected, like 30000-32767";
}

export function loopbackProblem(text: string): string | undefined {
  if (text === "::1" || (ipFamily(text) === 4 && text.startsWith("127."))) return undefined;
  return "a loopback address is expected: 127.0.0.1, another of 127.0.0.0/8, or ::1";
}

const NAME_PART = /^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/;

/** Qualified names and label values as in apimachinery's validation. */
export function labelKeyProblem(key: string): string | undefined {
  const slash = key.indexOf("/");
  const prefix = slash < 0 ? undefined : key.slice(0, slash);
  const name = slash < 0 ? key : key.slice(slash + 1);
  const prefixOk =
    prefix === undefined ||
    (prefix.length <= 253 &&
      /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/.test(prefix));
  if (prefixOk && NAME_PART.test(name)) return undefined;
  return "[DNS subdomain/]name is expected, the name 1 to 63 of letters, digits, -, _ and . with a letter or digit at both ends";
}

export function labelValueProblem(value: string): string | undefined {
  if (value === "" || NAME_PART.test(value)) return undefined;
  return "a label value is up to 63 of letters, digits, -, _ and . with a letter or digit at both ends";
}
