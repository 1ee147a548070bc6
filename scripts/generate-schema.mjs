// Generates control/api/schema.generated.json: the schema of every kind we serve, as OpenAPI v3 component schemas
// with protobuf field numbers beside them, from the published type declarations of the kubernetes-types package. Plain
// Node: it runs before the compiler.
// Facts those declarations lack (integer widths, strategic-merge keys, fields newer than the package) are tables here.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { ATOMIC_MAPS, ATOMIC_TYPES, KEY_DEFAULTS, LIST_TYPES } from "./list-types.mjs";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const typesDir = join(root, "node_modules/kubernetes-types");

/** Kinds (file: interfaces) we serve or speak; what they reference is followed. */
const ROOTS = {
  "core/v1": [
    "Binding",
    "ComponentStatus",
    "ComponentStatusList",
    "ConfigMap",
    "ConfigMapList",
    "Endpoints",
    "EndpointsList",
    "Event",
    "EventList",
    "LimitRange",
    "LimitRangeList",
    "Namespace",
    "NamespaceList",
    "Node",
    "NodeList",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PersistentVolumeClaimList",
    "PersistentVolumeList",
    "Pod",
    "PodList",
    "ReplicationController",
    "ReplicationControllerList",
    "ResourceQuota",
    "ResourceQuotaList",
    "Secret",
    "SecretList",
    "Service",
    "ServiceList",
    "ServiceAccount",
    "ServiceAccountList",
  ],
  "apps/v1": [
    "ControllerRevision",
    "ControllerRevisionList",
    "DaemonSet",
    "DaemonSetList",
    "Deployment",
    "DeploymentList",
    "ReplicaSet",
    "ReplicaSetList",
    "StatefulSet",
    "StatefulSetList",
  ],
  "authentication/v1": ["SelfSubjectReview", "TokenRequest", "TokenReview"],
  "authorization/v1": [
    "LocalSubjectAccessReview",
    "SelfSubjectAccessReview",
    "SelfSubjectRulesReview",
    "SubjectAccessReview",
  ],
  "autoscaling/v1": ["HorizontalPodAutoscaler", "HorizontalPodAutoscalerList", "Scale"],
  "autoscaling/v2": ["HorizontalPodAutoscaler", "HorizontalPodAutoscalerList"],
  "batch/v1": ["CronJob", "CronJobList", "Job", "JobList"],
  "certificates/v1": ["CertificateSigningRequest", "CertificateSigningRequestList"],
  "coordination/v1": ["Lease", "LeaseList"],
  "discovery/v1": ["EndpointSlice", "EndpointSliceList"],
  "events/v1": ["Event", "EventList"],
  "metrics/v1beta1": ["NodeMetrics", "NodeMetricsList", "PodMetrics", "PodMetricsList"],
  "networking/v1": [
    "IPAddress",
    "IPAddressList",
    "Ingress",
    "IngressClass",
    "IngressClassList",
    "IngressList",
    "ServiceCIDR",
    "ServiceCIDRList",
  ],
  "policy/v1": ["Eviction", "PodDisruptionBudget", "PodDisruptionBudgetList"],
  "rbac/v1": [
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterRoleBindingList",
    "ClusterRoleList",
    "Role",
    "RoleBinding",
    "RoleBindingList",
    "RoleList",
  ],
  "scheduling/v1": ["PriorityClass", "PriorityClassList"],
  "storage/v1": ["StorageClass", "StorageClassList"],
  "meta/v1": [
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
    "APIVersions",
    "DeleteOptions",
    "Status",
    "WatchEvent",
  ],
};

const PACKAGES = {
  "meta/v1": "io.k8s.apimachinery.pkg.apis.meta.v1",
  "api/resource": "io.k8s.apimachinery.pkg.api.resource",
  runtime: "io.k8s.apimachinery.pkg.runtime",
  version: "io.k8s.apimachinery.pkg.version",
  "metrics/v1beta1": "io.k8s.metrics.pkg.apis.metrics.v1beta1",
};
const INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/** Integers of 64 bits; every other number of these kinds is an int32. */
const INT64 = new Set([
  "activeDeadlineSeconds",
  "deletionGracePeriodSeconds",
  "expirationSeconds",
  "fsGroup",
  "generation",
  "gracePeriodSeconds",
  "observedGeneration",
  "remainingItemCount",
  "revision",
  "runAsGroup",
  "runAsUser",
  "seconds",
  "sizeBytes",
  "startingDeadlineSeconds",
  "supplementalGroups",
  "terminationGracePeriodSeconds",
  "tolerationSeconds",
]);

