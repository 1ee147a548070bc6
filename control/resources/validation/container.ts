// Validation of the containers of a pod: names, images, ports, environment, mounts, probes, resources. Field
// paths and texts are those of the real server (pkg/apis/core/validation). Knows containers, not pods.

import type {
  Container,
  ContainerPort,
  EphemeralContainer,
  ExecAction,
  GRPCAction,
  HTTPGetAction,
  ResourceRequirements,
  SleepAction,
  TCPSocketAction,
  VolumeMount,
} from "kubernetes-types/core/v1.js";
import type { Probe } from "../../../common/k8s.js";
import type { FieldError } from "../types.js";
import { validateEnv, validateEnvFrom } from "./env.js";
import { duplicate, forbidden, invalid, invalids, notFound, notSupported, oneOf, required } from "./field.js";
import { qualifiedName, regexText } from "./meta.js";
import { canonicalQuantity, parseQuantity, QUANTITY_FORMAT } from "./quantity.js";
import {
  label,
  NOT_NEGATIVE,
  nonNegative,
  portName,
  portNumber,
  portNumberOrName,
  protocol,
} from "./values.js";

/** What a container may refer to in its pod. */
export interface PodScope {
  volumes: ReadonlySet<string>;
  gracePeriodSeconds: number | undefined;
  /** A pod, not a template: the image may not have spaces around it. */
  isPod: boolean;
}

/** spec.containers: at least one, names unique. */
export function validateContainers(
  containers: readonly Container[] | undefined,
  scope: PodScope,
  path: string,
): FieldError[] {
  const list = containers ?? [];
  if (list.length === 0) return [required(path)];
  const errors: FieldError[] = [];
  const names = new Set<string>();
  for (const [i, c] of list.entries()) {
    const at = `${path}[${i}]`;
    errors.push(...validateCommon(c, scope, at));
    if (names.has(c.name)) errors.push(duplicate(`${at}.name`, c.name));
    else names.add(c.name);
    errors.push(...validateLifecycleAndProbes(c, scope, at));
    if (c.restartPolicy !== undefined) {
      errors.push(forbidden(`${at}.restartPolicy`, "may not be set for non-init containers"));
    }
  }
  errors.push(...hostPortConflicts(list, path, 0));
  return errors;
}

/** spec.initContainers: names unique among all, probes only for sidecars (restartPolicy Always). */
export function validateInitContainers(
  containers: readonly Container[] | undefined,
  regular: readonly Container[] | undefined,
  scope: PodScope,
  path: string,
): FieldError[] {
  const errors: FieldError[] = [];
  const names = new Set((regular ?? []).map((c) => c.name));
  for (const [i, c] of (containers ?? []).entries()) {
    const at = `${path}[${i}]`;
    errors.push(...validateCommon(c, scope, at));
    if (c.restartPolicy !== undefined && c.restartPolicy !== "Always") {
      errors.push(notSupported(`${at}.restartPolicy`, c.restartPolicy, ["Always"]));
    }
    if (names.has(c.name)) errors.push(duplicate(`${at}.name`, c.name));
    else if (c.name) names.add(c.name);
    errors.push(...hostPortConflicts([c], path, i));
    if (c.restartPolicy === "Always") {
      errors.push(...validateLifecycleAndProbes(c, scope, at));
    } else {
      for (const field of ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] as const) {
        if (c[field] === undefined) continue;
        errors.push(
          forbidden(`${at}.${field}`, "may not be set for init containers without restartPolicy=Always"),
        );
      }
    }
  }
  return errors;
}

/** Debug containers, which come by their own subresource: names unique among all, target known. */
export function validateEphemeralContainers(
  containers: readonly EphemeralContainer[] | undefined,
  others: readonly Container[],
  scope: PodScope,
  path: string,
): FieldError[] {
  const errors: FieldError[] = [];
  const targets = new Set(others.map((c) => c.name));
  const names = new Set(targets);
  for (const [i, c] of (containers ?? []).entries()) {
    const at = `${path}[${i}]`;
    errors.push(...validateCommon(c, scope, at));
    if (names.has(c.name)) errors.push(duplicate(`${at}.name`, c.name));
    else names.add(c.name);
    if (c.targetContainerName && !targets.has(c.targetContainerName)) {
      errors.push(notFound(`${at}.targetContainerName`, c.targetContainerName));
    }
  }
  return errors;
}

