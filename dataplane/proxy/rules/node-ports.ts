// Which packets are looked up among the node ports, and the door for load balancers' health checks.
// Pure.

import type { Rule } from "../../iptables/index.js";
import { KUBE_NODEPORTS } from "../names.js";
import { jump, type RuleContext, rule, TO_THIS_HOST } from "./context.js";
import type { Decision } from "./decision.js";

const LAST = "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
const LOOPBACK = { 4: "127.0.0.0/8", 6: "::1/128" } as const;

function isLoopback(ip: string): boolean {
  return ip.startsWith("127.") || ip === "::1";
}

/**
 * The last rules of nat KUBE-SERVICES: whatever is addressed to this host and was not a service IP. Loopback needs
 * route_localnet, which IPv6 does not have.
 */
export function nodePortTailRules({ family, nodePortIPs, localhostNodePorts }: RuleContext): Rule[] {
  const to = jump(KUBE_NODEPORTS);
  if (!nodePortIPs) {
    const except = localhostNodePorts ? [] : ["!", "-d", LOOPBACK[family]];
    return [rule(LAST, ...TO_THIS_HOST, ...except, ...to)];
  }
  const answering = nodePortIPs.filter((ip) => localhostNodePorts || !isLoopback(ip));
  return answering.map((ip) => rule(LAST, "-d", ip, ...to));
}

/** filter KUBE-NODEPORTS. Load balancers must get an answer from nodes without endpoints too, so no other condition. */
export function healthCheckRules({ port }: Decision): Rule[] {
  const { id, healthCheckNodePort } = port;
  if (!healthCheckNodePort) return [];
  const match = ["-m", "tcp", "-p", "tcp", "--dport", String(healthCheckNodePort)];
  return [rule(`${id} health check node port`, ...match, ...jump("ACCEPT"))];
}
