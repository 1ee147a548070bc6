// The one interface through which every part talks to the API, whether over HTTP (client/) or inside the
// control process (control/api/local.ts). Knows resources and verbs, no transport.

import type {
  CertificateSigningRequest,
  ClusterRole,
  ClusterRoleBinding,
  ComponentStatus,
  ConfigMap,
  ControllerRevision,
  CronJob,
  DaemonSet,
  Deployment,
  EndpointSlice,
  Endpoints,
  Event,
  HorizontalPodAutoscaler,
  Ingress,
  IngressClass,
  IPAddress,
  Job,
  KubeObject,
  Lease,
  LimitRange,
  Namespace,
  Node,
  NodeMetrics,
  PersistentVolume,
  PersistentVolumeClaim,
  Pod,
  PodDisruptionBudget,
  PodMetrics,
  PriorityClass,
  ReplicaSet,
  ReplicationController,
  ResourceQuota,
  Role,
  RoleBinding,
  Secret,
  Service,
  ServiceAccount,
  ServiceCIDR,
  StatefulSet,
  Status,
  StorageClass,
  Stored,
} from "./k8s.js";

/** A resource by group, version and plural; the type parameter is what its objects are. */
export interface Resource<T extends KubeObject = KubeObject> {
  /** "" is the core group. */
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly kind: string;
  readonly namespaced: boolean;
  /** Phantom: carries T, never set. */
  readonly _type?: T;
}

function resource<T extends KubeObject>(
  group: string,
  version: string,
  plural: string,
  kind: string,
  namespaced = true,
): Resource<T> {
  return { group, version, plural, kind, namespaced };
}

export const NODES = resource<Node>("", "v1", "nodes", "Node", false);
export const NAMESPACES = resource<Namespace>("", "v1", "namespaces", "Namespace", false);
export const PODS = resource<Pod>("", "v1", "pods", "Pod");
export const SERVICES = resource<Service>("", "v1", "services", "Service");
export const ENDPOINTS = resource<Endpoints>("", "v1", "endpoints", "Endpoints");
export const EVENTS = resource<Event>("", "v1", "events", "Event");
export const COMPONENT_STATUSES = resource<ComponentStatus>(
  "",
  "v1",
  "componentstatuses",
  "ComponentStatus",
  false,
);
export const CONFIG_MAPS = resource<ConfigMap>("", "v1", "configmaps", "ConfigMap");
export const SECRETS = resource<Secret>("", "v1", "secrets", "Secret");
export const LIMIT_RANGES = resource<LimitRange>("", "v1", "limitranges", "LimitRange");
export const RESOURCE_QUOTAS = resource<ResourceQuota>("", "v1", "resourcequotas", "ResourceQuota");
export const SERVICE_ACCOUNTS = resource<ServiceAccount>("", "v1", "serviceaccounts", "ServiceAccount");
export const PERSISTENT_VOLUMES = resource<PersistentVolume>(
  "",
  "v1",
  "persistentvolumes",
  "PersistentVolume",
  false,
);
export const PERSISTENT_VOLUME_CLAIMS = resource<PersistentVolumeClaim>(
  "",
  "v1",
  "persistentvolumeclaims",
  "PersistentVolumeClaim",
);
export const STORAGE_CLASSES = resource<StorageClass>(
  "storage.k8s.io",
  "v1",
  "storageclasses",
  "StorageClass",
  false,
);
const RBAC = "rbac.authorization.k8s.io";
export const ROLES = resource<Role>(RBAC, "v1", "roles", "Role");
export const ROLE_BINDINGS = resource<RoleBinding>(RBAC, "v1", "rolebindings", "RoleBinding");
export const CLUSTER_ROLES = resource<ClusterRole>(RBAC, "v1", "clusterroles", "ClusterRole", false);
export const CLUSTER_ROLE_BINDINGS = resource<ClusterRoleBinding>(
  RBAC,
  "v1",
  "clusterrolebindings",
  "ClusterRoleBinding",
  false,
);
export const PRIORITY_CLASSES = resource<PriorityClass>(
  "scheduling.k8s.io",
  "v1",
  "priorityclasses",
  "PriorityClass",
  false,
);
export const DEPLOYMENTS = resource<Deployment>("apps", "v1", "deployments", "Deployment");
export const REPLICA_SETS = resource<ReplicaSet>("apps", "v1", "replicasets", "ReplicaSet");
export const STATEFUL_SETS = resource<StatefulSet>("apps", "v1", "statefulsets", "StatefulSet");
export const DAEMON_SETS = resource<DaemonSet>("apps", "v1", "daemonsets", "DaemonSet");
export const CONTROLLER_REVISIONS = resource<ControllerRevision>(
  "apps",
  "v1",
  "controllerrevisions",
  "ControllerRevision",
);
export const REPLICATION_CONTROLLERS = resource<ReplicationController>(
  "",
  "v1",
  "replicationcontrollers",
  "ReplicationController",
);
export const POD_DISRUPTION_BUDGETS = resource<PodDisruptionBudget>(
  "policy",
  "v1",
  "poddisruptionbudgets",
  "PodDisruptionBudget",
);
export const ENDPOINT_SLICES = resource<EndpointSlice>(
  "discovery.k8s.io",
  "v1",
  "endpointslices",
  "EndpointSlice",
);
export const INGRESSES = resource<Ingress>("networking.k8s.io", "v1", "ingresses", "Ingress");
export const INGRESS_CLASSES = resource<IngressClass>(
  "networking.k8s.io",
  "v1",
  "ingressclasses",
  "IngressClass",
  false,
);
export const SERVICE_CIDRS = resource<ServiceCIDR>(
  "networking.k8s.io",
  "v1",
  "servicecidrs",
  "ServiceCIDR",
  false,
);
export const IP_ADDRESSES = resource<IPAddress>("networking.k8s.io", "v1", "ipaddresses", "IPAddress", false);
export const CERTIFICATE_SIGNING_REQUESTS = resource<CertificateSigningRequest>(
  "certificates.k8s.io",
  "v1",
  "certificatesigningrequests",
  "CertificateSigningRequest",
  false,
);
export const LEASES = resource<Lease>("coordination.k8s.io", "v1", "leases", "Lease");

