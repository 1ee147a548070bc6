// VLANs of bridge ports (linux/if_bridge.h, bridge(8) "vlan"): which ones a port is in, and how their frames look there.
// Knows how they are asked for and listed.

import type { MessageWriter } from "./codec.js";
import { type Device, indexOf, RTM_DELLINK } from "./links.js";
import type { NetlinkSocket } from "./socket.js";

const RTM_GETLINK = 18;
const RTM_SETLINK = 19;
const IFINFOMSG = 16;
const AF_BRIDGE = 7;
const IFLA_AF_SPEC = 26;
const IFLA_EXT_MASK = 29;
const RTEXT_FILTER_BRVLAN = 2;
const IFLA_BRIDGE_VLAN_INFO = 2;
const PVID = 2;
const UNTAGGED = 4;
const RANGE_BEGIN = 8;
const RANGE_END = 16;
const NLA_TYPE_MASK = 0x3fff;

/** First and last VLAN id, inclusive: 1 to 4094. */
export type VlanRange = readonly [first: number, last: number];

export interface PortVlan {
  vid: number;
  /** Frames that come in without a tag are in this VLAN. */
  pvid: boolean;
  /** Frames of this VLAN go out without a tag. */
  untagged: boolean;
}

export interface VlanOptions {
  range: VlanRange;
  pvid?: boolean;
  untagged?: boolean;
}

function header(w: MessageWriter, index: number): void {
  w.fixed(IFINFOMSG, (at) => {
    at.writeUInt8(AF_BRIDGE, 0);
    at.writeInt32LE(index, 4);
  });
}

function vlanInfo(w: MessageWriter, flags: number, vid: number): void {
  const info = Buffer.alloc(4);
  info.writeUInt16LE(flags, 0);
  info.writeUInt16LE(vid, 2);
  w.bytes(IFLA_BRIDGE_VLAN_INFO, info);
}

function vlanSpec(w: MessageWriter, { range: [first, last], pvid, untagged }: VlanOptions): void {
  const flags = (pvid ? PVID : 0) | (untagged ? UNTAGGED : 0);
  w.nest(IFLA_AF_SPEC, () => {
    if (first === last) {
      vlanInfo(w, flags, first);
      return;
    }
    vlanInfo(w, flags | RANGE_BEGIN, first);
    vlanInfo(w, flags | RANGE_END, last);
  });
}

/** ENOTSUP from a kernel without VLANs of bridges. */
export function addVlan(socket: NetlinkSocket, port: Device, options: VlanOptions): void {
  const index = indexOf(socket, "addVlan", port);
  const label = { operation: "addVlan", detail: `${port} vid ${options.range.join("-")}` };
  socket.change(label, RTM_SETLINK, 0, (w) => {
    header(w, index);
    vlanSpec(w, options);
  });
}

export function deleteVlan(socket: NetlinkSocket, port: Device, range: VlanRange): void {
  const index = indexOf(socket, "deleteVlan", port);
  const label = { operation: "deleteVlan", detail: `${port} vid ${range.join("-")}` };
  socket.change(label, RTM_DELLINK, 0, (w) => {
    header(w, index);
    vlanSpec(w, { range });
  });
}

/** Of one port, in the order of their ids. */
export function listVlans(socket: NetlinkSocket, port: Device): PortVlan[] {
  const wanted = indexOf(socket, "listVlans", port);
  const ports = socket.dump(
    { operation: "listVlans", detail: String(port) },
    RTM_GETLINK,
    (w) => {
      header(w, 0);
      w.u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN);
    },
    ({ body }) => (body.readInt32LE(4) === wanted ? decode(body) : undefined),
  );
  return ports.flat();
}

function decode(body: Buffer): PortVlan[] {
  return attributes(body, IFINFOMSG)
    .filter(([type]) => type === IFLA_AF_SPEC)
    .flatMap(([, spec]) => attributes(spec))
    .filter(([type]) => type === IFLA_BRIDGE_VLAN_INFO)
    .map(([, info]) => {
      const flags = info.readUInt16LE(0);
      return { vid: info.readUInt16LE(2), pvid: (flags & PVID) !== 0, untagged: (flags & UNTAGGED) !== 0 };
    });
}

/** All of them in order, for one type comes once a VLAN. */
function attributes(payload: Buffer, offset = 0): [type: number, value: Buffer][] {
  const out: [number, Buffer][] = [];
  for (let at = offset; at + 4 <= payload.length; ) {
    const length = payload.readUInt16LE(at);
    if (length < 4 || at + length > payload.length) break;
    out.push([payload.readUInt16LE(at + 2) & NLA_TYPE_MASK, payload.subarray(at + 4, at + length)]);
    at += (length + 3) & ~3;
  }
  return out;
}