function validateCommon(c: Container | EphemeralContainer, scope: PodScope, at: string): FieldError[] {
  const errors = c.name ? label(`${at}.name`, c.name) : [required(`${at}.name`)];
  if (!c.image) errors.push(required(`${at}.image`));
  else if (scope.isPod && c.image !== c.image.trim()) {
    errors.push(invalid(`${at}.image`, c.image, "must not have leading or trailing whitespace"));
  }
  errors.push(
    ...oneOf(`${at}.terminationMessagePolicy`, c.terminationMessagePolicy, ["File", "FallbackToLogsOnError"]),
    ...validatePorts(c.ports, `${at}.ports`),
    ...validateEnv(c.env, `${at}.env`),
    ...validateEnvFrom(c.envFrom, `${at}.envFrom`),
    ...validateMounts(c.volumeMounts, scope.volumes, `${at}.volumeMounts`),
    ...oneOf(`${at}.imagePullPolicy`, c.imagePullPolicy, ["Always", "IfNotPresent", "Never"]),
    ...validateResources(c.resources, `${at}.resources`),
  );
  return errors;
}

function validatePorts(ports: readonly ContainerPort[] | undefined, path: string): FieldError[] {
  const errors: FieldError[] = [];
  const names = new Set<string>();
  for (const [i, port] of (ports ?? []).entries()) {
    const at = `${path}[${i}]`;
    if (port.name) {
      const wrong = portName(port.name);
      errors.push(...invalids(`${at}.name`, port.name, wrong));
      if (wrong.length === 0 && names.has(port.name)) errors.push(duplicate(`${at}.name`, port.name));
      names.add(port.name);
    }
    if (!port.containerPort) errors.push(required(`${at}.containerPort`));
    else errors.push(...portNumber(`${at}.containerPort`, port.containerPort));
    if (port.hostPort) errors.push(...portNumber(`${at}.hostPort`, port.hostPort));
    errors.push(...protocol(`${at}.protocol`, port.protocol));
  }
  return errors;
}

function hostPortConflicts(containers: readonly Container[], path: string, offset: number): FieldError[] {
  const errors: FieldError[] = [];
  const seen = new Set<string>();
  for (const [ci, c] of containers.entries()) {
    for (const [pi, port] of (c.ports ?? []).entries()) {
      if (!port.hostPort) continue;
      const key = `${port.protocol}/${port.hostIP ?? ""}/${port.hostPort}`;
      if (seen.has(key)) errors.push(duplicate(`${path}[${ci + offset}].ports[${pi}].hostPort`, key));
      seen.add(key);
    }
  }
  return errors;
}

function validateMounts(
  mounts: readonly VolumeMount[] | undefined,
  volumes: ReadonlySet<string>,
  path: string,
): FieldError[] {
  const errors: FieldError[] = [];
  const seen = new Set<string>();
  for (const [i, mount] of (mounts ?? []).entries()) {
    const at = `${path}[${i}]`;
    if (!mount.name) errors.push(required(`${at}.name`));
    if (!volumes.has(mount.name)) errors.push(notFound(`${at}.name`, mount.name ?? ""));
    if (!mount.mountPath) errors.push(required(`${at}.mountPath`));
    else if (seen.has(mount.mountPath)) {
      errors.push(invalid(`${at}.mountPath`, mount.mountPath, "must be unique"));
    }
    seen.add(mount.mountPath);
    // The real server leaves the index out of these two paths.
    for (const field of ["subPath", "subPathExpr"] as const) {
      const value = mount[field];
      if (value) errors.push(...localDescendingPath(`${path}.${field}`, value));
    }
    if (mount.subPath && mount.subPathExpr) {
      const text = "subPathExpr and subPath are mutually exclusive";
      errors.push(invalid(`${at}.subPathExpr`, mount.subPathExpr, text));
    }
    if (mount.mountPropagation !== undefined) {
      const supported = ["Bidirectional", "HostToContainer", "None"];
      errors.push(...oneOf(`${path}.mountPropagation`, mount.mountPropagation, supported));
    }
  }
  return errors;
}