export const JOBS = resource<Job>("batch", "v1", "jobs", "Job");
export const CRON_JOBS = resource<CronJob>("batch", "v1", "cronjobs", "CronJob");
export const HORIZONTAL_POD_AUTOSCALERS = resource<HorizontalPodAutoscaler>(
  "autoscaling",
  "v2",
  "horizontalpodautoscalers",
  "HorizontalPodAutoscaler",
);
export const NODE_METRICS = resource<NodeMetrics>("metrics.k8s.io", "v1beta1", "nodes", "NodeMetrics", false);
export const POD_METRICS = resource<PodMetrics>("metrics.k8s.io", "v1beta1", "pods", "PodMetrics");

/** "v1" or "group/version". */
export function apiVersionOf(r: Pick<Resource, "group" | "version">): string {
  return r.group ? `${r.group}/${r.version}` : r.version;
}

export interface ListOptions {
  /** Omitted: all namespaces. */
  namespace?: string;
  labelSelector?: string;
  fieldSelector?: string;
  limit?: number;
  continue?: string;
  resourceVersion?: string;
  resourceVersionMatch?: "Exact" | "NotOlderThan";
}

export interface ListResult<T extends KubeObject> {
  items: Stored<T>[];
  resourceVersion: string;
  continue?: string;
  remainingItemCount?: number;
}

export interface WatchOptions extends Omit<ListOptions, "limit" | "continue" | "resourceVersionMatch"> {
  /** BOOKMARK events come at intervals, so that a quiet watch can resume late. */
  allowWatchBookmarks?: boolean;
  timeoutSeconds?: number;
  signal?: AbortSignal;
}

export type WatchEvent<T extends KubeObject> =
  | { type: "ADDED" | "MODIFIED" | "DELETED"; object: Stored<T> }
  | { type: "BOOKMARK"; object: { kind: string; apiVersion: string; metadata: { resourceVersion: string } } };

export interface WriteOptions {
  namespace?: string;
  dryRun?: boolean;
  fieldManager?: string;
  fieldValidation?: "Ignore" | "Warn" | "Strict";
  subresource?:
    | "approval"
    | "status"
    | "scale"
    | "binding"
    | "ephemeralcontainers"
    | "eviction"
    | "finalize"
    | "token";
}

export interface DeleteOptions {
  namespace?: string;
  gracePeriodSeconds?: number;
  propagationPolicy?: "Orphan" | "Background" | "Foreground";
  preconditions?: { uid?: string; resourceVersion?: string };
  dryRun?: boolean;
}

export type PatchType = "json" | "merge" | "strategic";

/**
 * Verbs of the Kubernetes API. Every method throws {@link StatusError} for an answer that is an error; a
 * transport failure is thrown as the transport's own error.
 */
export interface KubeClient {
  get<T extends KubeObject>(r: Resource<T>, name: string, namespace?: string): Promise<Stored<T>>;
  list<T extends KubeObject>(r: Resource<T>, options?: ListOptions): Promise<ListResult<T>>;
  /**
   * Events after `resourceVersion`. Ends when the server ends the watch or `signal` aborts; throws StatusError
   * 410 (reason Expired) when that version is no longer kept.
   */
  watch<T extends KubeObject>(r: Resource<T>, options?: WatchOptions): AsyncIterable<WatchEvent<T>>;
  create<T extends KubeObject>(r: Resource<T>, object: T, options?: WriteOptions): Promise<Stored<T>>;
  /** Replaces; the object's resourceVersion, when set, must be the current one (else 409 Conflict). */
  update<T extends KubeObject>(r: Resource<T>, object: T, options?: WriteOptions): Promise<Stored<T>>;
  patch<T extends KubeObject>(
    r: Resource<T>,
    name: string,
    type: PatchType,
    patch: unknown,
    options?: WriteOptions,
  ): Promise<Stored<T>>;
  delete<T extends KubeObject>(r: Resource<T>, name: string, options?: DeleteOptions): Promise<void>;
  deleteCollection<T extends KubeObject>(
    r: Resource<T>,
    options?: ListOptions & DeleteOptions,
  ): Promise<void>;
}

/** An error answer of the API: message as kubectl prints it, the whole Status beside it. */
export class StatusError extends Error {
  override readonly name = "StatusError";
  readonly status: Status;

  constructor(status: Status, options?: ErrorOptions) {
    super(status.message ?? status.reason ?? `HTTP ${status.code}`, options);
    this.status = status;
  }

  /** HTTP status code. */
  get code(): number {
    return this.status.code;
  }

  /** Kubernetes reason: NotFound, AlreadyExists, Conflict, Invalid, Expired, … */
  get reason(): string {
    return this.status.reason ?? "Unknown";
  }
}

/** Whether `error` is an API error with that reason. */
export function isReason(error: unknown, ...reasons: string[]): error is StatusError {
  return error instanceof StatusError && reasons.includes(error.reason);
}

export const isNotFound = (error: unknown): boolean => isReason(error, "NotFound");
export const isConflict = (error: unknown): boolean => isReason(error, "Conflict");
export const isAlreadyExists = (error: unknown): boolean => isReason(error, "AlreadyExists");
