// What a service proxy is told when it is made, and what follows from that for the rules.
// Pure.

import { ipFamily } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import type { IptablesDriver } from "../iptables/index.js";
import type { NetNs } from "../kernel/netns.js";
import type { ConntrackOptions } from "./conntrack-sysctls.js";
import type { ServiceHealthCheck } from "./health.js";
import type { ProxyMetrics } from "./metrics.js";
import type { NodePortAddresses } from "./node-port-addresses.js";
import type { RuleContext } from "./rules/context.js";
import { type DetectLocal, localDetector } from "./rules/local-detector.js";
import type { Clock } from "./runner.js";

export interface ServiceProxyOptions {
  /** The host's namespace; rules, sysctls and conntrack of no other are touched. */
  ns: Pick<NetNs, "run" | "sysctl" | "name">;
  /** Its family is the proxy's: a dual-stack node has two proxies. */
  iptables: IptablesDriver;
  /** Endpoints with this nodeName are local. */
  nodeName: string;
  /** Addresses of the node, its primary one first; those that the namespace has besides are found anyway. */
  nodeIPs: readonly string[];
  /** What pods are known by (--detect-local-mode). Default: nothing; then nobody's source is spared or replaced. */
  detectLocal?: DetectLocal;
  /** Milliseconds from the end of one sync to the start of the next; after a pause three go at once. Default 1000. */
  minSyncPeriodMs?: number;
  /** Milliseconds between looks after flushed tables, and the longest delay after a failure. Default 30000. */
  syncPeriodMs?: number;
  /** NodePorts on 127.0.0.1 (IPv4); sets route_localnet in the namespace. Default true. */
  localhostNodePorts?: boolean;
  /** CIDRs of the node's addresses that answer on node ports, or `primary`. Default: all. */
  nodePortAddresses?: readonly string[];
  /** Masquerade all traffic to ClusterIPs. Default false. */
  masqueradeAll?: boolean;
  /** Bit of the packet mark that asks for masquerade, 0 to 31. Default 14. */
  masqueradeBit?: number;
  /** Size and time-outs of the connection tracking. Default: kube-proxy's. */
  conntrack?: ConntrackOptions;
  /** After each sync: what the health check ports must answer from now on. */
  onHealthChecks?: (checks: readonly ServiceHealthCheck[]) => void;
  log: Logger;
  /** Default: a registry of its own. */
  metrics?: ProxyMetrics;
  /** For tests. */
  clock?: Clock;
}

/** What the proxy reads of its own Node. */
export interface NodeFacts {
  readonly zone: string | undefined;
  readonly podCIDRs: readonly string[];
  /** False when the node is on its way out: load balancers shall leave it. */
  readonly eligible: boolean;
}

export const UNKNOWN_NODE: NodeFacts = { zone: undefined, podCIDRs: [], eligible: true };

const ZONE_LABEL = "topology.kubernetes.io/zone";
/** The cluster autoscaler's, before it takes a node away. */
const TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler";

export function nodeFacts({ metadata, spec }: Stored<Node>): NodeFacts {
  const tainted = spec?.taints?.some(({ key }) => key === TO_BE_DELETED) ?? false;
  return {
    zone: metadata.labels?.[ZONE_LABEL],
    podCIDRs: spec?.podCIDRs ?? (spec?.podCIDR ? [spec.podCIDR] : []),
    eligible: metadata.deletionTimestamp === undefined && !tainted,
  };
}

/** @throws RangeError unless it is a bit of a packet mark. */
function markOf(bit = 14): string {
  if (!Number.isInteger(bit) || bit < 0 || bit > 31)
    throw new RangeError(`masqueradeBit ${bit} is not in 0..31`);
  return `0x${(2 ** bit).toString(16)}`;
}

/** What a sync finds out anew. */
export interface HostFacts {
  readonly node: NodeFacts;
  /** Addresses of the namespace's interfaces. */
  readonly addresses: readonly string[];
  readonly tcpBeLiberal: boolean;
  readonly packetCounters: boolean;
  readonly endpointComments: boolean;
}

/** @throws RangeError for options that no rules can be made of. */
export function ruleContext(
  options: ServiceProxyOptions,
  nodePorts: NodePortAddresses,
  { node, addresses, tcpBeLiberal, packetCounters, endpointComments }: HostFacts,
): RuleContext {
  const {
    iptables,
    nodeName,
    nodeIPs,
    detectLocal,
    localhostNodePorts = true,
    masqueradeAll = false,
  } = options;
  const { family, randomFully } = iptables;
  return {
    family,
    place: { name: nodeName, zone: node.zone },
    nodeIP: nodeIPs.find((ip) => ipFamily(ip) === family),
    localDetector: localDetector(detectLocal, family, node.podCIDRs),
    masqueradeAll,
    masqueradeMark: markOf(options.masqueradeBit),
    nodePortIPs: nodePorts.all ? undefined : nodePorts.matching(addresses),
    localhostNodePorts: localhostNodePorts && nodePorts.loopback,
    endpointComments,
    randomFully,
    tcpBeLiberal,
    packetCounters,
  };
}
