// What a configuration of kubeplumb-cni says: its keys, checked, and the host's blocks from there or from the
// overlay's subnet.env. Understands what flannel's own CNI plugin makes of that file and delegates.

import { readFileSync } from "node:fs";
import { MAX_NAME } from "../dataplane/kernel/netlink/links.js";
import type { VlanRange } from "../dataplane/kernel/rtnetlink.js";
import { integerOf, invalid, listOf, objectOf, stringOf } from "./fields.js";
import { type Range, rangeOf, readExclude, readRange, readRoutes, readSets } from "./ranges.js";
import { type Requests, readDns, readRequests } from "./requests.js";
import {
  type CniDns,
  CniError,
  type CniRoute,
  CODE,
  isIdentifier,
  type NetConf,
  VALID_ATTACHMENTS,
} from "./types.js";
import { negotiate } from "./version.js";

export const DEFAULT_SUBNET_FILE = "/run/flannel/subnet.env";

/** `ipam.type` of our own address management, which is also what a configuration without `ipam` gets. */
export const OWN_IPAM = "kubeplumb-cni";
/** Its files are laid out as ours, so ours does its work where its program is missing. */
export const HOST_LOCAL = "host-local";

const FIELDS = {
  bridge: "string",
  mtu: "number",
  hairpinMode: "boolean",
  promiscMode: "boolean",
  isGateway: "boolean",
  isDefaultGateway: "boolean",
  ipMasq: "boolean",
  enabledad: "boolean",
  vlan: "number",
  vlanTrunk: "list",
  preserveDefaultVlan: "boolean",
  macspoofchk: "boolean",
  portIsolation: "boolean",
  ipam: "object",
  subnet: "string",
  subnetFile: "string",
  dataDir: "string",
} as const;
/** Keys of the protocol itself, which are for somebody else or handled elsewhere. */
const PROTOCOL_FIELDS = [
  "cniVersion",
  "cniVersions",
  "name",
  "type",
  "capabilities",
  "runtimeConfig",
  "prevResult",
  "args",
  "dns",
];

export interface BridgeConf {
  cniVersion: string;
  name: string;
  bridge: string;
  hairpinMode: boolean;
  promiscMode: boolean;
  /** The bridge has the gateway's address. */
  isGateway: boolean;
  /** Pods route everything to the bridge. */
  isDefaultGateway: boolean;
  /** What leaves the pod's block gets the host's address. */
  ipMasq: boolean;
  /** Duplicate address detection for IPv6, waited for. */
  enabledad: boolean;
  /** Absent: the bridge knows no VLANs. */
  vlans?: PortVlans;
  /** Frames of a pod with another source MAC than its own are dropped. */
  macspoofchk: boolean;
  /** Pods of the bridge do not reach each other. */
  portIsolation: boolean;
  mtu?: number;
  ipam: IpamConf;
  subnetFile: string;
  dataDir?: string;
  dns?: CniDns;
  requests: Requests;
  prevResult?: unknown;
  validAttachments?: unknown;
}

/** The VLANs of a pod's port of the bridge, as the reference plugin bridge has them: one without tag, or some with. */
export interface PortVlans {
  /** Of frames without a tag; the gateway is in this VLAN too. */
  access?: number;
  /** Of frames with a tag. */
  trunk: VlanRange[];
  /** The VLAN that the bridge puts every new port in (1) stays. */
  preserveDefault: boolean;
}

/** Where addresses come from. Of another plugin's `ipam` only the type is known. */
export interface IpamConf {
  type: string;
  /** A pod gets one address of each; without any, the subnet file says. */
  sets: Range[][];
  /** Routes of pods beside the default route; without `gw` by the bridge. */
  routes: CniRoute[];
  /** The blocks are this host's only ones: what else the bridge has of their families is of another life. */
  exclusive: boolean;
  /** Of the subnet file's blocks, what is not given away. */
  exclude: Range["exclude"];
  /** In place of <dataDir>/networks. */
  dataDir?: string;
  resolvConf?: string;
}

/** Of kubeplumb-cni and of kubeplumb-portmap. Throws CniError 7 for a name that is none. */
export function networkName(name: unknown): string {
  if (typeof name === "string" && isIdentifier(name)) return name;
  throw new CniError(CODE.invalidConfig, `name ${JSON.stringify(name)} is not a network name`);
}

