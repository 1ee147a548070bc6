// The shapes that a lab shows to its users: what may be configured, what `up` and `status` answer.
// Knows types only.

import type { Taint } from "../common/k8s.js";

export const CONFIG_API_VERSION = "kubeplumb.dev/v1alpha1";
export const CONFIG_KIND = "Cluster";

/** Which address families a cluster speaks. */
export type IpFamilies = "ipv4" | "ipv6" | "dual";

/** Which iptables programs the hosts use; `auto` is what this machine's `iptables` command is. */
export type IptablesMode = "auto" | "nft" | "legacy";

/** A port on this machine that leads to a NodePort of the cluster. */
export interface Publish {
  /** TCP port on this machine, 1–65535. */
  hostPort: number;
  /** TCP port on the hosts of the lab: a Service's nodePort. */
  nodePort: number;
  /** Literal loopback address to listen on. Default 127.0.0.1. */
  address?: string;
}

/** What an image name stands for: a known image's behaviour, or a command of this machine. */
export type ImageMapping =
  | string
  | { image?: string; command?: string[]; args?: string[]; env?: Record<string, string> };

/** One host, as it may be written in a configuration. */
export interface NodeConfig {
  /** DNS label. Default `node-<number>`. */
  name?: string;
  labels?: Record<string, string>;
  taints?: Taint[];
}

/** A cluster configuration (`apiVersion: kubeplumb.dev/v1alpha1`, `kind: Cluster`); everything has a default. */
export interface ClusterConfig {
  apiVersion?: typeof CONFIG_API_VERSION;
  kind?: typeof CONFIG_KIND;
  /** DNS label; default `kubeplumb`. */
  name?: string;
  networking?: {
    /**
     * Default `ipv4`. With `dual` each of the networks below is two with a comma between them, in all of them the same
     * family first: the primary one, IPv4 when none is given.
     */
    ipFamily?: IpFamilies;
    /** Network of the pods, a /24 (IPv4) or /64 (IPv6) of it for each host. Default 10.244.0.0/16, fd00:10:244::/56. */
    podSubnet?: string;
    /** Network of ClusterIPs. Default 10.96.0.0/16, fd00:10:96::/112. */
    serviceSubnet?: string;
    /** Network of the hosts. Default 192.168.56.0/21, fd00:192:168:56::/64. */
    nodeSubnet?: string;
    /**
     * Addresses of the node network for Services of type LoadBalancer, `first-last`; with `dual` two ranges. Default
     * 51 of them from 192.168.56.200 on, or behind the last host; "" is none.
     */
    loadBalancerPool?: string;
    /** Default `auto`. */
    iptables?: IptablesMode;
    /** `first-last`, both inclusive. Default 30000-32767. */
    nodePortRange?: string;
  };
  /** The cluster's DNS (Service kube-system/kube-dns): on by default, for names that end in cluster.local. */
  dns?: { enabled?: boolean; domain?: string };
  /** How many hosts, or what each is. Default 3. */
  nodes?: number | NodeConfig[];
  images?: Record<string, ImageMapping>;
  publish?: Publish[];
  controlPlane?: {
    /** TCP port of the API on 127.0.0.1; default one that is free, kept for the life of the cluster. */
    apiPort?: number;
    /** Default 40. */
    nodeMonitorGracePeriodSeconds?: number;
    /** Default 300. */
    defaultTolerationSeconds?: number;
  };
}

/** One host, everything decided. */
export interface ResolvedNode {
  name: string;
  ip: string;
  /** One a family, `ip` first. */
  ips: string[];
  labels: Record<string, string>;
  taints: Taint[];
}

/** A configuration with every default filled in: what `cluster.json` keeps. */
export interface ResolvedConfig {
  name: string;
  networking: {
    ipFamily: IpFamilies;
    podSubnet: string;
    serviceSubnet: string;
    nodeSubnet: string;
    /** Empty when there is no address left for it. */
    loadBalancerPool: string;
    iptables: IptablesMode;
    nodePortRange: [number, number];
  };
  /** Absent in what older versions have kept: no DNS. */
  dns?: { enabled: boolean; domain: string };
  nodes: ResolvedNode[];
  images: Record<string, ImageMapping>;
  publish: Required<Publish>[];
  controlPlane: {
    /** 0 until control has chosen one. */
    apiPort: number;
    nodeMonitorGracePeriodSeconds: number;
    defaultTolerationSeconds: number;
  };
}

/** A step of `up`, for a progress display. `ms` comes with `done` and `failed`. */
export interface StepEvent {
  id: "control" | "hosts" | "nodes";
  title: string;
  state: "start" | "done" | "failed";
  ms?: number;
  detail?: string;
}

/** How to reach a cluster. */
export interface ClusterInfo {
  name: string;
  /** State directory. */
  dir: string;
  /** https://127.0.0.1:PORT */
  server: string;
  /** The API without TLS, for whoever may open the file (mode 0600). */
  controlSocket: string;
  /** Kubelet API, exec in hosts, dial: docs/architecture.md. */
  labSocket: string;
  kubeconfigPath: string;
  /** kubeplumb-NAME */
  contextName: string;
  nodes: { name: string; ip: string }[];
  published: Required<Publish>[];
}

/** What `up` did. */
export interface UpResult extends ClusterInfo {
  /** created: was not there; repaired: a dead process was started again; running: nothing had to be done. */
  outcome: "created" | "repaired" | "running";
  /** The processes that were started. */
  started: ProcessRole[];
}

export type ProcessRole = "control" | "lab";

/** One of the two processes of a cluster. */
export interface ProcessStatus {
  running: boolean;
  /** Process id on this machine, when running. */
  pid?: number;
  /** RFC 3339. */
  startedAt?: string;
  /** Resident memory in bytes. For lab: of the process itself; its children are in `status().lab`. */
  memoryBytes?: number;
  /** Where its log is. */
  log: string;
}

/** What the lab process answers to GET /status. */
export interface LabStatus {
  hosts: { name: string; ip: string; ready: boolean; pods: number }[];
  pods: number;
  /** Processes in the lab's PID namespace, the lab's own among them. */
  processes: number;
  /** Resident memory of the lab process in bytes. */
  memoryBytes: number;
  uptimeSeconds: number;
}

/** The state of a cluster as seen from outside. */
export interface ClusterStatus {
  name: string;
  exists: boolean;
  /** running: both processes answer; degraded: one is missing or silent; stopped: none runs. */
  state: "running" | "degraded" | "stopped" | "absent";
  info?: ClusterInfo;
  control: ProcessStatus;
  lab: ProcessStatus & { pods?: number; processes?: number };
  /** As the lab tells it; empty when it does not answer. */
  nodes: { name: string; ip: string; ready: boolean; pods: number }[];
  /** What is wrong, in words, with what to do about it. */
  problems: string[];
}

export interface UpOptions {
  name?: string;
  /** How many hosts; wins over the configuration. */
  nodes?: number;
  config?: ClusterConfig;
  /** Added to those of the configuration. */
  publish?: Publish[];
  apiPort?: number;
  /** Directory that holds the state directories of clusters; default {@link stateHome}(). */
  home?: string;
  /**
   * Ties the life of the cluster to the calling process: when that ends, however it ends, both processes end
   * and the state is removed. For tests.
   */
  ephemeral?: boolean;
  onStep?: (event: StepEvent) => void;
}
