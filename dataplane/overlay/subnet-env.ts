// /run/flannel/subnet.env: how the overlay tells the CNI plugin what this host's block is.

import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Cidr } from "../../common/ip.js";

export interface SubnetFacts {
  network: Cidr;
  podCIDR: Cidr;
  mtu: number;
}

/** The file's text; FLANNEL_SUBNET is the gateway's address, as flannel has it. */
export function formatSubnetEnv({ network, podCIDR, mtu }: SubnetFacts): string {
  return [
    `FLANNEL_NETWORK=${network}`,
    `FLANNEL_SUBNET=${podCIDR.at(1)}/${podCIDR.prefix}`,
    `FLANNEL_MTU=${mtu}`,
    "FLANNEL_IPMASQ=true",
    "",
  ].join("\n");
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
