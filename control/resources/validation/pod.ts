// Validation of a pod's spec, wherever it stands (pod or template), and of what an update may change. Field
// paths and texts are those of the real server (pkg/apis/core/validation). Knows no request.

import type { PodDNSConfig } from "kubernetes-types/core/v1.js";
import { ipFamily } from "../../../common/ip.js";
import type { Container, Pod, PodSpec, PodTemplateSpec, Stored } from "../../../common/k8s.js";
import type { FieldError } from "../types.js";
import { validateContainers, validateEphemeralContainers, validateInitContainers } from "./container.js";
import { duplicate, forbidden, invalid, oneOf, required, same } from "./field.js";
import { validateAnnotations, validateLabels } from "./meta.js";
import {
  validateAffinity,
  validateOnlyAddedTolerations,
  validateSchedulingGates,
  validateTolerations,
  validateTopologySpread,
} from "./scheduling.js";
import { ip, label, qualified, subdomain } from "./values.js";
import { validateVolumes } from "./volume.js";

const INT32_MAX = 2 ** 31 - 1;
const EMPTY_SPEC: PodSpec = { containers: [] };

/** spec of a pod (`isPod`) or of a template. */
export function validatePodSpec(spec: PodSpec | undefined, path: string, isPod: boolean): FieldError[] {
  const s = spec ?? EMPTY_SPEC;
  const { errors, names } = validateVolumes(s.volumes, `${path}.volumes`);
  const scope = { volumes: names, gracePeriodSeconds: s.terminationGracePeriodSeconds, isPod };
  const others = [...(s.containers ?? []), ...(s.initContainers ?? [])];
  errors.push(
    ...validateContainers(s.containers, scope, `${path}.containers`),
    ...validateInitContainers(s.initContainers, s.containers, scope, `${path}.initContainers`),
    ...validateEphemeralContainers(s.ephemeralContainers, others, scope, `${path}.ephemeralContainers`),
    ...validateHostNetwork(s, path, isPod),
    ...oneOf(`${path}.restartPolicy`, s.restartPolicy, ["Always", "OnFailure", "Never"]),
    ...oneOf(`${path}.dnsPolicy`, s.dnsPolicy, [
      "ClusterFirstWithHostNet",
      "ClusterFirst",
      "Default",
      "None",
    ]),
    ...validateLabels(s.nodeSelector, `${path}.nodeSelector`),
    ...validateSecurity(s, path),
    ...validateAffinity(s.affinity, `${path}.affinity`),
    ...validateDnsConfig(s.dnsConfig, s.dnsPolicy, `${path}.dnsConfig`),
    ...validateSchedulingGates(s.schedulingGates, `${path}.schedulingGates`),
    ...validateTopologySpread(s.topologySpreadConstraints, `${path}.topologySpreadConstraints`),
    ...validateNames(s, path),
    ...validateTolerations(s.tolerations, `${path}.tolerations`),
  );
  for (const [i, gate] of (s.readinessGates ?? []).entries()) {
    errors.push(...qualified(`${path}.readinessGates[${i}].conditionType`, gate.conditionType ?? ""));
  }
  const deadline = s.activeDeadlineSeconds;
  if (deadline !== undefined && (deadline < 1 || deadline > INT32_MAX)) {
    const text = `must be between 1 and ${INT32_MAX}, inclusive`;
    errors.push(invalid(`${path}.activeDeadlineSeconds`, deadline, text));
  }
  if (s.preemptionPolicy !== undefined) {
    errors.push(...oneOf(`${path}.preemptionPolicy`, s.preemptionPolicy, ["PreemptLowerPriority", "Never"]));
  }
  return errors;
}

function validateNames(s: PodSpec, path: string): FieldError[] {
  const errors: FieldError[] = [];
  for (const field of ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] as const) {
    const value = s[field];
    if (value) errors.push(...subdomain(`${path}.${field}`, value));
  }
  if (s.hostname) errors.push(...label(`${path}.hostname`, s.hostname));
  if (s.subdomain) errors.push(...label(`${path}.subdomain`, s.subdomain));
  for (const [i, alias] of (s.hostAliases ?? []).entries()) {
    errors.push(...ip(`${path}.hostAliases[${i}].ip`, alias.ip ?? ""));
    for (const [j, name] of (alias.hostnames ?? []).entries()) {
      errors.push(...subdomain(`${path}.hostAliases[${i}].hostnames[${j}]`, name));
    }
  }
  return errors;
}

function validateHostNetwork(s: PodSpec, path: string, isPod: boolean): FieldError[] {
  if (!s.hostNetwork) return [];
  const errors: FieldError[] = [];
  for (const [i, c] of (s.containers ?? []).entries()) {
    for (const [j, port] of (c.ports ?? []).entries()) {
      const host = port.hostPort ?? 0;
      // A template may leave hostPort out; its pods get it by default.
      if ((!isPod && host === 0) || host === port.containerPort) continue;
      const text = "must match `containerPort` when `hostNetwork` is true";
      errors.push(invalid(`${path}.containers[${i}].ports[${j}].hostPort`, host, text));
    }
  }
  return errors;
}

