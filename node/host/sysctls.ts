// Kernel settings that forwarding for pods needs, in the host's namespace. They are per namespace; one that cannot be
// written (an older kernel, a container) is told of, not fatal: it may be right already.

import type { IpFamily } from "../../common/ip.js";
import type { Logger } from "../../common/log.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";

const NO_FORWARDING = "no packet is forwarded to or from pods";
const NO_BRIDGE_CALLS =
  "a Service whose endpoint is on the same node as the client does not answer (load br_netfilter)";

type Needed = readonly [name: string, value: string, without: string];

/** Name, value, and what does not work without it. */
const IPV4: readonly Needed[] = [
  ["net/ipv4/ip_forward", "1", NO_FORWARDING],
  ["net/bridge/bridge-nf-call-iptables", "1", NO_BRIDGE_CALLS],
  [
    "net/ipv4/conf/all/rp_filter",
    "0",
    "packets that come by another way than they would leave may be dropped",
  ],
];
const IPV6: readonly Needed[] = [
  ["net/ipv6/conf/all/forwarding", "1", NO_FORWARDING],
  ["net/bridge/bridge-nf-call-ip6tables", "1", NO_BRIDGE_CALLS],
];

/** Sets what is not set. */
export function setHostSysctls(ns: NetNs, families: readonly IpFamily[], log: Logger): void {
  const needed = families.flatMap((family) => (family === 6 ? IPV6 : IPV4));
  for (const [name, value, without] of needed) {
    try {
      if (ns.sysctl(name) !== value) ns.sysctl(name, value);
    } catch (error) {
      log.warn({ err: error, sysctl: name, value }, `a sysctl could not be set; without it ${without}`);
    }
  }
}
