// What a configuration of kubeplumb-cni says: its keys, checked, and the host's blocks from there or from the
// overlay's subnet.env. Understands what flannel's own CNI plugin makes of that file and delegates.

import { readFileSync } from "node:fs";
import { BITS, Cidr } from "../common/ip.js";
import { CniError, CODE, isIdentifier, type NetConf, VALID_ATTACHMENTS } from "./types.js";
import { negotiate } from "./version.js";

export const DEFAULT_SUBNET_FILE = "/run/flannel/subnet.env";

const FIELDS = {
  bridge: "string",
  mtu: "number",
  hairpinMode: "boolean",
  isGateway: "boolean",
  isDefaultGateway: "boolean",
  ipMasq: "boolean",
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
  /** Pods route everything to the bridge. */
  isDefaultGateway: boolean;
  mtu?: number;
  /** Where addresses come from, one of each; without any, the subnet file says. */
  ranges: Range[];
  /** Blocks that pods reach by the bridge, beside the default route. */
  routes: Cidr[];
  subnetFile: string;
  dataDir?: string;
  prevResult?: unknown;
  validAttachments?: unknown;
}

/** @throws CniError 1, 2 or 7 naming field, value and what is allowed. */
export function parseBridgeConf(conf: NetConf): BridgeConf {
  const cniVersion = negotiate(conf.cniVersion ?? "0.1.0");
  const name: unknown = conf.name;
  if (typeof name !== "string" || !isIdentifier(name)) {
    throw new CniError(CODE.invalidConfig, `name ${JSON.stringify(name)} is not a network name`);
  }
  for (const [key, value] of Object.entries(conf)) {
    if (PROTOCOL_FIELDS.includes(key) || key.startsWith("cni.dev/")) continue;
    if (!(key in FIELDS)) {
      throw new CniError(
        CODE.unsupportedField,
        `unsupported field ${key}; allowed: ${Object.keys(FIELDS).join(", ")}`,
        { details: `${key}=${JSON.stringify(value)}` },
      );
    }
    const wanted = FIELDS[key as keyof typeof FIELDS];
    if (typeof value !== wanted || value === null) {
      const allowed = wanted === "object" ? "an object" : `a ${wanted}`;
      throw new CniError(CODE.invalidConfig, `${key} must be ${allowed}, not ${JSON.stringify(value)}`);
    }
  }
  const {
    bridge = "cni0",
    hairpinMode = true,
    isDefaultGateway = true,
    mtu,
    subnetFile,
    dataDir,
  } = conf as Partial<BridgeConf>;
  // What flannel's plugin always sets; other values would ask for another network.
  if (conf.isGateway === false) {
    throw new CniError(CODE.invalidConfig, "isGateway must be true: the bridge is the pods' gateway");
  }
  if (conf.ipMasq === true) {
    throw new CniError(
      CODE.invalidConfig,
      "ipMasq must be false: masquerading is the overlay's (FLANNEL_IPMASQ=true)",
    );
  }
  if (!/^[^\s/:]{1,15}$/.test(bridge)) {
    throw new CniError(CODE.invalidConfig, `bridge ${JSON.stringify(bridge)} is not an interface name`);
  }
  if (mtu !== undefined && (!Number.isInteger(mtu) || mtu < 68 || mtu > 65535)) {
    throw new CniError(CODE.invalidConfig, `mtu must be an integer from 68 to 65535, not ${mtu}`);
  }
  return {
    cniVersion,
    name,
    bridge,
    hairpinMode,
    isDefaultGateway,
    ...(mtu !== undefined && { mtu }),
    ...readIpam(conf),
    subnetFile: subnetFile ?? DEFAULT_SUBNET_FILE,
    ...(dataDir !== undefined && { dataDir }),
    ...(conf.prevResult !== undefined && { prevResult: conf.prevResult }),
    ...(VALID_ATTACHMENTS in conf && { validAttachments: conf[VALID_ATTACHMENTS] }),
  };
}

/** One address of a pod: the block it is of, and who routes it. */
export interface Range {
  block: Cidr;
  /** The bridge's address, the pods' gateway. */
  gateway: string;
}

/** The host's part of the pod network. */
export interface HostSubnets {
  /** In the order of the addresses in results; at least one, at most one a family. */
  ranges: Range[];
  mtu?: number;
}

