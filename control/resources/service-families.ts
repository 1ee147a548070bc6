// ipFamilyPolicy and ipFamilies of a Service: what is filled in, and what the cluster's families and the Service's
// former state allow. After the real server's registry (initIPFamilyFields). Pure; knows no allocator.

import type { ServiceSpec } from "kubernetes-types/core/v1.js";
import { ipFamily } from "../../common/ip.js";
import type { Service, Stored } from "../../common/k8s.js";
import type { FamilyName } from "./address-range.js";
import { needsClusterIP } from "./service-defaults.js";
import type { FieldError } from "./types.js";
import { invalid, same } from "./validation/field.js";
import { validateClusterIPs } from "./validation/service-ips.js";

const POLICY = "spec.ipFamilyPolicy";

/**
 * Fills in the policy and the families of a new or changed Service.
 * @param cluster The families of the cluster's ranges, the default one first.
 * @returns What is wrong; then the draft is of no use.
 */
export function initFamilies(
  service: Service,
  old: Stored<Service> | undefined,
  cluster: readonly FamilyName[],
): FieldError[] {
  const spec = service.spec ?? {};
  const before = old?.spec;
  if (spec.type === "ExternalName") return [];
  // "Prefer" is settled when it is asked for: a cluster that gains or loses a family changes no Service.
  if (before && isSettled(service, old)) return [];
  // Headless without a selector: the user writes the endpoints, of whatever family.
  const isFree = spec.clusterIP === "None" && Object.keys(spec.selector ?? {}).length === 0;
  spec.ipFamilyPolicy ??= before?.ipFamilyPolicy ?? (isFree ? "RequireDualStack" : "SingleStack");
  const malformed = validateClusterIPs(service);
  if (malformed.length > 0) return malformed;
  const errors = [
    ...(before ? releaseSecondary(spec, before) : []),
    ...checkSingleStack(spec),
    ...inferFamilies(spec, cluster),
  ];
  if (errors.length === 0 && !isFree) errors.push(...checkCluster(spec, cluster));
  if (errors.length === 0) completeFamilies(spec, isFree ? ["IPv4", "IPv6"] : cluster, cluster[0] ?? "IPv4");
  return errors;
}

function isSettled({ spec }: Service, { spec: before }: Stored<Service>): boolean {
  return (
    spec?.type === before?.type &&
    needsClusterIP({ spec }) &&
    spec?.ipFamilyPolicy === "PreferDualStack" &&
    (before?.ipFamilyPolicy ?? "PreferDualStack") === "PreferDualStack" &&
    same(spec.clusterIPs, before?.clusterIPs) &&
    same(spec.ipFamilies, before?.ipFamilies)
  );
}

/** The policy alone says that a Service gives up its second family; lists that got shorter do not. */
function releaseSecondary(spec: ServiceSpec, before: ServiceSpec): FieldError[] {
  const errors: FieldError[] = [];
  const policy = spec.ipFamilyPolicy;
  for (const [field, what] of [
    ["clusterIPs", "cluster IP"],
    ["ipFamilies", "IP family"],
  ] as const) {
    const [now = [], then = []] = [spec[field], before[field]];
    if (policy === "SingleStack") {
      if (now.length > 1 && same(now, then)) spec[field] = now.slice(0, 1);
    } else if (now.length > 0 && now.length < then.length) {
      errors.push(invalid(POLICY, policy, `must be 'SingleStack' to release the secondary ${what}`));
    }
  }
  return errors;
}

function checkSingleStack({ ipFamilyPolicy, clusterIPs, ipFamilies }: ServiceSpec): FieldError[] {
  if (ipFamilyPolicy !== "SingleStack") return [];
  const text = "must be 'RequireDualStack' or 'PreferDualStack' when multiple";
  const errors: FieldError[] = [];
  if (clusterIPs?.length === 2)
    errors.push(invalid(POLICY, ipFamilyPolicy, `${text} cluster IPs are specified`));
  if (ipFamilies?.length === 2)
    errors.push(invalid(POLICY, ipFamilyPolicy, `${text} IP families are specified`));
  return errors;
}

/** Whoever names an address names its family. */
function inferFamilies(spec: ServiceSpec, cluster: readonly FamilyName[]): FieldError[] {
  const errors: FieldError[] = [];
  for (const [i, address] of (spec.clusterIPs ?? []).entries()) {
    if (address === "None") break;
    if (spec.ipFamilies?.[i]) continue;
    const family: FamilyName = ipFamily(address) === 6 ? "IPv6" : "IPv4";
    if (cluster.includes(family)) spec.ipFamilies = [...(spec.ipFamilies ?? []), family];
    else
      errors.push(
        invalid(`spec.clusterIPs[${i}]`, spec.clusterIPs, `${family} is not configured on this cluster`),
      );
  }
  return errors;
}

function checkCluster({ ipFamilyPolicy, ipFamilies }: ServiceSpec, cluster: readonly string[]): FieldError[] {
  const errors: FieldError[] = [];
  if (ipFamilyPolicy === "RequireDualStack" && cluster.length < 2) {
    errors.push(invalid(POLICY, ipFamilyPolicy, "this cluster is not configured for dual-stack services"));
  }
  for (const [i, family] of (ipFamilies ?? []).entries()) {
    if (!cluster.includes(family)) {
      errors.push(invalid(`spec.ipFamilies[${i}]`, family, "not configured on this cluster"));
    }
  }
  return errors;
}

function completeFamilies(spec: ServiceSpec, available: readonly FamilyName[], first: FamilyName): void {
  const families = spec.ipFamilies?.length ? [...spec.ipFamilies] : [first];
  const second = available.find((family) => family !== families[0]);
  if (spec.ipFamilyPolicy !== "SingleStack" && families.length === 1 && second) families.push(second);
  spec.ipFamilies = families;
}
