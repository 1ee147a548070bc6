// Validation of a Service's clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy: their form, that they agree, and
// what an update may change. Texts are those of the real server (pkg/apis/core/validation). What the cluster has is
// not known here.

import type { ServiceSpec } from "kubernetes-types/core/v1.js";
import { ipFamily } from "../../../common/ip.js";
import type { Service, Stored } from "../../../common/k8s.js";
import { isHeadless } from "../service-defaults.js";
import type { FieldError } from "../types.js";
import { duplicate, invalid, notSupported, required } from "./field.js";
import { ip } from "./values.js";

const FAMILIES = ["IPv4", "IPv6"];
const FAMILY_POLICIES = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const FIXED = "may not change once set";

export function validateClusterIPs(service: Service): FieldError[] {
  const spec = service.spec ?? {};
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
  return wellFormed ? [...errors, ...validateFamiliesOfIPs(service, spec, ips)] : errors;
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

function validateFamiliesOfIPs(service: Service, spec: ServiceSpec, ips: readonly string[]): FieldError[] {
  const errors: FieldError[] = [];
  if (ips.length > 1 && new Set(ips.map(ipFamily)).size === 1) {
    errors.push(invalid("spec.clusterIPs", ips, "may specify no more than one IP for each IP family"));
  }
  if (isHeadless(service)) return errors;
  for (const [i, address] of ips.entries()) {
    const family = spec.ipFamilies?.[i];
    if (!family || family === `IPv${ipFamily(address)}`) continue;
    const text = `expected an ${family} value as indicated by \`ipFamilies[${i}]\``;
    errors.push(invalid(`spec.clusterIPs[${i}]`, address, text));
  }
  return errors;
}

/** The second address and family may come and go; the first stay, but on the way from or to ExternalName. */
export function validateClusterIPsUpdate(service: Service, old: Stored<Service>): FieldError[] {
  const spec = service.spec ?? {};
  const before = old.spec ?? {};
  if (spec.type === "ExternalName" || before.type === "ExternalName") return [];
  const headless = isHeadless(service);
  const wasHeadless = isHeadless(old);
  if (headless && wasHeadless) return [];
  const errors: FieldError[] = [];
  const ips = spec.clusterIPs ?? [];
  const oldIPs = before.clusterIPs ?? [];
  if (oldIPs.length > 0 && ips.length === 0) {
    errors.push(invalid("spec.clusterIPs[0]", ips, "primary clusterIP can not be unset"));
  }
  for (const [i, address] of oldIPs.entries()) {
    if (ips[i] !== undefined && ips[i] !== address) errors.push(invalid(`spec.clusterIPs[${i}]`, ips, FIXED));
  }
  if (headless !== wasHeadless) return errors;
  const families = spec.ipFamilies ?? [];
  // The real server names index 0 whichever of them changed.
  for (const [i, family] of (before.ipFamilies ?? []).entries()) {
    if (families[i] !== undefined && families[i] !== family) {
      errors.push(invalid("spec.ipFamilies[0]", families, FIXED));
    }
  }
  return errors;
}