/** `subnet`, or `ipam` as host-local has it. */
function readIpam(conf: NetConf): Pick<BridgeConf, "ranges" | "routes"> {
  if (conf.ipam === undefined) {
    return { ranges: conf.subnet === undefined ? [] : [readRange("subnet", conf.subnet)], routes: [] };
  }
  if (conf.subnet !== undefined) {
    throw new CniError(CODE.invalidConfig, "subnet and ipam exclude each other");
  }
  const { type, ranges, routes = [], ...others } = conf.ipam as Record<string, unknown>;
  const [unknown] = Object.keys(others);
  if (unknown !== undefined) {
    throw new CniError(
      CODE.unsupportedField,
      `unsupported field ipam.${unknown}; allowed: type, ranges, routes`,
    );
  }
  if (type !== "host-local") {
    throw new CniError(CODE.invalidConfig, `ipam.type must be "host-local", not ${JSON.stringify(type)}`);
  }
  return {
    ranges: oneAFamily(
      "ipam.ranges",
      // A pod gets one address of each set; what a set with several ranges is for, nobody here needs.
      listOf("ipam.ranges", ranges).map((set, i) => {
        const [range, ...more] = listOf(`ipam.ranges[${i}]`, set);
        if (more.length > 0) throw new CniError(CODE.invalidConfig, `ipam.ranges[${i}] must have one range`);
        return readRange(`ipam.ranges[${i}][0].subnet`, onlyKey(`ipam.ranges[${i}][0]`, range, "subnet"));
      }),
    ),
    routes: listOf("ipam.routes", routes, { empty: true }).map((route, i) =>
      readBlock(`ipam.routes[${i}].dst`, onlyKey(`ipam.routes[${i}]`, route, "dst")),
    ),
  };
}

function listOf(field: string, value: unknown, { empty = false } = {}): unknown[] {
  if (Array.isArray(value) && (empty || value.length > 0)) return value;
  const wanted = empty ? "a list" : "a list of at least one";
  throw new CniError(
    CODE.invalidConfig,
    `${field} must be ${wanted}, not ${JSON.stringify(value) ?? "absent"}`,
  );
}

/** The value of the one key that an object may have. */
function onlyKey(field: string, value: unknown, key: string): unknown {
  if (typeof value !== "object" || value === null) {
    throw new CniError(CODE.invalidConfig, `${field} must be an object, not ${JSON.stringify(value)}`);
  }
  const unknown = Object.keys(value).find((name) => name !== key);
  if (unknown !== undefined) {
    throw new CniError(CODE.unsupportedField, `unsupported field ${field}.${unknown}; allowed: ${key}`);
  }
  return (value as Record<string, unknown>)[key];
}

/**
 * From the configuration, or from the file that the overlay writes when it is up.
 * @throws CniError 11 while that file is missing, 7 for a block without room for a pod.
 */
export function hostSubnets(conf: BridgeConf): HostSubnets {
  const { mtu, ranges, subnetFile } = conf;
  if (ranges.length > 0) return { ranges, ...(mtu !== undefined && { mtu }) };
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
    return subnet === undefined ? [] : [readRange(`${key} in ${subnetFile}`, subnet)];
  });
  if (found.length === 0) {
    throw new CniError(CODE.invalidConfig, `${subnetFile} has no FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET`, {
      details: text,
    });
  }
  const fits = mtu ?? (env.has("FLANNEL_MTU") ? Number(env.get("FLANNEL_MTU")) : undefined);
  return { ranges: oneAFamily(subnetFile, found), ...(fits !== undefined && { mtu: fits }) };
}

function oneAFamily(field: string, ranges: Range[]): Range[] {
  const families = new Set(ranges.map(({ block }) => block.family));
  if (families.size === ranges.length) return ranges;
  throw new CniError(CODE.invalidConfig, `${field}: a pod gets one address of each family, not more`);
}

function readRange(field: string, text: unknown): Range {
  const block = readBlock(field, text);
  // Network address, gateway and broadcast leave a few.
  const longest = BITS[block.family] - 3;
  if (block.prefix > longest) {
    throw new CniError(CODE.invalidConfig, `${field} must be a block of /${longest} or larger, not ${text}`);
  }
  return { block, gateway: block.at(1) };
}

function readBlock(field: string, text: unknown): Cidr {
  try {
    return Cidr.parse(String(text));
  } catch (error) {
    throw new CniError(CODE.invalidConfig, `${field}: ${(error as Error).message}`, { cause: error });
  }
}

/** KEY=value lines, as flannel writes them. */
export function parseEnv(text: string): Map<string, string> {
  const lines = text.split("\n").map((line) => /^([A-Z0-9_]+)=(.*)$/.exec(line.trim()));
  return new Map(lines.flatMap((match) => (match ? [[match[1] ?? "", match[2] ?? ""] as const] : [])));
}