/** A relative path that never goes up. */
export function localDescendingPath(field: string, value: string): FieldError[] {
  const errors: FieldError[] = [];
  if (value.startsWith("/")) errors.push(invalid(field, value, "must be a relative path"));
  if (value.split("/").includes("..")) errors.push(invalid(field, value, "must not contain '..'"));
  return errors;
}

const STANDARD_RESOURCES = new Set(["cpu", "memory", "ephemeral-storage"]);
/** Standard too, but what a namespace may have of, not a container. */
const COUNTED_RESOURCES = new Set(["storage", "pods", "services", "secrets", "configmaps"]);

/** limits and requests: names, amounts, and no request above its limit. */
function validateResources(resources: ResourceRequirements | undefined, path: string): FieldError[] {
  const errors: FieldError[] = [];
  const { limits = {}, requests = {} } = resources ?? {};
  for (const [name, text] of Object.entries(limits)) {
    errors.push(...validateResource(`${path}.limits`, name, text));
  }
  for (const [name, text] of Object.entries(requests)) {
    errors.push(...validateResource(`${path}.requests`, name, text));
    if (limits[name] === undefined && !isOvercommitable(name)) {
      errors.push(required(`${path}.limits`, "Limit must be set for non overcommitable resources"));
    }
    const request = parseQuantity(text);
    const limitText = limits[name];
    const limit = limitText === undefined ? undefined : parseQuantity(limitText);
    if (request && limit && limitText !== undefined && request.nanos > limit.nanos) {
      const detail = `must be less than or equal to ${name} limit of ${canonicalQuantity(limitText)}`;
      errors.push(invalid(`${path}.requests`, canonicalQuantity(text), detail));
    }
  }
  const names = Object.keys({ ...limits, ...requests });
  if (names.some(isHugePages) && !names.includes("cpu") && !names.includes("memory")) {
    errors.push(forbidden(path, "HugePages require cpu or memory"));
  }
  return errors;
}

const isHugePages = (name: string): boolean => name.startsWith("hugepages-");

/** What the kernel can promise more often than it has it; devices of a plugin and huge pages it cannot. */
const isOvercommitable = (name: string): boolean =>
  !isHugePages(name) && (!name.includes("/") || name.includes("kubernetes.io/"));

function validateResource(path: string, name: string, text: string): FieldError[] {
  const at = `${path}[${name}]`;
  const errors = invalids(at, name, qualifiedName(name));
  if (errors.length > 0 && name.includes("/")) {
    errors.push(invalid(at, name, "doesn't follow extended resource name standard"));
  }
  if (errors.length === 0 && !name.includes("/")) {
    if (!STANDARD_RESOURCES.has(name) && !isHugePages(name)) {
      if (!COUNTED_RESOURCES.has(name)) {
        errors.push(invalid(at, name, "must be a standard resource type or fully qualified"));
      }
      errors.push(invalid(at, name, "must be a standard resource for containers"));
    }
  }
  errors.push(...validateQuantity(at, text));
  const whole = !isOvercommitable(name) && (parseQuantity(text)?.nanos ?? 0n) % 1_000_000_000n === 0n;
  if (!isOvercommitable(name) && !whole)
    errors.push(invalid(at, canonicalQuantity(text), "must be an integer"));
  return errors;
}

/** A quantity that is not negative. */
export function validateQuantity(field: string, text: string): FieldError[] {
  const quantity = parseQuantity(text);
  if (!quantity) return [invalid(field, text, QUANTITY_FORMAT)];
  return quantity.nanos < 0n ? [invalid(field, canonicalQuantity(text), NOT_NEGATIVE)] : [];
}

