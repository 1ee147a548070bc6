// Addresses on links (rtnetlink(7), linux/if_addr.h).

import { Cidr, ipToBytes, parseIp } from "../../../common/ip.js";
import { type NetlinkMessage, parseAttributes, readIp } from "./codec.js";
import { type Device, indexOf } from "./links.js";
import { type NetlinkSocket, NLM_F_CREATE, NLM_F_EXCL } from "./socket.js";

export const RTM_NEWADDR = 20;
export const RTM_DELADDR = 21;
const RTM_GETADDR = 22;

const IFADDRMSG = 8;
const AF_INET = 2;
const AF_INET6 = 10;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_BROADCAST = 4;
const IFA_F_NODAD = 0x02;
const IFA_F_DADFAILED = 0x08;
const IFA_F_TENTATIVE = 0x40;

export interface Address {
  /** "10.244.1.1/24". */
  cidr: string;
  ip: string;
  prefix: number;
  family: 4 | 6;
  /** Index of the link. */
  index: number;
  /** 0 global, 253 link, 254 host. */
  scope: number;
  /** IPv6 duplicate detection: under way, or it found another one. */
  tentative?: true;
  duplicate?: true;
}

/** Splits "10.244.1.1/24", host bits kept. Throws RangeError. */
function split(cidr: string): { ip: string; block: Cidr } {
  const block = Cidr.parse(cidr);
  return { ip: cidr.slice(0, cidr.indexOf("/")), block };
}

function change(
  socket: NetlinkSocket,
  operation: string,
  facts: { type: number; flags: number; device: Device; cidr: string; detect?: boolean },
): void {
  const { ip, block } = split(facts.cidr);
  const index = indexOf(socket, operation, facts.device);
  const label = { operation, detail: `${facts.cidr} dev ${facts.device}` };
  const bytes = ipToBytes(ip);
  socket.change(label, facts.type, facts.flags, (w) => {
    w.fixed(IFADDRMSG, (at) => {
      at.writeUInt8(block.family === 6 ? AF_INET6 : AF_INET, 0);
      at.writeUInt8(block.prefix, 1);
      // Nobody else owns an address of a network that is managed here: no second of duplicate detection.
      at.writeUInt8(block.family === 6 && !facts.detect ? IFA_F_NODAD : 0, 2);
      at.writeUInt32LE(index, 4);
    });
    w.bytes(IFA_LOCAL, bytes);
    w.bytes(IFA_ADDRESS, bytes);
    if (block.family === 4 && block.prefix < 31) w.bytes(IFA_BROADCAST, ipToBytes(block.broadcast));
  });
}

/** Throws {@link NetlinkError} EEXIST when it is there. */
export function addAddress(
  socket: NetlinkSocket,
  device: Device,
  cidr: string,
  { detect = false } = {},
): void {
  const flags = NLM_F_CREATE | NLM_F_EXCL;
  change(socket, "addAddress", { type: RTM_NEWADDR, flags, device, cidr, detect });
}

/** Throws {@link NetlinkError} EADDRNOTAVAIL when it is not there. */
export function deleteAddress(socket: NetlinkSocket, device: Device, cidr: string): void {
  change(socket, "deleteAddress", { type: RTM_DELADDR, flags: 0, device, cidr });
}

export function listAddresses(socket: NetlinkSocket, device?: Device): Address[] {
  const operation = "listAddresses";
  const index = device === undefined ? 0 : indexOf(socket, operation, device);
  const label = { operation, detail: device === undefined ? "" : `dev ${device}` };
  const request = (w: { fixed(size: number, fill: (at: Buffer) => void): unknown }) =>
    w.fixed(IFADDRMSG, (at) => at.writeUInt32LE(index, 4));
  // The index is a filter for kernels with strict checking (4.20); the second test is for the others.
  return socket.dump(label, RTM_GETADDR, request, (message) => {
    const address = decodeAddress(message);
    return index === 0 || address.index === index ? address : undefined;
  });
}

/** RTM_NEWADDR or RTM_DELADDR. */
export function decodeAddress(message: NetlinkMessage): Address {
  const { body } = message;
  const attributes = parseAttributes(body, IFADDRMSG);
  const bytes = attributes.get(IFA_LOCAL) ?? attributes.get(IFA_ADDRESS);
  if (!bytes) throw new RangeError("netlink address message without an address");
  const ip = readIp(bytes);
  const prefix = body.readUInt8(1);
  const flags = body.readUInt8(2);
  return {
    cidr: `${ip}/${prefix}`,
    ip,
    prefix,
    family: parseIp(ip).family,
    index: body.readUInt32LE(4),
    scope: body.readUInt8(3),
    ...(flags & IFA_F_TENTATIVE && { tentative: true as const }),
    ...(flags & IFA_F_DADFAILED && { duplicate: true as const }),
  };
}
