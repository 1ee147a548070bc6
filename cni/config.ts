// What a configuration of kubeplumb-cni says: its keys, checked, and the host's block from the overlay's subnet.env.

import { readFileSync } from "node:fs";
import { Cidr } from "../common/ip.js";
import { CniError, CODE, isIdentifier, type NetConf, VALID_ATTACHMENTS } from "./types.js";
import { negotiate } from "./version.js";

export const DEFAULT_SUBNET_FILE = "/run/flannel/subnet.env";

const FIELDS = {
  bridge: "string",
  mtu: "number",
  hairpinMode: "boolean",
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
  mtu?: number;
  subnet?: string;
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
    if (typeof value !== wanted) {
      throw new CniError(CODE.invalidConfig, `${key} must be a ${wanted}, not ${JSON.stringify(value)}`);
    }
  }
  const {
    bridge = "cni0",
    hairpinMode = true,
    mtu,
    subnet,
    subnetFile,
    dataDir,
  } = conf as Partial<BridgeConf>;
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
    ...(mtu !== undefined && { mtu }),
    ...(subnet !== undefined && { subnet }),
    subnetFile: subnetFile ?? DEFAULT_SUBNET_FILE,
    ...(dataDir !== undefined && { dataDir }),
    ...(conf.prevResult !== undefined && { prevResult: conf.prevResult }),
    ...(VALID_ATTACHMENTS in conf && { validAttachments: conf[VALID_ATTACHMENTS] }),
  };
}

/** The host's part of the pod network. */
export interface HostSubnet {
  block: Cidr;
  /** The bridge's address, the pods' default gateway. */
  gateway: string;
  mtu?: number;
}

/**
 * From the configuration, or from the file that the overlay writes when it is up.
 * @throws CniError 11 while that file is missing, 7 for a block without room for a pod.
 */
export function hostSubnet(conf: BridgeConf): HostSubnet {
  if (conf.subnet !== undefined) return checkSubnet("subnet", conf.subnet, { mtu: conf.mtu });
  let text: string;
  try {
    text = readFileSync(conf.subnetFile, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new CniError(
      CODE.tryAgain,
      `the overlay of this host is not up yet: ${conf.subnetFile} does not exist`,
      { cause: error },
    );
  }
  const env = parseEnv(text);
  const subnet = env.get("FLANNEL_SUBNET");
  if (subnet === undefined) {
    throw new CniError(CODE.invalidConfig, `${conf.subnetFile} has no FLANNEL_SUBNET`, { details: text });
  }
  const mtu = conf.mtu ?? (env.has("FLANNEL_MTU") ? Number(env.get("FLANNEL_MTU")) : undefined);
  return checkSubnet(`FLANNEL_SUBNET in ${conf.subnetFile}`, subnet, { mtu });
}

function checkSubnet(field: string, text: string, { mtu }: { mtu?: number }): HostSubnet {
  let block: Cidr;
  try {
    block = Cidr.parse(text);
  } catch (error) {
    throw new CniError(CODE.invalidConfig, `${field}: ${(error as Error).message}`, { cause: error });
  }
  if (block.family !== 4 || block.prefix > 29) {
    throw new CniError(CODE.invalidConfig, `${field} must be an IPv4 block of /29 or larger, not ${text}`);
  }
  return { block, gateway: block.at(1), ...(mtu !== undefined && { mtu }) };
}

/** KEY=value lines, as flannel writes them. */
export function parseEnv(text: string): Map<string, string> {
  const lines = text.split("\n").map((line) => /^([A-Z0-9_]+)=(.*)$/.exec(line.trim()));
  return new Map(lines.flatMap((match) => (match ? [[match[1] ?? "", match[2] ?? ""] as const] : [])));
}