function validateSecurity(s: PodSpec, path: string): FieldError[] {
  const errors: FieldError[] = [];
  for (const field of ["runAsUser", "runAsGroup", "fsGroup"] as const) {
    errors.push(...validateId(s.securityContext?.[field], `${path}.securityContext.${field}`));
  }
  for (const [i, c] of (s.containers ?? []).entries()) {
    for (const field of ["runAsUser", "runAsGroup"] as const) {
      const at = `${path}.containers[${i}].securityContext.${field}`;
      errors.push(...validateId(c.securityContext?.[field], at));
    }
    if (c.securityContext?.privileged && c.securityContext.allowPrivilegeEscalation === false) {
      const text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
      errors.push(invalid(`${path}.containers[${i}].securityContext`, c.securityContext, text));
    }
  }
  for (const [i, id] of (s.securityContext?.supplementalGroups ?? []).entries()) {
    errors.push(...validateId(id, `${path}.securityContext.supplementalGroups[${i}]`));
  }
  if (s.shareProcessNamespace && s.hostPID) {
    const text = "ShareProcessNamespace and HostPID cannot both be enabled";
    errors.push(invalid(`${path}.securityContext.shareProcessNamespace`, true, text));
  }
  return errors;
}

function validateId(id: number | undefined, field: string): FieldError[] {
  if (id === undefined || (id >= 0 && id <= INT32_MAX)) return [];
  return [invalid(field, id, `must be between 0 and ${INT32_MAX}, inclusive`)];
}

function validateDnsConfig(
  config: PodDNSConfig | undefined,
  policy: string | undefined,
  path: string,
): FieldError[] {
  const errors: FieldError[] = [];
  const nameservers = config?.nameservers ?? [];
  if (policy === "None") {
    if (!config) return [required(path, "must provide `dnsConfig` when `dnsPolicy` is None")];
    if (nameservers.length === 0) {
      const text = "must provide at least one DNS nameserver when `dnsPolicy` is None";
      return [required(`${path}.nameservers`, text)];
    }
  }
  if (nameservers.length > 3) {
    errors.push(invalid(`${path}.nameservers`, nameservers, "must not have more than 3 nameservers"));
  }
  for (const [i, server] of nameservers.entries()) errors.push(...ip(`${path}.nameservers[${i}]`, server));
  const searches = config?.searches ?? [];
  if (searches.length > 32) {
    errors.push(invalid(`${path}.searches`, searches, "must not have more than 32 search paths"));
  }
  for (const [i, search] of searches.entries()) {
    if (search !== ".") errors.push(...subdomain(`${path}.searches[${i}]`, search.replace(/\.$/, "")));
  }
  for (const [i, option] of (config?.options ?? []).entries()) {
    if (!option.name) errors.push(required(`${path}.options[${i}]`, "must not be empty"));
  }
  return errors;
}

/** The template of a controller: its labels, annotations and spec. */
export function validatePodTemplate(template: PodTemplateSpec | undefined, path: string): FieldError[] {
  const errors = [
    ...validateLabels(template?.metadata?.labels, `${path}.labels`),
    ...validateAnnotations(template?.metadata?.annotations, `${path}.annotations`),
    ...validatePodSpec(template?.spec, `${path}.spec`, false),
  ];
  if ((template?.spec?.ephemeralContainers ?? []).length > 0) {
    const text = "ephemeral containers not allowed in pod template";
    errors.push(forbidden(`${path}.spec.ephemeralContainers`, text));
  }
  return errors;
}

