// From one service port's state to its chains and to its lines in the chains that all ports share; and from all
// ports to a whole restore input. Pure: render(state) → ruleset, nothing is remembered here.

import { type Chain, type Rule, renderRestore, type TableName } from "../iptables/index.js";
import type { Endpoint, PortState } from "./model.js";
import {
  endpointChain,
  KUBE_EXTERNAL_SERVICES,
  KUBE_NODEPORTS,
  KUBE_PROXY_FIREWALL,
  KUBE_SERVICES,
} from "./names.js";
import { affinityRules } from "./rules/affinity.js";
import { balancingRules, endpointRules } from "./rules/balancing.js";
import { clusterIPRules, internalMasqueradeRules } from "./rules/cluster-ip.js";
import type { RuleContext } from "./rules/context.js";
import { type Decision, decide } from "./rules/decision.js";
import { externalChainRules, externalIPRules, nodePortRules } from "./rules/external.js";
import { fixedChains } from "./rules/fixed.js";
import { externalDeadEndRules, internalDeadEndRules } from "./rules/no-endpoints.js";
import { healthCheckRules, nodePortTailRules } from "./rules/node-ports.js";
import { refusedSourceRules, sourceRangeRules } from "./rules/source-ranges.js";

/** The chains that collect lines of many service ports. */
export const SHARED_CHAINS = [
  { id: "filter KUBE-SERVICES", table: "filter", name: KUBE_SERVICES },
  { id: "filter KUBE-EXTERNAL-SERVICES", table: "filter", name: KUBE_EXTERNAL_SERVICES },
  { id: "filter KUBE-NODEPORTS", table: "filter", name: KUBE_NODEPORTS },
  { id: "filter KUBE-PROXY-FIREWALL", table: "filter", name: KUBE_PROXY_FIREWALL },
  { id: "nat KUBE-SERVICES", table: "nat", name: KUBE_SERVICES },
  { id: "nat KUBE-NODEPORTS", table: "nat", name: KUBE_NODEPORTS },
] as const satisfies readonly { id: string; table: TableName; name: string }[];

export type SharedChainId = (typeof SHARED_CHAINS)[number]["id"];

export interface RenderedPort {
  /** Chains that belong to this port alone, all in the nat table. */
  readonly chains: readonly Chain[];
  /** Its rules in shared chains. */
  readonly shared: Readonly<Record<SharedChainId, readonly Rule[]>>;
  /** Traffic of these kinds is dropped here although the service has endpoints on other nodes. */
  readonly dropped: { readonly internal: boolean; readonly external: boolean };
}

export function renderPort(state: PortState, context: RuleContext): RenderedPort {
  const decision = decide(state, context.place);
  return {
    chains: portChainsOf(decision, context),
    shared: {
      "filter KUBE-SERVICES": internalDeadEndRules(decision),
      "filter KUBE-EXTERNAL-SERVICES": externalDeadEndRules(decision),
      "filter KUBE-NODEPORTS": healthCheckRules(decision),
      "filter KUBE-PROXY-FIREWALL": refusedSourceRules(decision),
      "nat KUBE-SERVICES": [...clusterIPRules(decision), ...externalIPRules(decision)],
      "nat KUBE-NODEPORTS": nodePortRules(decision, context),
    },
    dropped: {
      internal: decision.internalDeadEnd?.target === "DROP",
      external: state.port.externalLocal && decision.externalDeadEnd?.target === "DROP",
    },
  };
}

function portChainsOf(decision: Decision, context: RuleContext): Chain[] {
  const { port, chains, selection } = decision;
  const nat = (name: string, rules: Rule[]): Chain => ({ table: "nat", name, rules });
  const policy = (name: string, endpoints: readonly Endpoint[]): Chain =>
    nat(name, [
      ...(decision.internal === name ? internalMasqueradeRules(decision, context) : []),
      ...affinityRules(port, endpoints, context),
      ...balancingRules(port, endpoints, context),
    ]);
  const out: Chain[] = [];
  if (decision.hasClusterChain) out.push(policy(chains.svc, selection.cluster));
  if (decision.hasLocalChain) out.push(policy(chains.svl, selection.local));
  if (decision.hasExternalChain) out.push(nat(chains.ext, externalChainRules(decision, context)));
  if (decision.hasSourceRanges) out.push(nat(chains.fw, sourceRangeRules(decision, context)));
  for (const endpoint of selection.reachable) {
    out.push(nat(endpointChain(port, endpoint), endpointRules(port, endpoint, context)));
  }
  return out;
}

/** Rules that close a shared chain, after those of all ports. */
export function tailRules(id: SharedChainId, context: RuleContext): readonly Rule[] {
  return id === "nat KUBE-SERVICES" ? nodePortTailRules(context) : [];
}

/** Every chain of the proxy for a state, in the order in which they are sent. */
export function allChains(states: Iterable<PortState>, context: RuleContext): Chain[] {
  const sorted = [...states].sort((a, b) => (a.port.key < b.port.key ? -1 : 1));
  const ports = sorted.map((state) => renderPort(state, context));
  const shared = SHARED_CHAINS.map(({ id, table, name }) => ({
    table,
    name,
    rules: [...ports.flatMap((port) => port.shared[id]), ...tailRules(id, context)],
  }));
  return [...fixedChains(context), ...shared, ...ports.flatMap((port) => port.chains)];
}

/** The restore input that makes an empty kernel right, but for the jumps from the built-in chains (entryJumps). */
export function renderAll(states: Iterable<PortState>, context: RuleContext): string {
  return renderRestore(allChains(states, context));
}
