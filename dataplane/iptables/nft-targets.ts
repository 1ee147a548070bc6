// Targets that iptables-nft hands to the kernel as xtables extensions: MARK, MASQUERADE, DNAT, REJECT.
// Pure; the structs are those of linux/netfilter/xt_*.h, as in nft-extensions.ts.

import { bytesToIp, ipFamily, ipToBytes } from "../../common/ip.js";
import {
  decimal,
  type ExtensionFormat,
  type Family,
  hex,
  markPair,
  struct,
  UnsupportedRule,
} from "./nft-extensions.js";

const mark: ExtensionFormat = {
  revision: 2,
  encode(options) {
    const text = options.plain("--set-xmark");
    if (text === undefined) throw new UnsupportedRule("MARK");
    const [value, mask] = markPair(text);
    const out = struct(8);
    out.writeUInt32LE(value, 0);
    out.writeUInt32LE(mask, 4);
    return out;
  },
  decode: (info) => ["--set-xmark", `${hex(info.readUInt32LE(0))}/${hex(info.readUInt32LE(4))}`],
};

const NF_NAT_RANGE = { mapIps: 1, protoSpecified: 2, randomFully: 16 } as const;

/** nf_nat_ipv4_multi_range_compat or nf_nat_range. */
function masqueradeInfo(flags: number, family: Family): Buffer {
  const out = struct(family === 4 ? 24 : 40);
  if (family === 4) out.writeUInt32LE(1, 0);
  out.writeUInt32LE(flags, family === 4 ? 4 : 0);
  return out;
}

const masquerade: ExtensionFormat = {
  revision: 0,
  encode: (options, family) =>
    masqueradeInfo(options.flag("--random-fully") ? NF_NAT_RANGE.randomFully : 0, family),
  decode(info, family) {
    for (const flags of [0, NF_NAT_RANGE.randomFully]) {
      if (info.equals(masqueradeInfo(flags, family))) return flags ? ["--random-fully"] : [];
    }
    throw new UnsupportedRule("MASQUERADE");
  },
};

/** nf_nat_range2 of one address and at most one port. */
function rangeOf(address: Uint8Array, port: number | undefined): Buffer {
  const out = struct(48);
  out.writeUInt32LE(NF_NAT_RANGE.mapIps | (port === undefined ? 0 : NF_NAT_RANGE.protoSpecified), 0);
  out.set(address, 4);
  out.set(address, 20);
  if (port !== undefined) {
    out.writeUInt16BE(port, 36);
    out.writeUInt16BE(port, 38);
  }
  return out;
}

const dnat: ExtensionFormat = {
  revision: 2,
  encode(options, family) {
    const text = options.plain("--to-destination") ?? "";
    const found =
      family === 4 ? /^([^:]+)(?::(\d+))?$/.exec(text) : /^(?:\[([^\]]+)\]:(\d+)|(\S+))$/.exec(text);
    const [, first, portText, bare] = found ?? [];
    const address = first ?? bare ?? "";
    if (ipFamily(address) !== family) throw new UnsupportedRule(`DNAT ${text}`);
    const port = portText === undefined ? undefined : decimal(portText, 65535);
    if (port === 0) throw new UnsupportedRule(`DNAT ${text}`);
    return rangeOf(ipToBytes(address), port);
  },
  decode(info, family) {
    const bytes = info.subarray(4, family === 4 ? 8 : 20);
    const port = info.readUInt32LE(0) & NF_NAT_RANGE.protoSpecified ? info.readUInt16BE(36) : undefined;
    if (!info.equals(rangeOf(bytes, port))) throw new UnsupportedRule("DNAT");
    const address = bytesToIp(bytes);
    if (port === undefined) return ["--to-destination", address];
    return ["--to-destination", family === 6 ? `[${address}]:${port}` : `${address}:${port}`];
  },
};

const REJECT_TYPES: Readonly<Record<Family, readonly string[]>> = {
  4: [
    "icmp-net-unreachable",
    "icmp-host-unreachable",
    "icmp-proto-unreachable",
    "icmp-port-unreachable",
    "", // echo reply: of old
    "icmp-net-prohibited",
    "icmp-host-prohibited",
    "tcp-reset",
    "icmp-admin-prohibited",
  ],
  6: [
    "icmp6-no-route",
    "icmp6-adm-prohibited",
    "", // not a neighbour: never printed
    "icmp6-addr-unreachable",
    "icmp6-port-unreachable",
    "",
    "tcp-reset",
  ],
};
const DEFAULT_REJECT: Readonly<Record<Family, string>> = {
  4: "icmp-port-unreachable",
  6: "icmp6-port-unreachable",
};

const reject: ExtensionFormat = {
  revision: 0,
  encode(options, family) {
    const text = options.plain("--reject-with") ?? "";
    // canonical.ts writes IPv4's default where nothing was said.
    const type = REJECT_TYPES[family].indexOf(text === DEFAULT_REJECT[4] ? DEFAULT_REJECT[family] : text);
    if (type < 0 || text === "") throw new UnsupportedRule(`REJECT ${text}`);
    const out = struct(8);
    out.writeUInt32LE(type, 0);
    return out;
  },
  decode(info, family) {
    const text = REJECT_TYPES[family][info.readUInt32LE(0)];
    if (!text) throw new UnsupportedRule("REJECT");
    return ["--reject-with", text];
  },
};

export const TARGETS: ReadonlyMap<string, ExtensionFormat> = new Map([
  ["MARK", mark],
  ["MASQUERADE", masquerade],
  ["DNAT", dnat],
  ["REJECT", reject],
]);
