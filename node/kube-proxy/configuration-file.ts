// From a resolved configuration back to kube-proxy's file, every default written out, and to what the dataplane takes.
// Pure.

import { formatDuration } from "../../common/duration.js";
import type { ConntrackOptions, DetectLocal } from "../../dataplane/proxy/index.js";
import type { BindAddress, KubeProxyConfiguration } from "./configuration.js";

function bindText(at: BindAddress | undefined): string {
  if (!at) return "";
  return at.host.includes(":") ? `[${at.host}]:${at.port}` : `${at.host}:${at.port}`;
}

/** An object of kind KubeProxyConfiguration; reading it gives the same configuration again. */
export function configurationFile(from: KubeProxyConfiguration): Record<string, unknown> {
  const { conntrack, iptables } = from;
  return {
    apiVersion: "kubeproxy.config.k8s.io/v1alpha1",
    kind: "KubeProxyConfiguration",
    bindAddress: from.bindAddress,
    bindAddressHardFail: from.bindAddressHardFail,
    clientConnection: { kubeconfig: from.kubeconfig },
    clusterCIDR: from.clusterCIDRs.join(","),
    conntrack: {
      maxPerCore: conntrack.maxPerCore,
      min: conntrack.min,
      tcpBeLiberal: conntrack.tcpBeLiberal,
      tcpCloseWaitTimeout: formatDuration(conntrack.tcpCloseWaitTimeoutMs),
      tcpEstablishedTimeout: formatDuration(conntrack.tcpEstablishedTimeoutMs),
      udpStreamTimeout: formatDuration(conntrack.udpStreamTimeoutMs),
      udpTimeout: formatDuration(conntrack.udpTimeoutMs),
    },
    detectLocal: { ...from.detectLocal },
    detectLocalMode: from.detectLocalMode,
    healthzBindAddress: bindText(from.healthzBindAddress),
    hostnameOverride: from.hostnameOverride,
    iptables: {
      localhostNodePorts: iptables.localhostNodePorts,
      masqueradeAll: iptables.masqueradeAll,
      masqueradeBit: iptables.masqueradeBit,
      minSyncPeriod: formatDuration(iptables.minSyncPeriodMs),
      syncPeriod: formatDuration(iptables.syncPeriodMs),
    },
    metricsBindAddress: bindText(from.metricsBindAddress),
    mode: "iptables",
    nodePortAddresses: from.nodePortAddresses,
    oomScoreAdj: from.oomScoreAdj,
  };
}

/** undefined: nobody is known to be a pod (mode ClusterCIDR without a CIDR). */
export function detectLocalOf(from: KubeProxyConfiguration): DetectLocal | undefined {
  const { detectLocalMode: mode, detectLocal, clusterCIDRs } = from;
  switch (mode) {
    case "ClusterCIDR":
      return clusterCIDRs.length > 0 ? { mode, cidrs: clusterCIDRs } : undefined;
    case "NodeCIDR":
      return { mode };
    case "BridgeInterface":
      return { mode, interface: detectLocal.bridgeInterface };
    case "InterfaceNamePrefix":
      return { mode, prefix: detectLocal.interfaceNamePrefix };
  }
}

/** Time-outs in seconds, as the kernel has them. */
export function conntrackOf({ conntrack }: KubeProxyConfiguration): ConntrackOptions {
  const { tcpEstablishedTimeoutMs, tcpCloseWaitTimeoutMs, udpTimeoutMs, udpStreamTimeoutMs, ...rest } =
    conntrack;
  return {
    ...rest,
    tcpEstablishedTimeout: tcpEstablishedTimeoutMs / 1000,
    tcpCloseWaitTimeout: tcpCloseWaitTimeoutMs / 1000,
    udpTimeout: udpTimeoutMs / 1000,
    udpStreamTimeout: udpStreamTimeoutMs / 1000,
  };
}