/** Of a name that is 64 bits elsewhere. */
const INT32 = new Set(["CertificateSigningRequestSpec.expirationSeconds"]);

/** Base64 text of bytes. */
const BYTES = new Set([
  "Secret.data",
  "ConfigMap.binaryData",
  "CertificateSigningRequestSpec.request",
  "CertificateSigningRequestStatus.certificate",
]);

/** patchStrategy and patchMergeKey as the Go types declare them; a list that is not here is replaced whole. */
const PATCH = {
  "ObjectMeta.finalizers": ["merge"],
  "ObjectMeta.ownerReferences": ["merge", "uid"],
  "PodSpec.containers": ["merge", "name"],
  "PodSpec.initContainers": ["merge", "name"],
  "PodSpec.ephemeralContainers": ["merge", "name"],
  "PodSpec.volumes": ["merge,retainKeys", "name"],
  "PodSpec.imagePullSecrets": ["merge", "name"],
  "PodSpec.hostAliases": ["merge", "ip"],
  "PodSpec.topologySpreadConstraints": ["merge", "topologyKey"],
  "PodSpec.resourceClaims": ["merge,retainKeys", "name"],
  "PodSpec.schedulingGates": ["merge", "name"],
  "PodStatus.conditions": ["merge", "type"],
  "PodStatus.podIPs": ["merge", "ip"],
  "PodStatus.hostIPs": ["merge", "ip"],
  "PodStatus.resourceClaimStatuses": ["merge,retainKeys", "name"],
  "Container.ports": ["merge", "containerPort"],
  "Container.env": ["merge", "name"],
  "Container.volumeMounts": ["merge", "mountPath"],
  "Container.volumeDevices": ["merge", "devicePath"],
  "EphemeralContainer.ports": ["merge", "containerPort"],
  "EphemeralContainer.env": ["merge", "name"],
  "EphemeralContainer.volumeMounts": ["merge", "mountPath"],
  "EphemeralContainer.volumeDevices": ["merge", "devicePath"],
  "ContainerStatus.volumeMounts": ["merge", "mountPath"],
  "ServiceSpec.ports": ["merge", "port"],
  "ServiceStatus.conditions": ["merge", "type"],
  "ServiceCIDRStatus.conditions": ["merge", "type"],
  "ServiceAccount.secrets": ["merge", "name"],
  "NodeSpec.podCIDRs": ["merge"],
  "NodeStatus.addresses": ["merge", "type"],
  "NodeStatus.conditions": ["merge", "type"],
  "NamespaceStatus.conditions": ["merge", "type"],
  "DeploymentSpec.strategy": ["retainKeys"],
  "DeploymentStatus.conditions": ["merge", "type"],
  "ReplicaSetStatus.conditions": ["merge", "type"],
  "ReplicationControllerStatus.conditions": ["merge", "type"],
  "StatefulSetStatus.conditions": ["merge", "type"],
  "DaemonSetStatus.conditions": ["merge", "type"],
  "JobStatus.conditions": ["merge", "type"],
  "HorizontalPodAutoscalerStatus.conditions": ["merge", "type"],
  "PersistentVolumeClaimStatus.conditions": ["merge", "type"],
  "PodDisruptionBudgetStatus.conditions": ["merge", "type"],
  "PodDisruptionBudgetSpec.selector": ["replace"],
};

