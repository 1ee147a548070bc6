// The public API: a real cluster for a test, in a second.

export type { PatchType, Resource, WatchEvent } from "./common/client.js";
export {
  CONFIG_MAPS,
  CONTROLLER_REVISIONS,
  DAEMON_SETS,
  DEPLOYMENTS,
  ENDPOINT_SLICES,
  ENDPOINTS,
  EVENTS,
  INGRESS_CLASSES,
  INGRESSES,
  type KubeClient,
  LEASES,
  NAMESPACES,
  NODES,
  POD_DISRUPTION_BUDGETS,
  PODS,
  REPLICA_SETS,
  REPLICATION_CONTROLLERS,
  SECRETS,
  SERVICE_ACCOUNTS,
  SERVICES,
  STATEFUL_SETS,
  StatusError,
} from "./common/client.js";
export type { KubeObject, Status, Stored } from "./common/k8s.js";
export {
  Cluster,
  type CreateClusterOptions,
  type CurlResult,
  createCluster,
  type ExecOptions,
  type ExecResult,
} from "./lab/cluster.js";
export { type ClusterConfig, ConfigError, type ConfigProblem } from "./lab/config.js";
export { type Check, doctor } from "./lab/doctor.js";
export { ClusterError, type ClusterErrorCode } from "./lab/errors.js";
export type { Manifest } from "./lab/manifests.js";
export type {
  ClusterInfo,
  ImageMapping,
  IptablesMode,
  NodeConfig,
  ProcessRole,
  Publish,
  StepEvent,
} from "./lab/types.js";
export type { WaitCondition, WaitOptions } from "./lab/wait.js";
