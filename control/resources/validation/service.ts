// Validation of Services: field paths and texts are those of the real server (pkg/apis/core/validation and the
// registry's address families), for a cluster with IPv4 alone. What needs the allocators is checked by them.

import type { ServiceSpec } from "kubernetes-types/core/v1.js";
import { ipFamily } from "../../../common/ip.js";
import type { Service, ServicePort, Stored } from "../../../common/k8s.js";
import { isExternallyAccessible, isHeadless, needsHealthCheckNodePort } from "../service-defaults.js";
import type { FieldError } from "../types.js";
import { duplicate, forbidden, invalid, notSupported, oneOf, required } from "./field.js";
import { validateLabels } from "./meta.js";
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
const FAMILIES = ["IPv4", "IPv6"];
const FAMILY_POLICIES = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const POLICIES = ["Cluster", "Local"];
const MAX_AFFINITY_SECONDS = 86_400;

export function validateService(service: Service, old: Stored<Service> | undefined): FieldError[] {
  const spec = service.spec ?? {};
  return [
    ...(old ? validateUpdate(service, old) : []),
    ...validateType(service, spec),
    ...validatePorts(service, spec),
    ...validateLabels(spec.selector, "spec.selector"),
    ...validateAffinity(spec),
    ...validateClusterIPs(service, spec),
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

function validateClusterIPs(service: Service, spec: ServiceSpec): FieldError[] {
  if (spec.type === "ExternalName") return [];
  const errors: FieldError[] = [];
  const ips = spec.clusterIPs ?? [];
  if (spec.clusterIP) {
    if (ips.length === 0) errors.push(required("spec.clusterIPs"));
    else if (ips[0] !== spec.clusterIP) {
      errors.push(invalid("spec.clusterIPs", ips, "first value must match `clusterIP`"));
    }
  } else if (ips.length > 0) {
    errors.push(invalid("spec.clusterIPs", ips, "must be empty when `clusterIP` is not specified"));
  }
  errors.push(...validateFamilies(spec));
  let wellFormed = true;
  for (const [i, address] of ips.entries()) {
    if (i === 0 && address === "None") {
      if (ips.length === 1) continue;
      wellFormed = false;
      errors.push(invalid("spec.clusterIPs", ips, "'None' must be the first and only value"));
      continue;
    }
    const wrong = ip(`spec.clusterIPs[${i}]`, address);
    if (wrong.length > 0) wellFormed = false;
    errors.push(...wrong);
  }
  if (ips.length > 2) errors.push(invalid("spec.clusterIPs", ips, "may only hold up to 2 values"));
  if (!wellFormed) return errors;
  return [...errors, ...validateFamiliesOfIPs(service, spec, ips)];
}

function validateFamilies(spec: ServiceSpec): FieldError[] {
  const errors: FieldError[] = [];
  const seen = new Set<string>();
  for (const [i, family] of (spec.ipFamilies ?? []).entries()) {
    const at = `spec.ipFamilies[${i}]`;
    if (!FAMILIES.includes(family)) errors.push(notSupported(at, family, FAMILIES));
    if (seen.has(family)) errors.push(duplicate(at, family));
    seen.add(family);
  }
  const policy = spec.ipFamilyPolicy;
  if (policy !== undefined && !FAMILY_POLICIES.includes(policy)) {
    errors.push(notSupported("spec.ipFamilyPolicy", policy, FAMILY_POLICIES));
  }
  return errors;
}

/** Families, addresses and policy must agree, and be what this cluster has: IPv4. */
function validateFamiliesOfIPs(service: Service, spec: ServiceSpec, ips: readonly string[]): FieldError[] {
  const errors: FieldError[] = [];
  const families = spec.ipFamilies ?? [];
  const headless = isHeadless(service);
  if (ips.length > 1 && ipFamily(ips[0] ?? "") === ipFamily(ips[1] ?? "")) {
    errors.push(invalid("spec.clusterIPs", ips, "may specify no more than one IP for each IP family"));
  }
  for (const [i, address] of headless ? [] : ips.entries()) {
    const family = families[i];
    if (`IPv${ipFamily(address)}` === family) continue;
    if (!family) {
      if (ipFamily(address) === 4) continue;
      errors.push(invalid(`spec.clusterIPs[${i}]`, ips, "IPv6 is not configured on this cluster"));
      continue;
    }
    const text = `expected an ${family} value as indicated by \`ipFamilies[${i}]\``;
    errors.push(invalid(`spec.clusterIPs[${i}]`, address, text));
  }
  const policy = spec.ipFamilyPolicy;
  if (policy === "SingleStack") {
    const text = "must be 'RequireDualStack' or 'PreferDualStack' when multiple";
    if (ips.length === 2)
      errors.push(invalid("spec.ipFamilyPolicy", policy, `${text} cluster IPs are specified`));
    if (families.length === 2) {
      errors.push(invalid("spec.ipFamilyPolicy", policy, `${text} IP families are specified`));
    }
  }
  if (headless && Object.keys(spec.selector ?? {}).length === 0) return errors;
  if (policy === "RequireDualStack") {
    errors.push(
      invalid("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack services"),
    );
  }
  for (const [i, family] of families.entries()) {
    if (family === "IPv6") {
      errors.push(invalid(`spec.ipFamilies[${i}]`, family, "not configured on this cluster"));
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
  const errors: FieldError[] = [];
  const balanced = spec.type === "LoadBalancer";
  const only = "may only be used when `type` is 'LoadBalancer'";
  const ranges = spec.loadBalancerSourceRanges ?? [];
  // The real server spells this path with a capital.
  if (ranges.length > 0 && !balanced) errors.push(forbidden("spec.LoadBalancerSourceRanges", only));
  for (const [i, range] of ranges.entries()) {
    errors.push(...cidr(`spec.LoadBalancerSourceRanges[${i}]`, range.trim()));
  }
  if (spec.allocateLoadBalancerNodePorts !== undefined && !balanced) {
    errors.push(forbidden("spec.allocateLoadBalancerNodePorts", only));
  }
  if (spec.loadBalancerClass !== undefined) {
    if (!balanced) errors.push(forbidden("spec.loadBalancerClass", only));
    else errors.push(...qualified("spec.loadBalancerClass", spec.loadBalancerClass));
  }
  const ingress = service.status?.loadBalancer?.ingress ?? [];
  if (ingress.length > 0 && !balanced) {
    errors.push(
      forbidden("status.loadBalancer.ingress", 'may only be used when `spec.type` is "LoadBalancer"'),
    );
  }
  for (const [i, { ip: address }] of ingress.entries()) {
    if (address) errors.push(...ip(`status.loadBalancer.ingress[${i}].ip`, address));
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
  if (spec.type === "ExternalName" || before.type === "ExternalName") return errors;
  const wasHeadless = isHeadless(old);
  if (wasHeadless && isHeadless(service)) return errors;
  const ips = spec.clusterIPs ?? [];
  const oldIPs = before.clusterIPs ?? [];
  if (oldIPs.length > 0 && ips.length === 0) {
    errors.push(invalid("spec.clusterIPs[0]", ips, "primary clusterIP can not be unset"));
  }
  for (const [i, address] of oldIPs.entries()) {
    if (ips[i] !== undefined && ips[i] !== address) {
      errors.push(invalid(`spec.clusterIPs[${i}]`, ips, "may not change once set"));
    }
  }
  if (wasHeadless === isHeadless(service) && before.ipFamilies?.[0] !== spec.ipFamilies?.[0]) {
    errors.push(invalid("spec.ipFamilies[0]", spec.ipFamilies ?? [], "may not change once set"));
  }
  return errors;
}
