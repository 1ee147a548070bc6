// The Kubernetes object types everybody here speaks, taken from the published API (kubernetes-types).
// Knows types only; nothing in this file runs.

import type {
  ControllerRevision,
  DaemonSet,
  Deployment,
  DeploymentCondition,
  ReplicaSet,
  StatefulSet,
} from "kubernetes-types/apps/v1.js";
import type { Scale } from "kubernetes-types/autoscaling/v1.js";
import type { HorizontalPodAutoscaler } from "kubernetes-types/autoscaling/v2.js";
import type { CronJob, Job, JobCondition, JobSpec, JobStatus } from "kubernetes-types/batch/v1.js";
import type {
  CertificateSigningRequest,
  CertificateSigningRequestCondition,
} from "kubernetes-types/certificates/v1.js";
import type { Lease } from "kubernetes-types/coordination/v1.js";
import type {
  ComponentStatus,
  ConfigMap,
  Container,
  ContainerStatus,
  EndpointAddress,
  EndpointSubset,
  Endpoints,
  EndpointPort as EndpointsPort,
  Event,
  LimitRange,
  Namespace,
  Node,
  NodeAddress,
  NodeCondition,
  PersistentVolume,
  PersistentVolumeClaim,
  Pod,
  PodCondition,
  PodSpec,
  PodStatus,
  PodTemplateSpec,
  Probe,
  ReplicationController,
  ResourceQuota,
  Secret,
  Service,
  ServiceAccount,
  ServicePort,
  Taint,
  Toleration,
} from "kubernetes-types/core/v1.js";
import type { Endpoint, EndpointPort, EndpointSlice } from "kubernetes-types/discovery/v1.js";
import type { LabelSelector, ObjectMeta, OwnerReference } from "kubernetes-types/meta/v1.js";
import type { Ingress, IngressBackend, IngressClass } from "kubernetes-types/networking/v1.js";
import type {
  IPAddress as AlphaIPAddress,
  ServiceCIDR as AlphaServiceCIDR,
} from "kubernetes-types/networking/v1alpha1.js";
import type { PodDisruptionBudget } from "kubernetes-types/policy/v1.js";
import type {
  ClusterRole,
  ClusterRoleBinding,
  PolicyRule,
  Role,
  RoleBinding,
  Subject as RoleSubject,
} from "kubernetes-types/rbac/v1.js";
import type { PriorityClass } from "kubernetes-types/scheduling/v1.js";
import type { StorageClass } from "kubernetes-types/storage/v1.js";

export type {
  CertificateSigningRequest,
  CertificateSigningRequestCondition,
  ClusterRole,
  ClusterRoleBinding,
  ComponentStatus,
  ConfigMap,
  Container,
  ContainerStatus,
  ControllerRevision,
  CronJob,
  DaemonSet,
  Deployment,
  DeploymentCondition,
  Endpoint,
  EndpointAddress,
  EndpointPort,
  EndpointSlice,
  EndpointSubset,
  Endpoints,
  EndpointsPort,
  Event,
  HorizontalPodAutoscaler,
  Ingress,
  IngressBackend,
  IngressClass,
  Job,
  JobCondition,
  JobSpec,
  JobStatus,
  LabelSelector,
  Lease,
  LimitRange,
  Namespace,
  Node,
  NodeAddress,
  NodeCondition,
  ObjectMeta,
  OwnerReference,
  PersistentVolume,
  PersistentVolumeClaim,
  Pod,
  PodCondition,
  PodDisruptionBudget,
  PodSpec,
  PodStatus,
  PodTemplateSpec,
  PolicyRule,
  PriorityClass,
  Probe,
  ReplicaSet,
  ReplicationController,
  ResourceQuota,
  Role,
  RoleBinding,
  RoleSubject,
  Scale,
  Secret,
  Service,
  ServiceAccount,
  ServicePort,
  StatefulSet,
  StorageClass,
  Taint,
  Toleration,
};

/** With the field that kubernetes-types does not have yet: forNodes (KEP-3015, v1 since 1.35). */
export type EndpointHints = NonNullable<Endpoint["hints"]> & { forNodes?: { name: string }[] };

/** metrics.k8s.io/v1beta1: what a node used in the interval that ended at `timestamp`. */
export interface NodeMetrics extends KubeObject {
  timestamp: string;
  /** Go duration. */
  window: string;
  usage: Record<string, string>;
}

/** metrics.k8s.io/v1beta1: what the containers of a pod used. */
export interface PodMetrics extends KubeObject {
  timestamp: string;
  window: string;
  containers: { name: string; usage: Record<string, string> }[];
}

/** In v1 since 1.33; kubernetes-types has them, unchanged, as v1alpha1 only. */
type Graduated<T> = Omit<T, "apiVersion"> & { apiVersion?: "networking.k8s.io/v1" };
export type IPAddress = Graduated<AlphaIPAddress>;
export type ServiceCIDR = Graduated<AlphaServiceCIDR>;

/** Any API object as a client may send it: everything optional. */
export interface KubeObject {
  apiVersion?: string;
  kind?: string;
  metadata?: ObjectMeta;
}

/** Metadata of an object that the API server holds: these fields are always present. */
export type StoredMeta = ObjectMeta & {
  name: string;
  uid: string;
  resourceVersion: string;
  creationTimestamp: string;
};

/**
 * An object as the API server returns it. Shared between caches, informers and watchers, hence to be treated
 * as immutable: copy before you change.
 */
export type Stored<T extends KubeObject = KubeObject> = Omit<T, "metadata" | "apiVersion" | "kind"> & {
  apiVersion: string;
  kind: string;
  metadata: StoredMeta;
};

/** meta/v1 Status: the shape of every error of the API. */
export interface Status {
  apiVersion: "v1";
  kind: "Status";
  metadata: Record<string, unknown>;
  status: "Success" | "Failure";
  message?: string;
  reason?: string;
  details?: {
    name?: string;
    group?: string;
    kind?: string;
    uid?: string;
    causes?: { reason?: string; message?: string; field?: string }[];
    retryAfterSeconds?: number;
  };
  code: number;
}

/** Of a pod: "emulated" has it emulated on nodes that run real containers too. */
export const RUNTIME_ANNOTATION = "kubeplumb.io/runtime";

/** "namespace/name", or "name" for a cluster-scoped object: the key of caches and work queues. */
export function keyOf(object: { metadata: { namespace?: string; name: string } }): string {
  const { namespace, name } = object.metadata;
  return namespace ? `${namespace}/${name}` : name;
}

/** The inverse of {@link keyOf}. */
export function splitKey(key: string): { namespace: string; name: string } {
  const slash = key.indexOf("/");
  return slash < 0
    ? { namespace: "", name: key }
    : { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}
