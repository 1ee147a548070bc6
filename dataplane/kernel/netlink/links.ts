// Links (network interfaces): bridges, veth pairs, VXLAN devices (rtnetlink(7), linux/if_link.h).
// Knows how link requests are encoded and link messages decoded.

import type { NetNs } from "../netns.js";
import {
  formatMac,
  type MessageWriter,
  type NetlinkMessage,
  parseAttributes,
  parseMac,
  readString,
} from "./codec.js";
import { bridgeData, decodeInfo, IFLA_LINKINFO, linkInfo, portInfo, vxlanData } from "./link-info.js";
import { NetlinkError, type NetlinkSocket, NLM_F_CREATE, NLM_F_EXCL } from "./socket.js";

export const RTM_NEWLINK = 16;
export const RTM_DELLINK = 17;
const RTM_GETLINK = 18;

const IFINFOMSG = 16;
const IFF_UP = 0x1;
const IFF_PROMISC = 0x100;
const IFF_LOWER_UP = 0x10000;

const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_LINK = 5;
const IFLA_MASTER = 10;
const IFLA_IFALIAS = 20;
const IFLA_AF_SPEC = 26;
const IFLA_GROUP = 27;
const IFLA_NET_NS_FD = 28;
const IFLA_EXT_MASK = 29;
const AF_INET = 2;
const IFLA_INET_CONF = 1;
/** The interface's own sysctls by number (linux/ip.h). */
const IPV4_DEVCONF_ARP_NOTIFY = 22;
const VETH_INFO_PEER = 1;
/** Counters are most of a link message and nobody here reads them. */
const RTEXT_FILTER_SKIP_STATS = 8;

/** IFNAMSIZ less the terminating NUL. */
export const MAX_NAME = 15;

/** An interface by name or, where the caller knows it, by index: that saves one look-up. */
export type Device = string | number;

export interface Link {
  index: number;
  name: string;
  /** Lower case; "" for a device without. */
  mac: string;
  mtu: number;
  /** Administratively up (IFF_UP). */
  up: boolean;
  /** Has a carrier too (IFF_LOWER_UP). */
  running: boolean;
  /** bridge, veth, vxlan, …; undefined for lo and hardware. */
  kind?: string;
  /** Name of the bridge it is a port of. */
  master?: string;
  /** Index of the other end (veth) or of the underlying device (vxlan), in its own namespace. */
  linkIndex?: number;
  alias?: string;
  /** Of a bridge port. */
  hairpin?: boolean;
  /** Of a bridge port: nothing goes from it to another one that is isolated too. */
  isolated?: boolean;
  /** Of a bridge; absent where the kernel has no VLANs of bridges. */
  vlans?: { filtering: boolean; defaultVlan: number };
  vxlan?: { id: number; port: number; learning: boolean; local?: string; linkIndex?: number };
}

export interface BridgeOptions {
  name: string;
  mtu?: number;
  /** A fixed address; else the bridge takes the lowest of its ports', and changes it as they come and go. */
  mac?: string;
  up?: boolean;
  /** Ports are in VLANs. ENOTSUP from a kernel without (CONFIG_BRIDGE_VLAN_FILTERING). */
  vlanFiltering?: boolean;
}

export interface VethOptions {
  name: string;
  /** Is down at first, for the kernel cannot bring it up before it is joined (ENOTCONN). */
  peer: { name: string; ns?: NetNs; mac?: string };
  mtu?: number;
  mac?: string;
  /** The bridge that `name` becomes a port of. */
  master?: Device;
  up?: boolean;
}

export interface VxlanOptions {
  name: string;
  id: number;
  /** UDP port. */
  port: number;
  /** Source address of the tunnel. */
  local: string;
  /** The underlying device. */
  link: Device;
  learning: boolean;
  mtu?: number;
  mac?: string;
  up?: boolean;
}

export interface LinkChange {
  up?: boolean;
  /** Takes in frames that are for others. */
  promiscuous?: boolean;
  /** null leaves the bridge. */
  master?: Device | null;
  mtu?: number;
  mac?: string;
  /** Send frames back through the port they came from; for a bridge port only. */
  hairpin?: boolean;
  /** Nothing goes to another port that is isolated too; for a bridge port only. */
  isolated?: boolean;
  /** As in {@link BridgeOptions}; for a bridge only. */
  vlanFiltering?: boolean;
  /** A note for people and tools (ip-link(8) shows it); up to 255 bytes. */
  alias?: string;
  /** net.ipv4.conf.NAME.arp_notify: announce addresses by ARP when it comes up. Takes effect for a later request. */
  arpNotify?: boolean;
  /** Moves it there. */
  ns?: NetNs;
  /** Renames it; the interface must be down on old kernels. */
  name?: string;
}

