// The body of a policy chain, and the chain of one endpoint.
// Pure.

import type { Rule } from "../../iptables/index.js";
import type { Endpoint, ServicePort } from "../model.js";
import { endpointChain, KUBE_MARK_MASQ } from "../names.js";
import { affinityRecord } from "./affinity.js";
import { endpointRule, jump, type RuleContext } from "./context.js";

/** Each of n endpoints gets 1/n: the i-th rule takes 1/(n−i) of what is left, the last takes the rest. */
export function balancingRules(
  port: ServicePort,
  endpoints: readonly Endpoint[],
  context: RuleContext,
): Rule[] {
  return endpoints.map((endpoint, index) => {
    const left = endpoints.length - index;
    const dice =
      left > 1 ? ["-m", "statistic", "--mode", "random", "--probability", (1 / left).toFixed(10)] : [];
    const chain = endpointChain(port, endpoint);
    return endpointRule(context, `${port.id} -> ${endpoint.text}`, ...dice, ...jump(chain));
  });
}

/** nat KUBE-SEP-x. A pod that reaches itself must not see its own address as the peer: hairpin is masqueraded. */
export function endpointRules(port: ServicePort, endpoint: Endpoint, context: RuleContext): Rule[] {
  const chain = endpointChain(port, endpoint);
  const { protocol, id } = port;
  return [
    endpointRule(context, id, "-s", endpoint.ip, ...jump(KUBE_MARK_MASQ)),
    endpointRule(
      context,
      id,
      ...affinityRecord(port, chain),
      ...["-m", protocol, "-p", protocol, "-j", "DNAT", "--to-destination", endpoint.text],
    ),
  ];
}
