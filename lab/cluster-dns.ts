// The cluster's DNS as kubeadm sets it up: account, Corefile, Service kube-dns and Deployment coredns. Made once in the
// life of a cluster; from then on they belong to the user, who may change, scale or delete them.

import { existsSync, writeFileSync } from "node:fs";
import {
  CONFIG_MAPS,
  DEPLOYMENTS,
  isAlreadyExists,
  type KubeClient,
  type Resource,
  SERVICE_ACCOUNTS,
  SERVICES,
} from "../common/client.js";
import {
  type ConfigMap,
  type Deployment,
  type KubeObject,
  RUNTIME_ANNOTATION,
  type Service,
  type ServiceAccount,
} from "../common/k8s.js";
import type { Logger } from "../common/log.js";
import { dnsAddresses } from "./resolve.js";

export interface ClusterDnsOptions {
  /** "cluster.local". */
  domain: string;
  /** Of ClusterIPs, one network a family: the Service has the tenth address of each. */
  serviceSubnet: string;
}

const NAMESPACE = "kube-system";
const NAME = "coredns";
const SERVICE = "kube-dns";
const LABELS = { "k8s-app": SERVICE };
const IMAGE = "registry.k8s.io/coredns/coredns:v1.12.1";
const COREFILE_DIRECTORY = "/etc/coredns";

/** kubeadm's, without "forward": nobody outside of the lab is asked, unless somebody says so here. */
export function corefile(domain: string): string {
  return `.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes ${domain} in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    cache 30 {
       disable success ${domain}
       disable denial ${domain}
    }
    loop
    reload
    loadbalance
}
`;
}

function service(serviceSubnet: string): Service {
  const clusterIPs = dnsAddresses(serviceSubnet);
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: {
      name: SERVICE,
      namespace: NAMESPACE,
      labels: {
        ...LABELS,
        "kubernetes.io/cluster-service": "true",
        "kubernetes.io/name": "CoreDNS",
      },
      annotations: { "prometheus.io/port": "9153", "prometheus.io/scrape": "true" },
    },
    spec: {
      selector: LABELS,
      clusterIP: clusterIPs[0] ?? "",
      clusterIPs,
      ...(clusterIPs.length > 1 ? { ipFamilyPolicy: "RequireDualStack" } : {}),
      ports: [
        { name: "dns", port: 53, targetPort: 53, protocol: "UDP" },
        { name: "dns-tcp", port: 53, targetPort: 53, protocol: "TCP" },
        { name: "metrics", port: 9153, targetPort: 9153, protocol: "TCP" },
      ],
    },
  };
}

function deployment(): Deployment {
  const http = (path: string, port: number) => ({ httpGet: { path, port, scheme: "HTTP" } });
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: NAME, namespace: NAMESPACE, labels: LABELS },
    spec: {
      replicas: 2,
      strategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 1 } },
      selector: { matchLabels: LABELS },
      template: {
        metadata: { labels: LABELS, annotations: { [RUNTIME_ANNOTATION]: "emulated" } },
        spec: {
          priorityClassName: "system-cluster-critical",
          serviceAccountName: NAME,
          affinity: {
            podAntiAffinity: {
              preferredDuringSchedulingIgnoredDuringExecution: [
                {
                  weight: 100,
                  podAffinityTerm: {
                    labelSelector: {
                      matchExpressions: [{ key: "k8s-app", operator: "In", values: [SERVICE] }],
                    },
                    topologyKey: "kubernetes.io/hostname",
                  },
                },
              ],
            },
          },
          tolerations: [
            { key: "CriticalAddonsOnly", operator: "Exists" },
            { key: "node-role.kubernetes.io/control-plane", effect: "NoSchedule" },
          ],
          nodeSelector: { "kubernetes.io/os": "linux" },
          dnsPolicy: "Default",
          containers: [
            {
              name: NAME,
              image: IMAGE,
              imagePullPolicy: "IfNotPresent",
              resources: { limits: { memory: "170Mi" }, requests: { cpu: "100m", memory: "70Mi" } },
              args: ["-conf", `${COREFILE_DIRECTORY}/Corefile`],
              volumeMounts: [{ name: "config-volume", mountPath: COREFILE_DIRECTORY, readOnly: true }],
              ports: [
                { containerPort: 53, name: "dns", protocol: "UDP" },
                { containerPort: 53, name: "dns-tcp", protocol: "TCP" },
                { containerPort: 9153, name: "metrics", protocol: "TCP" },
              ],
              livenessProbe: {
                ...http("/health", 8080),
                initialDelaySeconds: 60,
                timeoutSeconds: 5,
                successThreshold: 1,
                failureThreshold: 5,
              },
              readinessProbe: http("/ready", 8181),
            },
          ],
          volumes: [
            {
              name: "config-volume",
              configMap: { name: NAME, items: [{ key: "Corefile", path: "Corefile" }] },
            },
          ],
        },
      },
    },
  };
}

/** The objects, in the order in which they need one another. */
export function clusterDnsObjects({
  domain,
  serviceSubnet,
}: ClusterDnsOptions): [ServiceAccount, ConfigMap, Service, Deployment] {
  const metadata = { name: NAME, namespace: NAMESPACE };
  return [
    { apiVersion: "v1", kind: "ServiceAccount", metadata },
    { apiVersion: "v1", kind: "ConfigMap", metadata, data: { Corefile: corefile(domain) } },
    service(serviceSubnet),
    deployment(),
  ];
}

/**
 * Creates the objects at the cluster's first start, those that are there already left as they are. What fails is
 * logged, and done at the next start.
 * @param mark File that says, from the first time on, that all were made.
 */
export async function installClusterDns(
  client: KubeClient,
  mark: string,
  options: ClusterDnsOptions & { log: Logger },
): Promise<void> {
  if (existsSync(mark)) return;
  const [account, config, kubeDns, coredns] = clusterDnsObjects(options);
  try {
    await ensure(client, SERVICE_ACCOUNTS, account);
    await ensure(client, CONFIG_MAPS, config);
    await ensure(client, SERVICES, kubeDns);
    await ensure(client, DEPLOYMENTS, coredns);
    writeFileSync(mark, "");
  } catch (error) {
    options.log.error({ err: error }, "the cluster's DNS could not be set up");
  }
}

async function ensure<T extends KubeObject>(
  client: KubeClient,
  resource: Resource<T>,
  object: T,
): Promise<void> {
  try {
    await client.create(resource, object, { namespace: NAMESPACE });
  } catch (error) {
    if (!isAlreadyExists(error)) throw error;
  }
}
