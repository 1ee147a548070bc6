// Services and EndpointSlices as an API server would hand them out, with as few words as a test can have.

import type { Endpoint, EndpointSlice, Node, Service, Stored } from "../../common/k8s.js";

type ServiceSpec = NonNullable<Service["spec"]>;
type PortSpec = NonNullable<ServiceSpec["ports"]>[number];

let version = 0;

function metadata(
  fullName: string,
  extra: { labels?: Record<string, string>; annotations?: Record<string, string> },
) {
  const [namespace = "", name = ""] = fullName.split("/");
  version++;
  return {
    namespace,
    name,
    uid: `uid-${fullName}`,
    resourceVersion: String(version),
    creationTimestamp: "2026-01-01T00:00:00Z",
    ...extra,
  };
}

export interface ServiceOptions extends ServiceSpec {
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ingress?: { ip?: string; ipMode?: string }[];
}

/** `service("default/web", "10.96.0.10", [{ name: "http", port: 80 }])`. */
export function service(
  fullName: string,
  clusterIP: string,
  ports: PortSpec[],
  { labels, annotations, ingress, ...spec }: ServiceOptions = {},
): Stored<Service> {
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: metadata(fullName, { ...(labels && { labels }), ...(annotations && { annotations }) }),
    spec: { type: "ClusterIP", clusterIP, clusterIPs: [clusterIP], ports, ...spec },
    status: ingress ? { loadBalancer: { ingress } } : {},
  };
}

/** `node("node-1", { labels: { "topology.kubernetes.io/zone": "a" } })`. */
export function node(
  name: string,
  { labels, ...spec }: Node["spec"] & { labels?: Record<string, string> } = {},
): Stored<Node> {
  const { namespace: _, ...own } = metadata(`/${name}`, labels ? { labels } : {});
  return { apiVersion: "v1", kind: "Node", metadata: own, spec };
}

export interface SliceOptions {
  name?: string;
  annotations?: Record<string, string>;
  labels?: Record<string, string>;
  addressType?: string;
}

export interface EndpointWords {
  ip: string;
  node?: string;
  conditions?: Endpoint["conditions"];
  /** Hints by zone and by node. */
  zones?: string[];
  nodes?: string[];
}

/** `slice("default/web", [{ name: "http", port: 8080 }], ["10.244.1.2"])`. */
export function slice(
  serviceName: string,
  ports: { name?: string; port: number; protocol?: string }[],
  endpoints: (string | EndpointWords)[],
  options: SliceOptions = {},
): Stored<EndpointSlice> {
  const { name = `${serviceName}-abc`, annotations, labels, addressType = "IPv4" } = options;
  const [, service = ""] = serviceName.split("/");
  return {
    apiVersion: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    metadata: metadata(name, {
      labels: { "kubernetes.io/service-name": service, ...labels },
      ...(annotations && { annotations }),
    }),
    addressType,
    ports: ports.map((port) => ({ name: "", protocol: "TCP", ...port })),
    endpoints: endpoints.map((words) => {
      const {
        ip,
        node = "node-1",
        conditions = { ready: true },
        zones,
        nodes,
      }: EndpointWords = typeof words === "string" ? { ip: words } : words;
      const named = (names: string[]) => names.map((name) => ({ name }));
      const hints = { ...(zones && { forZones: named(zones) }), ...(nodes && { forNodes: named(nodes) }) };
      return { addresses: [ip], nodeName: node, conditions, ...((zones || nodes) && { hints }) };
    }),
  };
}

/** A Service of one port, and its endpoints. */
export const HTTP = [{ name: "http", port: 80 }];
export const WEB = service("default/web", "10.96.0.10", HTTP);
export const webSlice = (...ips: string[]): Stored<EndpointSlice> =>
  slice("default/web", [{ name: "http", port: 8080 }], ips);
