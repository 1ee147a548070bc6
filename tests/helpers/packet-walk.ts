// A packet through the proxy's rules on a host of which only the addresses matter: dataplane/trace with few words.

import type { Ruleset, TableName } from "../../dataplane/iptables/index.js";
import {
  type End,
  type Host,
  isLoopback,
  outcomes,
  type Packet,
  walk as walkAll,
} from "../../dataplane/trace/index.js";

export interface World {
  /** Addresses of the host, for addrtype LOCAL. */
  local: readonly string[];
  /** For `recent`: whether the client is known at this list; default: nobody is. */
  seen?: (list: string) => boolean;
}

export type Walk = Pick<End, "packet" | "masqueraded"> & { verdict: "accept" | "DROP" | "REJECT" };

function hostWith(local: readonly string[]): Host {
  return {
    addresses: local.map((ip) => ({
      ip,
      prefix: ip.includes(":") ? 64 : 24,
      device: "eth0",
      scope: "global",
    })),
    routes: ["0.0.0.0/0", "::/0"].map((to) => ({ to, device: "eth0" })),
    forwarding: true,
    routeLocalnet: true,
  };
}

function ways(rules: Ruleset, packet: Packet, { local, seen = () => false }: World) {
  const made = isLoopback(packet.src) || local.includes(packet.src);
  return outcomes(walkAll(rules, hostWith(local), made ? packet : { input: "eth0", ...packet }, { seen }));
}

function verdictOf({ fate, why }: End): Walk["verdict"] {
  if (fate === "dropped") return "DROP";
  if (fate === "rejected") return "REJECT";
  if (fate === "local" || fate === "leaves") return "accept";
  throw new Error(`${fate}: ${why}`);
}

/** The first of the ways that chance leaves open. */
export function walk(rules: Ruleset, packet: Packet, world: World): Walk {
  const [first] = ways(rules, packet, world);
  if (!first) throw new Error("no way at all");
  const { end } = first;
  return { verdict: verdictOf(end), packet: end.packet, masqueraded: end.masqueraded };
}

/** Probability of reaching each final destination: every outcome of the dice, weighted. */
export function distribution(rules: Ruleset, packet: Packet, local: readonly string[]): Map<string, number> {
  const out = new Map<string, number>();
  for (const { odds, end } of ways(rules, packet, { local })) {
    const verdict = verdictOf(end);
    const key = verdict === "accept" ? `${end.packet.dst}:${end.packet.dport}` : verdict;
    out.set(key, (out.get(key) ?? 0) + odds);
  }
  return out;
}

export function chainNames(rules: Ruleset, table: TableName): string[] {
  return [...(rules.get(table)?.keys() ?? [])].sort();
}
