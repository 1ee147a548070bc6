// Defaults of Services and what an update keeps of the old one: allocated values that the user left out, and
// fields that the new type has no use for. After core/v1 defaults and the registry's strategy. Knows no allocator.

import type { Service, ServiceSpec } from "kubernetes-types/core/v1.js";
import { same } from "./validation/field.js";

type WithSpec = Pick<Service, "spec">;

const CLIENT_IP_TIMEOUT_SECONDS = 10_800;

export function needsClusterIP({ spec }: WithSpec): boolean {
  return spec?.type === "ClusterIP" || needsNodePort({ spec });
}

export function needsNodePort({ spec }: WithSpec): boolean {
  return spec?.type === "NodePort" || spec?.type === "LoadBalancer";
}

/** A load balancer that sends straight to pods needs none: then node ports are only what the user names. */
export function allocatesNodePorts({ spec }: WithSpec): boolean {
  return (
    needsNodePort({ spec }) && (spec?.type === "NodePort" || spec?.allocateLoadBalancerNodePorts !== false)
  );
}

/** A load balancer that must know which hosts have endpoints asks each on this port. */
export function needsHealthCheckNodePort({ spec }: WithSpec): boolean {
  return spec?.type === "LoadBalancer" && spec.externalTrafficPolicy === "Local";
}

/** Whether traffic from outside may arrive: then externalTrafficPolicy has a meaning. */
export function isExternallyAccessible({ spec }: WithSpec): boolean {
  return needsNodePort({ spec }) || (spec?.type === "ClusterIP" && (spec.externalIPs ?? []).length > 0);
}

export function isHeadless({ spec }: WithSpec): boolean {
  return spec?.clusterIPs?.length === 1 && spec.clusterIPs[0] === "None";
}

export function defaultService(service: Service): void {
  service.spec ??= {};
  const { spec } = service;
  spec.sessionAffinity ||= "None";
  if (spec.sessionAffinity === "None") delete spec.sessionAffinityConfig;
  if (
    spec.sessionAffinity === "ClientIP" &&
    spec.sessionAffinityConfig?.clientIP?.timeoutSeconds === undefined
  ) {
    spec.sessionAffinityConfig = { clientIP: { timeoutSeconds: CLIENT_IP_TIMEOUT_SECONDS } };
  }
  spec.type ||= "ClusterIP";
  for (const port of spec.ports ?? []) {
    port.protocol ||= "TCP";
    if (!port.targetPort) port.targetPort = port.port;
  }
  if (isExternallyAccessible(service)) spec.externalTrafficPolicy ||= "Cluster";
  if (spec.type !== "ExternalName") spec.internalTrafficPolicy ??= "Cluster";
  if (spec.type !== "LoadBalancer") return;
  spec.allocateLoadBalancerNodePorts ??= true;
  for (const ingress of service.status?.loadBalancer?.ingress ?? []) if (ingress.ip) ingress.ipMode ??= "VIP";
}

/** clusterIP and clusterIPs say the same: who gives the one, means both. */
export function normalizeClusterIPs(spec: ServiceSpec, old: ServiceSpec | undefined): void {
  if (!old) {
    if (spec.clusterIP && !spec.clusterIPs?.length) spec.clusterIPs = [spec.clusterIP];
    return;
  }
  if ((spec.clusterIP ?? "") === (old.clusterIP ?? "")) return;
  if (!same(spec.clusterIPs, old.clusterIPs) && spec.clusterIPs?.length) return;
  // Only the primary was changed; whether that is allowed is for validation to say.
  if (spec.clusterIP) spec.clusterIPs = [spec.clusterIP];
  else delete spec.clusterIPs;
}

/** Values that were allocated stay, when an update (an apply of the original manifest, say) leaves them out. */
export function keepAllocated(service: Service, old: Service): void {
  const { spec } = service;
  const before = old.spec;
  if (!spec || !before) return;
  if (needsClusterIP(old) && needsClusterIP(service)) {
    spec.clusterIP ||= before.clusterIP;
    if (!spec.clusterIPs?.length && spec.clusterIP === before.clusterIP) {
      spec.clusterIPs = before.clusterIPs ? [...before.clusterIPs] : undefined;
    }
  }
  if (needsNodePort(old) && allocatesNodePorts(service)) keepNodePorts(spec, before);
  if (needsHealthCheckNodePort(old) && needsHealthCheckNodePort(service) && !spec.healthCheckNodePort) {
    spec.healthCheckNodePort = before.healthCheckNodePort;
  }
}

/** By the port's name: whoever changes the number of a port, or its target, means the same port. */
function keepNodePorts(spec: ServiceSpec, before: ServiceSpec): void {
  const ports = spec.ports ?? [];
  const named = new Set(ports.map((p) => p.nodePort));
  for (const port of ports) {
    if (port.nodePort) continue;
    const old = before.ports?.findLast((p) => (p.name ?? "") === (port.name ?? ""));
    if (old?.nodePort && !named.has(old.nodePort)) port.nodePort = old.nodePort;
  }
}

/** A change of type clears what the new type does not have, unless the user set it anew. */
export function dropTypeDependent(service: Service, old: Service): void {
  const { spec } = service;
  const before = old.spec;
  if (!spec || !before) return;
  if (needsClusterIP(old) && !needsClusterIP(service)) {
    if (same(spec.clusterIPs, before.clusterIPs)) {
      delete spec.clusterIP;
      delete spec.clusterIPs;
    }
    for (const field of ["ipFamilies", "ipFamilyPolicy"] as const) {
      if (same(spec[field], before[field])) delete spec[field];
    }
  }
  if (needsNodePort(old) && !needsNodePort(service) && sameNodePorts(spec, before)) {
    for (const port of spec.ports ?? []) delete port.nodePort;
  }
  if (needsHealthCheckNodePort(old) && !needsHealthCheckNodePort(service)) {
    if (spec.healthCheckNodePort === before.healthCheckNodePort) delete spec.healthCheckNodePort;
  }
  if (before.type === "LoadBalancer" && spec.type !== "LoadBalancer") {
    for (const field of ["allocateLoadBalancerNodePorts", "loadBalancerClass"] as const) {
      if (spec[field] === before[field]) delete spec[field];
    }
  }
  if (isExternallyAccessible(old) && !isExternallyAccessible(service)) {
    if (spec.externalTrafficPolicy === before.externalTrafficPolicy) delete spec.externalTrafficPolicy;
  }
}

function sameNodePorts(spec: ServiceSpec, before: ServiceSpec): boolean {
  const all = (s: ServiceSpec) => new Set((s.ports ?? []).map((p) => p.nodePort ?? 0).filter((n) => n > 0));
  const [now, old] = [all(spec), all(before)];
  return now.size === old.size && [...now].every((n) => old.has(n));
}
