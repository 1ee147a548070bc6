// One rule in Kubernetes' words: what it is for, in half a line.
// Pure; reads the rule itself, since large clusters leave comments out. Says nothing about rules that it does not know.

import type { ChainAt, Rule, RuleShape, TableName } from "../iptables/index.js";
import type { ServicePort } from "../proxy/model.js";
import {
  KUBE_EXTERNAL_SERVICES,
  KUBE_FIREWALL,
  KUBE_FORWARD,
  KUBE_MARK_MASQ,
  KUBE_NODEPORTS,
  KUBE_POSTROUTING,
  KUBE_PROXY_FIREWALL,
  KUBE_SERVICES,
} from "../proxy/names.js";
import { shape } from "./match.js";
import { addressKey, type Names, type Owner, placeText } from "./owners.js";

export interface RulePlace {
  readonly table: TableName;
  readonly chain: string;
  readonly rule: Rule;
}

/** What a rule tells: its parts, looked up once. */
interface Told {
  readonly target: string;
  readonly names: Names;
  readonly shape: RuleShape;
  /** The value of an option of a match, or of iptables itself with match "". */
  readonly value: (option: string, match?: string) => string | undefined;
  readonly has: (match: string) => boolean;
  /** Whose the chain is to which it jumps. */
  readonly next: Owner | undefined;
}

type Teller = (told: Told) => string | undefined;

function tell({ rule }: Pick<RulePlace, "rule">, names: Names): Told {
  const parts = shape(rule);
  const target = parts.target?.name ?? "";
  const value = (option: string, match = "") =>
    match === ""
      ? parts.base.get(option)?.values[0]
      : parts.matches.find(({ name }) => name === match)?.options.get(option)?.values[0];
  const has = (match: string) => parts.matches.some(({ name }) => name === match);
  return { target, names, shape: parts, value, has, next: names.owners.get(target) };
}

/** The rule's purpose; its own comment when it is nobody's of ours; "" without any. */
export function noteOf({ table, chain, rule }: RulePlace, names: Names): string {
  const told = tell({ rule }, names);
  const owner = names.owners.get(chain);
  const known = CHAINS[`${table} ${chain.startsWith(POD_PORTS) ? POD_PORTS : chain}`];
  const teller = owner ? (one: Told) => ownersRule(owner, one) : known;
  const note = teller ? teller(told) : JUMPS[`${table} ${told.target}`];
  return note ?? commentOf(told.shape);
}

/** The service port whose rule it is; undefined for rules that serve all of them, or none. */
export function portOf({ table, chain, rule }: RulePlace, names: Names): ServicePort | undefined {
  const own = names.owners.get(chain)?.port;
  if (own) return own;
  if (!SHARED.has(`${table} ${chain}`)) return undefined;
  const told = tell({ rule }, names);
  return told.next?.port ?? addressed(told);
}

function commentOf({ matches }: RuleShape): string {
  const comments = matches.filter(({ name }) => name === "comment");
  return comments.map(({ options }) => options.get("--comment")?.values[0] ?? "").join("; ");
}

/** From the kernel's chains into the proxy's and flannel's. */
const JUMPS: Readonly<Record<string, string>> = {
  [`nat ${KUBE_SERVICES}`]: "a new connection: which Service is it for?",
  [`nat ${KUBE_POSTROUTING}`]: "on the way out: is it marked for masquerading?",
  [`filter ${KUBE_SERVICES}`]: "to a ClusterIP without endpoints?",
  [`filter ${KUBE_EXTERNAL_SERVICES}`]: "to an external address or NodePort without endpoints?",
  [`filter ${KUBE_NODEPORTS}`]: "to a health check port?",
  [`filter ${KUBE_FORWARD}`]: "Service traffic may pass",
  [`filter ${KUBE_PROXY_FIREWALL}`]: "refused by loadBalancerSourceRanges?",
  [`filter ${KUBE_FIREWALL}`]: "loopback addresses from outside?",
  "nat FLANNEL-POSTRTG": "on the way out: does it leave the pod network?",
  "nat CNI-HOSTPORT-DNAT": "to this node itself: a pod's host port?",
  "nat CNI-HOSTPORT-MASQ": "on the way out: is it marked by a host port?",
  "filter FLANNEL-FWD": "pod traffic may pass",
};

/** The chains of portmap plugins, ours and the reference one, one a pod. */
const POD_PORTS = "CNI-DN-";

