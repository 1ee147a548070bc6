// What tells a pod of this cluster from everybody else (--detect-local-mode): a match for it and a match for not it.
// Pure.

import { Cidr } from "../../../common/ip.js";

/** How pods are recognised; kube-proxy's four modes. */
export type DetectLocal =
  /** Sources inside the pod network of the whole cluster. */
  | { readonly mode: "ClusterCIDR"; readonly cidrs: readonly string[] }
  /** Sources inside this node's spec.podCIDRs, which the proxy learns from the Node. */
  | { readonly mode: "NodeCIDR" }
  /** Packets that come in by this bridge. */
  | { readonly mode: "BridgeInterface"; readonly interface: string }
  /** Packets that come in by an interface with a name that begins so. */
  | { readonly mode: "InterfaceNamePrefix"; readonly prefix: string };

/** Words of a rule that match pods' traffic, and those that match all other. */
export interface LocalDetector {
  readonly isLocal: readonly string[];
  readonly isNotLocal: readonly string[];
}

/** Longest name of an interface (IFNAMSIZ − 1). */
const MAX_INTERFACE = 15;

function detector(option: "-s" | "-i", value: string): LocalDetector {
  return { isLocal: [option, value], isNotLocal: ["!", option, value] };
}

/**
 * Undefined: nobody is known to be local, because there is no CIDR of the family.
 * @param podCIDRs the node's, for mode NodeCIDR.
 * @throws RangeError for what is no CIDR or no name of an interface.
 */
export function localDetector(
  detect: DetectLocal | undefined,
  family: 4 | 6,
  podCIDRs: readonly string[] = [],
): LocalDetector | undefined {
  if (!detect) return undefined;
  if (detect.mode === "BridgeInterface")
    return detector("-i", interfaceName(detect.interface, MAX_INTERFACE));
  if (detect.mode === "InterfaceNamePrefix")
    return detector("-i", `${interfaceName(detect.prefix, MAX_INTERFACE - 1)}+`);
  const cidrs = (detect.mode === "NodeCIDR" ? podCIDRs : detect.cidrs).map(Cidr.parse);
  const cidr = cidrs.find((one) => one.family === family);
  return cidr && detector("-s", String(cidr));
}

function interfaceName(name: string, longest: number): string {
  if (name === "" || name.length > longest || /[\s/+!]/.test(name)) {
    throw new RangeError(`${JSON.stringify(name)} is not the name of an interface`);
  }
  return name;
}
