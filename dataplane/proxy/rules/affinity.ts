// ClientIP affinity by xt_recent: one list of client addresses an endpoint, named like its chain.
// Pure. The kernel keeps 100 addresses a list by default (ip_list_tot), which is upstream's limit too.

import type { Rule } from "../../iptables/index.js";
import type { Endpoint, ServicePort } from "../model.js";
import { endpointChain } from "../names.js";
import { endpointRule, jump, type RuleContext } from "./context.js";

/** Before any balancing: who was seen at an endpoint within the time-out goes there again. */
export function affinityRules(
  port: ServicePort,
  endpoints: readonly Endpoint[],
  context: RuleContext,
): Rule[] {
  if (!port.affinitySeconds) return [];
  const seconds = String(port.affinitySeconds);
  return endpoints.map((endpoint) => {
    const chain = endpointChain(port, endpoint);
    const seen = ["-m", "recent", "--name", chain, "--rcheck", "--seconds", seconds, "--reap"];
    return endpointRule(context, `${port.id} -> ${endpoint.text}`, ...seen, ...jump(chain));
  });
}

/** Goes on the endpoint's DNAT rule: remembers the client. */
export function affinityRecord(port: ServicePort, chain: string): string[] {
  return port.affinitySeconds ? ["-m", "recent", "--name", chain, "--set"] : [];
}
