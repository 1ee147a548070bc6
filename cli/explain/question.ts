// From the words of the command line to packets: which Service, by which of its addresses, from where.
// Pure, over the API's view. Errors say what there is.

import { ipFamily } from "../../common/ip.js";
import { keyOf, type Service, type Stored } from "../../common/k8s.js";
import type { Endpoint, PortState, Protocol } from "../../dataplane/proxy/index.js";
import { isLoopback, type Names } from "../../dataplane/trace/index.js";
import { UsageError } from "../command.js";
import { type ClusterView, podIPs } from "./cluster.js";

/** How a Service port is addressed; "address": no Service has it. */
export type Way = "ClusterIP" | "NodePort" | "external IP" | "load balancer" | "address";

export interface Destination {
  readonly way: Way;
  readonly state?: PortState;
  /** Absent: a node port, on whichever node. */
  readonly ip?: string;
  readonly port: number;
  readonly protocol: Protocol;
  readonly family: 4 | 6;
}

/** Where the packet begins. */
export type Source =
  | { readonly kind: "node"; readonly node: string }
  | { readonly kind: "pod"; readonly pod: string; readonly node: string; readonly ips: readonly string[] }
  | { readonly kind: "external" };

const ADDRESS = /^(?:\[([0-9a-f:.]+)\]|(\d+\.\d+\.\d+\.\d+)):(\d+)(?:\/(tcp|udp|sctp))?$/i;

/**
 * Every destination that the words name: of a Service, each of its ports by each of its addresses.
 * @throws UsageError for words that name nothing; Error when there is no such Service or port.
 */
export function destinations(view: ClusterView, text: string, namespace: string): Destination[] {
  const [, six, four, port, protocol] = ADDRESS.exec(text) ?? [];
  const ip = six ?? four;
  if (ip !== undefined)
    return [atAddress(view, ip, Number(port), protocol?.toLowerCase() as Protocol | undefined)];
  if (ipFamily(text))
    throw new UsageError(
      `${text}: a port is expected, as in ${ipFamily(text) === 6 ? `[${text}]` : text}:80`,
    );
  const [name = "", wanted, ...rest] = text.split(":");
  const parts = name.split("/");
  if (rest.length > 0 || parts.length > 2 || parts.some((part) => part === "")) {
    throw new UsageError(
      `${JSON.stringify(text)}: SERVICE, NAMESPACE/SERVICE[:PORT] or IP:PORT[/PROTOCOL] is expected`,
    );
  }
  const service = findService(view, parts.length === 2 ? name : `${namespace}/${name}`);
  return ofService(view, service, wanted);
}

/** @throws Error naming the Services that there are. */
export function findService(view: ClusterView, key: string): Stored<Service> {
  const service = view.services.find((one) => keyOf(one) === key);
  if (service) return service;
  const [namespace, name] = key.split("/");
  const others = view.services.filter((one) => one.metadata.name === name).map(keyOf);
  const there = view.services
    .filter((one) => one.metadata.namespace === namespace)
    .map((one) => one.metadata.name);
  const hint =
    others.length > 0 ? `did you mean ${list(others)}?` : `in ${namespace} there are: ${list(there)}`;
  throw new Error(`there is no Service ${key}; ${hint}`);
}

function list(names: readonly (string | undefined)[]): string {
  return names.length > 0 ? names.join(", ") : "none";
}

function ofService(view: ClusterView, service: Stored<Service>, wanted: string | undefined): Destination[] {
  const key = keyOf(service);
  const { spec } = service;
  const clusterIP = spec?.clusterIP ?? "";
  if (spec?.type === "ExternalName") {
    throw new Error(
      `Service ${key} is an ExternalName: a DNS alias of ${spec.externalName}, no rule is made for it`,
    );
  }
  if (clusterIP === "None") {
    throw new Error(
      `Service ${key} is headless: its name leads straight to the pods, no rule is made for it`,
    );
  }
  const families = ([4, 6] as const).filter((family) =>
    (spec?.clusterIPs ?? [clusterIP]).some((ip) => ipFamily(ip) === family),
  );
  const found = families.flatMap((family) =>
    view.names(family).ports.flatMap((state) => (state.port.service === key ? [{ state, family }] : [])),
  );
  if (found.length === 0) {
    throw new Error(`the proxies leave Service ${key} alone: it has no ClusterIP, or another proxy's label`);
  }
  const all = found.flatMap(({ state, family }) => waysOf(state, family));
  if (wanted === undefined) return all;
  // A number is that of an address, a name is a Service port's, with all of its addresses.
  const chosen = all.filter(({ port, state }) =>
    /^\d+$/.test(wanted) ? String(port) === wanted : state?.port.portName === wanted,
  );
  if (chosen.length > 0) return chosen;
  const ports = found.map(
    ({ state: { port } }) => `${port.portName ? `${port.portName} ` : ""}${portText(port)}`,
  );
  throw new Error(`Service ${key} has no port ${wanted}; there are: ${list([...new Set(ports)])}`);
}

