// The interfaces of the pod network: the host's bridge with its gateways, and the pod's end of the pair. Knows the
// kernel and blocks, nothing of the protocol.

import { type IpFamily, ipToBytes } from "../common/ip.js";
import { type Address, type Link, NetlinkError, type RtNetlink } from "../dataplane/kernel/rtnetlink.js";
import type { BridgeConf, HostSubnets, Range } from "./config.js";
import { CniError, CODE } from "./types.js";

const SCOPE_LINK = 253;
const FORWARDING: Record<IpFamily, string> = {
  4: "net/ipv4/ip_forward",
  6: "net/ipv6/conf/all/forwarding",
};

/** An address that a pod has been given. */
export interface PodAddress extends Range {
  ip: string;
}

/** A MAC that follows the address: whoever gets an address again is found where neighbours remember it. */
export function macOf(ip: string): string {
  const end = ipToBytes(ip).slice(-4);
  return ["0a", "58", ...Array.from(end, (byte) => byte.toString(16).padStart(2, "0"))].join(":");
}

/** The bridge with the gateways' addresses, created on demand; put right where it is not as it should be. */
export async function ensureBridge(host: RtNetlink, conf: BridgeConf, subnets: HostSubnets): Promise<Link> {
  const { ranges, mtu } = subnets;
  let link = await host.getLink(conf.bridge);
  if (!link) {
    // A MAC of its own: else it is the lowest of the ports' and changes under the neighbours' feet.
    const bridge = { name: conf.bridge, mtu, mac: macOf(ranges[0]?.gateway ?? ""), up: true };
    await host.addBridge(bridge).catch(ignore("EEXIST"));
    link = await host.getLink(conf.bridge);
  }
  if (link?.kind !== "bridge") {
    throw new CniError(CODE.invalidConfig, `${conf.bridge} is ${link?.kind ?? "no"} device, not a bridge`);
  }
  if (!link.up) await host.setLink(link.index, { up: true });
  const present = await host.listAddresses(link.index);
  for (const range of ranges) await ensureGateway(host, link, range, present);
  return link;
}

async function ensureGateway(
  host: RtNetlink,
  bridge: Link,
  { gateway, block }: Range,
  present: readonly Address[],
): Promise<void> {
  const { family } = block;
  const wanted = `${gateway}/${block.prefix}`;
  const own = present.filter((address) => address.family === family && address.scope !== SCOPE_LINK);
  for (const { cidr } of own.filter((address) => address.cidr !== wanted)) {
    const ports = (await host.listLinks()).filter(({ master }) => master === bridge.name);
    if (ports.length > 0) {
      throw new CniError(
        CODE.bridgeAddress,
        `${bridge.name} has ${cidr} and ${ports.length} ports, but this host's block is ${block}`,
        { details: "delete the pods of the old block first" },
      );
    }
    await host.deleteAddress(bridge.index, cidr);
  }
  if (own.some(({ cidr }) => cidr === wanted)) return;
  if (family === 6) ownIPv6(host, bridge.name);
  await host.addAddress(bridge.index, wanted).catch(ignore("EEXIST"));
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

function ownIPv6({ ns }: RtNetlink, ifName: string): void {
  const conf = `net/ipv6/conf/${ifName}`;
  try {
    for (const [key, value] of IPV6_SYSCTLS) ns.sysctl(`${conf}/${key}`, value);
    // Last, for with it the kernel begins to make addresses. Written only where needed: it waits for a lock.
    if (ns.sysctl(`${conf}/disable_ipv6`) !== "0") ns.sysctl(`${conf}/disable_ipv6`, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new CniError(CODE.kernel, "a range is IPv6, but this kernel has no IPv6", { cause: error });
  }
}

/**
 * The pod's side. The addresses are there before the interface comes up, so that the kernel announces them
 * (arp_notify, ndisc_notify).
 */
export async function configure(
  inside: RtNetlink,
  ifName: string,
  addresses: readonly PodAddress[],
  routes: readonly { dst: string; gw: string }[],
): Promise<Link> {
  const link = await inside.getLink(ifName);
  if (!link) throw new Error(`${ifName} is missing in ${inside.ns.name}`);
  if (addresses.some(({ block }) => block.family === 6)) ownIPv6(inside, ifName);
  const dev = link.index;
  const [refused] = await inside.batch(() => [
    inside.setLink(dev, { arpNotify: true }),
    ...addresses.map(({ ip, block }) => inside.addAddress(dev, `${ip}/${block.prefix}`)),
    inside.setLink(dev, { up: true }),
    inside.setLink("lo", { up: true }),
    ...routes.map(({ dst, gw }) => inside.addRoute({ dst, via: gw, dev })),
  ]);
  if (refused) throw refused;
  return link;
}

/** For catch(): nothing to do when the kernel says this. */
export function ignore(code: string): (error: unknown) => void {
  return (error) => {
    if (!(error instanceof NetlinkError && error.code === code)) throw error;
  };
}
