// What a node agent is made from, and what it is to those who run it.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { KubeClient } from "../common/client.js";
import type { InformerFactory } from "../common/informer.js";
import type { Taint } from "../common/k8s.js";
import type { Logger } from "../common/log.js";
import type { VariantChoice } from "../dataplane/iptables/index.js";
import type { NetNs } from "../dataplane/kernel/netns.js";
import type { ImageSpec } from "./images/index.js";
import type { KubeProxy } from "./kube-proxy/kube-proxy.js";
import type { PodTiming } from "./pods/environment.js";
import type { ContainerRuntime } from "./pods/runtime.js";

export interface NodeAgentOptions {
  /** Name of the Node object and of the host. */
  name: string;
  /** The host. */
  ns: NetNs;
  /** InternalIPs: the addresses on `uplink` under which other hosts reach this one, one a family. */
  nodeIPs: readonly string[];
  /** The interface that carries the overlay. */
  uplink: string;
  /** This host's /var: logs, CNI state, volumes. */
  rootDir: string;
  /** This host's /run. */
  runDir: string;
  client: KubeClient;
  /** May be shared by all agents of the process; the caller starts and stops it. */
  informers: InformerFactory;
  /** Of pods, one a family. */
  clusterCIDRs: readonly string[];
  /** Address of the cluster's DNS Service, if there is one. */
  clusterDNS?: string | undefined;
  /** Default cluster.local. */
  clusterDomain?: string;
  /** Added to the node's own (kubernetes.io/hostname, os, arch). */
  labels?: Readonly<Record<string, string>>;
  /** Set when the node registers for the first time. */
  taints?: readonly Taint[];
  /** What image names stand for, beside those that are built in; of the emulated runtime. */
  images?: Readonly<Record<string, ImageSpec>>;
  /** What runs the pods; default: the emulated runtime. The agent closes it when it stops. */
  runtime?: ContainerRuntime | undefined;
  /** Default <rootDir>/etc/cni/net.d. */
  cniConfDir?: string;
  /** Default /opt/cni/bin and /usr/lib/cni (Debian's). */
  cniBinDirs?: readonly string[];
  iptables: VariantChoice;
  /** The lock of iptables-legacy; default in `runDir`. On a machine it must be the one that all its programs use. */
  xtablesLock?: string;
  /** The only agent of this process: then only the pods of this node are asked for. */
  alone?: boolean;
  /** Capacity for pods; default 110, as the kubelet's. */
  maxPods?: number;
  /** Back-offs and retry intervals; default the kubelet's. */
  timing?: Partial<PodTiming>;
  log: Logger;
}

export interface NodeAgent {
  readonly name: string;
  readonly ns: NetNs;
  /** Resolves when the Node is Ready for the first time; rejects when the node is refused, or stopped before. */
  readonly ready: Promise<void>;
  readonly proxy: KubeProxy;
  /** The kubelet API; the path may or may not begin with /nodes/<name>. */
  handleRequest(req: IncomingMessage, res: ServerResponse): void;
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Where a pod lives on this node: its network namespace, and a process in it, if a real one runs. */
  podSandbox(namespace: string, name: string): { ns: NetNs; pid?: number } | undefined;
  /** iptables-save of the host, and ip6tables-save when it has IPv6. */
  rules(): Promise<string>;
  /**
   * Ends all pods and lets go of the host. `graceful`: signals first, and leaves the pod network properly; else as
   * fast as can be, the rest is the kernel's. API objects stay as they are.
   */
  stop(options: { graceful: boolean }): Promise<void>;
}