/** @throws RangeError for a name the kernel would not take (dev_valid_name). */
export function checkName(name: string): string {
  const bytes = Buffer.byteLength(name);
  if (bytes < 1 || bytes > MAX_NAME || name === "." || name === ".." || /[\s/:]/.test(name)) {
    throw new RangeError(
      `interface name ${JSON.stringify(name)} is not valid: 1 to ${MAX_NAME} bytes without space, "/" or ":"`,
    );
  }
  return name;
}

function ifinfo(w: MessageWriter, facts: { index?: number; up?: boolean; promiscuous?: boolean } = {}): void {
  const { index = 0, up, promiscuous } = facts;
  w.fixed(IFINFOMSG, (at) => {
    at.writeInt32LE(index, 4);
    at.writeUInt32LE((up ? IFF_UP : 0) | (promiscuous ? IFF_PROMISC : 0), 8);
    at.writeUInt32LE((up === undefined ? 0 : IFF_UP) | (promiscuous === undefined ? 0 : IFF_PROMISC), 12);
  });
}

function common(w: MessageWriter, o: { mtu?: number; mac?: string }): void {
  if (o.mtu !== undefined) w.u32(IFLA_MTU, o.mtu);
  if (o.mac !== undefined) w.bytes(IFLA_ADDRESS, parseMac(o.mac));
}

export function addBridge(socket: NetlinkSocket, options: BridgeOptions): void {
  const { name, up, vlanFiltering } = options;
  checkName(name);
  socket.change({ operation: "addBridge", detail: name }, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, (w) => {
    ifinfo(w, { up });
    w.string(IFLA_IFNAME, name);
    common(w, options);
    linkInfo(w, "bridge", vlanFiltering === undefined ? undefined : bridgeData(vlanFiltering));
  });
}

export function addVeth(socket: NetlinkSocket, options: VethOptions): void {
  const { name, peer, mtu, up } = options;
  checkName(name);
  checkName(peer.name);
  const detail = `${name} peer ${peer.name}${peer.ns ? ` in ${peer.ns.name}` : ""}`;
  const master = options.master === undefined ? undefined : indexOf(socket, "addVeth", options.master);
  socket.change({ operation: "addVeth", detail }, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, (w) => {
    ifinfo(w, { up });
    w.string(IFLA_IFNAME, name);
    common(w, options);
    if (master !== undefined) w.u32(IFLA_MASTER, master);
    linkInfo(w, "veth", () => {
      w.nest(VETH_INFO_PEER, () => {
        ifinfo(w);
        w.string(IFLA_IFNAME, peer.name);
        common(w, { mtu, mac: peer.mac });
        if (peer.ns) w.u32(IFLA_NET_NS_FD, peer.ns.fd);
      });
    });
  });
}

export function addVxlan(socket: NetlinkSocket, options: VxlanOptions): void {
  const { name, id, port, local, link, up } = options;
  checkName(name);
  const detail = `${name} id ${id} local ${local} dev ${link} dstport ${port}`;
  const under = indexOf(socket, "addVxlan", link);
  socket.change({ operation: "addVxlan", detail }, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, (w) => {
    ifinfo(w, { up });
    w.string(IFLA_IFNAME, name);
    common(w, options);
    linkInfo(w, "vxlan", vxlanData(options, under));
  });
}

/** Puts a link into a group (ip-link(8), "group"); 0 is the one that all are in at first. */
export function setGroup(socket: NetlinkSocket, index: number, group: number): void {
  const label = { operation: "setGroup", detail: `${index} group ${group}` };
  socket.change(label, RTM_NEWLINK, 0, (w) => {
    target(w, index);
    w.u32(IFLA_GROUP, group);
  });
}

/** The ifinfomsg of an existing link, by index or by name. */
export function target(
  w: MessageWriter,
  device: Device,
  flags: Pick<LinkChange, "up" | "promiscuous"> = {},
): void {
  ifinfo(w, { index: typeof device === "number" ? device : 0, ...flags });
  if (typeof device === "string") w.string(IFLA_IFNAME, checkName(device));
}

