// What the cluster's names stand for: the answer to a question from Services, EndpointSlices, Namespaces and Pods.
// Pure. The names are those of the Kubernetes DNS specification 1.1.0; what is no record of them, and how it is said,
// is as CoreDNS' plugin "kubernetes" has it.

import { isIP } from "node:net";
import type { EndpointSlice, Pod, Service } from "../../common/k8s.js";
import { comparableAddress, isWithin, reverseAddress, zoneOf } from "./names.js";
import { bare, type Question, RCODE, type Record, type Reply } from "./reply.js";

export interface ZoneConfig {
  /** The cluster's domain, and zones of reverse names. */
  zones: readonly string[];
  /** Names of pods by address: none, any address, or those that pods have. */
  pods: "disabled" | "insecure" | "verified";
  /** Seconds. */
  ttl: number;
  /** Zones whose unknown names are for the next plugin. */
  fallthrough: readonly string[];
  /** Endpoints without a hostname are named after their pod, not after their address. */
  endpointPodNames: boolean;
  /** Of a ClusterIP Service without ready endpoints there is no name. */
  ignoreEmptyService: boolean;
  /** Undefined: all. */
  namespaces: ReadonlySet<string> | undefined;
}

/** The cluster as it is known now. */
export interface ClusterView {
  readonly synced: boolean;
  /** Seconds since the epoch of the last change. */
  readonly serial: number;
  hasNamespace(name: string): boolean;
  service(namespace: string, name: string): Pick<Service, "metadata" | "spec"> | undefined;
  slices(namespace: string, service: string): readonly Slice[];
  /** Addresses in the form of {@link comparableAddress}. */
  serviceByAddress(address: string): Pick<Service, "metadata" | "spec"> | undefined;
  slicesByAddress(address: string): readonly Slice[];
  podsByAddress(address: string): readonly Pick<Pod, "metadata">[];
}

export type Slice = Pick<EndpointSlice, "metadata" | "endpoints" | "ports">;

export interface ZoneAnswer extends Reply {
  /** The last answer is a CNAME to this name, which is not of the zone: its addresses are to be looked up. */
  follow?: string;
}

const SCHEMA_VERSION = "1.1.0";
const SCHEMA_TTL = 28_800;
const SERVICE_NAME = "kubernetes.io/service-name";
const MOST_CNAMES = 8;

/** One thing that a name leads to. */
interface Target {
  /** An address or a name. */
  host: string;
  /** Undefined: it has no ports, and so no SRV record. */
  port?: number;
  /** Its own name, for SRV records. */
  name: string;
}

/** A question in one zone, as the functions below hand it on. */
interface Ask {
  config: ZoneConfig;
  view: ClusterView;
  /** As asked. */
  zone: string;
  /** Addresses of the server, for NS records. */
  self: readonly string[];
}

/** `undefined`: there is no such name. */
type Found = Target[] | undefined;

/**
 * The answer of the cluster's zones.
 * @param self Addresses of the server's own pod.
 * @returns undefined when the name is not of these zones, or when they leave it to the next plugin.
 */
export function lookup(
  config: ZoneConfig,
  view: ClusterView,
  question: Question,
  self: readonly string[],
): ZoneAnswer | undefined {
  const { name, type } = question;
  const matched = zoneOf(name, config.zones);
  if (matched === undefined) return undefined;
  const ask: Ask = { config, view, self, zone: name.slice(name.length - matched.length) };
  if (type === "AXFR" || type === "IXFR") return bare(RCODE.REFUSED);
  const answer = answerOf(ask, question);
  if (answer) return answer.answers.length > 0 ? answer : negative(ask, RCODE.NOERROR);
  if (zoneOf(name, config.fallthrough) !== undefined) return undefined;
  return negative(ask, view.synced ? RCODE.NXDOMAIN : RCODE.SERVFAIL);
}

function positive(answers: Record[], additionals: Record[] = []): ZoneAnswer {
  return { rcode: RCODE.NOERROR, authoritative: true, answers, authorities: [], additionals };
}

function negative(ask: Ask, rcode: number): Reply {
  return { ...bare(rcode), authoritative: true, authorities: [soa(ask)] };
}

