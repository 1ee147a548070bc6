// Traffic to a ClusterIP: its way into the port's chain, and whose source address is replaced on that way.
// Pure.

import type { Rule } from "../../iptables/index.js";
import { KUBE_MARK_MASQ } from "../names.js";
import { jump, matchPort, type RuleContext, rule } from "./context.js";
import type { Decision } from "./decision.js";

/** nat KUBE-SERVICES. */
export function clusterIPRules({ port, internal }: Decision): Rule[] {
  if (!internal) return [];
  return [rule(`${port.id} cluster IP`, ...matchPort(port, port.port, port.clusterIP), ...jump(internal))];
}

/**
 * Head of the internal chain. Pods keep their address; who comes from elsewhere would get the answer past this
 * node, so it is masqueraded. The destination is matched again because external traffic shares the chain.
 */
export function internalMasqueradeRules({ port }: Decision, context: RuleContext): Rule[] {
  const match = matchPort(port, port.port, port.clusterIP);
  const comment = `${port.id} cluster IP`;
  if (context.masqueradeAll) return [rule(comment, ...match, ...jump(KUBE_MARK_MASQ))];
  if (!context.localDetector) return [];
  return [rule(comment, ...match, ...context.localDetector.isNotLocal, ...jump(KUBE_MARK_MASQ))];
}
