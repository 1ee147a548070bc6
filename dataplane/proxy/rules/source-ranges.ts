// Who may use a Service's load-balancer addresses (spec.loadBalancerSourceRanges). Node ports are never asked.
// Pure.

import { Cidr } from "../../../common/ip.js";
import type { Rule } from "../../iptables/index.js";
import { KUBE_PROXY_FIREWALL } from "../names.js";
import { jump, matchPort, type RuleContext, rule } from "./context.js";
import type { Decision } from "./decision.js";

/**
 * nat KUBE-FW-x: who is allowed goes on to EXT. The rest falls off the end with its destination as it was, and dies in
 * the filter table; the last rule does nothing but say so.
 */
export function sourceRangeRules({ port, chains }: Decision, { nodeIP }: RuleContext): Rule[] {
  const allow = (source: string) => rule(`${port.id} loadbalancer IP`, "-s", source, ...jump(chains.ext));
  // Where the address is one of the host's own, the node's requests to it have it as their source too.
  const looped =
    nodeIP !== undefined && port.sourceRanges.some((range) => Cidr.parse(range).contains(nodeIP));
  return [
    ...port.sourceRanges.map(allow),
    ...(looped ? port.loadBalancerIPs.map(allow) : []),
    rule(`other traffic to ${port.id} will be dropped by ${KUBE_PROXY_FIREWALL}`),
  ];
}

/** filter KUBE-PROXY-FIREWALL: a packet that still has the load balancer's address was not let through. */
export function refusedSourceRules({ port, chains, hasSourceRanges }: Decision): Rule[] {
  if (!hasSourceRanges) return [];
  const comment = `${port.id} traffic not accepted by ${chains.fw}`;
  return port.loadBalancerIPs.map((ip) => rule(comment, ...matchPort(port, port.port, ip), ...jump("DROP")));
}