/** What only creation forbids. */
export function validatePodCreate(pod: Pod): FieldError[] {
  const errors: FieldError[] = [];
  if ((pod.spec?.ephemeralContainers ?? []).length > 0) {
    errors.push(forbidden("spec.ephemeralContainers", "cannot be set on create"));
  }
  if (pod.spec?.nodeName && (pod.spec.schedulingGates ?? []).length > 0) {
    errors.push(forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared"));
  }
  return errors;
}

const UPDATABLE = [
  "`spec.containers[*].image`",
  "`spec.initContainers[*].image`",
  "`spec.activeDeadlineSeconds`",
  "`spec.tolerations` (only additions to existing tolerations)",
  "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
].join(",");

/** A pod is what it was scheduled as: an update may change images, the deadline, and add tolerations. */
export function validatePodUpdate(pod: Pod, old: Stored<Pod>): FieldError[] {
  const now = pod.spec ?? EMPTY_SPEC;
  const before = old.spec ?? EMPTY_SPEC;
  const errors: FieldError[] = [];
  for (const field of ["containers", "initContainers"] as const) {
    if ((now[field] ?? []).length !== (before[field] ?? []).length) {
      return [forbidden(`spec.${field}`, "pod updates may not add or remove containers")];
    }
  }
  const deadline = now.activeDeadlineSeconds;
  const oldDeadline = before.activeDeadlineSeconds;
  if (oldDeadline !== undefined && (deadline === undefined || deadline > oldDeadline)) {
    const text =
      deadline === undefined
        ? "must not update from a positive integer to nil value"
        : "must be less than or equal to previous value";
    errors.push(invalid("spec.activeDeadlineSeconds", deadline ?? null, text));
  }
  errors.push(...validateOnlyAddedTolerations(now.tolerations, before.tolerations, "spec.tolerations"));
  for (const [i, gate] of (now.schedulingGates ?? []).entries()) {
    if ((before.schedulingGates ?? []).some((g) => g.name === gate.name)) continue;
    const text = `only deletion is allowed, but found new scheduling gate '${gate.name}'`;
    errors.push(forbidden(`spec.schedulingGates[${i}].name`, text));
  }
  const changed = changedFields(withUpdatable(now, before), before);
  if (changed.length > 0) {
    const text = `pod updates may not change fields other than ${UPDATABLE}\nchanged: ${changed.join(", ")}`;
    errors.push(forbidden("spec", text));
  }
  return errors;
}

/** pods/ephemeralcontainers: what is there stays as it is (ValidatePodEphemeralContainersUpdate). */
export function validateOnlyAddedEphemeral(pod: Pod, old: Stored<Pod>): FieldError[] {
  const now = new Map((pod.spec?.ephemeralContainers ?? []).map((c) => [c.name, c]));
  return (old.spec?.ephemeralContainers ?? []).flatMap((before) => {
    const after = now.get(before.name);
    if (after && same(after, before)) return [];
    const what = after ? "changed" : "removed";
    const text = `existing ephemeral containers ${JSON.stringify(before.name)} may not be ${what}\n`;
    return [forbidden("spec.ephemeralContainers", text)];
  });
}

/** `now` with the fields that may change set back to what they were. */
function withUpdatable(now: PodSpec, before: PodSpec): PodSpec {
  const images = (list: readonly Container[] | undefined, old: readonly Container[] | undefined) =>
    (list ?? []).map((c, i) => ({ ...c, image: old?.[i]?.image }));
  const rescued = (before.terminationGracePeriodSeconds ?? 0) < 0 && now.terminationGracePeriodSeconds === 1;
  return {
    ...now,
    containers: images(now.containers, before.containers),
    initContainers: images(now.initContainers, before.initContainers),
    activeDeadlineSeconds: before.activeDeadlineSeconds,
    tolerations: before.tolerations,
    schedulingGates: before.schedulingGates,
    ...(rescued ? { terminationGracePeriodSeconds: before.terminationGracePeriodSeconds } : {}),
  };
}

/** Names the fields that differ, so that the user need not look for them. */
function changedFields(now: PodSpec, before: PodSpec): string[] {
  const keys = new Set([...Object.keys(now), ...Object.keys(before)]) as Set<keyof PodSpec>;
  const changed: string[] = [];
  for (const key of keys) {
    if (same({ [key]: now[key] }, { [key]: before[key] })) continue;
    if (key !== "containers" && key !== "initContainers") {
      changed.push(`spec.${key}`);
      continue;
    }
    for (const [i, c] of (now[key] ?? []).entries()) {
      const old = before[key]?.[i];
      const fields = new Set([...Object.keys(c), ...Object.keys(old ?? {})]) as Set<keyof Container>;
      for (const f of fields) {
        if (!same({ [f]: c[f] }, { [f]: old?.[f] })) changed.push(`spec.${key}[${i}].${f}`);
      }
    }
  }
  return changed.sort();
}

/** What may be wrong with a status that a kubelet sends. */
export function validatePodStatus(pod: Pod, old: Stored<Pod>): FieldError[] {
  const errors: FieldError[] = [];
  const ips = (pod.status?.podIPs ?? []).map((entry) => entry.ip ?? "");
  for (const [i, address] of ips.entries()) {
    errors.push(...ip(`status.podIPs[${i}]`, address));
    if (ips.indexOf(address) < i) errors.push(duplicate(`status.podIPs[${i}]`, { ip: address }));
  }
  if (ips.length > 1 && new Set(ips.map(ipFamily)).size < ips.length) {
    const text = "may specify no more than one IP for each IP family";
    errors.push(invalid("status.podIPs", pod.status?.podIPs, text));
  }
  const qos = old.status?.qosClass;
  if (qos && pod.status?.qosClass !== qos) {
    errors.push(invalid("status.qosClass", pod.status?.qosClass ?? "", "field is immutable"));
  }
  return errors;
}
