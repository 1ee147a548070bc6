// Puts the controllers together and starts them when their informers have synced. Knows all of them, does none of
// their work.

import type { KubeClient } from "../../common/client.js";
import type { InformerFactory } from "../../common/informer.js";
import type { Logger } from "../../common/log.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { SignCertificate } from "../certificate-requests.js";
import { AutoscalerController, type PodMetricsSource } from "./autoscaler.js";
import { BootstrapController, ensureNamespaces } from "./bootstrap.js";
import { CertificateCleaner, CertificateController } from "./certificates.js";
import { ClusterInfoController } from "./cluster-info.js";
import { ClusterRoleAggregationController } from "./clusterrole-aggregation.js";
import type { Controller, ControllerContext } from "./context.js";
import { CronJobController } from "./cronjob.js";
import { DaemonSetController } from "./daemonset.js";
import { DeploymentController } from "./deployment.js";
import { EndpointsController } from "./endpoints.js";
import { EndpointSliceController } from "./endpointslice.js";
import { EndpointSliceMirroringController } from "./endpointslicemirroring.js";
import { EventBroadcaster } from "./events.js";
import { EventTtlController } from "./events-ttl.js";
import { GarbageCollector } from "./garbage-collector.js";
import { IngressAddonController } from "./ingress-addon.js";
import { JobController } from "./job.js";
import { LoadBalancerController } from "./load-balancer.js";
import { NamespaceController } from "./namespace.js";
import { NodeIpamController } from "./node-ipam.js";
import { NodeLifecycleController } from "./node-lifecycle.js";
import { PersistentVolumeController } from "./persistent-volume.js";
import { PodDisruptionBudgetController } from "./pod-disruption-budget.js";
import { PodGcController } from "./pod-gc.js";
import { queueController, type Reconciler, sweepController } from "./reconcile.js";
import { ReplicaSetController, ReplicationManager } from "./replicaset.js";
import { ResourceQuotaController } from "./resource-quota.js";
import { RootCaController } from "./root-ca.js";
import { Scheduler } from "./scheduler.js";
import { ServiceAccountController } from "./service-account.js";
import { ServiceCidrController } from "./service-cidr.js";
import { StatefulSetController } from "./statefulset.js";
import { ClaimProtectionController, VolumeProtectionController } from "./storage-protection.js";
import { TaintEvictionController } from "./taint-eviction.js";
import { TokenCleaner } from "./token-cleaner.js";
import { type TokenIssuer, TokenSecretController } from "./token-secret.js";
import { TtlAfterFinishedController } from "./ttl-after-finished.js";

export interface ControllersOptions {
  client: KubeClient;
  /** Started by this call; stopped by whoever made it. */
  informers: InformerFactory;
  /** Of pods: one network, or one of each family. */
  clusterCIDRs: readonly string[];
  nodeCIDRMaskSize: number;
  nodeMonitorGracePeriodSeconds: number;
  /** Where the API server listens, for the Service default/kubernetes. */
  serverAddresses: { ip: string; port: number };
  /** Of ClusterIPs, the default family first. */
  serviceCIDRs: readonly string[];
  /** Of Services of type LoadBalancer, first-last, one range a family; without it nobody gives them addresses. */
  loadBalancerPool?: string | undefined;
  /** Where volumes of the default StorageClass are made; without it there is no such class. */
  volumesDir?: string | undefined;
  /** PEM of the authority that signed the API server's certificate. */
  caCert: string;
  /** Signs what nodes ask for; without it nobody answers their requests. */
  sign?: SignCertificate;
  /** Where machines that want to join find the API server; without it they are not told. */
  join?: { publicUrl: string; clusterDomain: string; clusterDNS: string } | undefined;
  /** Signs the tokens that are kept in Secrets. */
  tokens: TokenIssuer;
  /** What the pods use; default: nothing is measured. */
  podMetrics?: PodMetricsSource;
  log: Logger;
  /** Milliseconds since the epoch; for tests. */
  now?: () => number;
}

export interface Controllers {
  /** Resolves when all of them work; rejects when they were stopped before. */
  readonly ready: Promise<void>;
  /** Ends all work; resolves when nothing runs any more. */
  stop(): Promise<void>;
}

/**
 * Starts every controller. Returns at once; they begin when the informers have synced.
 * @throws RangeError when clusterCIDRs, nodeCIDRMaskSize or serviceCIDRs cannot be used.
 */
