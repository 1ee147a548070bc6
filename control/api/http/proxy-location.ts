// Which address a name in …/proxy means: a port of a pod, of a ready pod behind a Service, or of a node (kube-apiserver's
// registry/core). Knows objects, opens no connection.

import { ipFamily } from "../../../common/ip.js";
import type { EndpointSlice, Node, Pod, Service, Stored } from "../../../common/k8s.js";
import type { Kind } from "../engine.js";
import type { Registry } from "../registry.js";
import { badRequest, notFound, serviceUnavailable } from "../status.js";
import type { Target } from "./request.js";

const KUBELET_PORT = "10250";

export interface Location {
  scheme: string;
  /** The node that can reach the address. */
  node: string;
  ip: string;
  port: number;
}

interface Name {
  /** http or https. */
  scheme: string;
  name: string;
  /** A number, the name of a Service's port, or "". */
  port: string;
}

/** NAME, NAME:PORT, SCHEME:NAME:PORT or SCHEME:NAME: (http, https). Undefined when it is none of them. */
export function splitName(id: string): Name | undefined {
  const parts = id.split(":");
  if (parts.length > 3) return undefined;
  const [scheme = "", name = "", port = ""] = parts.length < 3 ? ["", ...parts] : parts;
  if (name === "" || (parts.length === 2 && port === "")) return undefined;
  if (parts.length === 3 && scheme !== "http" && scheme !== "https") return undefined;
  return { scheme: scheme || "http", name, port };
}

/** Whether a path is answered by a server of the cluster, and not by the API or a kubelet. */
export function isProxyTarget({ kind, name, subresource }: Target): boolean {
  if (name === undefined || subresource !== "proxy" || kind.resource.group !== "") return false;
  const { plural } = kind.resource;
  return (
    plural === "pods" || plural === "services" || (plural === "nodes" && kubeletNode(name) === undefined)
  );
}

/** The node whose kubelet nodes/proxy leads to; undefined when the name has another port. */
export function kubeletNode(id: string): string | undefined {
  const { name, port } = splitName(id) ?? { name: id, port: "" };
  return port === "" || port === KUBELET_PORT ? name : undefined;
}

/** @throws StatusError BadRequest, NotFound, ServiceUnavailable */
export async function locate(
  registry: Registry,
  { kind, namespace, name: id = "" }: Target,
): Promise<Location> {
  const { plural } = kind.resource;
  const name = splitName(id);
  if (!name) throw badRequest(`invalid ${plural.slice(0, -1)} request ${JSON.stringify(id)}`);
  if (plural === "services") return await locateService(registry, namespace ?? "", id, name);
  const object = await registry.reader.get(kind, namespace, name.name);
  return plural === "nodes"
    ? locateNode(object as Stored<Node>, name)
    : locatePod(object as Stored<Pod>, name);
}

function locatePod({ spec, status }: Stored<Pod>, { scheme, port }: Name): Location {
  if (!spec?.nodeName || !status?.podIP) throw badRequest("address not allowed");
  const declared = spec.containers.find(({ ports }) => ports?.length)?.ports?.[0]?.containerPort;
  return at(scheme, spec.nodeName, status.podIP, port || declared);
}

function locateNode({ metadata, status }: Stored<Node>, { scheme, port }: Name): Location {
  const address = status?.addresses?.find(
    (one) => one.type === "InternalIP" && ipFamily(one.address),
  )?.address;
  if (!address) throw badRequest("address not allowed");
  return at(scheme, metadata.name, address, port);
}

function at(scheme: string, node: string, ip: string, port: string | number | undefined): Location {
  const number = Number(port ?? (scheme === "https" ? 443 : 80));
  if (Number.isInteger(number) && number > 0 && number < 65_536) return { scheme, node, ip, port: number };
  throw serviceUnavailable(`error trying to reach service: dial tcp: lookup tcp/${port}: unknown port`);
}

async function locateService(
  registry: Registry,
  namespace: string,
  id: string,
  { scheme, name, port }: Name,
): Promise<Location> {
  const service = (await registry.reader.get(
    kindOf(registry, "", "services"),
    namespace,
    name,
  )) as Stored<Service>;
  const portName = /^\d+$/.test(port) ? portNameOf(service, Number(port)) : port;
  const { items } = await registry.reader.list(kindOf(registry, "discovery.k8s.io", "endpointslices"), {
    namespace,
    labelSelector: `kubernetes.io/service-name=${name}`,
  });
  const candidates = (items as Stored<EndpointSlice>[]).flatMap((slice) => readyPods(slice, portName));
  const chosen = candidates[Math.floor(Math.random() * candidates.length)];
  if (!chosen) throw serviceUnavailable(`no endpoints available for service "${id}"`);
  return { scheme, ...chosen };
}

function portNameOf({ metadata, spec }: Stored<Service>, number: number): string {
  const port = spec?.ports?.find((one) => one.port === number);
  if (port) return port.name ?? "";
  throw serviceUnavailable(`no service port ${number} found for service "${metadata.name}"`);
}

function readyPods(slice: Stored<EndpointSlice>, portName: string): Omit<Location, "scheme">[] {
  const port = slice.ports?.find((one) => (one.name ?? "") === portName)?.port;
  if (port === undefined || slice.addressType === "FQDN") return [];
  return slice.endpoints.flatMap(({ addresses, conditions, targetRef, nodeName }) => {
    const [ip] = addresses;
    // As kube-apiserver: to pods only, so that nobody is led elsewhere by Endpoints of somebody's own.
    const isPod = ip !== undefined && nodeName !== undefined && targetRef?.kind === "Pod";
    return isPod && conditions?.ready !== false ? [{ node: nodeName, ip, port }] : [];
  });
}

function kindOf({ engine }: Registry, group: string, plural: string): Kind {
  const kind = engine.kind(group, "v1", plural);
  if (!kind) throw notFound({ group, plural }, "");
  return kind;
}
