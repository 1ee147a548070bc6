// The interfaces of the pod network: the host's bridge with its gateways, and the pod's end of the pair. Knows the
// kernel and blocks, nothing of the protocol.

import { setTimeout as sleep } from "node:timers/promises";
import { Cidr, type IpFamily, ipToBytes } from "../common/ip.js";
import { type Address, type Link, NetlinkError, type RtNetlink } from "../dataplane/kernel/rtnetlink.js";
import type { BridgeConf } from "./config.js";
import type { Range } from "./ranges.js";
import { CniError, type CniRoute, CODE } from "./types.js";

const SCOPE_LINK = 253;
const FORWARDING: Record<IpFamily, string> = {
  4: "net/ipv4/ip_forward",
  6: "net/ipv6/conf/all/forwarding",
};
const EVERYTHING: Record<IpFamily, string> = { 4: "0.0.0.0/0", 6: "::/0" };
/** A port that has no carrier by then gets none; duplicate detection takes a second or two. */
const WAIT_MS = 5000;
const WAIT_STEP_MS = 20;

/** How the bridge's ports to its own gateways in VLANs begin; those of pods begin with veth. */
export const GATEWAY_PORT = "vgw";

/** An address that a pod has been given. */
export interface PodAddress {
  ip: string;
  block: Cidr;
  gateway?: string;
}

/** A MAC that follows the address: whoever gets an address again is found where neighbours remember it. */
export function macOf(ip: string): string {
  const end = ipToBytes(ip).slice(-4);
  return ["0a", "58", ...Array.from(end, (byte) => byte.toString(16).padStart(2, "0"))].join(":");
}

/** The bridge, created on demand; put right where it is not as it should be. `mac` is for a new one. */
export async function ensureBridge(
  host: RtNetlink,
  conf: BridgeConf,
  facts: { mtu?: number; mac: string },
): Promise<Link> {
  const filter = conf.vlans === undefined ? {} : { vlanFiltering: true };
  let link = await host.getLink(conf.bridge);
  if (!link) {
    // A MAC of its own: else it is the lowest of the ports' and changes under the neighbours' feet.
    const made = host.addBridge({ name: conf.bridge, ...facts, ...filter, up: true });
    await made.catch(ignore("EEXIST")).catch(noVlans(conf));
    link = await host.getLink(conf.bridge);
  }
  if (link?.kind !== "bridge") {
    throw new CniError(CODE.invalidConfig, `${conf.bridge} is ${link?.kind ?? "no"} device, not a bridge`);
  }
  if (conf.vlans && !link.vlans?.filtering) await host.setLink(link.index, filter).catch(noVlans(conf));
  if (!link.up) await host.setLink(link.index, { up: true });
  if (conf.promiscMode) await host.setLink(link.index, { promiscuous: true });
  return link;
}

/** For catch(): an error in words where the kernel is built without CONFIG_BRIDGE_VLAN_FILTERING. */
function noVlans({ bridge, vlans }: BridgeConf): (error: unknown) => void {
  return (error) => {
    const isMissing = vlans !== undefined && error instanceof NetlinkError && error.code === "ENOTSUP";
    if (!isMissing) throw error;
    throw new CniError(
      CODE.kernel,
      `this kernel has no VLANs of bridges (CONFIG_BRIDGE_VLAN_FILTERING), which vlan and vlanTrunk need for ${bridge}`,
      { details: error.message, cause: error },
    );
  };
}

/**
 * The gateways' addresses, on the bridge or on its interface in a VLAN. `only`: nothing else of their families may be there, since the configuration knows them all;
 * without it, nothing that overlaps.
 */
export async function ensureGateways(
  host: RtNetlink,
  link: Link,
  facts: { bridge: string; gateways: readonly Pick<Range, "gateway" | "block">[]; only: boolean },
): Promise<void> {
  const { bridge, gateways, only } = facts;
  const present = (await host.listAddresses(link.index)).filter(({ scope }) => scope !== SCOPE_LINK);
  const wanted = new Set(gateways.map(({ gateway, block }) => `${gateway}/${block.prefix}`));
  for (const range of gateways) {
    const { block } = range;
    const others = present.filter(
      ({ cidr, family }) => !wanted.has(cidr) && family === block.family && (only || overlaps(block, cidr)),
    );
    for (const { cidr } of others) await removeGateway(host, link, { bridge, block, cidr });
    await ensureGateway(host, link, range, present);
  }
}

const overlaps = (block: Cidr, cidr: string): boolean => block.overlaps(Cidr.parse(cidr));

async function removeGateway(
  host: RtNetlink,
  link: Link,
  { bridge, block, cidr }: { bridge: string; block: Cidr; cidr: string },
): Promise<void> {
  const ports = (await host.listLinks()).filter(
    ({ name, master }) => master === bridge && !name.startsWith(GATEWAY_PORT),
  );
  if (ports.length > 0) {
    throw new CniError(
      CODE.bridgeAddress,
      `${link.name} has ${cidr} and ${ports.length} ports, but this host's block is ${block}`,
      { details: "delete the pods of the old block first" },
    );
  }
  await host.deleteAddress(link.index, cidr).catch(ignore("EADDRNOTAVAIL"));
}

async function ensureGateway(
  host: RtNetlink,
  link: Link,
  { gateway, block }: Pick<Range, "gateway" | "block">,
  present: readonly Address[],
): Promise<void> {
  const { family } = block;
  const wanted = `${gateway}/${block.prefix}`;
  if (present.some(({ cidr }) => cidr === wanted)) return;
  if (family === 6) ownIPv6(host, link.name);
  await host.addAddress(link.index, wanted).catch(ignore("EEXIST"));
  // With the gateway, not with every pod: reading a sysctl costs as much as all the rest of this function.
  if (host.ns.sysctl(FORWARDING[family]) !== "1") host.ns.sysctl(FORWARDING[family], 1);
}