function soa({ zone, view, config: { ttl } }: Ask): Record {
  return {
    name: zone,
    type: "SOA",
    ttl: Math.min(300, ttl),
    data: {
      mname: `ns.dns.${zone}`,
      rname: `hostmaster.${zone}`,
      serial: view.serial,
      refresh: 7200,
      retry: 1800,
      expire: 86_400,
      minimum: ttl,
    },
  };
}

/** Undefined: there is no such name. */
function answerOf(ask: Ask, { name, type }: Question): ZoneAnswer | undefined {
  const apex = name.length === ask.zone.length;
  switch (type) {
    case "A":
    case "AAAA":
      return addresses(ask, name, type);
    case "CNAME": {
      const found = targets(ask, name);
      const [first] = found ?? [];
      if (!first || isIP(first.host)) return found && positive([]);
      return positive([cname(ask, name, first.host)]);
    }
    case "SRV":
      return services(ask, name);
    case "PTR":
      return pointers(ask, name);
    case "TXT":
      if (name.slice(0, -ask.zone.length).toLowerCase() === "dns-version.")
        return positive([{ name, type: "TXT", ttl: SCHEMA_TTL, data: SCHEMA_VERSION }]);
      // A name with records of other types; everything else, the zone itself too, has none of this one.
      return (targets(ask, name)?.length ?? 0) > 0 ? positive([]) : undefined;
    case "SOA":
      return positive(apex ? [soa(ask)] : []);
    case "NS":
      if (apex) return nameServers(ask, name);
  }
  return targets(ask, name) && positive([]);
}

/** A and AAAA, through the CNAMEs of Services of type ExternalName. */
function addresses(
  ask: Ask,
  name: string,
  type: "A" | "AAAA",
  passed: readonly string[] = [],
): ZoneAnswer | undefined {
  const found = targets(ask, name);
  if (!found) return undefined;
  const family = type === "A" ? 4 : 6;
  const seen = new Set<string>();
  const answer: ZoneAnswer = positive([]);
  for (const { host } of found) {
    if (isIP(host) === family) {
      if (!seen.has(host)) answer.answers.push({ name, type, ttl: ask.config.ttl, data: host });
      seen.add(host);
    } else if (isIP(host) === 0) followName(ask, { name, type, host, passed }, answer);
  }
  return answer;
}

function followName(
  ask: Ask,
  { name, type, host, passed }: { name: string; type: "A" | "AAAA"; host: string; passed: readonly string[] },
  answer: ZoneAnswer,
): void {
  const target = host.toLowerCase();
  const before = [...passed, name.toLowerCase()];
  if (before.includes(target) || passed.length >= MOST_CNAMES) return;
  const record = cname(ask, name, host);
  if (!isWithin(host, ask.zone)) {
    answer.answers.push(record);
    answer.follow = host;
    return;
  }
  const next = addresses(ask, host, type, before);
  if (!next || next.answers.length === 0) return;
  answer.answers.push(record, ...next.answers);
  if (next.follow !== undefined) answer.follow = next.follow;
}

function cname({ config: { ttl } }: Ask, name: string, host: string): Record {
  return { name, type: "CNAME", ttl, data: host };
}

function address(name: string, host: string, ttl: number): Record {
  return { name, type: isIP(host) === 6 ? "AAAA" : "A", ttl, data: host };
}

/** One SRV record a port and name; their addresses in the additional section. All weigh the same. */
function services(ask: Ask, name: string): ZoneAnswer | undefined {
  const found = targets(ask, name)?.filter(({ host }) => isIP(host) !== 0);
  if (!found) return undefined;
  const { ttl } = ask.config;
  const weight = Math.max(1, Math.floor(100 / found.length));
  const seen = new Set<string>();
  const isNew = (key: string) => !seen.has(key) && seen.add(key);
  const answer = positive([]);
  for (const { host, port, name: target } of found) {
    if (port === undefined) continue;
    if (isNew(`${target} ${port}`))
      answer.answers.push({ name, type: "SRV", ttl, data: { priority: 0, weight, port, target } });
    if (isNew(`${target} ${host}`)) answer.additionals.push(address(target, host, ttl));
  }
  return answer;
}

