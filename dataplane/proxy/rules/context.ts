// What rule writers need besides the service port, and the few phrases that they all use.
// Pure; the words are those of iptables(8) and iptables-extensions(8).

import type { Rule, TableName } from "../../iptables/index.js";
import type { ServicePort } from "../model.js";

/** The node's side of every decision; the same for all service ports. */
export interface RuleContext {
  readonly family: 4 | 6;
  /** Sources inside are pods of this cluster (detect-local mode ClusterCIDR); absent: nobody is known to be. */
  readonly clusterCIDR?: string | undefined;
  /** Masquerade everything that goes to a ClusterIP (--masquerade-all). */
  readonly masqueradeAll: boolean;
  /** NodePorts answer on 127.0.0.1 too (--iptables-localhost-nodeports; IPv4 only). */
  readonly localhostNodePorts: boolean;
  /** MASQUERADE takes --random-fully. */
  readonly randomFully: boolean;
  /** The kernel accepts TCP outside the window (nf_conntrack_tcp_be_liberal), so INVALID need not be dropped. */
  readonly tcpBeLiberal: boolean;
}

/** Bit 14 (--iptables-masquerade-bit): always used as value and mask, so that others' bits survive. */
export const MASQUERADE_MARK = "0x4000";

export function rule(comment: string | undefined, ...args: string[]): Rule {
  return comment === undefined ? { args } : { comment, args };
}

/** A top-level chain: one that collects rules of many service ports. */
export interface TopChain {
  readonly table: TableName;
  readonly chain: string;
}

/** Packets to `ip` (any destination when absent) and `port` in the service port's protocol. */
export function matchPort({ protocol }: ServicePort, port: number, ip?: string): string[] {
  const destination = ip === undefined ? [] : ["-d", ip];
  return ["-m", protocol, "-p", protocol, ...destination, "--dport", String(port)];
}

/** Packets to any address of this host. */
export const TO_THIS_HOST: readonly string[] = ["-m", "addrtype", "--dst-type", "LOCAL"];

export function jump(chain: string): string[] {
  return ["-j", chain];
}