function validateLifecycleAndProbes(c: Container, scope: PodScope, at: string): FieldError[] {
  const grace = scope.gracePeriodSeconds;
  const errors: FieldError[] = [];
  for (const hook of ["postStart", "preStop"] as const) {
    const handler = c.lifecycle?.[hook];
    if (handler) errors.push(...validateHandler(handler, grace, `${at}.lifecycle.${hook}`));
  }
  for (const field of ["livenessProbe", "readinessProbe", "startupProbe"] as const) {
    const probe = c[field];
    if (!probe) continue;
    errors.push(...validateProbe(probe, `${at}.${field}`));
    if (field !== "readinessProbe" && probe.successThreshold !== 1) {
      errors.push(invalid(`${at}.${field}.successThreshold`, probe.successThreshold ?? 0, "must be 1"));
    }
    if (field === "readinessProbe" && probe.terminationGracePeriodSeconds !== undefined) {
      const text = "must not be set for readinessProbes";
      const value = probe.terminationGracePeriodSeconds;
      errors.push(invalid(`${at}.${field}.terminationGracePeriodSeconds`, value, text));
    }
  }
  return errors;
}

function validateProbe(probe: Probe, at: string): FieldError[] {
  const errors = validateHandler(probe, undefined, at);
  const numbers = [
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
  ] as const;
  for (const field of numbers) errors.push(...nonNegative(`${at}.${field}`, probe[field]));
  const grace = probe.terminationGracePeriodSeconds;
  if (grace !== undefined && grace <= 0) {
    errors.push(invalid(`${at}.terminationGracePeriodSeconds`, grace, "must be greater than 0"));
  }
  return errors;
}

interface Handler {
  exec?: ExecAction;
  httpGet?: HTTPGetAction;
  tcpSocket?: TCPSocketAction;
  grpc?: GRPCAction;
  sleep?: SleepAction;
}

function validateHandler(handler: Handler, grace: number | undefined, at: string): FieldError[] {
  const errors: FieldError[] = [];
  let count = 0;
  const check = (field: keyof Handler, validate: () => FieldError[]) => {
    if (!handler[field]) return;
    if (count++ > 0) errors.push(forbidden(`${at}.${field}`, "may not specify more than 1 handler type"));
    else errors.push(...validate());
  };
  check("exec", () => ((handler.exec?.command ?? []).length ? [] : [required(`${at}.exec.command`)]));
  check("httpGet", () => validateHttpGet(handler.httpGet, `${at}.httpGet`));
  check("tcpSocket", () => portNumberOrName(`${at}.tcpSocket.port`, handler.tcpSocket?.port));
  check("grpc", () => portNumber(`${at}.grpc.port`, handler.grpc?.port));
  check("sleep", () => {
    const seconds = handler.sleep?.seconds ?? 0;
    if (grace === undefined || (seconds >= 0 && seconds <= grace)) return [];
    const text = `must be non-negative and less than terminationGracePeriodSeconds (${grace})`;
    return [invalid(`${at}.sleep`, seconds, text)];
  });
  if (count === 0) errors.push(required(at, "must specify a handler type"));
  return errors;
}

function validateHttpGet(http: HTTPGetAction | undefined, at: string): FieldError[] {
  const errors = http?.path ? [] : [required(`${at}.path`)];
  errors.push(...portNumberOrName(`${at}.port`, http?.port));
  if (http?.scheme !== "HTTP" && http?.scheme !== "HTTPS") {
    errors.push(notSupported(`${at}.scheme`, http?.scheme ?? "", ["HTTP", "HTTPS"]));
  }
  for (const header of http?.httpHeaders ?? []) {
    if (/^[-A-Za-z0-9]+$/.test(header.name ?? "")) continue;
    const text = regexText(
      "a valid HTTP header must consist of alphanumeric characters or '-'",
      "[-A-Za-z0-9]+",
      "X-Header-Name",
    );
    errors.push(invalid(`${at}.httpHeaders`, header.name ?? "", text));
  }
  return errors;
}
