// The VXLAN device of a host, made or put right: flannel.1 or flannel-v6.1 with flannel's settings. Effects on one
// link only.

import { randomBytes } from "node:crypto";
import { BITS, type Cidr, type IpFamily } from "../../common/ip.js";
import { type Link, NetlinkError, type RtNetlink } from "../kernel/rtnetlink.js";
import { VNI } from "./lease.js";

/** The device that carries a family's pods, inside packets of the same family. */
export const DEVICE: Record<IpFamily, string> = { 4: `flannel.${VNI}`, 6: `flannel-v6.${VNI}` };
/** The kernel's own default for VXLAN, which flannel leaves as it is; not IANA's 4789. */
export const PORT = 8472;
/** Outer Ethernet, IP, UDP and VXLAN headers. */
export const OVERHEAD: Record<IpFamily, number> = { 4: 50, 6: 70 };
/** What IPv4 and IPv6 demand of a link (RFC 791, RFC 8200); below it the kernel takes IPv6 off the device. */
const LEAST_MTU: Record<IpFamily, number> = { 4: 68, 6: 1280 };

/** All addresses and blocks of one family. */
export interface DeviceSpec {
  uplink: string;
  /** Source of the tunnel packets. */
  publicIP: string;
  /** The host's block: its network address becomes the device's. */
  podCIDR: Cidr;
  network: Cidr;
  /** The MAC that is announced; undefined: keep that of an existing device, else a random one. */
  mac?: string;
}

/**
 * Idempotent. A device that differs in what cannot be changed (VNI, uplink, source, port, learning) is made anew.
 * @throws NetlinkError; Error when the uplink is missing or its MTU leaves no room.
 */
export async function ensureDevice(rt: RtNetlink, spec: DeviceSpec): Promise<Link> {
  const uplink = await rt.getLink(spec.uplink);
  if (!uplink) throw new Error(`the uplink ${spec.uplink} is missing in ${rt.ns.name}`);
  const { family } = spec.podCIDR;
  const name = DEVICE[family];
  const mtu = uplink.mtu - OVERHEAD[family];
  if (mtu < LEAST_MTU[family]) {
    throw new Error(`MTU ${uplink.mtu} of ${spec.uplink} leaves no room for IPv${family} in VXLAN`);
  }
  let link = await rt.getLink(name);
  const mac = spec.mac ?? (link?.kind === "vxlan" ? link.mac : randomMac());
  if (link && !sameTunnel(link, uplink, spec)) {
    await rt.deleteLink(link.index);
    link = undefined;
  }
  if (!link) {
    const tunnel = { id: VNI, port: PORT, local: spec.publicIP, link: uplink.index, learning: false };
    await rt.addVxlan({ name, ...tunnel, mtu, mac });
    link = await requireDevice(rt, name);
  }
  if (link.mtu !== mtu) await rt.setLink(link.index, { mtu });
  // A host that speaks no IPv6 of its own may have it switched off for new devices.
  if (family === 6 && !link.up) rt.ns.sysctl(`net/ipv6/conf/${name}/disable_ipv6`, 0);
  await ensureAddress(rt, link.index, spec);
  if (!link.up) {
    noRouterAdvertisements(rt, name);
    await rt.setLink(link.index, { up: true });
  }
  // Only after it is up: udev may have given it another one meanwhile (flannel #1795).
  if ((await requireDevice(rt, name)).mac !== mac) await rt.setLink(link.index, { mac });
  return requireDevice(rt, name);
}

async function requireDevice(rt: RtNetlink, name: string): Promise<Link> {
  const link = await rt.getLink(name);
  if (!link) {
    throw new NetlinkError({ code: "ENODEV", operation: "getLink", detail: name, where: rt.ns.name });
  }
  return link;
}

function sameTunnel(link: Link, uplink: Link, spec: DeviceSpec): boolean {
  const { vxlan } = link;
  return (
    vxlan?.id === VNI &&
    vxlan.port === PORT &&
    vxlan.local === spec.publicIP &&
    vxlan.linkIndex === uplink.index &&
    !vxlan.learning
  );
}

/** The one address; others of the pod network are from an earlier lease. */
async function ensureAddress(rt: RtNetlink, index: number, spec: DeviceSpec): Promise<void> {
  const { family, network } = spec.podCIDR;
  const wanted = `${network}/${BITS[family]}`;
  const present = (await rt.listAddresses(index)).filter((address) => address.family === family);
  for (const { cidr, ip } of present) {
    if (cidr !== wanted && spec.network.contains(ip)) await rt.deleteAddress(index, cidr);
  }
  if (!present.some(({ cidr }) => cidr === wanted)) await rt.addAddress(index, wanted);
}

function noRouterAdvertisements(rt: RtNetlink, name: string): void {
  try {
    rt.ns.sysctl(`net/ipv6/conf/${name}/accept_ra`, 0);
  } catch (error) {
    // A kernel without IPv6 has nothing to forbid.
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

/** Locally administered, unicast. */
function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfe) | 0x02;
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(":");
}