const CHAINS: Readonly<Record<string, Teller>> = {
  "nat CNI-HOSTPORT-DNAT": ({ value, shape: parts }) => {
    const id = /id: "([^"]{1,12})[^"]*"/.exec(commentOf(parts))?.[1];
    return `host port ${value("--dports", "multiport")} of container ${id}`;
  },
  "nat CNI-HOSTPORT-SETMARK": () => "the mark: masquerade it on the way out",
  "nat CNI-HOSTPORT-MASQ": () => "marked: the source becomes this node's own address",
  [`nat ${POD_PORTS}`]: (told) => {
    const { target, names } = told;
    if (target !== "DNAT") return "from the pod's own block, or from loopback: masquerade";
    const to = told.shape.target?.options.get("--to-destination")?.values[0] ?? "";
    return `DNAT to the pod${placeAfter(names, to.replace(/:\d+$/, "").replace(/^\[|\]$/g, ""))}`;
  },
  [`nat ${KUBE_SERVICES}`]: serviceRule,
  [`nat ${KUBE_NODEPORTS}`]: ({ next, value, has }) => {
    if (!next) return undefined;
    const counted = has("nfacct") ? ", on loopback: counted" : "";
    return `NodePort ${value("--dport", next.port.protocol)} of ${next.port.id}${counted}`;
  },
  [`nat ${KUBE_MARK_MASQ}`]: () => "the mark: masquerade it on the way out",
  [`nat ${KUBE_POSTROUTING}`]: ({ target }) =>
    ({
      RETURN: "not marked: the source address stays",
      MARK: "marked: the mark has done its work, off with it",
      MASQUERADE: "masquerade: the source becomes this node's own address",
    })[target],
  [`filter ${KUBE_SERVICES}`]: deadEnd,
  [`filter ${KUBE_EXTERNAL_SERVICES}`]: deadEnd,
  [`filter ${KUBE_NODEPORTS}`]: () => "a load balancer's health check",
  [`filter ${KUBE_FORWARD}`]: ({ target, has }) => {
    if (target === "DROP") return "conntrack cannot place it (INVALID)";
    return has("mark")
      ? "marked for masquerading: Service traffic may pass"
      : "answers and known connections pass";
  },
  [`filter ${KUBE_PROXY_FIREWALL}`]: (told) => {
    const port = addressed(told);
    return port && `the client is not in loadBalancerSourceRanges of ${port.id}`;
  },
  [`filter ${KUBE_FIREWALL}`]: () => "to 127/8 from outside, unasked",
  "nat FLANNEL-POSTRTG": ({ target, has, shape: { base } }) => {
    if (target !== "RETURN") return "masquerade: it leaves the pod network, or comes into it from this node";
    if (has("mark")) return "kube-proxy has decided already";
    if (base.get("-s")?.not) return "from outside to a pod of this node: the source stays";
    return "pod to pod: the source stays";
  },
  "filter FLANNEL-FWD": () => "to or from a pod: may pass",
};

/** Chains that collect rules of many service ports. */
export const SHARED_CHAINS: readonly ChainAt[] = [
  ...[KUBE_SERVICES, KUBE_NODEPORTS].map((chain) => ({ table: "nat" as const, chain })),
  ...[KUBE_SERVICES, KUBE_EXTERNAL_SERVICES, KUBE_PROXY_FIREWALL, KUBE_NODEPORTS].map((chain) => ({
    table: "filter" as const,
    chain,
  })),
];
const SHARED: ReadonlySet<string> = new Set(SHARED_CHAINS.map(({ table, chain }) => `${table} ${chain}`));

function serviceRule({ next, value, target }: Told): string | undefined {
  if (target === KUBE_NODEPORTS) return "to this node itself, no Service address: a NodePort?";
  if (!next) return undefined;
  const { port, role } = next;
  if (role === "cluster" || role === "local") return `ClusterIP of ${port.id}`;
  const ip = value("-d") ?? "";
  return `${port.loadBalancerIPs.includes(ip) ? "load balancer address" : "external IP"} of ${port.id}`;
}

/** The service port whose address or node port a rule of a shared chain names. */
function addressed({ names, value }: Told): ServicePort | undefined {
  const [ip, protocol = ""] = [value("-d"), value("-p")];
  return names.addresses.get(addressKey(protocol, Number(value("--dport", protocol)), ip));
}

function deadEnd(told: Told): string | undefined {
  const port = addressed(told);
  if (!port) return undefined;
  if (told.target === "REJECT") return `${port.id} has no endpoints`;
  return `${port.id} has no endpoint on this node, and its traffic policy is Local`;
}

function placeAfter(names: Names, ip: string): string {
  return names.places.has(ip) ? `, ${placeText(names, ip)}` : "";
}

/** In the chains of one service port. */
function ownersRule({ port, role, endpoint }: Owner, told: Told): string | undefined {
  const { target, next, value, has } = told;
  const masquerades = target === KUBE_MARK_MASQ;
  if (role === "endpoint") {
    if (masquerades) return "hairpin: the endpoint is its own client, so masquerade";
    return endpoint && `DNAT to ${endpoint.text}${placeAfter(told.names, endpoint.ip)}`;
  }
  if (role === "firewall") {
    return target === ""
      ? "no other source may: dropped in the filter table"
      : `source range ${value("-s")} may`;
  }
  if (role === "external") return externalRule(told);
  if (masquerades) return notLocal(told);
  if (!next) return undefined;
  const where = next.endpoint ? placeText(told.names, next.endpoint.ip) : target;
  if (has("recent")) return `ClientIP affinity, seen within ${port.affinitySeconds} s: ${where}`;
  const probability = Number(value("--probability", "statistic"));
  return probability ? `chance 1/${Math.round(2 ** 31 / probability)}: ${where}` : `to ${where}`;
}

function notLocal({ shape: { base } }: Told): string {
  const negated = ["-s", "-i"].map((option) => base.get(option)).find((option) => option?.not);
  if (!negated) return "masqueradeAll: every client";
  return `the client is no pod (not from ${negated.values[0]}): masquerade`;
}

function externalRule({ target, next, has, shape: { base } }: Told): string | undefined {
  const ofNode = has("addrtype");
  if (target === KUBE_MARK_MASQ) {
    return ofNode
      ? "from this node itself: masquerade"
      : "externalTrafficPolicy Cluster: masquerade, so that answers come back this way";
  }
  if (next?.role === "local")
    return "externalTrafficPolicy Local: endpoints of this node, client address kept";
  if (ofNode) return "from this node itself: any endpoint";
  if (base.has("-s") || base.has("-i")) return "from a pod: as to the ClusterIP, any endpoint";
  return "any endpoint";
}
