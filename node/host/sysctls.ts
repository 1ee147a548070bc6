// Kernel settings that forwarding for pods needs, in the host's namespace. They are per namespace; one that cannot be
// written (an older kernel, a container) is told of, not fatal: it may be right already.

import type { Logger } from "../../common/log.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";

/** Name, value, and what does not work without it. */
const NEEDED: readonly [name: string, value: string, without: string][] = [
  ["net/ipv4/ip_forward", "1", "no packet is forwarded to or from pods"],
  [
    "net/bridge/bridge-nf-call-iptables",
    "1",
    "a Service whose endpoint is on the same node as the client does not answer (load br_netfilter)",
  ],
  [
    "net/ipv4/conf/all/rp_filter",
    "0",
    "packets that come by another way than they would leave may be dropped",
  ],
];

/** Sets what is not set. */
export function setHostSysctls(ns: NetNs, log: Logger): void {
  for (const [name, value, without] of NEEDED) {
    try {
      if (ns.sysctl(name) !== value) ns.sysctl(name, value);
    } catch (error) {
      log.warn({ err: error, sysctl: name, value }, `a sysctl could not be set; without it ${without}`);
    }
  }
}
