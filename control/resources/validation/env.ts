// Validation of a container's environment: names, sources of values. Field paths and texts are those of the real
// server (pkg/apis/core/validation). Knows environment variables only.

import type { EnvFromSource, EnvVar, EnvVarSource } from "kubernetes-types/core/v1.js";
import type { FieldError } from "../types.js";
import { invalid, invalids, notSupported, required } from "./field.js";
import { qualifiedName } from "./meta.js";
import { configKey, subdomain } from "./values.js";

/** What is wrong with the name of an environment variable (relaxed since Kubernetes 1.32). */
function envVarName(name: string): string[] {
  if (name === "") return ["environment variable name must be non-empty"];
  return /^[ -<>-~]+$/.test(name)
    ? []
    : ["a valid environment variable name must consist only of printable ASCII characters other than '='"];
}

export function validateEnv(vars: readonly EnvVar[] | undefined, path: string): FieldError[] {
  const errors: FieldError[] = [];
  for (const [i, env] of (vars ?? []).entries()) {
    const at = `${path}[${i}]`;
    if (!env.name) errors.push(required(`${at}.name`));
    else errors.push(...invalids(`${at}.name`, env.name, envVarName(env.name)));
    if (env.valueFrom) errors.push(...validateEnvSource(env.valueFrom, env.value, `${at}.valueFrom`));
  }
  return errors;
}

const ENV_FIELDS = [
  "metadata.name",
  "metadata.namespace",
  "metadata.uid",
  "spec.nodeName",
  "spec.serviceAccountName",
  "status.hostIP",
  "status.hostIPs",
  "status.podIP",
  "status.podIPs",
] as const;
const ENV_SUBSCRIPT = /^metadata\.(labels|annotations)\['([^']*)'\]$/;
const ENV_RESOURCES = [
  "limits.cpu",
  "limits.ephemeral-storage",
  "limits.memory",
  "requests.cpu",
  "requests.ephemeral-storage",
  "requests.memory",
];

function validateEnvSource(source: EnvVarSource, value: string | undefined, at: string): FieldError[] {
  const errors: FieldError[] = [];
  let sources = 0;
  if (source.fieldRef) {
    sources++;
    const { fieldPath, apiVersion } = source.fieldRef;
    if (apiVersion && apiVersion !== "v1") {
      const text = `error converting fieldPath: unsupported pod version: ${apiVersion}`;
      errors.push(invalid(`${at}.fieldRef.fieldPath`, fieldPath, text));
    } else if (!fieldPath) errors.push(required(`${at}.fieldRef.fieldPath`));
    else if (ENV_SUBSCRIPT.test(fieldPath)) {
      const key = ENV_SUBSCRIPT.exec(fieldPath)?.[2] ?? "";
      errors.push(...invalids(`${at}.fieldRef`, key, qualifiedName(key)));
    } else if (!(ENV_FIELDS as readonly string[]).includes(fieldPath)) {
      errors.push(notSupported(`${at}.fieldRef.fieldPath`, fieldPath, ENV_FIELDS));
    }
  }
  if (source.resourceFieldRef) {
    sources++;
    const { resource } = source.resourceFieldRef;
    if (!resource) errors.push(required(`${at}.resourceFieldRef.resource`));
    else if (!ENV_RESOURCES.includes(resource) && !/^(limits|requests)\.hugepages-/.test(resource)) {
      errors.push(notSupported(`${at}.resourceFieldRef.resource`, resource, ENV_RESOURCES));
    }
  }
  for (const field of ["configMapKeyRef", "secretKeyRef"] as const) {
    const ref = source[field];
    if (!ref) continue;
    sources++;
    errors.push(...subdomain(`${at}.${field}.name`, ref.name ?? ""));
    if (!ref.key) errors.push(required(`${at}.${field}.key`));
    else errors.push(...invalids(`${at}.${field}.key`, ref.key, configKey(ref.key)));
  }
  if (sources === 0) {
    const text = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
    errors.push(invalid(at, "", text));
  } else if (value) {
    errors.push(invalid(at, "", "may not be specified when `value` is not empty"));
  } else if (sources > 1) {
    errors.push(invalid(at, "", "may not have more than one field specified at a time"));
  }
  return errors;
}

export function validateEnvFrom(sources: readonly EnvFromSource[] | undefined, path: string): FieldError[] {
  const errors: FieldError[] = [];
  for (const [i, source] of (sources ?? []).entries()) {
    const at = `${path}[${i}]`;
    if (source.prefix) errors.push(...invalids(`${at}.prefix`, source.prefix, envVarName(source.prefix)));
    let count = 0;
    for (const field of ["configMapRef", "secretRef"] as const) {
      if (!source[field]) continue;
      count++;
      const { name } = source[field];
      errors.push(...(name ? subdomain(`${at}.${field}.name`, name) : [required(`${at}.${field}.name`)]));
    }
    // The real server leaves the index out of these two paths.
    if (count === 0) errors.push(invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"));
    if (count > 1) errors.push(invalid(path, "", "may not have more than one field specified at a time"));
  }
  return errors;
}
