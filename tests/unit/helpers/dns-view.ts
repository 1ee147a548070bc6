// A cluster of a few Services and slices as its DNS sees it, and records as text, for tests. Pure.

import { comparableAddress } from "../../../node/dns/names.js";
import { type Record as DnsRecord, RCODE } from "../../../node/dns/reply.js";
import type { ClusterView, Slice, ZoneConfig } from "../../../node/dns/zone.js";

export const CONFIG: ZoneConfig = {
  zones: ["cluster.local", "in-addr.arpa", "ip6.arpa"],
  pods: "insecure",
  ttl: 30,
  fallthrough: ["in-addr.arpa", "ip6.arpa"],
  endpointPodNames: false,
  ignoreEmptyService: false,
  namespaces: undefined,
};

type ServiceOf = NonNullable<ReturnType<ClusterView["service"]>>;

function service(name: string, spec: ServiceOf["spec"]): ServiceOf {
  return { metadata: { name, namespace: "default" }, spec };
}

export const http = { name: "http", port: 80, protocol: "TCP" };
const KNOWN: ServiceOf[] = [
  service("web", { clusterIPs: ["10.96.0.20"], ports: [http, { name: "dns", port: 53, protocol: "UDP" }] }),
  service("both", { clusterIPs: ["10.96.0.21", "fd00:10:96::21"], ports: [http] }),
  service("empty", { clusterIPs: ["10.96.0.22"], ports: [http] }),
  service("db", { clusterIPs: ["None"], ports: [http] }),
  service("nobody", { clusterIPs: ["None"], ports: [http] }),
  service("portless", { clusterIPs: ["None"] }),
  service("ext", { type: "ExternalName", externalName: "example.org." }),
  service("inner", { type: "ExternalName", externalName: "web.default.svc.cluster.local" }),
  service("lost", { type: "ExternalName", externalName: "gone.default.svc.cluster.local" }),
  service("long", { type: "ExternalName", externalName: `${"x".repeat(64)}.org` }),
  service("loop-a", { type: "ExternalName", externalName: "loop-b.default.svc.cluster.local" }),
  service("loop-b", { type: "ExternalName", externalName: "loop-a.default.svc.cluster.local" }),
  {
    metadata: { name: "kube-dns", namespace: "kube-system" },
    spec: { clusterIPs: ["10.96.0.10"], ports: [http] },
  },
];

function slice(
  name: string,
  endpoints: Slice["endpoints"],
  ports: Slice["ports"] = [http],
  ns = "default",
): Slice {
  return {
    metadata: { name: `${name}-x`, namespace: ns, labels: { "kubernetes.io/service-name": name } },
    endpoints,
    ports,
  };
}

const ready = { ready: true };
const SLICES: Slice[] = [
  slice("web", [{ addresses: ["10.244.0.5"], conditions: ready }]),
  slice("db", [
    { addresses: ["10.244.0.6"], conditions: ready, hostname: "db-0", targetRef: { name: "db-0" } },
    { addresses: ["10.244.0.7"], conditions: ready, targetRef: { name: "db-1" } },
    { addresses: ["10.244.0.8"], conditions: { ready: false } },
  ]),
  slice("db", [{ addresses: ["fd00:10:244::6"], conditions: ready, hostname: "db-0" }]),
  slice("nobody", []),
  slice("portless", [{ addresses: ["10.244.0.9"] }], []),
  slice("kube-dns", [{ addresses: ["10.244.9.9"], conditions: ready }], [http], "kube-system"),
];

const keyOf = (one: { metadata?: { namespace?: string; name?: string } }) =>
  `${one.metadata?.namespace}/${one.metadata?.name}`;

export const VIEW: ClusterView = {
  synced: true,
  serial: 1_700_000_000,
  hasNamespace: (name) => ["default", "kube-system"].includes(name),
  service: (namespace, name) => KNOWN.find((one) => keyOf(one) === `${namespace}/${name}`),
  slices: (namespace, name) =>
    SLICES.filter(
      ({ metadata }) =>
        metadata?.namespace === namespace && metadata.labels?.["kubernetes.io/service-name"] === name,
    ),
  serviceByAddress: (ip) =>
    KNOWN.find(({ spec }) =>
      spec?.clusterIPs?.some((one) => one !== "None" && comparableAddress(one) === ip),
    ),
  slicesByAddress: (ip) =>
    SLICES.filter(({ endpoints }) =>
      endpoints?.some(({ addresses }) => addresses.some((one) => comparableAddress(one) === ip)),
    ),
  podsByAddress: (ip) => (ip === "10.244.0.5" ? [{ metadata: { name: "web-0", namespace: "default" } }] : []),
};

export const CODES = Object.fromEntries(Object.entries(RCODE).map(([name, code]) => [code, name]));

export function text(record: DnsRecord): string {
  const { name, type, ttl, data } = record as DnsRecord & { data: unknown };
  const value =
    typeof data === "object" && data !== null ? Object.values(data as object).join(" ") : String(data);
  return `${name} ${ttl} ${type} ${value}`;
}

export const D = "default.svc.cluster.local";
export const REVERSE_6 = "1.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa";
