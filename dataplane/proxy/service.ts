// From a Service object to its service ports in one address family.
// Pure. What a proxy must skip, and which defaults apply, is from the Service API (core/v1).

import { Cidr } from "../../common/ip.js";
import { keyOf, type Service, type Stored } from "../../common/k8s.js";
import { addressOf } from "./addresses.js";
import type { Protocol, ServicePort } from "./model.js";

const PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name";
/** API default of sessionAffinityConfig.clientIP.timeoutSeconds. */
const DEFAULT_AFFINITY_SECONDS = 10_800;

/**
 * Ranges of the family in the form that the kernel prints. Blanks around them pass the API's validation; one that is
 * no CIDR is left out. The annotation service.beta.kubernetes.io/load-balancer-source-ranges is read by cloud
 * providers, not by kube-proxy, so not here.
 */
function sourceRanges(ranges: readonly string[] | undefined, family: 4 | 6): string[] {
  const cidrs = (ranges ?? []).flatMap((text) => {
    try {
      return [Cidr.parse(text.trim())];
    } catch {
      return [];
    }
  });
  return [...new Set(cidrs.filter((cidr) => cidr.family === family).map(String))];
}

/** Empty for Services that this proxy leaves alone: headless, ExternalName, or another proxy's. */
export function servicePorts(service: Stored<Service>, family: 4 | 6): ServicePort[] {
  const { spec, status, metadata } = service;
  if (!spec || spec.type === "ExternalName" || metadata.labels?.[PROXY_NAME_LABEL] !== undefined) return [];
  const ofFamily = (ips: readonly (string | undefined)[]) =>
    ips.map((ip) => addressOf(family, ip)).filter((ip) => ip !== undefined);
  const [clusterIP] = ofFamily([...(spec.clusterIPs ?? []), spec.clusterIP]);
  if (!clusterIP) return [];
  const ingress = status?.loadBalancer?.ingress ?? [];
  const name = keyOf(service);
  const shared = {
    service: name,
    clusterIP,
    externalIPs: ofFamily(spec.externalIPs ?? []),
    loadBalancerIPs: ofFamily(ingress.filter(({ ipMode }) => ipMode !== "Proxy").map(({ ip }) => ip)),
    affinitySeconds:
      spec.sessionAffinity === "ClientIP"
        ? (spec.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? DEFAULT_AFFINITY_SECONDS)
        : 0,
    internalLocal: spec.internalTrafficPolicy === "Local",
    sourceRanges: sourceRanges(spec.loadBalancerSourceRanges, family),
    healthCheckNodePort:
      spec.type === "LoadBalancer" && spec.externalTrafficPolicy === "Local"
        ? (spec.healthCheckNodePort ?? 0)
        : 0,
  };
  return (spec.ports ?? []).map((port) => {
    const id = port.name ? `${name}:${port.name}` : name;
    const protocol = (port.protocol ?? "TCP").toLowerCase() as Protocol;
    const nodePort = port.nodePort ?? 0;
    const reachable = nodePort !== 0 || shared.externalIPs.length > 0 || shared.loadBalancerIPs.length > 0;
    return {
      key: `${id}/${protocol}`,
      id,
      portName: port.name ?? "",
      protocol,
      port: port.port,
      nodePort,
      externalLocal: reachable && spec.externalTrafficPolicy === "Local",
      ...shared,
    };
  });
}