/** Of an interface of ours. */
const IPV6_SYSCTLS: readonly (readonly [key: string, value: number])[] = [
  // Any pod could else make itself the others' router by an advertisement.
  ["accept_ra", 0],
  // The bridge asks for pods from its link-local address: while that is being checked (a second or two), nothing that
  // comes from elsewhere is forwarded to them. MACs are ours, so that there is nothing to check.
  ["accept_dad", 0],
  // A new address is announced when the interface comes up, as arp_notify does for IPv4.
  ["ndisc_notify", 1],
];

function ownIPv6({ ns }: RtNetlink, ifName: string, detect = false): void {
  const conf = `net/ipv6/conf/${ifName}`;
  try {
    for (const [key, value] of IPV6_SYSCTLS)
      if (key !== "accept_dad" || !detect) ns.sysctl(`${conf}/${key}`, value);
    // Last, for with it the kernel begins to make addresses. Written only where needed: it waits for a lock.
    if (ns.sysctl(`${conf}/disable_ipv6`) !== "0") ns.sysctl(`${conf}/disable_ipv6`, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new CniError(CODE.kernel, "a range is IPv6, but this kernel has no IPv6", { cause: error });
  }
}

/** Of the configuration and the addresses' own gateways, in the order in which they are made. */
export function routesOf(
  conf: Pick<BridgeConf, "isDefaultGateway">,
  addresses: readonly PodAddress[],
  routes: readonly CniRoute[],
): CniRoute[] {
  const gateways = new Map<IpFamily, string>();
  for (const { block, gateway } of addresses.toReversed()) if (gateway) gateways.set(block.family, gateway);
  const byDefault = conf.isDefaultGateway
    ? [...gateways].sort().map(([family, gw]) => ({ dst: EVERYTHING[family], gw }))
    : [];
  const own = routes.flatMap((route) => {
    const { family } = Cidr.parse(route.dst);
    if (!addresses.some(({ block }) => block.family === family)) return [];
    const gw = route.gw ?? gateways.get(family);
    return [{ ...route, ...(gw !== undefined && { gw }) }];
  });
  const given = new Set(own.map(({ dst, table }) => (table === undefined ? dst : "")));
  return [...byDefault.filter(({ dst }) => !given.has(dst)), ...own];
}

export interface PodSide {
  ifName: string;
  addresses: readonly PodAddress[];
  routes: readonly CniRoute[];
  /** Duplicate address detection for IPv6. */
  detect: boolean;
}

/**
 * The pod's side. The addresses are there before the interface comes up, so that the kernel announces them
 * (arp_notify, ndisc_notify). Throws CniError 101 when another one on the link has such an address.
 */
export async function configure(
  inside: RtNetlink,
  { ifName, addresses, routes, detect }: PodSide,
): Promise<Link> {
  const link = await inside.getLink(ifName);
  if (!link) throw new Error(`${ifName} is missing in ${inside.ns.name}`);
  if (addresses.some(({ block }) => block.family === 6)) ownIPv6(inside, ifName, detect);
  const dev = link.index;
  if (link.up) await inside.setLink(dev, { up: false });
  const [refused] = await inside.batch(() => [
    inside.setLink(dev, { arpNotify: true }),
    ...addresses.map(({ ip, block }) => inside.addAddress(dev, `${ip}/${block.prefix}`, { detect })),
    inside.setLink(dev, { up: true }),
    inside.setLink("lo", { up: true }),
    ...routes.map(({ dst, gw, priority, ...route }) =>
      inside.addRoute({ ...route, dst, dev, ...(gw && { via: gw }), ...(priority && { metric: priority }) }),
    ),
  ]);
  if (refused) throw refused;
  if (detect) await settle(inside, ifName);
  return link;
}

/** Until duplicate detection is through. */
async function settle(inside: RtNetlink, ifName: string): Promise<void> {
  const own = async () => (await inside.listAddresses(ifName)).filter(({ scope }) => scope !== SCOPE_LINK);
  const done = await until(
    async () => !(await own()).some(({ tentative, duplicate }) => tentative && !duplicate),
  );
  const duplicate = (await own()).find((address) => address.duplicate);
  if (duplicate)
    throw new CniError(CODE.exists, `${duplicate.ip} is used by another one on the link already`);
  if (!done) throw new CniError(CODE.kernel, `duplicate detection on ${ifName} did not end in ${WAIT_MS} ms`);
}

/** Until the port has its carrier: with both ends up that is at once, unless the machine is very busy. */
export async function waitForPort(host: RtNetlink, name: string): Promise<Link> {
  let port: Link | undefined;
  const isUp = await until(async () => {
    port = await host.getLink(name);
    return port?.running === true;
  });
  if (isUp && port) return port;
  throw new CniError(CODE.kernel, `${name}, the host's end, has not come up within ${WAIT_MS} ms`);
}

async function until(holds: () => Promise<boolean>): Promise<boolean> {
  for (let waited = 0; ; waited += WAIT_STEP_MS) {
    if (await holds()) return true;
    if (waited >= WAIT_MS) return false;
    await sleep(WAIT_STEP_MS);
  }
}

/** For catch(): nothing to do when the kernel says this. */
export function ignore(code: string): (error: unknown) => void {
  return (error) => {
    if (!(error instanceof NetlinkError && error.code === code)) throw error;
  };
}
