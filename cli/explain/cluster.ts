// What the API knows about Services, their endpoints, pods and nodes, looked at from the packet's side: whose is an
// address, what is a name. Knows the API client; runs nothing on hosts.

import { ApiClient } from "../../client/api-client.js";
import { ENDPOINT_SLICES, NODES, PODS, SERVICES } from "../../common/client.js";
import { ipFamily } from "../../common/ip.js";
import {
  type EndpointSlice,
  keyOf,
  type Node,
  type Pod,
  type Service,
  type Stored,
} from "../../common/k8s.js";
import { ChangeTracker } from "../../dataplane/proxy/index.js";
import { type Names, namesOf, type Place } from "../../dataplane/trace/index.js";
import type { ClusterInfo } from "../../lab/types.js";
import { explained } from "../clusters.js";

export interface ClusterObjects {
  readonly services: readonly Stored<Service>[];
  readonly slices: readonly Stored<EndpointSlice>[];
  readonly pods: readonly Stored<Pod>[];
  readonly nodes: readonly Stored<Node>[];
}

export class ClusterView {
  readonly services: readonly Stored<Service>[];
  readonly pods: readonly Stored<Pod>[];
  readonly nodes: readonly Stored<Node>[];
  readonly #slices: readonly Stored<EndpointSlice>[];
  readonly #names = new Map<4 | 6, Names>();
  /** Names of the hosts of the lab, in order. */
  readonly hosts: readonly string[];

  constructor(hosts: readonly string[], objects: ClusterObjects) {
    this.hosts = hosts;
    this.services = objects.services;
    this.pods = objects.pods;
    this.nodes = objects.nodes;
    this.#slices = objects.slices;
  }

  /** @throws Error when the cluster does not run; StatusError. */
  static async read(info: ClusterInfo): Promise<ClusterView> {
    const client = new ApiClient({ socketPath: info.controlSocket });
    try {
      const [services, slices, pods, nodes] = await Promise.all([
        client.list(SERVICES),
        client.list(ENDPOINT_SLICES),
        client.list(PODS),
        client.list(NODES),
      ]);
      return new ClusterView(
        info.nodes.map(({ name }) => name),
        { services: services.items, slices: slices.items, pods: pods.items, nodes: nodes.items },
      );
    } catch (error) {
      throw explained(error, info.name);
    } finally {
      await client.close();
    }
  }

  /** Service ports, endpoints and addresses of one family by their names. */
  names(family: 4 | 6): Names {
    const known = this.#names.get(family);
    if (known) return known;
    const tracker = new ChangeTracker({ nodeName: "", family, startTime: 0 });
    for (const service of this.services) tracker.serviceChanged(undefined, service);
    for (const slice of this.#slices) tracker.endpointSliceChanged(undefined, slice);
    tracker.take();
    const names = namesOf(tracker.ports.values(), this.#places());
    this.#names.set(family, names);
    return names;
  }

  #places(): Map<string, Place> {
    const places = new Map<string, Place>();
    for (const slice of this.#slices) {
      for (const { addresses, nodeName: node, targetRef } of slice.endpoints ?? []) {
        const pod = targetRef?.kind === "Pod" ? `${targetRef.namespace}/${targetRef.name}` : undefined;
        for (const ip of addresses) places.set(ip, { ...(pod && { pod }), ...(node && { node }) });
      }
    }
    for (const pod of this.pods) {
      if (pod.spec?.hostNetwork || !isRunning(pod)) continue;
      const place = { pod: keyOf(pod), ...(pod.spec?.nodeName && { node: pod.spec.nodeName }) };
      for (const ip of podIPs(pod)) places.set(ip, place);
    }
    for (const node of this.nodes) {
      for (const ip of nodeIPs(node)) if (!places.has(ip)) places.set(ip, { node: node.metadata.name });
    }
    return places;
  }

  /** The node that has this address of its own. */
  nodeWith(ip: string): string | undefined {
    return this.nodes.find((node) => nodeIPs(node).includes(ip))?.metadata.name;
  }

  /** The node's address of a family; undefined when it has none. */
  nodeIP(name: string, family: 4 | 6): string | undefined {
    const node = this.nodes.find(({ metadata }) => metadata.name === name);
    return node && nodeIPs(node).find((ip) => ipFamily(ip) === family);
  }
}

export function podIPs({ status }: Stored<Pod>): string[] {
  const ips = (status?.podIPs ?? []).map(({ ip }) => ip).filter((ip): ip is string => ip !== undefined);
  return ips.length > 0 ? ips : status?.podIP ? [status.podIP] : [];
}

/** Pods that have ended keep their address in the API while somebody else may have it. */
function isRunning({ status }: Stored<Pod>): boolean {
  return status?.phase !== "Succeeded" && status?.phase !== "Failed";
}

function nodeIPs({ status }: Stored<Node>): string[] {
  return (status?.addresses ?? [])
    .filter(({ type }) => type === "InternalIP" || type === "ExternalIP")
    .map(({ address }) => address);
}
