// What rule writers need besides the service port, and the few phrases that they all use.
// Pure; the words are those of iptables(8) and iptables-extensions(8).

import type { Rule } from "../../iptables/index.js";
import type { ServicePort } from "../model.js";
import type { NodePlace } from "../topology.js";
import type { LocalDetector } from "./local-detector.js";

/** The node's side of every decision; the same for all service ports. */
export interface RuleContext {
  readonly family: 4 | 6;
  readonly place: NodePlace;
  /** The node's own address; undefined when it has none of the family. */
  readonly nodeIP: string | undefined;
  /** What pods of this cluster are known by; undefined: nobody is known to be one. */
  readonly localDetector: LocalDetector | undefined;
  /** Masquerade everything that goes to a ClusterIP (--masquerade-all). */
  readonly masqueradeAll: boolean;
  /** A single bit, as hexadecimal number; always used as value and mask, so that others' bits survive. */
  readonly masqueradeMark: string;
  /** Addresses that answer on node ports; undefined: every address of the host. */
  readonly nodePortIPs: readonly string[] | undefined;
  /** NodePorts answer on 127.0.0.1 too (--iptables-localhost-nodeports; IPv4 only). */
  readonly localhostNodePorts: boolean;
  /** Rules about single endpoints say which; in a large cluster that is almost half of all text. */
  readonly endpointComments: boolean;
  /** MASQUERADE takes --random-fully. */
  readonly randomFully: boolean;
  /** The kernel accepts TCP outside the window (nf_conntrack_tcp_be_liberal), so INVALID need not be dropped. */
  readonly tcpBeLiberal: boolean;
  /** The kernel has PACKET_COUNTERS, and rules count with them. */
  readonly packetCounters: boolean;
}

export function rule(comment: string | undefined, ...args: string[]): Rule {
  return comment === undefined ? { args } : { comment, args };
}

/** A rule about one endpoint: the comment goes first when there are too many of them. */
export function endpointRule({ endpointComments }: RuleContext, comment: string, ...args: string[]): Rule {
  return rule(endpointComments ? comment : undefined, ...args);
}

/** Packets to `ip` (any destination when absent) and `port` in the service port's protocol. */
export function matchPort({ protocol }: ServicePort, port: number, ip?: string): string[] {
  const destination = ip === undefined ? [] : ["-d", ip];
  return ["-m", protocol, "-p", protocol, ...destination, "--dport", String(port)];
}

/** Counts each packet that all before it match, and matches itself. */
export function countAs(counter: string): string[] {
  return ["-m", "nfacct", "--nfacct-name", counter];
}

/** Packets to any address of this host. */
export const TO_THIS_HOST: readonly string[] = ["-m", "addrtype", "--dst-type", "LOCAL"];

export function jump(chain: string): string[] {
  return ["-j", chain];
}
