// Chains that are the same whatever Services there are, and the jumps from the kernel's own chains into ours.
// Pure.

import type { Chain, Rule, RuleAt } from "../../iptables/index.js";
import {
  KUBE_EXTERNAL_SERVICES,
  KUBE_FIREWALL,
  KUBE_FORWARD,
  KUBE_MARK_MASQ,
  KUBE_NODEPORTS,
  KUBE_POSTROUTING,
  KUBE_PROXY_CANARY,
  KUBE_PROXY_FIREWALL,
  KUBE_SERVICES,
  PACKET_COUNTERS,
} from "../names.js";
import { countAs, jump, type RuleContext, rule } from "./context.js";
import { nodePortTailRules } from "./node-ports.js";

function marked({ masqueradeMark }: RuleContext): string {
  return `${masqueradeMark}/${masqueradeMark}`;
}

/**
 * Lets service traffic past a FORWARD policy of DROP. A packet that conntrack calls INVALID would not be translated
 * back and make the client reset the connection (kubernetes/kubernetes#74839).
 */
export function forwardRules(context: RuleContext): Rule[] {
  const counted = context.packetCounters ? countAs(PACKET_COUNTERS.invalidDropped) : [];
  const invalid = rule(undefined, "-m", "conntrack", "--ctstate", "INVALID", ...counted, ...jump("DROP"));
  return [
    ...(context.tcpBeLiberal ? [] : [invalid]),
    rule("kubernetes forwarding rules", "-m", "mark", "--mark", marked(context), ...jump("ACCEPT")),
    rule(
      "kubernetes forwarding conntrack rule",
      ...["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"],
    ),
  ];
}

/** With route_localnet on, neighbours must not reach the host's loopback (CVE-2020-8558). */
export function firewallRules(): Rule[] {
  const foreign = ["-d", "127.0.0.0/8", "!", "-s", "127.0.0.0/8"];
  const unasked = ["-m", "conntrack", "!", "--ctstate", "RELATED,ESTABLISHED,DNAT"];
  return [rule("block incoming localnet connections", ...foreign, ...unasked, ...jump("DROP"))];
}

/** The mark is taken off again, so that a packet which is wrapped and sent once more is not masqueraded twice. */
export function postroutingRules(context: RuleContext): Rule[] {
  const random = context.randomFully ? ["--random-fully"] : [];
  return [
    rule(undefined, "-m", "mark", "!", "--mark", marked(context), ...jump("RETURN")),
    rule(undefined, "-j", "MARK", "--xor-mark", context.masqueradeMark),
    rule("kubernetes service traffic requiring SNAT", "-j", "MASQUERADE", ...random),
  ];
}

export function markRules({ masqueradeMark }: RuleContext): Rule[] {
  return [rule(undefined, "-j", "MARK", "--or-mark", masqueradeMark)];
}

/** Every chain whose content depends on the node alone; the canaries among them. */
export function fixedChains(context: RuleContext): Chain[] {
  const firewall = { table: "filter", name: KUBE_FIREWALL, rules: firewallRules() } as const;
  return [
    { table: "mangle", name: KUBE_PROXY_CANARY, rules: [] },
    { table: "filter", name: KUBE_PROXY_CANARY, rules: [] },
    { table: "filter", name: KUBE_FORWARD, rules: forwardRules(context) },
    ...(context.localhostNodePorts ? [firewall] : []),
    { table: "nat", name: KUBE_PROXY_CANARY, rules: [] },
    { table: "nat", name: KUBE_POSTROUTING, rules: postroutingRules(context) },
    { table: "nat", name: KUBE_MARK_MASQ, rules: markRules(context) },
  ];
}

const NEW = ["-m", "conntrack", "--ctstate", "NEW"];

function jumpAt(
  table: "filter" | "nat",
  chain: string,
  target: string,
  comment: string,
  match = NEW,
): RuleAt {
  return { table, chain, rule: [...match, "-m", "comment", "--comment", comment, "-j", target] };
}

/**
 * The jumps into our chains, in the order in which they stand at the head of each built-in chain. KUBE-FIREWALL is
 * entered only where loopback is opened to routing.
 */
export function entryJumps({ localhostNodePorts }: Pick<RuleContext, "localhostNodePorts">): RuleAt[] {
  const portals = "kubernetes service portals";
  const external = "kubernetes externally-visible service portals";
  const balancer = "kubernetes load balancer firewall";
  const health = "kubernetes health check service ports";
  const localnet = (chain: string): RuleAt[] =>
    localhostNodePorts ? [{ table: "filter", chain, rule: ["-j", KUBE_FIREWALL] }] : [];
  return [
    jumpAt("filter", "INPUT", KUBE_PROXY_FIREWALL, balancer),
    jumpAt("filter", "INPUT", KUBE_NODEPORTS, health, []),
    jumpAt("filter", "INPUT", KUBE_EXTERNAL_SERVICES, external),
    ...localnet("INPUT"),
    jumpAt("filter", "FORWARD", KUBE_PROXY_FIREWALL, balancer),
    jumpAt("filter", "FORWARD", KUBE_FORWARD, "kubernetes forwarding rules", []),
    jumpAt("filter", "FORWARD", KUBE_SERVICES, portals),
    jumpAt("filter", "FORWARD", KUBE_EXTERNAL_SERVICES, external),
    jumpAt("filter", "OUTPUT", KUBE_PROXY_FIREWALL, balancer),
    jumpAt("filter", "OUTPUT", KUBE_SERVICES, portals),
    ...localnet("OUTPUT"),
    jumpAt("nat", "PREROUTING", KUBE_SERVICES, portals, []),
    jumpAt("nat", "OUTPUT", KUBE_SERVICES, portals, []),
    jumpAt("nat", "POSTROUTING", KUBE_POSTROUTING, "kubernetes postrouting rules", []),
  ];
}

/** Rules that stand as long as nobody emptied our tables or the chains that every connection needs. */
export function sentinelRules(context: RuleContext): RuleAt[] {
  const nodePorts = { table: "nat", name: KUBE_SERVICES, rules: nodePortTailRules(context) } as const;
  const inChains = [...fixedChains(context), nodePorts].flatMap(({ table, name, rules }) =>
    rules.map(({ args, comment }) => ({
      table,
      chain: name,
      rule: comment === undefined ? args : ["-m", "comment", "--comment", comment, ...args],
    })),
  );
  return [...entryJumps(context), ...inChains];
}
