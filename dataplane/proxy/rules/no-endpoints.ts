// The filter table's side: what happens to new connections that find no endpoint.
// Pure. Nothing of it matches once the nat table has rewritten the destination.

import type { Rule } from "../../iptables/index.js";
import { jump, matchPort, rule, TO_THIS_HOST } from "./context.js";
import type { Decision } from "./decision.js";

/** filter KUBE-SERVICES. */
export function internalDeadEndRules({ port, internalDeadEnd: end }: Decision): Rule[] {
  if (!end) return [];
  return [rule(end.comment, ...matchPort(port, port.port, port.clusterIP), ...jump(end.target))];
}

/** filter KUBE-EXTERNAL-SERVICES. */
export function externalDeadEndRules({ port, externalDeadEnd: end }: Decision): Rule[] {
  if (!end) return [];
  const rules = [...port.externalIPs, ...port.loadBalancerIPs].map((ip) =>
    rule(end.comment, ...matchPort(port, port.port, ip), ...jump(end.target)),
  );
  if (port.nodePort) {
    rules.push(rule(end.comment, ...TO_THIS_HOST, ...matchPort(port, port.nodePort), ...jump(end.target)));
  }
  return rules;
}