export function setLink(socket: NetlinkSocket, device: Device, change: LinkChange): void {
  const { up, promiscuous, master, mtu, mac, alias, arpNotify, hairpin, isolated, vlanFiltering, ns, name } =
    change;
  const isPort = hairpin !== undefined || isolated !== undefined;
  const label = { operation: "setLink", detail: `${device} ${describe(change)}` };
  const masterIndex = typeof master === "string" ? indexOf(socket, "setLink", master) : (master ?? 0);
  // A new name needs the index, because IFLA_IFNAME is then the new one.
  const at = name === undefined ? device : indexOf(socket, "setLink", device);
  if (name !== undefined) checkName(name);
  socket.change(label, RTM_NEWLINK, 0, (w) => {
    target(w, at, { up, promiscuous });
    common(w, { mtu, mac });
    if (name !== undefined) w.string(IFLA_IFNAME, name);
    if (alias !== undefined) w.bytes(IFLA_IFALIAS, Buffer.from(alias));
    if (arpNotify !== undefined) inetConf(w, IPV4_DEVCONF_ARP_NOTIFY, arpNotify ? 1 : 0);
    if (master !== undefined) w.u32(IFLA_MASTER, masterIndex);
    if (ns) w.u32(IFLA_NET_NS_FD, ns.fd);
    if (vlanFiltering !== undefined) linkInfo(w, "bridge", bridgeData(vlanFiltering));
    if (isPort && master === undefined) portInfo(w, change);
  });
  // The kernel looks at port settings before it looks at the master: a new port takes a second request.
  if (isPort && master !== undefined) {
    socket.change(label, RTM_NEWLINK, 0, (w) => {
      target(w, name ?? at);
      portInfo(w, change);
    });
  }
}

/** A sysctl of net.ipv4.conf.NAME. */
function inetConf(w: MessageWriter, key: number, value: number): void {
  w.nest(IFLA_AF_SPEC, () => w.nest(AF_INET, () => w.nest(IFLA_INET_CONF, () => w.u32(key, value))));
}

function describe(change: LinkChange): string {
  return Object.entries(change)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key}=${key === "ns" ? (value as NetNs).name : String(value)}`)
    .join(" ");
}

/** undefined when there is no such link. */
export function getLink(socket: NetlinkSocket, device: Device): Link | undefined {
  try {
    const raw = requireLink(socket, "getLink", device);
    return withMaster(raw, (index) => requireLink(socket, "getLink", index).link.name);
  } catch (error) {
    if (error instanceof NetlinkError && (error.code === "ENODEV" || error.code === "ENXIO"))
      return undefined;
    throw error;
  }
}

export function listLinks(socket: NetlinkSocket): Link[] {
  const raws = socket.dump(
    { operation: "listLinks", detail: "" },
    RTM_GETLINK,
    (w) => {
      ifinfo(w);
      w.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    },
    decodeLink,
  );
  const names = new Map(raws.map(({ link }) => [link.index, link.name]));
  return raws.map((raw) => withMaster(raw, (index) => names.get(index)));
}

/** The index of a link. Throws {@link NetlinkError} ENODEV in the name of `operation`. */
export function indexOf(socket: NetlinkSocket, operation: string, device: Device): number {
  return typeof device === "number" ? device : requireLink(socket, operation, device).link.index;
}

interface RawLink {
  link: Link;
  master?: number;
}

function requireLink(socket: NetlinkSocket, operation: string, device: Device): RawLink {
  const label = { operation, detail: String(device) };
  return socket.get(
    label,
    RTM_GETLINK,
    (w) => {
      target(w, device);
      w.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    },
    decodeLink,
  );
}

function withMaster(raw: RawLink, nameOf: (index: number) => string | undefined): Link {
  if (raw.master === undefined) return raw.link;
  const master = nameOf(raw.master);
  return master === undefined ? raw.link : { ...raw.link, master };
}

/** RTM_NEWLINK or RTM_DELLINK. */
export function decodeLink(message: NetlinkMessage): RawLink {
  const { body } = message;
  const attributes = parseAttributes(body, IFINFOMSG);
  const flags = body.readUInt32LE(8);
  const mac = attributes.get(IFLA_ADDRESS);
  const name = attributes.get(IFLA_IFNAME);
  const link: Link = {
    index: body.readInt32LE(4),
    name: name ? readString(name) : "",
    mac: mac?.length === 6 ? formatMac(mac) : "",
    mtu: attributes.get(IFLA_MTU)?.readUInt32LE(0) ?? 0,
    up: (flags & IFF_UP) !== 0,
    running: (flags & IFF_LOWER_UP) !== 0,
  };
  const alias = attributes.get(IFLA_IFALIAS);
  if (alias) link.alias = readString(alias);
  const linkIndex = attributes.get(IFLA_LINK);
  if (linkIndex) link.linkIndex = linkIndex.readInt32LE(0);
  const info = attributes.get(IFLA_LINKINFO);
  if (info) decodeInfo(link, parseAttributes(info));
  return { link, master: attributes.get(IFLA_MASTER)?.readUInt32LE(0) };
}
