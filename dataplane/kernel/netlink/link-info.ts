// What a link is (IFLA_LINKINFO): the kind with its own attributes, and a bridge port's. Knows how they are encoded and
// decoded; links.ts makes requests of them.

import { ipFamily, ipToBytes } from "../../../common/ip.js";
import { type Attributes, type MessageWriter, parseAttributes, readIp, readString } from "./codec.js";
import type { Link, LinkChange, VxlanOptions } from "./links.js";

export const IFLA_LINKINFO = 18;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const IFLA_INFO_SLAVE_KIND = 4;
const IFLA_INFO_SLAVE_DATA = 5;
const IFLA_BR_VLAN_FILTERING = 7;
const IFLA_BR_VLAN_DEFAULT_PVID = 39;
const IFLA_BRPORT_MODE = 4;
const IFLA_BRPORT_ISOLATED = 33;
const IFLA_VXLAN_ID = 1;
const IFLA_VXLAN_LINK = 3;
const IFLA_VXLAN_LOCAL = 4;
const IFLA_VXLAN_LEARNING = 7;
const IFLA_VXLAN_PORT = 15;
const IFLA_VXLAN_LOCAL6 = 17;

export function linkInfo(w: MessageWriter, kind: string, data?: (w: MessageWriter) => void): void {
  w.nest(IFLA_LINKINFO, () => {
    w.string(IFLA_INFO_KIND, kind);
    if (data) w.nest(IFLA_INFO_DATA, data);
  });
}

export const bridgeData =
  (vlanFiltering: boolean) =>
  (w: MessageWriter): void => {
    w.u8(IFLA_BR_VLAN_FILTERING, vlanFiltering ? 1 : 0);
  };

/** `under` is the index of the underlying device. */
export const vxlanData =
  ({ id, local, learning, port }: VxlanOptions, under: number) =>
  (w: MessageWriter): void => {
    w.u32(IFLA_VXLAN_ID, id);
    w.u32(IFLA_VXLAN_LINK, under);
    w.bytes(ipFamily(local) === 6 ? IFLA_VXLAN_LOCAL6 : IFLA_VXLAN_LOCAL, ipToBytes(local));
    w.u8(IFLA_VXLAN_LEARNING, learning ? 1 : 0);
    w.u16be(IFLA_VXLAN_PORT, port);
  };

export function portInfo(w: MessageWriter, { hairpin, isolated }: LinkChange): void {
  w.nest(IFLA_LINKINFO, () => {
    w.string(IFLA_INFO_SLAVE_KIND, "bridge");
    w.nest(IFLA_INFO_SLAVE_DATA, () => {
      if (hairpin !== undefined) w.u8(IFLA_BRPORT_MODE, hairpin ? 1 : 0);
      if (isolated !== undefined) w.u8(IFLA_BRPORT_ISOLATED, isolated ? 1 : 0);
    });
  });
}

export function decodeInfo(link: Link, info: Attributes): void {
  const kind = info.get(IFLA_INFO_KIND);
  if (kind) link.kind = readString(kind);
  const data = info.get(IFLA_INFO_DATA);
  if (link.kind === "vxlan" && data) {
    const facts = parseAttributes(data);
    const local = facts.get(IFLA_VXLAN_LOCAL) ?? facts.get(IFLA_VXLAN_LOCAL6);
    link.vxlan = {
      id: facts.get(IFLA_VXLAN_ID)?.readUInt32LE(0) ?? 0,
      port: facts.get(IFLA_VXLAN_PORT)?.readUInt16BE(0) ?? 0,
      learning: facts.get(IFLA_VXLAN_LEARNING)?.readUInt8(0) === 1,
      ...(local && { local: readIp(local) }),
      linkIndex: facts.get(IFLA_VXLAN_LINK)?.readUInt32LE(0),
    };
  }
  if (link.kind === "bridge" && data) {
    const facts = parseAttributes(data);
    const filtering = facts.get(IFLA_BR_VLAN_FILTERING)?.readUInt8(0);
    const defaultVlan = facts.get(IFLA_BR_VLAN_DEFAULT_PVID)?.readUInt16LE(0);
    if (filtering !== undefined && defaultVlan !== undefined)
      link.vlans = { filtering: filtering === 1, defaultVlan };
  }
  const slaveKind = info.get(IFLA_INFO_SLAVE_KIND);
  const slave = info.get(IFLA_INFO_SLAVE_DATA);
  if (slaveKind && slave && readString(slaveKind) === "bridge") {
    const facts = parseAttributes(slave);
    link.hairpin = facts.get(IFLA_BRPORT_MODE)?.readUInt8(0) === 1;
    link.isolated = facts.get(IFLA_BRPORT_ISOLATED)?.readUInt8(0) === 1;
  }
}
