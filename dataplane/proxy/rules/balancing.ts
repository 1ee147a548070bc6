// The body of a policy chain, and the chain of one endpoint.
// Pure.

import type { Rule } from "../../iptables/index.js";
import type { Endpoint, ServicePort } from "../model.js";
import { endpointChain, KUBE_MARK_MASQ } from "../names.js";
import { affinityRecord } from "./affinity.js";
import { jump, rule } from "./context.js";

/** Each of n endpoints gets 1/n: the i-th rule takes 1/(n−i) of what is left, the last takes the rest. */
export function balancingRules(port: ServicePort, endpoints: readonly Endpoint[]): Rule[] {
  return endpoints.map((endpoint, index) => {
    const left = endpoints.length - index;
    const dice =
      left > 1 ? ["-m", "statistic", "--mode", "random", "--probability", (1 / left).toFixed(10)] : [];
    const chain = endpointChain(port, endpoint);
    return rule(`${port.id} -> ${endpoint.text}`, ...dice, ...jump(chain));
  });
}

/** nat KUBE-SEP-x. A pod that reaches itself must not see its own address as the peer: hairpin is masqueraded. */
export function endpointRules(port: ServicePort, endpoint: Endpoint): Rule[] {
  const chain = endpointChain(port, endpoint);
  const { protocol, id } = port;
  return [
    rule(id, "-s", endpoint.ip, ...jump(KUBE_MARK_MASQ)),
    rule(
      id,
      ...affinityRecord(port, chain),
      ...["-m", protocol, "-p", protocol, "-j", "DNAT", "--to-destination", endpoint.text],
    ),
  ];
}
