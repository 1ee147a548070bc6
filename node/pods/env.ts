// The environment of a container: Service variables, envFrom, env with references and $(VAR) expansion, as the
// kubelet makes it (pkg/kubelet/envvars, third_party/forked/golang/expansion). Pure: what it must look up is given.

import type { EnvFromSource, EnvVarSource, ObjectFieldSelector } from "kubernetes-types/core/v1.js";
import type { Container, Pod, Service, Stored } from "../../common/k8s.js";
import { resourceValue } from "./resource-field.js";

export type Env = Record<string, string>;

/** A container that cannot be made because of its spec: waiting reason CreateContainerConfigError. */
export class ContainerConfigError extends Error {
  override readonly name = "ContainerConfigError";
}

const upper = (name: string): string => name.toUpperCase().replaceAll("-", "_");

/** The variables that the kubelet and, before it, Docker links give for one Service. */
export function serviceEnv(service: Stored<Service>): Env {
  const { clusterIP: ip, ports = [] } = service.spec ?? {};
  const prefix = upper(service.metadata.name);
  const [first] = ports;
  if (!ip || !first) return {};
  const env: Env = {
    [`${prefix}_SERVICE_HOST`]: ip,
    [`${prefix}_SERVICE_PORT`]: String(first.port),
  };
  for (const port of ports) {
    if (port.name) env[`${prefix}_SERVICE_PORT_${upper(port.name)}`] = String(port.port);
  }
  ports.forEach(({ port, protocol = "TCP" }, index) => {
    const lower = protocol.toLowerCase();
    const url = `${lower}://${ip}:${port}`;
    if (index === 0) env[`${prefix}_PORT`] = url;
    const each = `${prefix}_PORT_${port}_${protocol}`;
    env[each] = url;
    env[`${each}_PROTO`] = lower;
    env[`${each}_PORT`] = String(port);
    env[`${each}_ADDR`] = ip;
  });
  return env;
}

/**
 * Variables of the Services a pod is told of: `kubernetes` in default always, those of its own namespace unless
 * enableServiceLinks is false. A pod's own namespace wins.
 */
export function servicesEnv(pod: Stored<Pod>, services: readonly Stored<Service>[]): Env {
  const usable = services.filter((one) => one.spec?.clusterIP && one.spec.clusterIP !== "None");
  const master = usable.filter(
    ({ metadata }) => metadata.namespace === "default" && metadata.name === "kubernetes",
  );
  const own =
    pod.spec?.enableServiceLinks === false
      ? []
      : usable.filter(({ metadata }) => metadata.namespace === pod.metadata.namespace);
  return Object.assign({}, ...[...master, ...own].map(serviceEnv)) as Env;
}

/** Expands $(VAR) from `env`; $$ is a dollar, an unknown reference stays as it is. */
export function expand(text: string, env: Readonly<Env>): string {
  return text.replace(
    /\$(\$|\(([^()]*)\))?/g,
    (whole, follow: string | undefined, name: string | undefined) => {
      if (follow === "$") return "$";
      return name === undefined ? whole : (env[name] ?? whole);
    },
  );
}

/** What fields of a pod and its resources may be resolved with. */
export interface FieldSources {
  nodeName: string;
  /** The primary one first, as {@link podIPs}. */
  hostIPs: readonly string[];
  podIPs: readonly string[];
  /** What the node can give, by resource. */
  allocatable: Readonly<Record<string, string>>;
}

/** What references in env may be resolved with. */
export interface EnvSources extends FieldSources {
  /** Data of a ConfigMap or Secret (decoded); undefined when there is no such object. */
  configMap(name: string): Readonly<Env> | undefined;
  secret(name: string): Readonly<Env> | undefined;
}

/** A map as a downward API volume shows it. */
function mapText(map: Readonly<Record<string, string>> = {}): string {
  return Object.entries(map)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
    .join("\n");
}

/** `metadata.labels['key']` and the other fields that fieldRef supports. @throws ContainerConfigError. */
export function fieldValue(pod: Stored<Pod>, selector: ObjectFieldSelector, sources: FieldSources): string {
  const { fieldPath } = selector;
  const [, map, key] = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(fieldPath) ?? [];
  if (map && key) return pod.metadata[map as "labels" | "annotations"]?.[key] ?? "";
  const values: Record<string, string | undefined> = {
    "metadata.name": pod.metadata.name,
    "metadata.namespace": pod.metadata.namespace,
    "metadata.uid": pod.metadata.uid,
    "metadata.labels": mapText(pod.metadata.labels),
    "metadata.annotations": mapText(pod.metadata.annotations),
    "spec.nodeName": sources.nodeName,
    "spec.serviceAccountName": pod.spec?.serviceAccountName ?? "",
    "status.hostIP": sources.hostIPs[0],
    "status.hostIPs": sources.hostIPs.join(","),
    "status.podIP": sources.podIPs[0],
    "status.podIPs": sources.podIPs.join(","),
  };
  const value = values[fieldPath];
  if (value === undefined) throw new ContainerConfigError(`unsupported fieldPath: ${fieldPath}`);
  return value;
}

