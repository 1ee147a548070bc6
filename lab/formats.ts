// What one value of a configuration must look like: each function says what is wrong, or undefined. Pure.

import { Cidr, type IpFamily, ipFamily, parseIp } from "../common/ip.js";

/** What is wrong with `name` as a DNS-1123 label, or undefined. */
export function dnsLabelProblem(name: string): string | undefined {
  if (/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(name)) return undefined;
  return "allowed are 1 to 63 of a-z, 0-9 and -, the first and the last not -";
}

/** What is wrong with `name` as a domain of several labels or one, or undefined. */
export function domainProblem(name: string): string | undefined {
  const good = name.length <= 253 && name.split(".").every((label) => dnsLabelProblem(label) === undefined);
  return good ? undefined : "a domain of DNS labels is expected, like cluster.local";
}

const EXAMPLES: Record<IpFamily, string> = { 4: "10.244.0.0/16", 6: "fd00:10:244::/56" };
/** Special-purpose networks of RFC 6890 that no host can be in. */
const RESERVED: Record<IpFamily, readonly string[]> = {
  4: ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"],
  6: ["::/8", "fe80::/10", "ff00::/8"],
};

/** What is wrong with a network, or with one of several with commas between them; prefixes by family. */
export function subnetProblem(
  text: string,
  prefixes: Record<IpFamily, readonly [min: number, max: number]>,
): string | undefined {
  for (const one of text.split(",")) {
    const family = one.includes(":") ? 6 : 4;
    const problem = networkProblem(one, family, prefixes[family]);
    if (problem) return problem;
  }
  return undefined;
}

function networkProblem(
  text: string,
  family: IpFamily,
  [min, max]: readonly [min: number, max: number],
): string | undefined {
  const expected = `an IPv${family} network like ${EXAMPLES[family]} with a prefix from /${min} to /${max} is expected`;
  let cidr: Cidr;
  try {
    cidr = Cidr.parse(text);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return expected;
  }
  if (cidr.prefix < min || cidr.prefix > max) return expected;
  if (cidr.toString() !== text) return `bits are set beyond the prefix; the network is ${cidr}`;
  const reserved = RESERVED[family].find((range) => Cidr.parse(range).overlaps(cidr));
  return reserved ? `overlaps ${reserved}, which is reserved (RFC 6890)` : undefined;
}

export function portRangeProblem(text: string): string | undefined {
  const match = /^(\d{1,5})-(\d{1,5})$/.exec(text);
  const [first, last] = [Number(match?.[1]), Number(match?.[2])];
  if (match && first >= 1 && last <= 65535 && first <= last) return undefined;
  return "first-last with 1 <= first <= last <= 65535 is expected, like 30000-32767";
}

/** What is wrong with a range of addresses, first-last, or with one of several with commas between them. */
export function addressRangesProblem(text: string): string | undefined {
  for (const one of text === "" ? [] : text.split(",")) {
    const [first = "", last = "", ...more] = one.split("-");
    const sane = more.length === 0 && ipFamily(first) !== 0 && ipFamily(first) === ipFamily(last);
    if (!sane || parseIp(first).value > parseIp(last).value)
      return "first-last, two addresses, is expected, like 192.168.56.200-192.168.56.250";
  }
  return undefined;
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