/** Fields that Kubernetes has gained since the version of kubernetes-types: [owner, name, type, description]. */
const NEWER = [
  [
    "core/v1:PodSpec",
    "resources",
    "ResourceRequirements",
    "Resources is the total amount of CPU and Memory resources required by all containers in the pod.",
  ],
  [
    "core/v1:PodSpec",
    "hostnameOverride",
    "string",
    "HostnameOverride specifies an explicit override for the pod's hostname as perceived by the pod.",
  ],
  [
    "core/v1:PodStatus",
    "observedGeneration",
    "number",
    "The metadata.generation that this status was computed for.",
  ],
  [
    "core/v1:PodCondition",
    "observedGeneration",
    "number",
    "The metadata.generation that this condition was set upon.",
  ],
  [
    "core/v1:PodSecurityContext",
    "supplementalGroupsPolicy",
    "string",
    "Defines how supplemental groups of the first container processes are calculated: Merge or Strict.",
  ],
  [
    "core/v1:PodSecurityContext",
    "seLinuxChangePolicy",
    "string",
    "Defines how the container's SELinux label is applied to volumes: Recursive or MountOption.",
  ],
  ["core/v1:Lifecycle", "stopSignal", "string", "Signal sent to the container when it is stopped."],
  ["core/v1:ContainerStatus", "stopSignal", "string", "Effective stop signal of the container."],
  [
    "apps/v1:DeploymentStatus",
    "terminatingReplicas",
    "number",
    "Total number of terminating pods targeted by this deployment.",
  ],
  [
    "apps/v1:ReplicaSetStatus",
    "terminatingReplicas",
    "number",
    "The number of terminating pods of this replica set.",
  ],
  [
    "autoscaling/v2:HPAScalingRules",
    "tolerance",
    "Quantity",
    "The tolerance on the ratio between the current and desired metric value under which no updates are made to the desired number of replicas.",
  ],
  [
    "discovery/v1:EndpointHints",
    "forNodes",
    "Array<ForNode>",
    "Nodes that should consume this endpoint when topology aware routing by node is used.",
  ],
  [
    "coordination/v1:LeaseSpec",
    "preferredHolder",
    "string",
    "Signals to a lease holder that the lease has a more optimal holder and should be given up.",
  ],
  [
    "coordination/v1:LeaseSpec",
    "strategy",
    "string",
    "The strategy for picking the leader for coordinated leader election.",
  ],
];
/** Declarations of groups that the package lacks, in its own form; from the published metrics.k8s.io types. */
const DECLARED = {
  "metrics/v1beta1": `
import { ListMeta, ObjectMeta, Time } from "../meta/v1";
import { Quantity } from "../api/resource";
/** ContainerMetrics sets resource usage metrics of a container. */
export interface ContainerMetrics {
  /** Container name corresponding to the one from pod.spec.containers. */
  name: string;
  /** The memory usage is the memory working set. */
  usage: {
    [name: string]: Quantity;
  };
}
${["Node", "Pod"]
  .map(
    (kind) => `
/** ${kind}Metrics sets resource usage metrics of a ${kind.toLowerCase()}. */
export interface ${kind}Metrics {
  apiVersion?: "metrics.k8s.io/v1beta1";
  kind?: "${kind}Metrics";
  metadata?: ObjectMeta;
  /** The end of the interval in which the usage was measured. */
  timestamp: Time;
  /** The length of that interval, as Go writes durations. */
  window: string;
  ${
    kind === "Pod"
      ? "/** Metrics for all containers are collected within the same time window. */\n  containers: Array<ContainerMetrics>;"
      : "/** The memory usage is the memory working set. */\n  usage: {\n    [name: string]: Quantity;\n  };"
  }
}
/** ${kind}MetricsList is a list of ${kind}Metrics. */
export interface ${kind}MetricsList {
  apiVersion?: "metrics.k8s.io/v1beta1";
  items: Array<${kind}Metrics>;
  kind?: "${kind}MetricsList";
  metadata?: ListMeta;
}`,
  )
  .join("")}
`,
};

/** Versions whose types the package has only under an older name: all of that file's types, with the new version. */
const GRADUATED = { "networking/v1": "networking/v1alpha1" };

const NEWER_INTERFACES = {
  "discovery/v1": {
    ForNode: {
      description: "ForNode provides information about which nodes should consume this endpoint.",
      fields: [{ name: "name", optional: false, type: "string", description: "Name of the node." }],
    },
  },
};

/**
 * Reads one declaration file: imports, interfaces with fields and comments, string aliases. The text is generated
 * and regular; a line that fits nothing known is an error, so that a new form cannot be lost silently.
 */