export function startControllers(options: ControllersOptions): Controllers {
  const { client, informers, log } = options;
  const now = options.now ?? Date.now;
  const events = new EventBroadcaster({ client, log, now });
  const context: ControllerContext = { client, informers, events, log, now };
  const controllers = createControllers(context, options);
  let stopped = false;
  events.start();
  informers.start();
  const begin = async () => {
    // First, since others (kubelets with their Leases) write there at once.
    await ensureNamespaces(client);
    await informers.synced();
    if (stopped) throw new Error("the controllers were stopped before they had started");
    for (const controller of controllers) controller.start();
    log.info({ controllers: controllers.map(({ name }) => name) }, "controllers started");
  };
  const ready = begin();
  ready.catch((error: unknown) => {
    if (!stopped) log.error({ err: error }, "controllers could not start");
  });
  return {
    ready,
    async stop() {
      stopped = true;
      await Promise.all(controllers.map((controller) => controller.stop()));
      await events.stop();
    },
  };
}

/** Each with the number of keys that it works on at the same time. */
function createControllers(context: ControllerContext, options: ControllersOptions): Controller[] {
  const queued = (name: string, concurrency: number, make: (queue: WorkQueue) => Reconciler) =>
    queueController(context, name, concurrency, make);
  const quarantineMs = options.nodeMonitorGracePeriodSeconds * 1000;
  const { loadBalancerPool: pool } = options;
  return [
    queued("bootstrap", 1, (queue) => new BootstrapController(context, queue, options)),
    queued("node-ipam", 1, (queue) => new NodeIpamController(context, queue, options)),
    queued("node-lifecycle", 8, (queue) => new NodeLifecycleController(context, queue, options)),
    queued("taint-eviction", 8, (queue) => new TaintEvictionController(context, queue)),
    sweepController(context, "pod-gc", new PodGcController(context, { quarantineMs })),
    queued("root-ca-certificate-publisher", 4, (queue) => new RootCaController(context, queue, options)),
    queued("service-account-token", 2, (queue) => new TokenSecretController(context, queue, options)),
    queued("service-account", 4, (queue) => new ServiceAccountController(context, queue)),
    queued("deployment", 8, (queue) => new DeploymentController(context, queue)),
    queued("replicaset", 8, (queue) => new ReplicaSetController(context, queue)),
    queued("replicationcontroller", 8, (queue) => new ReplicationManager(context, queue)),
    queued("statefulset", 8, (queue) => new StatefulSetController(context, queue)),
    queued("daemonset", 8, (queue) => new DaemonSetController(context, queue)),
    queued("disruption", 4, (queue) => new PodDisruptionBudgetController(context, queue)),
    queued("job", 5, (queue) => new JobController(context, queue)),
    queued("cronjob", 5, (queue) => new CronJobController(context, queue)),
    queued(
      "autoscaler",
      5,
      (queue) => new AutoscalerController(context, queue, options.podMetrics ?? (() => [])),
    ),
    queued("ttl-after-finished", 5, (queue) => new TtlAfterFinishedController(context, queue)),
    // Decisions are made synchronously, one after the other; it is the bindings that overlap.
    queued("scheduler", 32, (queue) => new Scheduler(context, queue)),
    // One at a time, as in kube-controller-manager: two claims may want the same volume.
    queued("persistentvolume-binder", 1, (queue) => new PersistentVolumeController(context, queue, options)),
    queued("persistentvolumeclaim-protection", 2, (queue) => new ClaimProtectionController(context, queue)),
    queued("persistentvolume-protection", 2, (queue) => new VolumeProtectionController(context, queue)),
    queued("clusterrole-aggregation", 1, (queue) => new ClusterRoleAggregationController(context, queue)),
    queued("resourcequota", 5, (queue) => new ResourceQuotaController(context, queue)),
    queued("endpointslice", 8, (queue) => new EndpointSliceController(context, queue)),
    queued("endpointslicemirroring", 5, (queue) => new EndpointSliceMirroringController(context, queue)),
    queued("endpoints", 8, (queue) => new EndpointsController(context, queue)),
    ...(pool
      ? [queued("service-lb", 1, (queue) => new LoadBalancerController(context, queue, { pool }))]
      : []),
    queued("service-cidr", 1, (queue) => new ServiceCidrController(context, queue, options)),
    queued("ingress-addon", 1, (queue) => new IngressAddonController(context, queue)),
    queued("namespace", 4, (queue) => new NamespaceController(context, queue)),
    queued("garbage-collector", 16, (queue) => new GarbageCollector(context, queue)),
    sweepController(context, "event-ttl", new EventTtlController(context)),
    ...joinControllers(context, options),
  ];
}

/** What machines that join need: certificates, tokens that end, and where to ask. */
function joinControllers(context: ControllerContext, options: ControllersOptions): Controller[] {
  const { sign, join } = options;
  const info = join && { ...options, ...join };
  return [
    ...(sign
      ? [queueController(context, "csr", 2, (queue) => new CertificateController(context, queue, { sign }))]
      : []),
    ...(info
      ? [
          queueController(
            context,
            "cluster-info",
            1,
            (queue) => new ClusterInfoController(context, queue, info),
          ),
        ]
      : []),
    sweepController(context, "csr-cleaner", new CertificateCleaner(context)),
    sweepController(context, "token-cleaner", new TokenCleaner(context)),
  ];
}
