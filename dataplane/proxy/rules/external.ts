// Traffic from outside: external IPs, load-balancer IPs and node ports, and the EXT chain that they all enter.
// Pure. Source ranges (the FW chain) will stand between a load-balancer IP and EXT.

import type { Rule } from "../../iptables/index.js";
import { KUBE_MARK_MASQ, KUBE_NODEPORTS } from "../names.js";
import { jump, matchPort, type RuleContext, rule, TO_THIS_HOST } from "./context.js";
import type { Decision } from "./decision.js";

/** nat KUBE-SERVICES. */
export function externalIPRules({ port, hasExternalChain, chains }: Decision): Rule[] {
  if (!hasExternalChain) return [];
  const to = (ip: string, kind: string) =>
    rule(`${port.id} ${kind}`, ...matchPort(port, port.port, ip), ...jump(chains.ext));
  return [
    ...port.externalIPs.map((ip) => to(ip, "external IP")),
    ...port.loadBalancerIPs.map((ip) => to(ip, "loadbalancer IP")),
  ];
}

/** nat KUBE-NODEPORTS. */
export function nodePortRules({ port, hasExternalChain, chains }: Decision): Rule[] {
  if (!hasExternalChain || !port.nodePort) return [];
  return [rule(port.id, ...matchPort(port, port.nodePort), ...jump(chains.ext))];
}

/**
 * The last rule of nat KUBE-SERVICES: whatever is addressed to this host and was not a service IP. Without
 * localhost node ports 127/8 is left out; IPv6 has no route_localnet, so ::1 always is.
 */
export function nodePortTailRule(context: RuleContext): Rule {
  const loopback = context.family === 6 ? "::1/128" : "127.0.0.0/8";
  const except = context.localhostNodePorts ? [] : ["!", "-d", loopback];
  return rule(
    "kubernetes service nodeports; NOTE: this must be the last rule in this chain",
    ...TO_THIS_HOST,
    ...except,
    ...jump(KUBE_NODEPORTS),
  );
}

/** nat KUBE-EXT-x. */
export function externalChainRules(decision: Decision, context: RuleContext): Rule[] {
  const { port, chains, external } = decision;
  const rules = port.externalLocal ? localPolicySources(decision, context) : [masqueradeAll(port.id)];
  if (external) rules.push(rule(undefined, ...jump(port.externalLocal ? chains.svl : chains.svc)));
  return rules;
}

/** Any node may forward to any endpoint, so the answer must come back here. */
function masqueradeAll(id: string): Rule {
  return rule(`masquerade traffic for ${id} external destinations`, ...jump(KUBE_MARK_MASQ));
}

/**
 * Policy Local binds only traffic that comes from outside: pods and processes of the node reach every endpoint, as
 * if they had gone out and come back. What is left goes on with its source address untouched.
 */
function localPolicySources({ port, chains }: Decision, context: RuleContext): Rule[] {
  const rules: Rule[] = [];
  const fromHost = ["-m", "addrtype", "--src-type", "LOCAL"];
  if (context.clusterCIDR) {
    const comment = `pod traffic for ${port.id} external destinations`;
    rules.push(rule(comment, "-s", context.clusterCIDR, ...jump(chains.svc)));
  }
  rules.push(
    rule(
      `masquerade LOCAL traffic for ${port.id} external destinations`,
      ...fromHost,
      ...jump(KUBE_MARK_MASQ),
    ),
    rule(`route LOCAL traffic for ${port.id} external destinations`, ...fromHost, ...jump(chains.svc)),
  );
  return rules;
}
