// /run/flannel/subnet.env: how the overlay tells the CNI plugin what this host's blocks are.

import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Cidr } from "../../common/ip.js";

export interface SubnetFacts {
  /** The host's block and the whole pod network; at most one of a family. */
  subnets: readonly { network: Cidr; podCIDR: Cidr }[];
  /** What fits through the overlay of every family. */
  mtu: number;
}

/** The file's text, IPv4 first; FLANNEL_SUBNET is the gateway's address, as flannel has it. */
export function formatSubnetEnv({ subnets, mtu }: SubnetFacts): string {
  const lines = ([4, 6] as const).flatMap((family) => {
    const subnet = subnets.find(({ podCIDR }) => podCIDR.family === family);
    if (!subnet) return [];
    const { network, podCIDR } = subnet;
    const prefix = family === 6 ? "FLANNEL_IPV6" : "FLANNEL";
    return [`${prefix}_NETWORK=${network}`, `${prefix}_SUBNET=${podCIDR.at(1)}/${podCIDR.prefix}`];
  });
  return [...lines, `FLANNEL_MTU=${mtu}`, "FLANNEL_IPMASQ=true", ""].join("\n");
}

export const subnetEnvPath = (runDir: string): string => join(runDir, "flannel", "subnet.env");

/** Written whole or not at all; left alone when it says this already. */
export function writeSubnetEnv(runDir: string, facts: SubnetFacts): void {
  const path = subnetEnvPath(runDir);
  const text = formatSubnetEnv(facts);
  if (read(path) === text) return;
  mkdirSync(dirname(path), { recursive: true });
  const fresh = `${path}.new`;
  writeFileSync(fresh, text, { mode: 0o644 });
  renameSync(fresh, path);
}

export function removeSubnetEnv(runDir: string): void {
  rmSync(subnetEnvPath(runDir), { force: true });
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
