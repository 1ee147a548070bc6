// The nouns of a walk on paper: the packet, what of a host decides about it, and what comes out.
// Knows rules as data and addresses, nothing of Kubernetes.

import type { Rule, TableName } from "../iptables/index.js";

/** The first packet of a connection (conntrack state NEW). */
export interface Packet {
  /** As iptables spells it. */
  readonly protocol: "tcp" | "udp" | "sctp";
  readonly src: string;
  readonly dst: string;
  /** Absent: any; a rule that asks for it gets no answer. */
  readonly sport?: number;
  readonly dport: number;
  /** The firewall mark (skb mark). Default 0. */
  readonly mark?: number;
  /** Device that it comes in by; absent: made on this host. */
  readonly input?: string;
}

export interface Address {
  readonly ip: string;
  /** Prefix length in bits. */
  readonly prefix: number;
  readonly device: string;
  readonly scope: "global" | "link" | "host";
}

export interface Route {
  /** A CIDR block. */
  readonly to: string;
  /** As ip-route(8) names it; absent: unicast. */
  readonly type?: string;
  readonly device: string;
  readonly via?: string;
  readonly src?: string;
  readonly metric?: number;
}

/** What of a host, other than its rules, decides where a packet goes. */
export interface Host {
  readonly addresses: readonly Address[];
  readonly routes: readonly Route[];
  /** ip_forward, or its IPv6 counterpart. */
  readonly forwarding: boolean;
  /** net.ipv4.conf.all.route_localnet: 127/8 is routed like any other network. */
  readonly routeLocalnet: boolean;
}

/** What a rule asks that nobody can know beforehand. */
export type Question =
  /** `statistic`; 0…1. */
  | { readonly kind: "chance"; readonly probability: number }
  /** `recent`: the client was seen within the time-out, whose length is in seconds. */
  | { readonly kind: "seen"; readonly list: string; readonly seconds?: number }
  /** A match that this walker does not know. */
  | { readonly kind: "unknown"; readonly what: string };

export type Effect =
  | { readonly kind: "jump" | "goto"; readonly chain: string }
  | { readonly kind: "accept" | "drop" | "return" | "continue" }
  | { readonly kind: "reject"; readonly with: string }
  | { readonly kind: "mark"; readonly from: number; readonly to: number }
  | { readonly kind: "dnat"; readonly ip: string; readonly port: number }
  | { readonly kind: "snat" | "masquerade"; readonly source: string }
  | { readonly kind: "unknown"; readonly what: string };

/** A rule that matched, in its place; `number` counts from 1 as `iptables --line-numbers` does. */
export interface RuleStep {
  readonly kind: "rule";
  readonly table: TableName;
  readonly chain: string;
  readonly number: number;
  readonly rule: Rule;
  readonly effect: Effect;
}

/** A built-in chain was left at its end with a policy other than ACCEPT. */
export interface PolicyStep {
  readonly kind: "policy";
  readonly table: TableName;
  readonly chain: string;
  readonly policy: string;
}

/** The kernel has decided where to: to this host itself, or out by a device. */
export interface RouteStep {
  readonly kind: "route";
  readonly dst: string;
  readonly local: boolean;
  readonly device: string;
  readonly via?: string;
}

export type Step = RuleStep | PolicyStep | RouteStep;

export type Fate =
  /** Delivered to a socket of this host. */
  | "local"
  /** Leaves by a device. */
  | "leaves"
  | "dropped"
  /** Dropped, and the sender is told. */
  | "rejected"
  /** No route, or one that the kernel refuses. */
  | "unroutable"
  /** A target that this walker does not know. */
  | "unknown";

export interface End {
  readonly fate: Fate;
  /** As it leaves or is delivered: addresses translated. */
  readonly packet: Packet;
  /** Its destination was replaced. */
  readonly translated: boolean;
  /** Its source address was replaced by one of this host. */
  readonly masqueraded: boolean;
  /** The device that it leaves by. */
  readonly device?: string;
  /** Why it ended so, when no rule says it. */
  readonly why?: string;
}

export interface Branch {
  /** Absent: none of the branches before it. */
  readonly when?: Question;
  /** Share of the connections that come to the fork and that no `seen` or `unknown` before it takes; 0…1. */
  readonly odds: number;
  readonly trace: Trace;
}

/** Rules in the order in which they are met; then either the end or a fork. */
export interface Trace {
  readonly steps: readonly Step[];
  readonly branches: readonly Branch[];
  readonly end?: End;
}

/** One way through a trace. */
export interface Outcome {
  /** Product of the odds on the way, 0…1: under `assuming`, how often it happens. */
  readonly odds: number;
  /** What had to be the case, chance apart. */
  readonly assuming: readonly Question[];
  readonly steps: readonly Step[];
  readonly end: End;
}

/** Every way through a trace, in the order of its branches. */
export function outcomes(trace: Trace): Outcome[] {
  const out: Outcome[] = [];
  const follow = (part: Trace, before: Omit<Outcome, "end">) => {
    const steps = [...before.steps, ...part.steps];
    if (part.end) out.push({ ...before, steps, end: part.end });
    for (const { when, odds, trace: next } of part.branches) {
      const assuming = when && when.kind !== "chance" ? [...before.assuming, when] : before.assuming;
      follow(next, { odds: before.odds * odds, assuming, steps });
    }
  };
  follow(trace, { odds: 1, assuming: [], steps: [] });
  return out;
}