function parseDeclarations(file) {
  const text = DECLARED[file] ?? readFileSync(join(typesDir, `${file}.d.ts`), "utf8");
  const lines = text.split("\n");
  const out = { imports: new Map(), interfaces: new Map(), aliases: new Map() };
  let comment = "";
  let current;
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i].trim();
    const imported = /^import \{ (.+) \} from "(.+)";$/.exec(line);
    const alias = /^export type (\w+) = (.+);$/.exec(line);
    const opened = /^export interface (\w+) \{(\})?$/.exec(line);
    const field = /^(?:readonly )?["']?([$\w-]+)["']?(\?)?: (.+)$/.exec(line);
    if (line === "" || line === "export {};") continue;
    if (line.startsWith("/**")) {
      const text = [];
      for (; ; i++) {
        const part = lines[i].trim();
        text.push(part.replace(/^\/\*\*\s?|^\*\/|^\*\s?/, "").replace(/\s*\*\/$/, ""));
        if (part.endsWith("*/")) break;
      }
      comment = text.join("\n").trim();
    } else if (imported) {
      for (const name of imported[1].split(", ")) out.imports.set(name, join(dirname(file), imported[2]));
    } else if (alias) {
      out.aliases.set(alias[1], { type: alias[2], description: comment });
    } else if (opened) {
      current = { description: comment, fields: [] };
      out.interfaces.set(opened[1], current);
      comment = "";
    } else if (current && field) {
      let type = field[3];
      if (type === "{") {
        const index = /^\[name: string\]: (.+);$/.exec(lines[++i].trim());
        if (!index || lines[++i].trim() !== "};") throw new Error(`${file}:${i + 1}: not a map`);
        type = `Map<${index[1]}>;`;
      }
      current.fields.push({
        name: field[1],
        optional: field[2] === "?",
        type: type.replace(/;$/, ""),
        description: comment,
      });
      comment = "";
    } else if (line === "}") {
      current = undefined;
    } else {
      throw new Error(`${file}:${i + 1}: cannot read ${JSON.stringify(line)}`);
    }
  }
  if (GRADUATED[file]) {
    const older = parseDeclarations(GRADUATED[file]);
    const [from, to] = [GRADUATED[file], file].map((name) => name.slice(name.indexOf("/")));
    for (const [name, target] of older.imports) out.imports.set(name, target);
    for (const [name, { description, fields }] of older.interfaces)
      out.interfaces.set(name, {
        description,
        fields: fields.map((field) => ({ ...field, type: field.type.replace(`${from}"`, `${to}"`) })),
      });
  }
  for (const [owner, name, type, description] of NEWER) {
    const [ownerFile, ownerName] = owner.split(":");
    if (ownerFile !== file) continue;
    const fields = out.interfaces.get(ownerName)?.fields;
    if (!fields) throw new Error(`${owner}: no such interface`);
    if (!fields.some((f) => f.name === name)) fields.push({ name, optional: true, type, description });
  }
  for (const [name, value] of Object.entries(NEWER_INTERFACES[file] ?? {}))
    if (!out.interfaces.has(name)) out.interfaces.set(name, value);
  return out;
}

const files = new Map();
function declarations(file) {
  let parsed = files.get(file);
  if (!parsed) {
    parsed = parseDeclarations(file);
    files.set(file, parsed);
  }
  return parsed;
}

const packageOf = (file) => PACKAGES[file] ?? `io.k8s.api.${file.replace("/", ".")}`;
const refTo = (name) => ({ $ref: `#/components/schemas/${name}` });
const schemas = {
  [INT_OR_STRING]: {
    description:
      "IntOrString is a type that can hold an int32 or a string: for example a port number or the name of a port.",
    format: "int-or-string",
    oneOf: [{ type: "integer" }, { type: "string" }],
  },
};

/** The schema of a type as it stands in a declaration; `owner` is "Interface.field". */
function schemaOfType(file, type, owner) {
  const field = owner.slice(owner.indexOf(".") + 1);
  const array = /^Array<(.+)>$/.exec(type);
  if (array) return { type: "array", items: withDefault(schemaOfType(file, array[1], owner)) };
  const map = /^Map<(.+)>$/.exec(type);
  if (map) return { type: "object", additionalProperties: schemaOfType(file, map[1], owner) };
  if (/^"[^"]*"$/.test(type)) return { type: "string" };
  if (type === "string") return BYTES.has(owner) ? { type: "string", format: "byte" } : { type: "string" };
  if (type === "boolean") return { type: "boolean" };
  if (type === "number")
    return { type: "integer", format: INT64.has(field) && !INT32.has(owner) ? "int64" : "int32" };
  if (type === "number | string" || type === "string | number") return refTo(INT_OR_STRING);
  if (/^[A-Z]\w*$/.test(type)) return refTo(define(file, type));
  throw new Error(`${file}: ${owner}: cannot read type ${type}`);
}

/** A reference that stands beside other words must be in allOf (OpenAPI 3.0); objects default to {}. */
function withDefault(schema, description) {
  if (!schema.$ref) return description ? { description, ...schema } : schema;
  const target = schemas[schema.$ref.slice(schema.$ref.lastIndexOf("/") + 1)];
  return {
    allOf: [schema],
    ...(description ? { description } : {}),
    ...(target?.type === "object" ? { default: {} } : {}),
  };
}

