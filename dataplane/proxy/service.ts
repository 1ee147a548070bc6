// From a Service object to its service ports in one address family.
// Pure. What a proxy must skip, and which defaults apply, is from the Service API (core/v1).

import { isIPv4, isIPv6 } from "node:net";
import { keyOf, type Service, type Stored } from "../../common/k8s.js";
import type { Protocol, ServicePort } from "./model.js";

const PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name";
/** API default of sessionAffinityConfig.clientIP.timeoutSeconds. */
const DEFAULT_AFFINITY_SECONDS = 10_800;

/** Empty for Services that this proxy leaves alone: headless, ExternalName, or another proxy's. */
export function servicePorts(service: Stored<Service>, family: 4 | 6): ServicePort[] {
  const { spec, status, metadata } = service;
  if (!spec || spec.type === "ExternalName" || metadata.labels?.[PROXY_NAME_LABEL] !== undefined) return [];
  const ofFamily = (ip: string | undefined): ip is string =>
    ip !== undefined && (family === 4 ? isIPv4(ip) : isIPv6(ip));
  const clusterIP = [...(spec.clusterIPs ?? []), spec.clusterIP].find(ofFamily);
  if (!clusterIP) return [];
  const ingress = status?.loadBalancer?.ingress ?? [];
  const name = keyOf(service);
  const shared = {
    service: name,
    clusterIP,
    externalIPs: (spec.externalIPs ?? []).filter(ofFamily),
    loadBalancerIPs: ingress
      .filter(({ ipMode }) => ipMode !== "Proxy")
      .map(({ ip }) => ip)
      .filter(ofFamily),
    affinitySeconds:
      spec.sessionAffinity === "ClientIP"
        ? (spec.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? DEFAULT_AFFINITY_SECONDS)
        : 0,
    internalLocal: spec.internalTrafficPolicy === "Local",
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
