// What the load-balancer controller decides: which Services are its own, which addresses of the pool one gets.
// Pure; knows Services and addresses.

import { formatIp, type IpFamily, ipFamily, parseIp } from "../../common/ip.js";
import type { Service, Stored } from "../../common/k8s.js";

/** Keeps a Service until its address is given back (the cloud provider's service controller sets it, too). */
export const LOAD_BALANCER_FINALIZER = "service.kubernetes.io/load-balancer-cleanup";

interface Range {
  family: IpFamily;
  first: bigint;
  last: bigint;
}

/** "192.168.56.200-192.168.56.250", one range or one of each family with a comma between them. */
export class AddressPool {
  readonly #text: string;
  readonly #ranges: readonly Range[];

  /** @throws RangeError for a text that is no such pool. */
  constructor(text: string) {
    this.#text = text;
    this.#ranges = text.split(",").map(parseRange);
  }

  toString(): string {
    return this.#text;
  }

  has(ip: string): boolean {
    const { family, value } = parseIp(ip);
    return this.#ranges.some((r) => r.family === family && value >= r.first && value <= r.last);
  }

  /** The lowest address of the family that is not in `taken`; undefined when there is none. */
  free(family: IpFamily, taken: { has(ip: string): boolean }): string | undefined {
    for (const range of this.#ranges) {
      if (range.family !== family) continue;
      for (let value = range.first; value <= range.last; value++) {
        const ip = formatIp(value, family);
        if (!taken.has(ip)) return ip;
      }
    }
    return undefined;
  }
}

function parseRange(text: string): Range {
  const [from = "", to = "", ...more] = text.split("-");
  const [first, last] = [parseIp(from), parseIp(to)];
  if (more.length > 0 || first.family !== last.family || first.value > last.value) {
    throw new RangeError(`${JSON.stringify(text)} is not a range of addresses, first-last`);
  }
  return { family: first.family, first: first.value, last: last.value };
}

/** Whether this controller has to give the Service an address: another class is another controller's business. */
export function wantsLoadBalancer({ spec }: Stored<Service>): boolean {
  return spec?.type === "LoadBalancer" && spec.loadBalancerClass === undefined;
}

export function addressesOf({ status }: Stored<Service>): string[] {
  return (status?.loadBalancer?.ingress ?? []).flatMap(({ ip }) => (ip ? [ip] : []));
}

export type Assignment = { ips: string[] } | { problem: string };

/**
 * One address of the pool for each of spec.ipFamilies: what the Service has stays, then what spec.loadBalancerIP asks
 * for, then the lowest free one. All or nothing.
 * @param owners Who has which address now, by address.
 */
export function assign(
  service: Stored<Service>,
  pool: AddressPool,
  owners: ReadonlyMap<string, string>,
  key: string,
): Assignment {
  const { ipFamilies = ["IPv4"], loadBalancerIP } = service.spec ?? {};
  // The owners know it before the Service that a watch shows.
  const present = [
    ...addressesOf(service),
    ...[...owners].flatMap(([ip, owner]) => (owner === key ? [ip] : [])),
  ];
  const wanted = loadBalancerIP ? canonical(loadBalancerIP) : undefined;
  if (loadBalancerIP && wanted === undefined) return { problem: `${loadBalancerIP} is no IP address` };
  if (wanted !== undefined && !pool.has(wanted)) return { problem: `${wanted} is not in the pool ${pool}` };
  const ips: string[] = [];
  for (const name of ipFamilies) {
    const family: IpFamily = name === "IPv6" ? 6 : 4;
    const inFamily = (ip: string | undefined): ip is string => ip !== undefined && ipFamily(ip) === family;
    const mine = (ip: string) => (owners.get(ip) ?? key) === key;
    if (inFamily(wanted)) {
      if (!mine(wanted)) return { problem: `${wanted} is already used by Service ${owners.get(wanted)}` };
      ips.push(wanted);
      continue;
    }
    const kept = present.find((ip) => inFamily(ip) && pool.has(ip) && mine(ip));
    const ip = kept ?? pool.free(family, owners);
    if (ip === undefined) return { problem: `the pool ${pool} has no free ${name} address` };
    ips.push(ip);
  }
  return { ips };
}

function canonical(text: string): string | undefined {
  if (!ipFamily(text)) return undefined;
  const { value, family } = parseIp(text);
  return formatIp(value, family);
}
