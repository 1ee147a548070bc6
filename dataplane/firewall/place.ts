// Where this machine is in its cluster, as far as the kernel and the overlay's subnet.env tell. Reads only.

import { readFileSync } from "node:fs";
import { Cidr, type IpFamily, ipFamily } from "../../common/ip.js";
import type { NetNs } from "../kernel/netns.js";
import { RtNetlink } from "../kernel/rtnetlink.js";
import { DEVICE, subnetEnvPath } from "../overlay/index.js";
import { firstBlock, type Place } from "./needs.js";

export interface PlaceOptions {
  /** Where the overlay's subnet.env is. */
  runDir: string;
  /** For a machine whose overlay is not up yet: its addresses, the pods' networks. */
  uplink: string;
  ips: readonly string[];
  networks: readonly string[];
}

/** One for each family that the machine has an address and the pods a network of. @throws NetlinkError. */
export async function findPlaces(ns: NetNs, options: PlaceOptions): Promise<Place[]> {
  const { ips, networks, runDir } = options;
  const env = subnetEnv(runDir);
  const netlink = RtNetlink.open(ns);
  try {
    const places: Place[] = [];
    for (const family of [4, 6] as const) {
      const prefix = family === 6 ? "FLANNEL_IPV6" : "FLANNEL";
      const network =
        env.get(`${prefix}_NETWORK`) ?? networks.find((text) => Cidr.parse(text).family === family);
      const ip = ips.find((text) => ipFamily(text) === family);
      if (network === undefined || ip === undefined) continue;
      const block = env.get(`${prefix}_SUBNET`);
      const pods = Cidr.parse(network);
      const tunnel = await tunnelOf(netlink, family);
      places.push({
        family,
        network: pods,
        podCIDR: block === undefined ? firstBlock(pods) : Cidr.parse(block),
        uplink: options.uplink,
        ip,
        peers: [],
        ...tunnel,
      });
    }
    return places;
  } finally {
    netlink.close();
  }
}

/** What the overlay's device says of the underlay. */
async function tunnelOf(netlink: RtNetlink, family: IpFamily): Promise<Partial<Place>> {
  const device = await netlink.getLink(DEVICE[family]);
  const local = device?.vxlan?.local;
  const below = device?.linkIndex === undefined ? undefined : await netlink.getLink(device.linkIndex);
  if (!device || !below || local === undefined) return {};
  const entries = await netlink.listFdb(device.index);
  return { uplink: below.name, ip: local, peers: entries.flatMap(({ dst }) => dst ?? []) };
}

function subnetEnv(runDir: string): Map<string, string> {
  try {
    const lines = readFileSync(subnetEnvPath(runDir), "utf8").split("\n");
    return new Map(lines.map((line) => line.split("=", 2) as [string, string]));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return new Map();
    throw error;
  }
}