/** Refuses keys that are neither the protocol's nor in `fields`, and values that are not of the type it says. */
export function checkFields(conf: NetConf, fields: Readonly<Record<string, string>>): void {
  for (const [key, value] of Object.entries(conf)) {
    if (PROTOCOL_FIELDS.includes(key) || key.startsWith("cni.dev/")) continue;
    const wanted = Object.hasOwn(fields, key) ? fields[key] : undefined;
    if (wanted === undefined) {
      throw new CniError(
        CODE.unsupportedField,
        `unsupported field ${key}=${JSON.stringify(value)}; allowed: ${Object.keys(fields).join(", ")}`,
      );
    }
    const fits = wanted === "list" ? Array.isArray(value) : typeof value === wanted && !Array.isArray(value);
    if (!fits || value === null) {
      const allowed = wanted === "object" ? "an object" : `a ${wanted}`;
      throw new CniError(CODE.invalidConfig, `${key} must be ${allowed}, not ${JSON.stringify(value)}`);
    }
  }
}

/**
 * `args` are those of CNI_ARGS.
 * @throws CniError 1, 2, 4 or 7 naming field, value and what is allowed.
 */
export function parseBridgeConf(conf: NetConf, args?: Readonly<Record<string, string>>): BridgeConf {
  const cniVersion = negotiate(conf.cniVersion ?? "0.1.0");
  const name = networkName(conf.name);
  checkFields(conf, FIELDS);
  const {
    bridge = "cni0",
    promiscMode = false,
    hairpinMode = !promiscMode,
    ipMasq = false,
    enabledad = false,
    macspoofchk = false,
    portIsolation = false,
    mtu,
    subnetFile = DEFAULT_SUBNET_FILE,
    dataDir,
  } = conf as Partial<BridgeConf>;
  // A default route by the bridge needs an address there.
  const isDefaultGateway = (conf.isDefaultGateway as boolean | undefined) ?? conf.isGateway !== false;
  const isGateway = isDefaultGateway || ((conf.isGateway as boolean | undefined) ?? true);
  if (!/^[^\s/:]{1,15}$/.test(bridge)) {
    throw new CniError(CODE.invalidConfig, `bridge ${JSON.stringify(bridge)} is not an interface name`);
  }
  if (hairpinMode && promiscMode) {
    throw new CniError(CODE.invalidConfig, "hairpinMode and promiscMode exclude each other");
  }
  if (mtu !== undefined) integerOf("mtu", mtu, [68, 65535]);
  const requests = readRequests(conf, args);
  const vlans = readVlans(conf);
  if (isGateway && vlans?.access !== undefined && Buffer.byteLength(`${bridge}.${vlans.access}`) > MAX_NAME) {
    throw new CniError(
      CODE.invalidConfig,
      `bridge ${bridge} is too long a name with vlan ${vlans.access}: the gateway's interface is ${bridge}.${vlans.access}`,
    );
  }
  const fits = requests.mtu ?? mtu;
  return {
    cniVersion,
    name,
    bridge,
    hairpinMode,
    promiscMode,
    isGateway,
    isDefaultGateway,
    ipMasq,
    enabledad,
    ...(vlans && { vlans }),
    macspoofchk,
    portIsolation,
    ...(fits !== undefined && { mtu: fits }),
    ipam: readIpam(conf),
    subnetFile,
    ...(dataDir !== undefined && { dataDir }),
    ...(conf.dns !== undefined && { dns: readDns("dns", conf.dns) }),
    requests,
    ...(conf.prevResult !== undefined && { prevResult: conf.prevResult }),
    ...(VALID_ATTACHMENTS in conf && { validAttachments: conf[VALID_ATTACHMENTS] }),
  };
}

const VLAN_IDS = [1, 4094] as const;

/** `vlan` 0 is none, as in the reference plugin. */
function readVlans(conf: NetConf): PortVlans | undefined {
  const {
    vlan = 0,
    vlanTrunk,
    preserveDefaultVlan: preserveDefault = true,
  } = conf as Record<string, unknown>;
  const access = integerOf("vlan", vlan, [0, VLAN_IDS[1]]);
  if (access !== 0 && vlanTrunk !== undefined)
    throw new CniError(CODE.invalidConfig, "vlan and vlanTrunk exclude each other");
  if (access === 0 && vlanTrunk === undefined) return undefined;
  return {
    ...(access !== 0 && { access }),
    trunk: vlanTrunk === undefined ? [] : listOf("vlanTrunk", vlanTrunk).flatMap(readTrunk),
    preserveDefault: preserveDefault === true,
  };
}

function readTrunk(raw: unknown, i: number): VlanRange[] {
  const field = `vlanTrunk[${i}]`;
  const { id, minID, maxID } = objectOf(field, raw, ["id", "minID", "maxID"]);
  if ((minID === undefined) !== (maxID === undefined) || (id ?? minID) === undefined)
    throw invalid(field, "{ id }, or { minID, maxID }", raw);
  const out: VlanRange[] = [];
  if (id !== undefined) {
    const one = integerOf(`${field}.id`, id, VLAN_IDS);
    out.push([one, one]);
  }
  if (minID !== undefined) {
    const first = integerOf(`${field}.minID`, minID, VLAN_IDS);
    out.push([first, integerOf(`${field}.maxID`, maxID, [first, VLAN_IDS[1]])]);
  }
  return out;
}

