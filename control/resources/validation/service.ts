// Validation of Services: field paths and texts are those of the real server (pkg/apis/core/validation and the
// registry's). Addresses and families have a file of their own; what needs the allocators is checked by them.

import type { ServiceSpec } from "kubernetes-types/core/v1.js";
import { ipFamily } from "../../../common/ip.js";
import type { Service, ServicePort, Stored } from "../../../common/k8s.js";
import { isExternallyAccessible, isHeadless, needsHealthCheckNodePort } from "../service-defaults.js";
import type { FieldError } from "../types.js";
import { duplicate, forbidden, invalid, oneOf, required } from "./field.js";
import { validateLabels } from "./meta.js";
import { validateClusterIPs, validateClusterIPsUpdate } from "./service-ips.js";
import {
  cidr,
  ip,
  label,
  nonSpecialIp,
  portNumber,
  portNumberOrName,
  protocol,
  qualified,
  subdomain,
} from "./values.js";

const TYPES = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES = ["Cluster", "Local"];
const MAX_AFFINITY_SECONDS = 86_400;
const KUBELET_PORT = 10_250;
const BALANCED_ONLY = "may only be used when `type` is 'LoadBalancer'";
const SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges";

export function validateService(service: Service, old: Stored<Service> | undefined): FieldError[] {
  const spec = service.spec ?? {};
  return [
    ...(old ? validateUpdate(service, old) : []),
    ...validateType(service, spec),
    ...validatePorts(service, spec),
    ...validateLabels(spec.selector, "spec.selector"),
    ...validateAffinity(spec),
    ...validateClusterIPs(service),
    ...validateExternalIPs(spec),
    ...validateLoadBalancer(service, spec),
    ...validatePolicies(service, spec),
  ];
}

function validateType(service: Service, spec: ServiceSpec): FieldError[] {
  const errors = oneOf("spec.type", spec.type, TYPES);
  const headless = isHeadless(service);
  if ((spec.ports ?? []).length === 0 && !headless && spec.type !== "ExternalName") {
    errors.push(required("spec.ports"));
  }
  if (headless && (spec.type === "LoadBalancer" || spec.type === "NodePort")) {
    const text = `may not be set to 'None' for ${spec.type} services`;
    errors.push(invalid("spec.clusterIPs[0]", "None", text));
  }
  if (spec.type === "ExternalName") {
    const unset = {
      clusterIPs: spec.clusterIPs,
      ipFamilies: spec.ipFamilies,
      ipFamilyPolicy: spec.ipFamilyPolicy,
    };
    for (const [field, value] of Object.entries(unset)) {
      if (value?.length) errors.push(forbidden(`spec.${field}`, "may not be set for ExternalName services"));
    }
    const name = (spec.externalName ?? "").replace(/\.$/, "");
    if (name === "") errors.push(required("spec.externalName"));
    else errors.push(...subdomain("spec.externalName", name));
  }
  return errors;
}

function validatePorts(service: Service, spec: ServiceSpec): FieldError[] {
  const errors: FieldError[] = [];
  const ports = spec.ports ?? [];
  const names = new Set<string>();
  for (const [i, port] of ports.entries()) {
    const at = `spec.ports[${i}]`;
    if (port.name) {
      errors.push(...label(`${at}.name`, port.name));
      if (names.has(port.name)) errors.push(duplicate(`${at}.name`, port.name));
      names.add(port.name);
    } else if (ports.length > 1) {
      errors.push(required(`${at}.name`));
    }
    errors.push(
      ...portNumber(`${at}.port`, port.port),
      ...protocol(`${at}.protocol`, port.protocol),
      ...portNumberOrName(`${at}.targetPort`, port.targetPort),
    );
    if (port.appProtocol !== undefined) errors.push(...qualified(`${at}.appProtocol`, port.appProtocol));
    if (port.nodePort && service.spec?.type === "ClusterIP") {
      errors.push(forbidden(`${at}.nodePort`, "may not be used when `type` is 'ClusterIP'"));
    }
  }
  return [...errors, ...validateUniquePorts(ports)];
}

function validateUniquePorts(ports: readonly ServicePort[]): FieldError[] {
  const errors: FieldError[] = [];
  const nodePorts = new Set<string>();
  for (const [i, { nodePort, protocol: proto }] of ports.entries()) {
    if (!nodePort) continue;
    const key = `${proto}/${nodePort}`;
    if (nodePorts.has(key)) errors.push(duplicate(`spec.ports[${i}].nodePort`, nodePort));
    nodePorts.add(key);
  }
  const numbers = new Set<string>();
  for (const [i, { port, protocol: proto }] of ports.entries()) {
    const key = `${proto}/${port}`;
    if (numbers.has(key)) errors.push(duplicate(`spec.ports[${i}]`, { port, protocol: proto }));
    numbers.add(key);
  }
  return errors;
}

function validateAffinity(spec: ServiceSpec): FieldError[] {
  const errors = oneOf("spec.sessionAffinity", spec.sessionAffinity, ["ClientIP", "None"]);
  const path = "spec.sessionAffinityConfig";
  if (spec.sessionAffinity === "None" && spec.sessionAffinityConfig) {
    errors.push(forbidden(path, "must not be set when session affinity is None"));
  }
  if (spec.sessionAffinity === "ClientIP") {
    const seconds = spec.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? 0;
    if (seconds <= 0 || seconds > MAX_AFFINITY_SECONDS) {
      const text = `must be greater than 0 and less than ${MAX_AFFINITY_SECONDS}`;
      errors.push(invalid(`${path}.clientIP.timeoutSeconds`, seconds, text));
    }
  }
  return errors;
}

