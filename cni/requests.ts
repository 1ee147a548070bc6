// What the caller asks for one attachment, beyond the network's configuration: capability arguments (runtimeConfig),
// CNI_ARGS and args.cni, as the conventions of the CNI project name them. Pure.

import { addressOf, integerOf, listOf, macAddressOf, objectOf, stringOf } from "./fields.js";
import { bareAddress, type Range, readSets } from "./ranges.js";
import { type CniDns, CniError, CODE, type NetConf } from "./types.js";

export interface Requests {
  /** Addresses that the pod is to have, without prefix length. */
  ips: string[];
  mac?: string;
  mtu?: number;
  dns?: CniDns;
  /** Sets that come before those of the configuration. */
  sets: Range[][];
}

/** Read by other plugins, or by nobody: the names that container runtimes put into CNI_ARGS. */
const RUNTIME_ARGS = /^(IgnoreUnknown|K8S_[A-Z_]+)$/;
const OWN_ARGS = ["IP", "MAC"];

/** CNI_ARGS as pairs. Throws CniError 4 for what is no list of KEY=VALUE. */
export function parseArgs(text: string): Record<string, string> {
  const pairs = text.split(";").filter((pair) => pair !== "");
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf("=");
      if (at > 0) return [pair.slice(0, at), pair.slice(at + 1)];
      throw new CniError(CODE.invalidEnvironment, `CNI_ARGS: ${JSON.stringify(pair)} is not KEY=VALUE`);
    }),
  );
}

/** @throws CniError 4 or 7 naming the field. Capabilities that are not ours are passed over. */
export function readRequests(conf: NetConf, args: Readonly<Record<string, string>> = {}): Requests {
  const ignores = ["1", "true"].includes(args.IgnoreUnknown ?? "");
  const unknown = Object.keys(args).find((key) => !OWN_ARGS.includes(key) && !RUNTIME_ARGS.test(key));
  if (unknown !== undefined && !ignores) {
    throw new CniError(
      CODE.invalidEnvironment,
      `CNI_ARGS: unknown ${unknown}; allowed: ${OWN_ARGS.join(", ")}, and anything with IgnoreUnknown=1`,
    );
  }
  const runtime = looseObject("runtimeConfig", conf.runtimeConfig);
  const cni = looseObject("args.cni", looseObject("args", conf.args).cni);
  const ips = [
    ...addresses("runtimeConfig.ips", runtime.ips),
    ...addresses("args.cni.ips", cni.ips),
    ...(args.IP ? args.IP.split(",").map((ip) => bareAddress("CNI_ARGS IP", ip)) : []),
  ];
  const [field, mac] = runtime.mac
    ? ["runtimeConfig.mac", runtime.mac]
    : cni.mac
      ? ["args.cni.mac", cni.mac]
      : ["CNI_ARGS MAC", args.MAC];
  return {
    ips: [...new Set(ips)],
    ...(mac !== undefined && { mac: macAddressOf(field, mac) }),
    ...(runtime.mtu !== undefined && { mtu: integerOf("runtimeConfig.mtu", runtime.mtu, [68, 65535]) }),
    ...(runtime.dns !== undefined && { dns: runtimeDns(runtime.dns) }),
    sets: runtime.ipRanges === undefined ? [] : readSets("runtimeConfig.ipRanges", runtime.ipRanges),
  };
}

function looseObject(field: string, value: unknown): Readonly<Record<string, unknown>> {
  return value === undefined || value === null ? {} : objectOf(field, value, Object.keys(value as object));
}

function addresses(field: string, value: unknown): string[] {
  if (value === undefined || value === null) return [];
  return listOf(field, value, { empty: true }).map((ip, i) => bareAddress(`${field}[${i}]`, ip));
}

/** The capability's words are a kubelet's, not the result's. */
function runtimeDns(value: unknown): CniDns {
  const { servers, searches, options } = objectOf("runtimeConfig.dns", value, [
    "servers",
    "searches",
    "options",
  ]);
  return readDns("runtimeConfig.dns", { nameservers: servers, search: searches, options });
}

/** `dns` of a configuration. */
export function readDns(field: string, value: unknown): CniDns {
  const { nameservers, domain, search, options } = objectOf(field, value, [
    "nameservers",
    "domain",
    "search",
    "options",
  ]);
  const texts = (key: string, list: unknown) =>
    listOf(`${field}.${key}`, list, { empty: true }).map((one, i) => stringOf(`${field}.${key}[${i}]`, one));
  return {
    ...(nameservers !== undefined && {
      nameservers: texts("nameservers", nameservers).map((ip) => addressOf(`${field}.nameservers`, ip)),
    }),
    ...(domain !== undefined && { domain: stringOf(`${field}.domain`, domain) }),
    ...(search !== undefined && { search: texts("search", search) }),
    ...(options !== undefined && { options: texts("options", options) }),
  };
}
