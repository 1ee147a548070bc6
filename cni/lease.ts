// A pod's addresses: taken from our own store, or from another IPAM plugin by the protocol (CNI specification 1.1,
// section 4). Knows both, and nothing of interfaces.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Cidr } from "../common/ip.js";
import { type BridgeConf, HOST_LOCAL, hostSubnets, OWN_IPAM } from "./config.js";
import { type ExecOptions, execPlugin, hasPlugin, type Verb } from "./exec.js";
import type { PodAddress } from "./interfaces.js";
import { AddressStore } from "./ipam.js";
import { gives, type Range } from "./ranges.js";
import { type Attachment, type CniDns, CniError, type CniRoute, CODE, type NetConf } from "./types.js";
import { atLeast, resultFrom } from "./version.js";

export const DEFAULT_DATA_DIR = "/var/lib/cni";

/** Where a call comes from: what is needed to find state and other plugins. */
export type LeaseContext = Omit<ExecOptions, "type"> & {
  /** Where state goes unless the configuration says so. Default /var/lib/cni. */
  dataDir?: string;
};

export interface Lease {
  addresses: PodAddress[];
  routes: CniRoute[];
  dns?: CniDns;
}

/** Whether the addresses are another plugin's. */
export function isForeign(
  { ipam: { type } }: BridgeConf,
  { binDirs }: Pick<LeaseContext, "binDirs">,
): boolean {
  return type !== OWN_IPAM && !(type === HOST_LOCAL && !hasPlugin(type, binDirs));
}

export function storeOf(conf: BridgeConf, { dataDir }: Pick<LeaseContext, "dataDir">): AddressStore {
  const { name, ipam } = conf;
  const base = ipam.dataDir ?? join(conf.dataDir ?? dataDir ?? DEFAULT_DATA_DIR, "networks");
  return new AddressStore(join(base, name));
}

/** From our own store. What was taken before an error is given back. Throws CniError 7 or 11. */
export function takeOwn(conf: BridgeConf, call: LeaseContext, owner: Attachment): Lease {
  const { sets } = hostSubnets(conf);
  const store = storeOf(conf, call);
  const wanted = assign(conf.requests.ips, sets);
  const addresses: PodAddress[] = [];
  try {
    for (const [n, set] of sets.entries()) {
      const ip = store.allocate(set, n, owner, wanted.get(n));
      const { block, gateway } = set.find((range) => gives(range, ip)) as Range;
      addresses.push({ ip, block, gateway });
    }
  } catch (error) {
    giveBack(conf, call, { addresses });
    throw error;
  }
  const { routes, resolvConf } = conf.ipam;
  return { addresses, routes, ...(resolvConf !== undefined && { dns: readResolvConf(resolvConf) }) };
}

/** Of a lease of our own store, its addresses. */
export function giveBack(
  conf: BridgeConf,
  call: LeaseContext,
  { addresses }: Pick<Lease, "addresses">,
): void {
  const store = storeOf(conf, call);
  for (const { ip } of addresses) store.remove(ip);
}

/** Each requested address to the set that gives it, one a set. Throws CniError 7. */
function assign(ips: readonly string[], sets: readonly Range[][]): Map<number, string> {
  const wanted = new Map<number, string>();
  for (const ip of ips) {
    const n = sets.findIndex((set, i) => !wanted.has(i) && set.some((range) => gives(range, ip)));
    if (n < 0) {
      const from = sets.map((set) => set.map(({ block }) => block).join(" or ")).join(", ");
      throw new CniError(
        CODE.invalidConfig,
        `the requested address ${ip} cannot be given: the pod gets one address of each of ${from}`,
      );
    }
    wanted.set(n, ip);
  }
  return wanted;
}

/** By the ADD of the plugin that `ipam.type` names. Throws its error, or CniError 6 for a result without addresses. */
export async function takeForeign(raw: NetConf, conf: BridgeConf, call: LeaseContext): Promise<Lease> {
  const printed = await delegate("ADD", raw, conf, call);
  const { ips = [], routes = [], dns } = resultFrom(printed ?? {});
  if (ips.length === 0) {
    throw new CniError(CODE.decode, `IPAM plugin ${conf.ipam.type} gave no address`, {
      details: JSON.stringify(printed),
    });
  }
  const addresses = ips.map(({ address, gateway }): PodAddress => {
    const block = Cidr.parse(address);
    const ip = address.slice(0, address.indexOf("/"));
    // A plugin that names none leaves it to the bridge: its first address, as everybody has it.
    const via = gateway ?? (conf.isGateway ? block.at(1) : undefined);
    return { ip, block, ...(via !== undefined && { gateway: via }) };
  });
  return { addresses, routes, ...(dns && Object.keys(dns).length > 0 && { dns }) };
}

/** Runs a verb of the foreign IPAM plugin with our own configuration, as the specification wants it. */
export function delegate(verb: Verb, raw: NetConf, conf: BridgeConf, call: LeaseContext): Promise<unknown> {
  return execPlugin(verb, raw, { ...call, type: conf.ipam.type });
}

/** GC and STATUS are asked only of plugins that can know them. */
export async function delegateNewVerb(
  verb: "GC" | "STATUS",
  raw: NetConf,
  conf: BridgeConf,
  call: LeaseContext,
): Promise<void> {
  if (isForeign(conf, call) && atLeast(conf.cniVersion, "1.1.0")) await delegate(verb, raw, conf, call);
}

/** resolv.conf(5) as a result's `dns`. Throws CniError 5 when it cannot be read. */
function readResolvConf(path: string): CniDns {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new CniError(CODE.io, `ipam.resolvConf ${path} cannot be read`, { cause: error });
  }
  const lines = text.split("\n").map((line) => line.trim().split(/\s+/));
  const values = (key: string) => lines.filter(([word]) => word === key).map(([, ...words]) => words);
  const domain = values("domain").at(-1)?.[0];
  return {
    nameservers: values("nameserver").flatMap(([ip]) => (ip === undefined ? [] : [ip])),
    ...(domain !== undefined && { domain }),
    search: values("search").at(-1) ?? [],
    options: values("options").flat(),
  };
}
