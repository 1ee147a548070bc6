// What a Node says about its part of the overlay: spec.podCIDRs and flannel's annotations. Pure.

import { Cidr, type IpFamily, ipFamily, parseIp } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";

/** Prefix of flannel's annotations (flannel's kube subnet manager). */
export const PREFIX = "flannel.alpha.coreos.com/";
export const BACKEND_TYPE = `${PREFIX}backend-type`;
export const KUBE_SUBNET_MANAGER = `${PREFIX}kube-subnet-manager`;
/** Each family has its own. */
export const BACKEND_DATA = { 4: `${PREFIX}backend-data`, 6: `${PREFIX}backend-v6-data` } as const;
export const PUBLIC_IP = { 4: `${PREFIX}public-ip`, 6: `${PREFIX}public-ipv6` } as const;
/** Set by people: the address that others shall use for this node. */
const PUBLIC_IP_OVERWRITE = {
  4: `${PREFIX}public-ip-overwrite`,
  6: `${PREFIX}public-ipv6-overwrite`,
} as const;

export const VNI = 1;

/** One tunnel endpoint as its Node announces it; everything in it is of the block's family. */
export interface Lease {
  node: string;
  podCIDR: Cidr;
  /** Address of the remote device: the network address of its block. */
  vtepIP: string;
  /** Lower case. */
  vtepMAC: string;
  publicIP: string;
}

/** A Node whose announcement is there but makes no sense. */
export class LeaseError extends Error {
  override readonly name = "LeaseError";
}

/** The annotations that announce a host's VTEPs, at most one a family. */
export function annotationsFor(
  vteps: readonly { publicIP: string; vtepMAC: string }[],
): Record<string, string> {
  const out: Record<string, string> = { [BACKEND_TYPE]: "vxlan", [KUBE_SUBNET_MANAGER]: "true" };
  for (const { publicIP, vtepMAC } of vteps) {
    const family = parseIp(publicIP).family;
    out[BACKEND_DATA[family]] = JSON.stringify({ VNI, VtepMAC: vtepMAC });
    out[PUBLIC_IP[family]] = publicIP;
  }
  return out;
}

/** The Node's block of a family. undefined while the controller has given it none. */
export function podCIDROf(node: Stored<Node>, family: IpFamily): string | undefined {
  const { podCIDR, podCIDRs = [] } = node.spec ?? {};
  return [podCIDR, ...podCIDRs].find((text) => text && text.includes(":") === (family === 6));
}

/** The MAC that a Node announces, so that a restarted host can go on with it. */
export function vtepMACOf(node: Stored<Node>, family: IpFamily): string | undefined {
  const key = BACKEND_DATA[family];
  const data = node.metadata.annotations?.[key];
  if (data === undefined) return undefined;
  let parsed: { VNI?: unknown; VtepMAC?: unknown } | null;
  try {
    parsed = JSON.parse(data);
  } catch (error) {
    throw new LeaseError(`Node ${node.metadata.name}: annotation ${key} is not JSON: ${data}`, {
      cause: error,
    });
  }
  const mac = parsed?.VtepMAC;
  if (parsed?.VNI !== VNI || typeof mac !== "string" || !/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(mac)) {
    throw new LeaseError(
      `Node ${node.metadata.name}: annotation ${key} must be {"VNI":${VNI},"VtepMAC":"…"}, not ${data}`,
    );
  }
  return mac.toLowerCase();
}

// Nodes are immutable and shared by all hosts of a process: each version is read once.
const leases: Record<IpFamily, WeakMap<Stored<Node>, Lease | LeaseError | null>> = {
  4: new WeakMap(),
  6: new WeakMap(),
};

/**
 * The lease of a Node in a family; undefined while it has announced none (no block yet, or its overlay is not up).
 * @throws LeaseError naming the annotation and its value.
 */
export function leaseOf(node: Stored<Node>, family: IpFamily): Lease | undefined {
  let found = leases[family].get(node);
  if (found === undefined) {
    found = read(node, family);
    leases[family].set(node, found);
  }
  if (found instanceof LeaseError) throw found;
  return found ?? undefined;
}

function read(node: Stored<Node>, family: IpFamily): Lease | LeaseError | null {
  const { name, annotations = {} } = node.metadata;
  const block = podCIDROf(node, family);
  if (!block || annotations[BACKEND_TYPE] === undefined) return null;
  if (annotations[BACKEND_TYPE] !== "vxlan") {
    return new LeaseError(
      `Node ${name}: annotation ${BACKEND_TYPE} must be vxlan, not ${annotations[BACKEND_TYPE]}`,
    );
  }
  // The type is one for both families: whether this one is announced shows in its data.
  if (annotations[BACKEND_DATA[family]] === undefined) return null;
  const publicIP = annotations[PUBLIC_IP_OVERWRITE[family]] ?? annotations[PUBLIC_IP[family]] ?? "";
  if (ipFamily(publicIP) !== family) {
    return new LeaseError(
      `Node ${name}: annotation ${PUBLIC_IP[family]} must be an IPv${family} address, not "${publicIP}"`,
    );
  }
  try {
    const podCIDR = Cidr.parse(block);
    const vtepMAC = vtepMACOf(node, family);
    return vtepMAC === undefined ? null : { node: name, podCIDR, vtepIP: podCIDR.network, vtepMAC, publicIP };
  } catch (error) {
    if (error instanceof LeaseError) return error;
    return new LeaseError(`Node ${name}: spec.podCIDR: ${(error as Error).message}`, { cause: error });
  }
}
