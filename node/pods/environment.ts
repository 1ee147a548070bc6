// What every part of the pod side of one node agent shares: who this node is, and how to reach the world.

import type { KubeClient } from "../../common/client.js";
import type { Service, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import type { BackoffOptions } from "./backoff.js";
import type { EventRecorder } from "./events.js";
import type { DnsConfig } from "./files.js";
import type { ContainerRuntime } from "./runtime.js";

/** Intervals that tests may shorten; the defaults are the kubelet's. */
export interface PodTiming {
  restartBackoff: BackoffOptions;
  imageBackoff: BackoffOptions;
  /** How long a failed sandbox or volume waits for the next try, in milliseconds. */
  retryMs: number;
  /** How often volumes made from the API are brought up to date, in milliseconds. */
  volumesMs: number;
}

export interface PodIdentity {
  namespace: string;
  name: string;
  uid: string;
}

/** A port of the node that leads to a port of the pod, in CNI's words (capability portMappings). */
export interface HostPort {
  hostPort: number;
  containerPort: number;
  protocol: string;
  hostIP?: string;
}

/** Joins pods to the network: CNI, as this host is configured. */
export interface PodNetwork {
  /** Whether pods can be joined now; else why not. */
  notReady(): string | undefined;
  /** @throws the plugin's error. Returns the pod's addresses, at least one. */
  add(
    pod: PodIdentity & { hostPorts?: readonly HostPort[] },
    sandboxId: string,
    ns: NetNs,
  ): Promise<string[]>;
  /** Idempotent. */
  remove(pod: PodIdentity, sandboxId: string, ns: NetNs): Promise<void>;
  /** Gives back everything that a former life of the agent took; called before the first add. */
  collectGarbage(): Promise<void>;
  /** The same, of what the agent itself has added: for the rest another one of the machine answers. */
  giveBackOwn(): Promise<void>;
}

export interface PodEnvironment {
  nodeName: string;
  /** One a family, the primary one first. */
  nodeIPs: readonly string[];
  /** What the node can give, by resource. */
  allocatable: Readonly<Record<string, string>>;
  /** The host's own namespace: probes leave from it, hostNetwork pods live in it. */
  hostNs: NetNs;
  /** This host's /var. */
  rootDir: string;
  client: KubeClient;
  /** All Services of the cluster as known now. */
  services(): readonly Stored<Service>[];
  events: EventRecorder;
  network: PodNetwork;
  runtime: ContainerRuntime;
  /** For pods that ask for it, where {@link runtime} is another one. */
  emulated: ContainerRuntime;
  clusterDNS: string | undefined;
  clusterDomain: string;
  /** The node's own resolver configuration. */
  nodeDns: DnsConfig;
  timing: PodTiming;
  log: Logger;
}

/** RFC 3339, seconds: metav1.Time. */
export function apiTime(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}Z`;
}