/** `80/TCP`, `80:30080/TCP`: as kubectl get services. */
export function portText({
  port,
  nodePort,
  protocol,
}: Pick<PortState["port"], "port" | "nodePort" | "protocol">): string {
  return `${port}${nodePort ? `:${nodePort}` : ""}/${protocol.toUpperCase()}`;
}

function waysOf(state: PortState, family: 4 | 6): Destination[] {
  const { clusterIP, externalIPs, loadBalancerIPs, port, nodePort, protocol } = state.port;
  const at = (way: Way, ip: string): Destination => ({ way, state, ip, port, protocol, family });
  return [
    at("ClusterIP", clusterIP),
    ...externalIPs.map((ip) => at("external IP", ip)),
    ...loadBalancerIPs.map((ip) => at("load balancer", ip)),
    ...(nodePort ? [{ way: "NodePort" as const, state, port: nodePort, protocol, family }] : []),
  ];
}

/** Without a protocol: the one that a Service has there, else TCP. */
function atAddress(view: ClusterView, ip: string, port: number, protocol: Protocol | undefined): Destination {
  const family = ipFamily(ip);
  if (family === 0 || port < 1 || port > 65_535)
    throw new UsageError(`${ip}:${port} is no address with a port`);
  const known = view.names(family).ports.flatMap((state) => waysOf(state, family));
  const isNode = view.nodeWith(ip) !== undefined || isLoopback(ip);
  const found = known.find(
    (one) =>
      one.port === port &&
      (one.ip === undefined ? isNode : one.ip === ip) &&
      (protocol === undefined || one.protocol === protocol),
  );
  return found ? { ...found, ip } : { way: "address", ip, port, protocol: protocol ?? "tcp", family };
}

/**
 * Where `--from` says, or what is usual for the destination: a node for a ClusterIP, outside for what outsiders use.
 * @throws UsageError for words that name no place; Error when there is no such node or pod.
 */
export function sourceOf(
  view: ClusterView,
  from: string | undefined,
  namespace: string,
  { way, ip = "" }: Destination,
): Source {
  const [first = ""] = view.hosts;
  if (isLoopback(ip)) {
    if (from?.startsWith("node")) return placeOf(view, from, namespace);
    if (from === undefined) return { kind: "node", node: first };
    throw new UsageError(`${ip} is whoever asks: only --from node/NAME comes by a node's rules`);
  }
  if (from === undefined) {
    return way === "ClusterIP" || way === "address" ? { kind: "node", node: first } : { kind: "external" };
  }
  return placeOf(view, from, namespace);
}

function placeOf(view: ClusterView, from: string, namespace: string): Source {
  if (from === "external") return { kind: "external" };
  const [kind, ...rest] = from.split("/");
  const name = rest.join("/");
  if (/^nodes?$/.test(kind ?? "") && rest.length === 1) {
    if (!view.hosts.includes(name))
      throw new Error(`there is no node ${name}; there are: ${list(view.hosts)}`);
    return { kind: "node", node: name };
  }
  if (!/^pods?$/.test(kind ?? "") || rest.length < 1 || rest.length > 2 || rest.includes("")) {
    throw new UsageError(`--from ${from}: pod/NAME, pod/NAMESPACE/NAME, node/NAME or external is expected`);
  }
  return fromPod(view, rest.length === 2 ? name : `${namespace}/${name}`);
}

function fromPod(view: ClusterView, key: string): Source {
  const pod = view.pods.find((one) => keyOf(one) === key);
  if (!pod) {
    const namespace = key.split("/")[0];
    const there = view.pods
      .filter(({ metadata }) => metadata.namespace === namespace)
      .map(({ metadata }) => metadata.name);
    throw new Error(`there is no pod ${key}; in ${namespace} there are: ${list(there)}`);
  }
  const [node, ips] = [pod.spec?.nodeName, podIPs(pod)];
  if (!node || ips.length === 0)
    throw new Error(`pod ${key} has no address yet (${pod.status?.phase ?? "unknown"})`);
  return pod.spec?.hostNetwork ? { kind: "node", node } : { kind: "pod", pod: key, node, ips };
}

/** Endpoints of a port in words: whose they are, and in what state. */
export function endpointsText(endpoints: readonly Endpoint[], { places }: Names): string[] {
  return endpoints.map(({ text, ip, ready, serving, terminating, zoneHints, nodeHints }) => {
    const { pod, node } = places.get(ip) ?? {};
    const state = ready
      ? "ready"
      : terminating
        ? `terminating${serving ? ", still serving" : ""}`
        : "not ready";
    const hints = [...nodeHints, ...zoneHints];
    const hinted = hints.length > 0 ? `, hinted to ${hints.join(", ")}` : "";
    return `${text}${pod ? ` (${pod})` : ""}${node ? ` on ${node}` : ""}: ${state}${hinted}`;
  });
}