function pointers(ask: Ask, name: string): ZoneAnswer | undefined {
  const { view, config } = ask;
  const ip = reverseAddress(name.toLowerCase());
  if (ip === undefined) return targets(ask, name) && positive([]);
  const domain = config.zones.find((zone) => !/(^|\.)(in-addr|ip6)\.arpa$/.test(zone)) ?? ask.zone;
  const owner = view.serviceByAddress(ip);
  const { name: service, namespace } = owner?.metadata ?? {};
  const exposed = (one: string | undefined) => config.namespaces?.has(one ?? "") ?? true;
  const names =
    owner && exposed(namespace)
      ? [`${service}.${namespace}.svc.${domain}`]
      : view
          .slicesByAddress(ip)
          .filter(({ metadata }) => exposed(metadata?.namespace))
          .flatMap((slice) =>
            endpointsOf(slice, config)
              .filter((one) => comparableAddress(one.address) === ip)
              .map((one) => `${one.hostname}.${serviceOf(slice)}.${slice.metadata?.namespace}.svc.${domain}`),
          );
  if (names.length === 0) return undefined;
  return positive([...new Set(names)].map((data): Record => ({ name, type: "PTR", ttl: config.ttl, data })));
}

/** The Services in front of this server, by name and address; the server itself when there are none. */
function serversOf({ view, self, zone, config }: Ask): { name: string; host: string }[] {
  const found = self.flatMap((ip) =>
    view.slicesByAddress(comparableAddress(ip)).flatMap((slice) => {
      const { namespace = "" } = slice.metadata ?? {};
      const service = view.service(namespace, serviceOf(slice));
      if (!service) return [];
      const name = `${service.metadata?.name}.${namespace}.svc.${zone}`;
      if (!isHeadless(service)) return clusterIPs(service).map((host) => ({ name, host }));
      return endpointsOf(slice, config).map((one) => ({
        name: `${one.hostname}.${name}`,
        host: one.address,
      }));
    }),
  );
  // A server of two addresses is found by each.
  const distinct = [...new Map(found.map((one) => [`${one.name} ${one.host}`, one])).values()];
  return distinct.length > 0 ? distinct : self.map((host) => ({ name: `ns.dns.${zone}`, host }));
}

function nameServers(ask: Ask, name: string): ZoneAnswer {
  const { ttl } = ask.config;
  const servers = serversOf(ask);
  return positive(
    [...new Set(servers.map((one) => one.name))].map((data): Record => ({ name, type: "NS", ttl, data })),
    servers.map((one) => address(one.name, one.host, ttl)),
  );
}

/** What a name leads to; an empty list for a name that exists and leads nowhere by itself. */
function targets(ask: Ask, asked: string): Found {
  const name = asked.slice(0, -ask.zone.length).replace(/\.$/, "").toLowerCase();
  if (name === "") return [];
  if (name === "ns.dns") return serversOf(ask).map((one) => ({ ...one, name: asked }));
  const labels = name.split(".").reverse();
  const [kind, namespace, service, ...below] = labels;
  if (kind !== "svc" && kind !== "pod") return undefined;
  if (namespace === undefined) return [];
  if (below.length > 2 || !isExposed(ask, namespace)) return undefined;
  if (service === undefined) return [];
  if (kind === "pod") return podTargets(ask, namespace, service);
  return serviceTargets(ask, namespace, service, below);
}

function isExposed({ config, view }: Ask, namespace: string): boolean {
  return (config.namespaces?.has(namespace) ?? true) && view.hasNamespace(namespace);
}

/** a-b-c-d, or the groups of an IPv6 address with dashes. */
function podTargets({ config, view, zone }: Ask, namespace: string, label: string): Found {
  const dotted = /^\d+-\d+-\d+-\d+$/.test(label);
  const host = label.replaceAll("-", dotted ? "." : ":");
  if (config.pods === "disabled" || !/^[\da-f.:]+$/.test(host) || isIP(host) === 0) return undefined;
  const target = { host, name: `${label}.${namespace}.pod.${zone}` };
  if (config.pods === "insecure") return [target];
  const pods = view.podsByAddress(comparableAddress(host));
  return pods.some(({ metadata }) => metadata?.namespace === namespace) ? [target] : undefined;
}

