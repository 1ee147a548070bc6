// Packets sent on paper through node-1 of the tests: who sends, and in one line what becomes of it.

import type { Ruleset } from "../../dataplane/iptables/index.js";
import { type End, type Host, outcomes, walk } from "../../dataplane/trace/index.js";

function host(lines: readonly string[], routes: readonly string[]): Host {
  return {
    addresses: lines.map((line) => {
      const [device = "", cidr = ""] = line.split(" ");
      const [ip = "", prefix = ""] = cidr.split("/");
      return { ip, prefix: Number(prefix), device, scope: device === "lo" ? "host" : "global" };
    }),
    routes: routes.map((line) => {
      const [to = "", device = ""] = line.split(" ");
      return { to, device };
    }),
    forwarding: true,
    routeLocalnet: true,
  };
}

/** node-1: uplink eth0, pods behind cni0, the pods of other nodes behind flannel's device. */
export const NODE: Readonly<Record<4 | 6, Host>> = {
  4: host(
    ["lo 127.0.0.1/8", "eth0 192.168.56.11/24", "cni0 10.244.1.1/24"],
    ["192.168.56.0/24 eth0", "10.244.1.0/24 cni0", "10.244.0.0/16 flannel.1", "0.0.0.0/0 eth0"],
  ),
  6: host(
    ["lo ::1/128", "eth0 fd00:56::11/64", "cni0 fd00:244:0:1::1/64"],
    ["fd00:56::/64 eth0", "fd00:244:0:1::/64 cni0", "fd00:244::/48 flannel-v6.1", "::/0 eth0"],
  ),
};

const SENDERS = {
  pod: { 4: "10.244.1.7", 6: "fd00:244:0:1::7", input: "cni0" },
  outside: { 4: "203.0.113.9", 6: "2001:db8::9", input: "eth0" },
  node: { 4: "192.168.56.11", 6: "fd00:56::11" },
  loopback: { 4: "127.0.0.1", 6: "::1" },
} as const;

/** One of the senders above, or `10.1.2.3 eth0`: an address and the device by which its packets come in. */
export type Sender = keyof typeof SENDERS | `${string} ${string}`;

function senderOf(from: Sender, family: 4 | 6): { src: string; input?: string } {
  const known = Object.hasOwn(SENDERS, from) ? SENDERS[from as keyof typeof SENDERS] : undefined;
  if (known) return { src: known[family], ...("input" in known && { input: known.input }) };
  const [src = "", input = ""] = from.split(" ");
  return { src, input };
}

function sentence({ fate, packet, translated, masqueraded, why }: End): string {
  if (fate === "dropped" || fate === "rejected") return fate;
  if (fate === "unroutable" || fate === "unknown") return `${fate}: ${why}`;
  const to = packet.dst.includes(":") ? `[${packet.dst}]` : packet.dst;
  const where = translated ? `${to}:${packet.dport}` : fate === "local" ? "the host itself" : "as addressed";
  return masqueraded ? `${where} masqueraded` : where;
}

/**
 * Everything that may become of a packet to `10.96.0.10:80` or `[fd00::1]:53/udp`, and how often each does.
 * @param seen lists of ClientIP affinity in which the sender is; it is in no other.
 */
export function oddsOf(
  rules: Ruleset,
  family: 4 | 6,
  from: Sender,
  to: string,
  seen: readonly string[] = [],
): Map<string, number> {
  const [, six, four = "", port, protocol = "tcp"] =
    /^(?:\[(.+)\]|([\d.]+)):(\d+)(?:\/(\w+))?$/.exec(to) ?? [];
  const packet = {
    ...senderOf(from, family),
    dst: six ?? four,
    dport: Number(port),
    protocol: protocol as "tcp" | "udp" | "sctp",
  };
  const odds = new Map<string, number>();
  const trace = walk(rules, NODE[family], packet, { seen: (list) => seen.includes(list) });
  for (const { end, odds: share } of outcomes(trace)) {
    odds.set(sentence(end), (odds.get(sentence(end)) ?? 0) + share);
  }
  return odds;
}

/** The same without the odds: sorted, joined by ` | `. */
export function fateOf(...packet: Parameters<typeof oddsOf>): string {
  return [...oddsOf(...packet).keys()].sort().join(" | ");
}
