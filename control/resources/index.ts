// All kinds of the API, as declarations for the engine. One file a kind; this one only gathers them.

import { certificateSigningRequestDefinition } from "./certificate-signing-request.js";
import { configMapDefinition } from "./config-map.js";
import { controllerRevisionDefinition } from "./controller-revision.js";
import { cronJobDefinition } from "./cron-job.js";
import { daemonSetDefinition } from "./daemon-set.js";
import { deploymentDefinition } from "./deployment.js";
import { endpointSliceDefinition } from "./endpoint-slice.js";
import { endpointsDefinition } from "./endpoints.js";
import { eventDefinition } from "./event.js";
import { eventV1Definition } from "./event-v1.js";
import { autoscalerDefinition } from "./horizontal-pod-autoscaler.js";
import { autoscalerV1Definition } from "./horizontal-pod-autoscaler-v1.js";
import { ingressClassDefinition, ingressDefinition } from "./ingress.js";
import { jobDefinition } from "./job.js";
import { leaseDefinition } from "./lease.js";
import { limitRangeDefinition } from "./limit-range.js";
import { namespaceDefinition } from "./namespace.js";
import { nodeDefinition } from "./node.js";
import { persistentVolumeDefinition } from "./persistent-volume.js";
import { persistentVolumeClaimDefinition } from "./persistent-volume-claim.js";
import { podDefinition } from "./pod.js";
import { podDisruptionBudgetDefinition } from "./pod-disruption-budget.js";
import { priorityClassDefinition } from "./priority-class.js";
import { rbacDefinitions } from "./rbac.js";
import { replicaSetDefinition } from "./replica-set.js";
import { replicationControllerDefinition } from "./replication-controller.js";
import { resourceQuotaDefinition } from "./resource-quota.js";
import { secretDefinition } from "./secret.js";
import { serviceDefinition } from "./service.js";
import { serviceAccountDefinition } from "./service-account.js";
import { ServiceAllocator } from "./service-allocation.js";
import { ipAddressDefinition, serviceCidrDefinition } from "./service-cidr.js";
import { statefulSetDefinition } from "./stateful-set.js";
import { storageClassDefinition } from "./storage-class.js";
import type { ResourceDefinition } from "./types.js";

export interface ResourceOptions {
  /** Ranges of ClusterIPs, one or one of each family, the default family first: 10.96.0.0/16, fd00:10:96::/112. */
  serviceCIDRs: readonly string[];
  /** First and last node port, both inclusive. */
  nodePortRange: [number, number];
  /** How long a pod stays bound to a lost node (DefaultTolerationSeconds). */
  defaultTolerationSeconds: number;
}

/**
 * The kinds with allocators of their own: call it once for each store, and give each definition its stored
 * objects through restore() before the first write.
 * @throws RangeError for a range that cannot be used.
 */
export function createResources(options: ResourceOptions): ResourceDefinition[] {
  const services = new ServiceAllocator(options);
  return [
    nodeDefinition,
    namespaceDefinition,
    podDefinition(options),
    // Before the Services, whose addresses are taken from its ranges.
    serviceCidrDefinition(services),
    serviceDefinition(services),
    ipAddressDefinition(services),
    endpointsDefinition,
    endpointSliceDefinition,
    deploymentDefinition,
    replicaSetDefinition,
    jobDefinition,
    cronJobDefinition,
    // The preferred version of the group first.
    autoscalerDefinition,
    autoscalerV1Definition,
    replicationControllerDefinition,
    statefulSetDefinition,
    daemonSetDefinition,
    controllerRevisionDefinition,
    podDisruptionBudgetDefinition,
    eventDefinition,
    eventV1Definition,
    configMapDefinition,
    secretDefinition,
    serviceAccountDefinition,
    limitRangeDefinition,
    resourceQuotaDefinition,
    persistentVolumeDefinition,
    persistentVolumeClaimDefinition,
    storageClassDefinition,
    priorityClassDefinition,
    ...rbacDefinitions,
    ingressDefinition,
    ingressClassDefinition,
    leaseDefinition,
    certificateSigningRequestDefinition,
  ];
}
