// The kernel's connection tracking, sized and timed as kube-proxy does it (KubeProxyConntrackConfiguration).
// Deciding is pure; applying touches the sysctls of one namespace and nothing else.

import { availableParallelism } from "node:os";
import type { Logger } from "../../common/log.js";
import type { NetNs } from "../kernel/netns.js";

export interface ConntrackOptions {
  /** Entries a CPU; 0: the limit stays as it is. Default 32768. */
  maxPerCore?: number;
  /** Least number of entries in all. Default 131072. */
  min?: number;
  /** Seconds; 0 leaves it as it is. Default 86400. */
  tcpEstablishedTimeout?: number;
  /** Seconds; 0 leaves it as it is. Default 3600. */
  tcpCloseWaitTimeout?: number;
  /** Accept TCP outside the window; then INVALID packets need not be dropped. Default false. */
  tcpBeLiberal?: boolean;
  /** Seconds for a UDP flow that has seen no answer. Default 0: as it is. */
  udpTimeout?: number;
  /** Seconds for a UDP flow that has seen answers. Default 0: as it is. */
  udpStreamTimeout?: number;
}

const MAX = "net/netfilter/nf_conntrack_max";
const BUCKETS = "net/netfilter/nf_conntrack_buckets";
export const TCP_BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal";
/** However many CPUs there are; more costs memory for nothing. */
const LARGEST_MAX = 1 << 20;

/** What the sysctls should be, in the order in which they are set. */
export function conntrackSysctls(options: ConntrackOptions, cores: number): [key: string, value: number][] {
  const {
    maxPerCore = 32_768,
    min = 131_072,
    tcpEstablishedTimeout = 86_400,
    tcpCloseWaitTimeout = 3600,
    tcpBeLiberal = false,
    udpTimeout = 0,
    udpStreamTimeout = 0,
  } = options;
  const wanted: [string, number][] = [
    [MAX, maxPerCore > 0 ? Math.max(Math.min(maxPerCore * cores, LARGEST_MAX), min) : 0],
    ["net/netfilter/nf_conntrack_tcp_timeout_established", tcpEstablishedTimeout],
    ["net/netfilter/nf_conntrack_tcp_timeout_close_wait", tcpCloseWaitTimeout],
    [TCP_BE_LIBERAL, tcpBeLiberal ? 1 : 0],
    ["net/netfilter/nf_conntrack_udp_timeout", udpTimeout],
    ["net/netfilter/nf_conntrack_udp_timeout_stream", udpStreamTimeout],
  ];
  return wanted.filter(([, value]) => value > 0);
}

/**
 * Sets what differs. The size of the table belongs to the machine: a namespace of its own may read it and not write
 * it, which is no fault there and told at level debug; anything else that is refused is a warning.
 */
export function applyConntrackSysctls(
  ns: Pick<NetNs, "sysctl">,
  options: ConntrackOptions,
  log: Logger,
  cores = availableParallelism(),
): void {
  for (const [key, value] of conntrackSysctls(options, cores)) {
    try {
      if (Number(ns.sysctl(key)) === value) continue;
      ns.sysctl(key, value);
      // The table itself does not grow with the limit: four entries a bucket.
      if (key === MAX && Number(ns.sysctl(BUCKETS)) < value / 4) ns.sysctl(BUCKETS, Math.ceil(value / 4));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const level = key === MAX && (code === "EACCES" || code === "EPERM") ? "debug" : "warn";
      log[level]({ err: error, sysctl: key, value }, `cannot set ${key}`);
    }
  }
}