const RANGE_KEYS = ["subnet", "rangeStart", "rangeEnd", "gateway"];
const IPAM_KEYS = ["type", "ranges", "routes", "exclude", "resolvConf", "dataDir", ...RANGE_KEYS];

/** `subnet`, or `ipam` as host-local has it. */
function readIpam(conf: NetConf): IpamConf {
  const own = { type: OWN_IPAM, sets: [], routes: [], exclude: [], exclusive: true };
  if (conf.ipam === undefined) {
    return conf.subnet === undefined ? own : { ...own, sets: [[rangeOf("subnet", conf.subnet)]] };
  }
  if (conf.subnet !== undefined) {
    throw new CniError(CODE.invalidConfig, "subnet and ipam exclude each other");
  }
  const { type } = conf.ipam as { type?: unknown };
  if (typeof type !== "string" || !/^[^/\s]+$/.test(type)) {
    const allowed = `"${OWN_IPAM}" or the name of an IPAM plugin`;
    throw new CniError(
      CODE.invalidConfig,
      `ipam.type must be ${allowed}, not ${JSON.stringify(type) ?? "absent"}`,
    );
  }
  if (type !== OWN_IPAM && type !== HOST_LOCAL) return { ...own, type };
  const ipam = objectOf("ipam", conf.ipam, IPAM_KEYS);
  const { ranges, routes = [], exclude = [], resolvConf, dataDir } = ipam;
  const single = Object.fromEntries(RANGE_KEYS.filter((key) => key in ipam).map((key) => [key, ipam[key]]));
  const sets = [
    // host-local's words of before there were ranges.
    ...(Object.keys(single).length > 0 ? [[readRange("ipam", single)]] : []),
    ...(ranges === undefined && (type === OWN_IPAM || ipam.subnet !== undefined)
      ? []
      : readSets("ipam.ranges", ranges)),
  ];
  return {
    type,
    sets: sets.map((set) => set.map((range) => without(range, readExclude("ipam.exclude", exclude)))),
    routes: readRoutes("ipam.routes", routes),
    exclude: readExclude("ipam.exclude", exclude),
    exclusive: sets.length === 0,
    ...(resolvConf !== undefined && { resolvConf: stringOf("ipam.resolvConf", resolvConf) }),
    ...(dataDir !== undefined && { dataDir: stringOf("ipam.dataDir", dataDir) }),
  };
}

function without(range: Range, exclude: NonNullable<Range["exclude"]>): Range {
  const own = exclude.filter((block) => block.overlaps(range.block));
  return own.length === 0 ? range : { ...range, exclude: [...(range.exclude ?? []), ...own] };
}

/** The host's part of the pod network. */
export interface HostSubnets {
  /** A pod gets one address of each, in this order; at least one. */
  sets: Range[][];
  mtu?: number;
}

/**
 * From the configuration, or from the file that the overlay writes when it is up.
 * @throws CniError 11 while that file is missing, 7 for a block without room for a pod.
 */
export function hostSubnets(conf: BridgeConf): HostSubnets {
  const { mtu, ipam, subnetFile, requests } = conf;
  const sets = [...requests.sets, ...ipam.sets];
  if (sets.length > 0) return { sets, ...(mtu !== undefined && { mtu }) };
  let text: string;
  try {
    text = readFileSync(subnetFile, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new CniError(
      CODE.tryAgain,
      `the overlay of this host is not up yet: ${subnetFile} does not exist`,
      { cause: error },
    );
  }
  const env = parseEnv(text);
  const found = ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"].flatMap((key) => {
    const subnet = env.get(key);
    if (subnet === undefined) return [];
    return [[without(rangeOf(`${key} in ${subnetFile}`, subnet), ipam.exclude ?? [])]];
  });
  if (found.length === 0) {
    throw new CniError(CODE.invalidConfig, `${subnetFile} has no FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET`, {
      details: text,
    });
  }
  const fits = mtu ?? (env.has("FLANNEL_MTU") ? Number(env.get("FLANNEL_MTU")) : undefined);
  return { sets: found, ...(fits !== undefined && { mtu: fits }) };
}

/** KEY=value lines, as flannel writes them. */
export function parseEnv(text: string): Map<string, string> {
  const lines = text.split("\n").map((line) => /^([A-Z0-9_]+)=(.*)$/.exec(line.trim()));
  return new Map(lines.flatMap((match) => (match ? [[match[1] ?? "", match[2] ?? ""] as const] : [])));
}