function validateExternalIPs(spec: ServiceSpec): FieldError[] {
  const errors: FieldError[] = [];
  for (const [i, address] of (spec.externalIPs ?? []).entries()) {
    const at = `spec.externalIPs[${i}]`;
    const wrong = ip(at, address);
    errors.push(...(wrong.length > 0 ? wrong : nonSpecialIp(at, address)));
  }
  return errors;
}

function validateLoadBalancer(service: Service, spec: ServiceSpec): FieldError[] {
  const errors = [...validateSourceRanges(service, spec), ...validateIngress(service, spec)];
  const balanced = spec.type === "LoadBalancer";
  if (spec.allocateLoadBalancerNodePorts !== undefined && !balanced) {
    errors.push(forbidden("spec.allocateLoadBalancerNodePorts", BALANCED_ONLY));
  }
  if (spec.loadBalancerClass !== undefined) {
    if (!balanced) errors.push(forbidden("spec.loadBalancerClass", BALANCED_ONLY));
    else errors.push(...qualified("spec.loadBalancerClass", spec.loadBalancerClass));
  }
  for (const [i, { port }] of (balanced ? (spec.ports ?? []) : []).entries()) {
    if (port !== KUBELET_PORT) continue;
    const text = `may not expose port ${KUBELET_PORT} externally since it is used by kubelet`;
    errors.push(invalid(`spec.ports[${i}]`, port, text));
  }
  return errors;
}

/** The annotation is the field's forerunner and counts where the field is empty. */
function validateSourceRanges({ metadata }: Service, spec: ServiceSpec): FieldError[] {
  const ranges = spec.loadBalancerSourceRanges ?? [];
  const annotation = metadata?.annotations?.[SOURCE_RANGES];
  if (ranges.length === 0 && annotation === undefined) return [];
  // The real server spells the field's path with a capital.
  const at = ranges.length > 0 ? "spec.LoadBalancerSourceRanges" : `metadata.annotations[${SOURCE_RANGES}]`;
  const errors = spec.type === "LoadBalancer" ? [] : [forbidden(at, BALANCED_ONLY)];
  if (ranges.length > 0) return [...errors, ...ranges.flatMap((r, i) => cidr(`${at}[${i}]`, r.trim()))];
  const listed = annotation?.trim() ? annotation.split(",") : [];
  return [...errors, ...listed.flatMap((r) => cidr(at, r.trim()))];
}

function validateIngress({ status }: Service, spec: ServiceSpec): FieldError[] {
  const ingress = status?.loadBalancer?.ingress ?? [];
  if (ingress.length > 0 && spec.type !== "LoadBalancer") {
    const text = 'may only be used when `spec.type` is "LoadBalancer"';
    return [forbidden("status.loadBalancer.ingress", text)];
  }
  const errors: FieldError[] = [];
  for (const [i, { ip: address, ipMode, hostname }] of ingress.entries()) {
    const at = `status.loadBalancer.ingress[${i}]`;
    if (address) {
      errors.push(...ip(`${at}.ip`, address));
      if (ipMode === undefined) errors.push(required(`${at}.ipMode`, "must be specified when `ip` is set"));
      else errors.push(...oneOf(`${at}.ipMode`, ipMode, ["Proxy", "VIP"]));
    } else if (ipMode !== undefined) {
      errors.push(forbidden(`${at}.ipMode`, "may not be specified when `ip` is not set"));
    }
    if (!hostname) continue;
    errors.push(...subdomain(`${at}.hostname`, hostname));
    if (ipFamily(hostname) !== 0) {
      errors.push(invalid(`${at}.hostname`, hostname, "must be a DNS name, not an IP address"));
    }
  }
  return errors;
}

function validatePolicies(service: Service, spec: ServiceSpec): FieldError[] {
  const errors: FieldError[] = [];
  const external = spec.externalTrafficPolicy;
  if (isExternallyAccessible(service))
    errors.push(...oneOf("spec.externalTrafficPolicy", external, POLICIES));
  else if (external) {
    const text = "may only be set for externally-accessible services";
    errors.push(invalid("spec.externalTrafficPolicy", external, text));
  }
  if (spec.healthCheckNodePort) {
    const at = "spec.healthCheckNodePort";
    if (needsHealthCheckNodePort(service)) errors.push(...portNumber(at, spec.healthCheckNodePort));
    else {
      const text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
      errors.push(invalid(at, spec.healthCheckNodePort, text));
    }
  }
  if (spec.internalTrafficPolicy !== undefined || spec.type !== "ExternalName") {
    errors.push(...oneOf("spec.internalTrafficPolicy", spec.internalTrafficPolicy, POLICIES));
  }
  const distribution = spec.trafficDistribution;
  if (distribution !== undefined) {
    const supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    errors.push(...oneOf("spec.trafficDistribution", distribution, supported));
  }
  return errors;
}

function validateUpdate(service: Service, old: Stored<Service>): FieldError[] {
  const errors: FieldError[] = [];
  const spec = service.spec ?? {};
  const before = old.spec ?? {};
  if (needsHealthCheckNodePort(old) && needsHealthCheckNodePort(service)) {
    const set = spec.healthCheckNodePort;
    if (set && set !== before.healthCheckNodePort) {
      errors.push(forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
  }
  if (before.type === "LoadBalancer" && spec.type === "LoadBalancer") {
    if (spec.loadBalancerClass !== before.loadBalancerClass) {
      errors.push(
        invalid("spec.loadBalancerClass", spec.loadBalancerClass ?? null, "may not change once set"),
      );
    }
  }
  return [...errors, ...validateClusterIPsUpdate(service, old)];
}
