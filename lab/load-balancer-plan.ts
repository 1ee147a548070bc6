// Which host an address of a Service of type LoadBalancer leads to. Pure.

import { createHash } from "node:crypto";
import { ipFamily } from "../common/ip.js";
import type { EndpointSlice, Node, Service, Stored } from "../common/k8s.js";

const EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers";

/** What the load balancer's own Services have; those of another class are somebody else's. */
export function addressesOf({ spec, status }: Stored<Service>): string[] {
  if (spec?.type !== "LoadBalancer" || spec.loadBalancerClass !== undefined) return [];
  return (status?.loadBalancer?.ingress ?? []).flatMap(({ ip }) => (ip ? [ip] : []));
}

/** A node that can take traffic from outside: Ready, and not left out by label (the service controller's predicates). */
export function isEligible({ metadata, status }: Stored<Node>): boolean {
  if (metadata.labels && EXCLUDED in metadata.labels) return false;
  return Boolean(status?.conditions?.some(({ type, status: is }) => type === "Ready" && is === "True"));
}

/** Names of the nodes that have a ready endpoint in the family. */
export function nodesWithEndpoints(slices: readonly Stored<EndpointSlice>[], family: 4 | 6): Set<string> {
  const out = new Set<string>();
  for (const { addressType, endpoints } of slices) {
    if (addressType !== `IPv${family}`) continue;
    for (const { nodeName, conditions } of endpoints ?? [])
      if (nodeName && conditions?.ready !== false) out.add(nodeName);
  }
  return out;
}

/**
 * The host for an address: of those that can take it the one whose name hashes lowest together with the address
 * (rendezvous hashing, as MetalLB's layer 2 mode does it). So the addresses spread over the hosts, and when one goes
 * only its addresses move.
 */
export function elect(address: string, nodes: readonly string[]): string | undefined {
  const ranked = nodes.map((name) => ({
    name,
    rank: createHash("sha256").update(`${name}#${address}`).digest("hex"),
  }));
  return ranked.sort((a, b) => (a.rank < b.rank ? -1 : 1))[0]?.name;
}

/** Names of the nodes among `nodes` that an address of the Service may lead to. */
export function candidates(
  service: Stored<Service>,
  address: string,
  nodes: readonly string[],
  slices: readonly Stored<EndpointSlice>[],
): string[] {
  // With Cluster every host passes traffic on; with Local one without an endpoint drops it.
  if (service.spec?.externalTrafficPolicy !== "Local") return [...nodes];
  const local = nodesWithEndpoints(slices, ipFamily(address) === 6 ? 6 : 4);
  return nodes.filter((name) => local.has(name));
}
