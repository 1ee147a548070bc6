// Whose a chain is: from chain names back to service ports and endpoints, by the hashes that the proxy makes.
// Pure; names only, so it holds for kube-proxy's own rules too, with or without comments.

import type { Endpoint, PortState, ServicePort } from "../proxy/model.js";
import { endpointChain, portChains } from "../proxy/names.js";

/** cluster and local: the endpoints of that traffic policy; external: the way in from outside. */
export type Role = "cluster" | "local" | "external" | "firewall" | "endpoint";

export interface Owner {
  readonly port: ServicePort;
  readonly role: Role;
  /** Of role endpoint. */
  readonly endpoint?: Endpoint;
}

/** What an endpoint's address is in Kubernetes: a pod, if it is one, and the node that it is on. */
export interface Place {
  /** `namespace/name`. */
  readonly pod?: string;
  readonly node?: string;
}

/** How people call what rules only number. */
export interface Names {
  readonly ports: readonly PortState[];
  readonly owners: ReadonlyMap<string, Owner>;
  /** By {@link addressKey}: addresses with their port, and node ports without an address. */
  readonly addresses: ReadonlyMap<string, ServicePort>;
  /** By IP address. */
  readonly places: ReadonlyMap<string, Place>;
}

export function namesOf(states: Iterable<PortState>, places: ReadonlyMap<string, Place>): Names {
  const ports = [...states];
  const owners = new Map<string, Owner>();
  const addresses = new Map<string, ServicePort>();
  for (const { port, endpoints } of ports) {
    for (const key of addressKeys(port)) if (!addresses.has(key)) addresses.set(key, port);
    const chains = portChains(port);
    owners.set(chains.svc, { port, role: "cluster" });
    owners.set(chains.svl, { port, role: "local" });
    owners.set(chains.ext, { port, role: "external" });
    owners.set(chains.fw, { port, role: "firewall" });
    for (const endpoint of endpoints) {
      owners.set(endpointChain(port, endpoint), { port, role: "endpoint", endpoint });
    }
  }
  return { ports, owners, addresses, places };
}

export function addressKey(protocol: string, port: number, ip = ""): string {
  return `${protocol} ${ip} ${port}`;
}

function addressKeys(port: ServicePort): string[] {
  const { protocol, nodePort, healthCheckNodePort } = port;
  const ips = [port.clusterIP, ...port.externalIPs, ...port.loadBalancerIPs];
  return [
    ...ips.map((ip) => addressKey(protocol, port.port, ip)),
    ...(nodePort > 0 ? [addressKey(protocol, nodePort)] : []),
    // Of a UDP Service too.
    ...(healthCheckNodePort > 0 ? [addressKey("tcp", healthCheckNodePort)] : []),
  ];
}

/** `pod default/web-0 on node-1`, `node-1 itself`, or the address when nobody knows it. */
export function placeText({ places }: Names, ip: string): string {
  const { pod, node } = places.get(ip) ?? {};
  if (pod === undefined) return node === undefined ? ip : `${node} itself`;
  return node === undefined ? `pod ${pod}` : `pod ${pod} on ${node}`;
}
