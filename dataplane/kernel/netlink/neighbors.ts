// Neighbours (ARP, NDP) and forwarding-database entries: one kernel message type for both (linux/neighbour.h).

import { ipToBytes } from "../../../common/ip.js";
import {
  formatMac,
  type MessageWriter,
  type NetlinkMessage,
  parseAttributes,
  parseMac,
  readIp,
} from "./codec.js";
import { type Device, indexOf } from "./links.js";
import { type NetlinkSocket, NLM_F_CREATE, NLM_F_REPLACE } from "./socket.js";

const RTM_NEWNEIGH = 28;
const RTM_DELNEIGH = 29;
const RTM_GETNEIGH = 30;

const NDMSG = 12;
const AF_INET = 2;
const AF_INET6 = 10;
const AF_BRIDGE = 7;
const NDA_DST = 1;
const NDA_LLADDR = 2;
const NDA_IFINDEX = 8;
const NUD_REACHABLE = 0x02;
const NUD_NOARP = 0x40;
const NUD_PERMANENT = 0x80;
const NTF_SELF = 0x02;
const RTN_UNICAST = 1;

export interface NeighborOptions {
  dev: Device;
  ip: string;
  mac: string;
  /** Default true; else the entry ages like a learned one. */
  permanent?: boolean;
}

export interface Neighbor {
  ip: string;
  /** "" while unresolved. */
  mac: string;
  permanent: boolean;
  /** NUD_* bits. */
  state: number;
}

export interface FdbOptions {
  dev: Device;
  mac: string;
  /** The remote VTEP of a VXLAN device. */
  dst: string;
}

export interface FdbEntry {
  mac: string;
  dst?: string;
  permanent: boolean;
  /** Belongs to the device itself (VXLAN), not to the bridge above it. */
  self: boolean;
}

interface Header {
  family: number;
  index: number;
  state?: number;
  flags?: number;
}

function header(w: MessageWriter, h: Header): void {
  w.fixed(NDMSG, (at) => {
    at.writeUInt8(h.family, 0);
    at.writeInt32LE(h.index, 4);
    at.writeUInt16LE(h.state ?? 0, 8);
    at.writeUInt8(h.flags ?? 0, 10);
    at.writeUInt8(h.state === undefined ? 0 : RTN_UNICAST, 11);
  });
}

const familyOf = (ip: Uint8Array): number => (ip.length === 16 ? AF_INET6 : AF_INET);

/** Adds or replaces. */
export function setNeighbor(socket: NetlinkSocket, options: NeighborOptions): void {
  const { dev, ip, mac, permanent = true } = options;
  const index = indexOf(socket, "setNeighbor", dev);
  const bytes = ipToBytes(ip);
  const hardware = parseMac(mac);
  const state = permanent ? NUD_PERMANENT : NUD_REACHABLE;
  const label = { operation: "setNeighbor", detail: `${ip} lladdr ${mac} dev ${dev}` };
  socket.change(label, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, (w) => {
    header(w, { family: familyOf(bytes), index, state });
    w.bytes(NDA_DST, bytes);
    w.bytes(NDA_LLADDR, hardware);
  });
}

/** Throws {@link NetlinkError} ENOENT when it is not there. */
export function deleteNeighbor(socket: NetlinkSocket, options: { dev: Device; ip: string }): void {
  const { dev, ip } = options;
  const index = indexOf(socket, "deleteNeighbor", dev);
  const bytes = ipToBytes(ip);
  socket.change({ operation: "deleteNeighbor", detail: `${ip} dev ${dev}` }, RTM_DELNEIGH, 0, (w) => {
    header(w, { family: familyOf(bytes), index });
    w.bytes(NDA_DST, bytes);
  });
}

/** Both families; like ip-neighbour(8) without the entries that need no resolution (NOARP). */
export function listNeighbors(socket: NetlinkSocket, device: Device): Neighbor[] {
  const index = indexOf(socket, "listNeighbors", device);
  const build = (w: MessageWriter) => {
    header(w, { family: 0, index: 0 });
    w.u32(NDA_IFINDEX, index);
  };
  return socket.dump({ operation: "listNeighbors", detail: `dev ${device}` }, RTM_GETNEIGH, build, (m) => {
    const found = decode(m);
    if (found.index !== index || found.state & NUD_NOARP || !found.ip || found.family === AF_BRIDGE) {
      return undefined;
    }
    return {
      ip: found.ip,
      mac: found.mac,
      permanent: (found.state & NUD_PERMANENT) !== 0,
      state: found.state,
    };
  });
}

/** Adds or replaces the permanent entry of a VXLAN device: that MAC is behind that VTEP. */
export function setFdb(socket: NetlinkSocket, options: FdbOptions): void {
  const { dev, mac, dst } = options;
  const index = indexOf(socket, "setFdb", dev);
  const bytes = ipToBytes(dst);
  const hardware = parseMac(mac);
  const label = { operation: "setFdb", detail: `${mac} dev ${dev} dst ${dst}` };
  socket.change(label, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, (w) => {
    header(w, { family: AF_BRIDGE, index, state: NUD_PERMANENT, flags: NTF_SELF });
    w.bytes(NDA_DST, bytes);
    w.bytes(NDA_LLADDR, hardware);
  });
}

/** Throws {@link NetlinkError} ENOENT when it is not there. */
export function deleteFdb(socket: NetlinkSocket, options: { dev: Device; mac: string; dst?: string }): void {
  const { dev, mac, dst } = options;
  const index = indexOf(socket, "deleteFdb", dev);
  const hardware = parseMac(mac);
  const bytes = dst === undefined ? undefined : ipToBytes(dst);
  socket.change({ operation: "deleteFdb", detail: `${mac} dev ${dev}` }, RTM_DELNEIGH, 0, (w) => {
    header(w, { family: AF_BRIDGE, index, flags: NTF_SELF });
    if (bytes) w.bytes(NDA_DST, bytes);
    w.bytes(NDA_LLADDR, hardware);
  });
}

/** Entries of the device: of a VXLAN device its own, of a bridge port the bridge's for that port too. */
export function listFdb(socket: NetlinkSocket, device: Device): FdbEntry[] {
  const index = indexOf(socket, "listFdb", device);
  const build = (w: MessageWriter) => header(w, { family: AF_BRIDGE, index });
  return socket.dump({ operation: "listFdb", detail: `dev ${device}` }, RTM_GETNEIGH, build, (m) => {
    const found = decode(m);
    if (found.index !== index) return undefined;
    const entry: FdbEntry = {
      mac: found.mac,
      permanent: (found.state & NUD_PERMANENT) !== 0,
      self: (found.flags & NTF_SELF) !== 0,
    };
    return found.ip ? { ...entry, dst: found.ip } : entry;
  });
}

function decode(message: NetlinkMessage) {
  const { body } = message;
  const found = parseAttributes(body, NDMSG);
  const dst = found.get(NDA_DST);
  const mac = found.get(NDA_LLADDR);
  return {
    family: body.readUInt8(0),
    index: body.readInt32LE(4),
    state: body.readUInt16LE(8),
    flags: body.readUInt8(10),
    ip: dst ? readIp(dst) : undefined,
    mac: mac ? formatMac(mac) : "",
  };
}
