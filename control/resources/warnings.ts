// What the server says of valid objects that will not do what they seem to, or not for much longer: the warnings of
// the real server (pkg/api/service, apimachinery's validation of old address forms), with their texts. Pure.

import { Cidr, formatIp, ipFamily, parseIp } from "../../common/ip.js";
import type { Endpoints, Service } from "../../common/k8s.js";
import { isHeadless } from "./service-defaults.js";

const OLD_HINTS = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE = "service.kubernetes.io/topology-mode";

/** Nothing of what is no address: not every field is checked to hold one. */
function addressWarnings(field: string, address: string): string[] {
  if (ipFamily(address) === 0) return [];
  const { family, value } = parseIp(address);
  if (family === 4) return [];
  if (value >> 32n === 0xffffn)
    return [
      `${field}: non-standard IP address "${address}" will be considered invalid in a future Kubernetes release: use "${formatIp(value & 0xffffffffn, 4)}"`,
    ];
  const canonical = formatIp(value, 6);
  if (canonical === address) return [];
  return [`${field}: IPv6 address "${address}" should be in RFC 5952 canonical format ("${canonical}")`];
}

/** `block` is a valid one. */
function blockWarnings(field: string, block: string): string[] {
  const canonical = Cidr.parse(block).toString();
  if (canonical === block) return [];
  const [address = ""] = block.split("/");
  const [network = ""] = canonical.split("/");
  if (parseIp(address).value !== parseIp(network).value)
    return [
      `${field}: CIDR value "${block}" is ambiguous in this context (should be "${canonical}" or "${address}/${address.includes(":") ? 128 : 32}"?)`,
    ];
  return [`${field}: IPv6 CIDR value "${block}" should be in RFC 5952 canonical format ("${canonical}")`];
}

export function serviceWarnings(service: Service): string[] {
  const spec = service.spec ?? {};
  const { type, clusterIPs = [], externalIPs = [], loadBalancerIP, loadBalancerSourceRanges = [] } = spec;
  const warnings: string[] = [];
  const headless = isHeadless(service);
  const external = type === "ExternalName";
  if (service.metadata?.annotations?.[OLD_HINTS] !== undefined)
    warnings.push(`annotation ${OLD_HINTS} is deprecated, please use ${TOPOLOGY_MODE} instead`);
  if (!headless && !external)
    warnings.push(...clusterIPs.flatMap((ip, i) => addressWarnings(`spec.clusterIPs[${i}]`, ip)));
  if (headless) {
    if (loadBalancerIP) warnings.push("spec.loadBalancerIP is ignored for headless services");
    if (externalIPs.length > 0) warnings.push("spec.externalIPs is ignored for headless services");
    if (spec.sessionAffinity !== "None")
      warnings.push("spec.SessionAffinity is ignored for headless services");
  }
  warnings.push(...externalIPs.flatMap((ip, i) => addressWarnings(`spec.externalIPs[${i}]`, ip)));
  if (externalIPs.length > 0 && !headless && !external)
    warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters");
  if (loadBalancerIP) warnings.push(...addressWarnings("spec.loadBalancerIP", loadBalancerIP));
  warnings.push(
    ...loadBalancerSourceRanges.flatMap((block, i) =>
      blockWarnings(`spec.loadBalancerSourceRanges[${i}]`, block.trim()),
    ),
  );
  if (external && externalIPs.length > 0)
    warnings.push('spec.externalIPs is ignored when spec.type is "ExternalName"');
  if (!external && spec.externalName)
    warnings.push('spec.externalName is ignored when spec.type is not "ExternalName"');
  if (spec.trafficDistribution === "PreferClose")
    warnings.push('spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"');
  return warnings;
}

export function endpointsWarnings({ subsets = [] }: Endpoints): string[] {
  return subsets.flatMap((subset, i) =>
    (["addresses", "notReadyAddresses"] as const).flatMap((list) =>
      (subset[list] ?? []).flatMap(({ ip }, j) => addressWarnings(`subsets[${i}].${list}[${j}].ip`, ip)),
    ),
  );
}
