// What a Node says about its part of the overlay: spec.podCIDR and flannel's annotations. Pure.

import { Cidr, ipFamily } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";

/** Prefix of flannel's annotations (flannel's kube subnet manager). */
export const PREFIX = "flannel.alpha.coreos.com/";
export const BACKEND_TYPE = `${PREFIX}backend-type`;
export const BACKEND_DATA = `${PREFIX}backend-data`;
export const PUBLIC_IP = `${PREFIX}public-ip`;
/** Set by people: the address that others shall use for this node. */
export const PUBLIC_IP_OVERWRITE = `${PREFIX}public-ip-overwrite`;
export const KUBE_SUBNET_MANAGER = `${PREFIX}kube-subnet-manager`;

export const VNI = 1;

/** One tunnel endpoint as its Node announces it. */
export interface Lease {
  node: string;
  podCIDR: Cidr;
  /** Address of the remote flannel.1: the network address of its block. */
  vtepIP: string;
  /** Lower case. */
  vtepMAC: string;
  publicIP: string;
}

/** A Node whose announcement is there but makes no sense. */
export class LeaseError extends Error {
  override readonly name = "LeaseError";
}

/** The annotations that announce a VTEP. */
export function annotationsFor(facts: { publicIP: string; vtepMAC: string }): Record<string, string> {
  return {
    [BACKEND_DATA]: JSON.stringify({ VNI, VtepMAC: facts.vtepMAC }),
    [BACKEND_TYPE]: "vxlan",
    [KUBE_SUBNET_MANAGER]: "true",
    [PUBLIC_IP]: facts.publicIP,
  };
}

/** The IPv4 block of a Node. undefined while the controller has given it none. */
export function podCIDROf(node: Stored<Node>): string | undefined {
  const { podCIDR, podCIDRs = [] } = node.spec ?? {};
  return [podCIDR, ...podCIDRs].find((text) => text && !text.includes(":"));
}

/** The MAC that a Node announces, so that a restarted host can go on with it. */
export function vtepMACOf(node: Stored<Node>): string | undefined {
  const data = node.metadata.annotations?.[BACKEND_DATA];
  if (data === undefined) return undefined;
  let parsed: { VNI?: unknown; VtepMAC?: unknown } | null;
  try {
    parsed = JSON.parse(data);
  } catch (error) {
    throw new LeaseError(`Node ${node.metadata.name}: annotation ${BACKEND_DATA} is not JSON: ${data}`, {
      cause: error,
    });
  }
  const mac = parsed?.VtepMAC;
  if (parsed?.VNI !== VNI || typeof mac !== "string" || !/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(mac)) {
    throw new LeaseError(
      `Node ${node.metadata.name}: annotation ${BACKEND_DATA} must be {"VNI":${VNI},"VtepMAC":"…"}, not ${data}`,
    );
  }
  return mac.toLowerCase();
}

// Nodes are immutable and shared by all hosts of a process: each version is read once.
const leases = new WeakMap<Stored<Node>, Lease | LeaseError | null>();

/**
 * The lease of a Node; undefined while it has announced none (no block yet, or its overlay is not up).
 * @throws LeaseError naming the annotation and its value.
 */
export function leaseOf(node: Stored<Node>): Lease | undefined {
  let found = leases.get(node);
  if (found === undefined) {
    found = read(node);
    leases.set(node, found);
  }
  if (found instanceof LeaseError) throw found;
  return found ?? undefined;
}

function read(node: Stored<Node>): Lease | LeaseError | null {
  const { name, annotations = {} } = node.metadata;
  const block = podCIDROf(node);
  if (!block || annotations[BACKEND_TYPE] === undefined) return null;
  if (annotations[BACKEND_TYPE] !== "vxlan") {
    return new LeaseError(
      `Node ${name}: annotation ${BACKEND_TYPE} must be vxlan, not ${annotations[BACKEND_TYPE]}`,
    );
  }
  const publicIP = annotations[PUBLIC_IP_OVERWRITE] ?? annotations[PUBLIC_IP] ?? "";
  if (ipFamily(publicIP) !== 4) {
    return new LeaseError(`Node ${name}: annotation ${PUBLIC_IP} must be an IPv4 address, not "${publicIP}"`);
  }
  try {
    const podCIDR = Cidr.parse(block);
    const vtepMAC = vtepMACOf(node);
    return vtepMAC === undefined ? null : { node: name, podCIDR, vtepIP: podCIDR.network, vtepMAC, publicIP };
  } catch (error) {
    if (error instanceof LeaseError) return error;
    return new LeaseError(`Node ${name}: spec.podCIDR: ${(error as Error).message}`, { cause: error });
  }
}