/** A Service may name what is no DNS name: labels have 63 characters at most. */
function isCarried(host: string): boolean {
  return host.split(".").every((label) => label.length > 0 && label.length <= 63);
}

/** `below`: nothing, the hostname of an endpoint, or protocol and port. */
function serviceTargets(ask: Ask, namespace: string, name: string, below: readonly string[]): Found {
  const { config, view, zone } = ask;
  const service = view.service(namespace, name);
  if (!service) return undefined;
  const [endpoint, protocol, port] =
    below.length === 1 ? [below[0]] : [undefined, ...below.map((label) => label.replace(/^_/, ""))];
  const own = `${name}.${namespace}.svc.${zone}`;
  if (service.spec?.type === "ExternalName") {
    const host = (service.spec.externalName ?? "").replace(/\.$/, "");
    return endpoint !== undefined || !isCarried(host) || isIP(host) ? undefined : [{ host, name: own }];
  }
  const matches = (one: { name?: string; protocol?: string }) =>
    (protocol === undefined || (one.protocol ?? "TCP").toLowerCase() === protocol) &&
    (port === undefined || (one.name ?? "").toLowerCase() === port);
  const slices = view.slices(namespace, name);
  const headless = isHeadless(service);
  if (headless || endpoint !== undefined) {
    const found = slices.flatMap((slice) => endpointTargets(ask, slice, own, { endpoint, matches }));
    return found.length > 0 ? found : undefined;
  }
  if (config.ignoreEmptyService && !slices.some((slice) => endpointsOf(slice, config).length > 0))
    return undefined;
  const found = portsOf(service.spec?.ports)
    .filter(matches)
    .flatMap(({ port: number }) =>
      clusterIPs(service).map((host): Target => ({ host, name: own, ...(number ? { port: number } : {}) })),
    );
  return found.length > 0 ? found : undefined;
}

interface Port {
  name?: string;
  protocol?: string;
  port?: number;
}

/** Something without ports can be found all the same, though not by a port's name. */
function portsOf(ports: readonly Port[] | undefined): readonly Port[] {
  return ports && ports.length > 0 ? ports : [{ name: "", protocol: "" }];
}

function endpointTargets(
  { config }: Ask,
  slice: Slice,
  service: string,
  { endpoint, matches }: { endpoint: string | undefined; matches: (port: Port) => boolean },
): Target[] {
  const ports = portsOf(slice.ports).filter(matches);
  return endpointsOf(slice, config)
    .filter(({ hostname }) => endpoint === undefined || hostname.toLowerCase() === endpoint)
    .flatMap(({ hostname, address: host }) =>
      ports.map(({ port }): Target => ({ host, name: `${hostname}.${service}`, ...(port ? { port } : {}) })),
    );
}

/** The ready ones (of a Service that publishes those that are not, all are called ready), an entry an address. */
function endpointsOf(
  slice: Slice,
  { endpointPodNames }: ZoneConfig,
): { address: string; hostname: string }[] {
  return (slice.endpoints ?? []).flatMap(({ addresses: list, conditions, hostname, targetRef }) => {
    if (conditions?.ready === false) return [];
    const pod = endpointPodNames && (targetRef?.name?.length ?? 64) < 64 ? targetRef?.name : undefined;
    return list
      .filter((one) => isIP(one) !== 0)
      .map((one) => ({ address: one, hostname: hostname || pod || one.replaceAll(/[.:]/g, "-") }));
  });
}

const serviceOf = (slice: Slice): string => slice.metadata?.labels?.[SERVICE_NAME] ?? "";

type AnyService = Pick<Service, "spec">;

function clusterIPs({ spec }: AnyService): string[] {
  return spec?.clusterIPs ?? (spec?.clusterIP ? [spec.clusterIP] : []);
}

function isHeadless(service: AnyService): boolean {
  return clusterIPs(service)[0] === "None";
}
