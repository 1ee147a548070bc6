// Where the kernel would send a packet and with which source address: addresses and routes of one host, as data.
// Pure. The main table by longest prefix; policy rules (ip-rule(8)) and rp_filter are not looked at.

import { Cidr, ipFamily, parseIp } from "../../common/ip.js";
import type { Host, Route } from "./packet.js";

export const LOOPBACK = "lo";

export interface NextHop {
  readonly local: boolean;
  readonly device: string;
  readonly via?: string;
}

export function isLoopback(ip: string): boolean {
  return ip.startsWith("127.") || ip === "::1";
}

function within(ip: string, block: string): boolean {
  return Cidr.parse(block).contains(ip);
}

export function same(a: string, b: string): boolean {
  return a === b || (ipFamily(a) === 6 && ipFamily(b) === 6 && parseIp(a).value === parseIp(b).value);
}

/** Whether packets to this address are for the host itself. */
export function isLocal(host: Host, ip: string): boolean {
  if (isLoopback(ip) || host.addresses.some((address) => same(address.ip, ip))) return true;
  return host.routes.some(({ type, to }) => type === "local" && within(ip, to));
}

/** The kinds of address that addrtype(8) knows, as far as a host's addresses tell them. */
export function addressType(host: Host, ip: string): "LOCAL" | "BROADCAST" | "MULTICAST" | "UNICAST" {
  if (isLocal(host, ip)) return "LOCAL";
  if (ipFamily(ip) === 6) return within(ip, "ff00::/8") ? "MULTICAST" : "UNICAST";
  if (within(ip, "224.0.0.0/4")) return "MULTICAST";
  const isEnd = host.addresses.some(({ ip: own, prefix }) => {
    if (ipFamily(own) !== 4 || prefix > 30) return false;
    const block = Cidr.of(parseIp(own), prefix);
    return ip === block.broadcast;
  });
  return isEnd || ip === "255.255.255.255" ? "BROADCAST" : "UNICAST";
}

/** The most specific route; undefined when there is none, or one that says no. */
export function routeOf(host: Host, ip: string): Route | undefined {
  let best: { route: Route; prefix: number } | undefined;
  for (const route of host.routes) {
    const block = Cidr.parse(route.to);
    if (!block.contains(ip)) continue;
    const closer = block.prefix - (best?.prefix ?? -1);
    if (closer > 0 || (closer === 0 && (route.metric ?? 0) < (best?.route.metric ?? 0))) {
      best = { route, prefix: block.prefix };
    }
  }
  const type = best?.route.type ?? "unicast";
  return type === "unicast" || type === "local" ? best?.route : undefined;
}

/** Where a packet goes; undefined: unreachable. */
export function nextHop(host: Host, dst: string): NextHop | undefined {
  if (isLocal(host, dst)) return { local: true, device: LOOPBACK };
  const route = routeOf(host, dst);
  return route && { local: false, device: route.device, ...(route.via && { via: route.via }) };
}

/**
 * The source address of MASQUERADE (inet_select_addr in net/ipv4/devinet.c): the device's own, the one in whose
 * network the next hop lies before others; without any, the first of another device. IPv6 chooses by longest prefix.
 */
export function addressOn(host: Host, device: string, towards: string): string | undefined {
  const family = ipFamily(towards);
  const own = host.addresses.filter(({ ip, scope }) => ipFamily(ip) === family && scope === "global");
  const here = own.filter((address) => address.device === device);
  const near = here.find(({ ip, prefix }) => Cidr.of(parseIp(ip), prefix).contains(towards));
  return (near ?? here[0] ?? own[0])?.ip;
}

/** The source address that the kernel gives to a connection made on the host. */
export function sourceFor(host: Host, dst: string): string | undefined {
  if (isLoopback(dst)) return ipFamily(dst) === 6 ? "::1" : "127.0.0.1";
  if (isLocal(host, dst)) return dst;
  const route = routeOf(host, dst);
  return route && (route.src ?? addressOn(host, route.device, route.via ?? dst));
}