function fromKey(
  kind: "configmap" | "secret",
  data: Readonly<Env> | undefined,
  ref: { name?: string; key: string; optional?: boolean },
  namespace: string,
): string | undefined {
  const name = ref.name ?? "";
  if (!data) {
    if (ref.optional) return undefined;
    throw new ContainerConfigError(`${kind} "${name}" not found`);
  }
  const value = data[ref.key];
  if (value !== undefined) return value;
  if (ref.optional) return undefined;
  const what = kind === "secret" ? "Secret" : "ConfigMap";
  throw new ContainerConfigError(`couldn't find key ${ref.key} in ${what} ${namespace}/${name}`);
}

function sourceValue(
  pod: Stored<Pod>,
  own: Pick<Container, "resources">,
  from: EnvVarSource,
  sources: EnvSources,
): string | undefined {
  const namespace = pod.metadata.namespace ?? "";
  if (from.fieldRef) return fieldValue(pod, from.fieldRef, sources);
  if (from.configMapKeyRef) {
    const ref = from.configMapKeyRef;
    return fromKey("configmap", sources.configMap(ref.name ?? ""), ref, namespace);
  }
  if (from.secretKeyRef) {
    const ref = from.secretKeyRef;
    return fromKey("secret", sources.secret(ref.name ?? ""), ref, namespace);
  }
  if (from.resourceFieldRef) {
    const { containers = [], initContainers = [] } = pod.spec ?? {};
    const { containerName } = from.resourceFieldRef;
    const container = containerName
      ? [...containers, ...initContainers].find(({ name }) => name === containerName)
      : own;
    if (!container) throw new ContainerConfigError(`container ${containerName} not found`);
    return resourceValue(container, from.resourceFieldRef, sources.allocatable);
  }
  const kind = Object.keys(from)[0] ?? "nothing";
  throw new ContainerConfigError(
    `env valueFrom ${kind} is not supported by kubeplumb; supported: fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef`,
  );
}

function envFrom(from: EnvFromSource, sources: EnvSources): Env {
  const { configMapRef, secretRef, prefix = "" } = from;
  const ref = configMapRef ?? secretRef;
  const name = ref?.name ?? "";
  const data = configMapRef ? sources.configMap(name) : sources.secret(name);
  if (!data) {
    if (ref?.optional) return {};
    throw new ContainerConfigError(`${configMapRef ? "configmap" : "secret"} "${name}" not found`);
  }
  return Object.fromEntries(Object.entries(data).map(([key, value]) => [prefix + key, value]));
}

/**
 * The variables of a container: `base` (what the image and the Services give), then envFrom, then env in order;
 * each value of env may refer to what stands before it.
 * @throws ContainerConfigError naming the missing object or key.
 */
export function containerEnv(
  pod: Stored<Pod>,
  container: Pick<Container, "env" | "envFrom" | "resources">,
  base: Readonly<Env>,
  sources: EnvSources,
): Env {
  const result: Env = { ...base };
  for (const from of container.envFrom ?? []) Object.assign(result, envFrom(from, sources));
  for (const variable of container.env ?? []) {
    const value = variable.valueFrom
      ? sourceValue(pod, container, variable.valueFrom, sources)
      : expand(variable.value ?? "", result);
    if (value !== undefined) result[variable.name] = value;
  }
  return result;
}

/** Names of the ConfigMaps and Secrets that a container's env refers to: what must be fetched before. */
export function envReferences(container: Pick<Container, "env" | "envFrom">): {
  configMaps: Set<string>;
  secrets: Set<string>;
} {
  const configMaps = new Set<string>();
  const secrets = new Set<string>();
  for (const { configMapRef, secretRef } of container.envFrom ?? []) {
    if (configMapRef?.name) configMaps.add(configMapRef.name);
    if (secretRef?.name) secrets.add(secretRef.name);
  }
  for (const { valueFrom } of container.env ?? []) {
    if (valueFrom?.configMapKeyRef?.name) configMaps.add(valueFrom.configMapKeyRef.name);
    if (valueFrom?.secretKeyRef?.name) secrets.add(valueFrom.secretKeyRef.name);
  }
  return { configMaps, secrets };
}
