// Which of a machine's addresses is the node's: the one that other machines reach it by. Pure but for reading the list of
// interfaces. Knows addresses, no Kubernetes.

import { networkInterfaces } from "node:os";
import { ipFamily } from "../../common/ip.js";

/** An address that the machine has. */
export interface MachineAddress {
  iface: string;
  address: string;
}

export interface Uplink {
  iface: string;
  ip: string;
}

/** The address that cannot be one node's: a sentence for people. */
export class UplinkError extends Error {
  override readonly name = "UplinkError";
}

/** Interfaces of ours and of container runtimes: none of them leads to other machines. */
const INNER = /^(lo|cni\d+|flannel[.-].*|docker\d+|br-.*|virbr\d+|veth.*|kube-ipvs0)$/;
/** VirtualBox and QEMU give each machine this address behind their NAT; it is the same on all. */
const NAT = "10.0.2.15";

export function machineAddresses(): MachineAddress[] {
  return Object.entries(networkInterfaces()).flatMap(([iface, list = []]) =>
    list
      .filter(({ internal, address }) => !internal && !/^fe80:/i.test(address))
      .map(({ address }) => ({ iface, address })),
  );
}

/** Addresses by which others may reach this machine. */
export function outerAddresses(all: readonly MachineAddress[]): MachineAddress[] {
  return all.filter(({ iface, address }) => !INNER.test(iface) && address !== NAT);
}

const told = (all: readonly MachineAddress[]) =>
  all.map(({ iface, address }) => `${address} (${iface})`).join(", ") || "none";

const refuseNat = (ip: string) =>
  new UplinkError(
    `${ip} is the address that VirtualBox and QEMU give to every machine behind their NAT; no other node could reach this one by it: choose another with --node-ip or --iface`,
  );

/**
 * @param wish what the user has asked for.
 * @param reached the own address of a connection to the API server: what is taken without a wish.
 * @throws UplinkError saying why there is none, and which there are.
 */
export function chooseUplink(
  all: readonly MachineAddress[],
  wish: { nodeIP?: string | undefined; iface?: string | undefined },
  reached: string | undefined,
): Uplink {
  const ip = wish.nodeIP ?? (wish.iface === undefined ? reached : undefined);
  if (ip !== undefined) {
    if (ip === NAT) throw refuseNat(ip);
    const holder = all.find(({ address }) => address === ip);
    if (!holder && wish.nodeIP === undefined)
      throw new UplinkError(
        `the API server is reached from ${ip}, which no other machine can reach; choose with --node-ip or --iface: ${told(outerAddresses(all))}`,
      );
    if (!holder) throw new UplinkError(`no interface of this machine has ${ip}; there are: ${told(all)}`);
    if (wish.iface !== undefined && wish.iface !== holder.iface)
      throw new UplinkError(`${ip} is on ${holder.iface}, not on ${wish.iface}`);
    return { iface: holder.iface, ip };
  }
  const on = all.filter(({ iface }) => iface === wish.iface);
  const found = on.find(({ address }) => ipFamily(address) === 4) ?? on[0];
  if (!found) throw new UplinkError(`interface ${wish.iface} has no address; there are: ${told(all)}`);
  if (found.address === NAT) throw refuseNat(found.address);
  return { iface: found.iface, ip: found.address };
}

/**
 * The address at which an API server is found that listens on all of them.
 * @throws UplinkError when it cannot be told which.
 */
export function chooseAdvertised(all: readonly MachineAddress[]): string {
  const outer = outerAddresses(all);
  const candidates = outer.filter(({ address }) => ipFamily(address) === 4);
  const [first, second] = candidates.length > 0 ? candidates : outer;
  if (first && !second) return first.address;
  throw new UplinkError(
    `choose with --advertise-address where nodes find this machine; it has: ${told(first ? outer : all)}`,
  );
}
