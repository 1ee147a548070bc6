// Traffic from outside: external IPs, load-balancer IPs and node ports, and the EXT chain that they all enter.
// Pure. Which of the host's addresses answer on node ports says node-ports.ts, who may use a load-balancer IP
// source-ranges.ts.

import type { Rule } from "../../iptables/index.js";
import { KUBE_MARK_MASQ, PACKET_COUNTERS } from "../names.js";
import { countAs, jump, matchPort, type RuleContext, rule } from "./context.js";
import type { Decision } from "./decision.js";

/** nat KUBE-SERVICES. */
export function externalIPRules({ port, hasExternalChain, hasSourceRanges, chains }: Decision): Rule[] {
  if (!hasExternalChain) return [];
  const to = (ip: string, kind: string, chain: string) =>
    rule(`${port.id} ${kind}`, ...matchPort(port, port.port, ip), ...jump(chain));
  return [
    ...port.externalIPs.map((ip) => to(ip, "external IP", chains.ext)),
    ...port.loadBalancerIPs.map((ip) => to(ip, "loadbalancer IP", hasSourceRanges ? chains.fw : chains.ext)),
  ];
}

/** nat KUBE-NODEPORTS. Connections by way of loopback are counted: it shows whether anybody needs route_localnet. */
export function nodePortRules({ port, hasExternalChain, chains }: Decision, context: RuleContext): Rule[] {
  if (!hasExternalChain || !port.nodePort) return [];
  const onLoopback = matchPort(port, port.nodePort, "127.0.0.0/8");
  const counted = rule(
    port.id,
    ...onLoopback,
    ...countAs(PACKET_COUNTERS.localhostAccepted),
    ...jump(chains.ext),
  );
  return [
    ...(context.packetCounters && context.localhostNodePorts ? [counted] : []),
    rule(port.id, ...matchPort(port, port.nodePort), ...jump(chains.ext)),
  ];
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
  if (context.localDetector) {
    const comment = `pod traffic for ${port.id} external destinations`;
    rules.push(rule(comment, ...context.localDetector.isLocal, ...jump(chains.svc)));
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
