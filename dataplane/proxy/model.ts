// The nouns of the service proxy: service ports and their endpoints as the node sees them. Immutable values.
// Knows Kubernetes fields, no rules.

/** As iptables spells it; the API's TCP, UDP, SCTP in lower case. */
export type Protocol = "tcp" | "udp" | "sctp";

/** One port of one Service in one address family, with all that decides its rules. */
export interface ServicePort {
  /** `namespace/name:port/tcp`: unique on a node. */
  readonly key: string;
  /** `namespace/name:port`, or `namespace/name` for an unnamed port: what comments and chain hashes use. */
  readonly id: string;
  /** `namespace/name`. */
  readonly service: string;
  readonly portName: string;
  readonly protocol: Protocol;
  readonly clusterIP: string;
  readonly port: number;
  /** 0: none. */
  readonly nodePort: number;
  readonly externalIPs: readonly string[];
  /** Addresses of status.loadBalancer.ingress whose ipMode is not Proxy (KEP-1860). */
  readonly loadBalancerIPs: readonly string[];
  /** CIDRs that alone may use the load-balancer addresses; empty: everybody may. */
  readonly sourceRanges: readonly string[];
  /** Where load balancers ask whether this node has endpoints; 0: nowhere. */
  readonly healthCheckNodePort: number;
  /** ClientIP affinity's time-out in seconds; 0: no affinity. */
  readonly affinitySeconds: number;
  /** internalTrafficPolicy: Local. */
  readonly internalLocal: boolean;
  /** externalTrafficPolicy: Local, on a port that can be reached from outside. */
  readonly externalLocal: boolean;
}

/** An address behind a service port; conditions are resolved to what the EndpointSlice API says of absent ones. */
export interface Endpoint {
  /** `ip:port`, IPv6 in brackets: identity, DNAT destination and comment. */
  readonly text: string;
  readonly ip: string;
  readonly port: number;
  /** On this node. */
  readonly local: boolean;
  readonly ready: boolean;
  readonly serving: boolean;
  readonly terminating: boolean;
  /** Zones whose clients should use it (hints.forZones); empty: no hint. */
  readonly zoneHints: readonly string[];
  /** Nodes whose clients should use it (hints.forNodes). */
  readonly nodeHints: readonly string[];
}

/** A service port with its endpoints, sorted by text. A new object whenever anything in it changed. */
export interface PortState {
  readonly port: ServicePort;
  readonly endpoints: readonly Endpoint[];
}

/** Whether clients outside the cluster can address it at all. */
export function externallyAccessible(port: ServicePort): boolean {
  return port.nodePort !== 0 || port.externalIPs.length > 0 || port.loadBalancerIPs.length > 0;
}

/** Every address, other than a node's, under which the port is reached. */
export function serviceAddresses(port: ServicePort): string[] {
  return [port.clusterIP, ...port.externalIPs, ...port.loadBalancerIPs];
}