/** What server-side apply has to know of a field. */
function applyFacts(owner, property) {
  const facts = {};
  if (property.type === "array") {
    const [strategy = "", mergeKey] = PATCH[owner] ?? [];
    const merges = strategy.split(",").includes("merge");
    const type = LIST_TYPES[owner] ?? (mergeKey ? [mergeKey] : merges ? "set" : "atomic");
    facts["x-kubernetes-list-type"] = Array.isArray(type) ? "map" : type;
    if (Array.isArray(type)) facts["x-kubernetes-list-map-keys"] = type;
  }
  if (ATOMIC_MAPS.has(owner)) facts["x-kubernetes-map-type"] = "atomic";
  if (KEY_DEFAULTS[owner]) facts.default = KEY_DEFAULTS[owner];
  return facts;
}

function define(fromFile, name) {
  const file = declarations(fromFile).imports.get(name) ?? fromFile;
  const id = `${packageOf(file)}.${name}`;
  if (schemas[id]) return id;
  const { interfaces, aliases } = declarations(file);
  const alias = aliases.get(name);
  if (alias) {
    if (alias.type !== "string") throw new Error(`${file}: alias ${name} = ${alias.type}`);
    schemas[id] = { description: alias.description };
    if (name === "Quantity") schemas[id].oneOf = [{ type: "string" }, { type: "number" }];
    else Object.assign(schemas[id], { type: "string", format: "date-time" });
    return id;
  }
  const found = interfaces.get(name);
  if (!found) throw new Error(`${file}: no interface ${name}`);
  const schema = { description: found.description, type: "object" };
  if (ATOMIC_TYPES.has(name)) schema["x-kubernetes-map-type"] = "atomic";
  schemas[id] = schema;
  if (found.fields.length === 0) return id;
  const properties = {};
  const required = [];
  const literals = {};
  for (const field of found.fields) {
    const owner = `${name}.${field.name}`;
    properties[field.name] = withDefault(schemaOfType(file, field.type, owner), field.description);
    const [strategy, mergeKey] = PATCH[owner] ?? [];
    if (strategy) properties[field.name]["x-kubernetes-patch-strategy"] = strategy;
    if (mergeKey) properties[field.name]["x-kubernetes-patch-merge-key"] = mergeKey;
    Object.assign(properties[field.name], applyFacts(owner, properties[field.name]));
    if (!field.optional) required.push(field.name);
    const literal = /^"([^"]*)"$/.exec(field.type);
    if (literal) literals[field.name] = literal[1];
  }
  schema.properties = properties;
  if (required.length > 0) schema.required = required;
  if (literals.apiVersion && literals.kind) {
    const [group, version] = literals.apiVersion.includes("/")
      ? literals.apiVersion.split("/")
      : ["", literals.apiVersion];
    schema["x-kubernetes-group-version-kind"] = [{ group, kind: literals.kind, version }];
  }
  return id;
}

for (const [file, names] of Object.entries(ROOTS)) for (const name of names) define(file, name);

const known = new Set(
  Object.entries(schemas).flatMap(([id, s]) =>
    Object.keys(s.properties ?? {}).map((p) => `${id.slice(id.lastIndexOf(".") + 1)}.${p}`),
  ),
);
for (const owner of [...Object.keys(PATCH), ...BYTES, ...Object.keys(LIST_TYPES), ...ATOMIC_MAPS])
  if (!known.has(owner)) throw new Error(`${owner}: named in a table here, absent from the types`);

// Typed clients (kubectl create deployment) send protobuf: numbers of fields, and the optional scalars whose zero
// is a value and not an absence.
const { fields, explicitZero } = JSON.parse(readFileSync(join(root, "scripts/protobuf-fields.json"), "utf8"));
for (const owner of explicitZero)
  if (!known.has(owner)) throw new Error(`${owner}: named in protobuf-fields.json, absent from the types`);

const definitions = Object.fromEntries(Object.entries(schemas).sort(([a], [b]) => (a < b ? -1 : 1)));
const text = `${JSON.stringify({ definitions, protobuf: { fields, explicitZero } })}\n`;
const targets = process.argv.slice(2);
if (targets.length === 0)
  targets.push(
    join(root, "control/api/schema.generated.json"),
    join(root, "dist/control/api/schema.generated.json"),
  );
for (const target of targets) {
  mkdirSync(dirname(resolve(target)), { recursive: true });
  writeFileSync(resolve(target), text);
}
process.stderr.write(
  `schema: ${Object.keys(definitions).length} types, ${(text.length / 1024).toFixed(0)} KiB\n`,
);
