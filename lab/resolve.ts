// A checked configuration with every default filled in, and what only the whole shows to be wrong. Pure.

import { Cidr } from "../common/ip.js";
import { loopbackProblem } from "./formats.js";
import type { ClusterConfig, NodeConfig, Publish, ResolvedConfig, ResolvedNode } from "./types.js";

export const DEFAULT_NAME = "kubeplumb";
const DEFAULT_NODES = 3;
const DEFAULT_POD_SUBNET = "10.244.0.0/16";
const DEFAULT_SERVICE_SUBNET = "10.96.0.0/16";
const DEFAULT_NODE_SUBNET = "192.168.56.0/21";
const DEFAULT_NODE_PORTS: [number, number] = [30000, 32767];

/** --node-cidr-mask-size of kube-controller-manager, its default for IPv4. */
export const NODE_CIDR_MASK_SIZE = 24;

/** The first host's place in the node network; the bridge has place 1, the places between stay free. */
const FIRST_HOST = 11;

/** Fills in every default. Pure; `config` has been checked. */
export function resolveConfig(config: ClusterConfig): ResolvedConfig {
  const networking = config.networking ?? {};
  const nodeSubnet = networking.nodeSubnet ?? DEFAULT_NODE_SUBNET;
  const range = networking.nodePortRange?.split("-").map(Number);
  return {
    name: config.name ?? DEFAULT_NAME,
    networking: {
      podSubnet: networking.podSubnet ?? DEFAULT_POD_SUBNET,
      serviceSubnet: networking.serviceSubnet ?? DEFAULT_SERVICE_SUBNET,
      nodeSubnet,
      iptables: networking.iptables ?? "auto",
      nodePortRange: range ? [range[0] as number, range[1] as number] : DEFAULT_NODE_PORTS,
    },
    nodes: resolveNodes(config.nodes ?? DEFAULT_NODES, Cidr.parse(nodeSubnet)),
    images: config.images ?? {},
    publish: (config.publish ?? []).map(resolvePublish),
    controlPlane: {
      apiPort: config.controlPlane?.apiPort ?? 0,
      nodeMonitorGracePeriodSeconds: config.controlPlane?.nodeMonitorGracePeriodSeconds ?? 40,
      defaultTolerationSeconds: config.controlPlane?.defaultTolerationSeconds ?? 300,
    },
  };
}

export function resolvePublish({ hostPort, nodePort, address = "127.0.0.1" }: Publish): Required<Publish> {
  return { hostPort, nodePort, address };
}

function resolveNodes(nodes: number | NodeConfig[], subnet: Cidr): ResolvedNode[] {
  const list = typeof nodes === "number" ? Array.from({ length: nodes }, () => ({}) as NodeConfig) : nodes;
  return list.map(({ name, labels = {}, taints = [] }, index) => {
    const place = BigInt(FIRST_HOST + index);
    // Out of range is reported by sizeProblems, which needs the whole to be resolved first.
    const ip = place < subnet.size - 1n ? subnet.at(place) : "";
    return { name: name ?? `node-${index + 1}`, ip, labels, taints };
  });
}

/** Where the API server is for pods: this port of the bridge's address (kubeadm's default port). */
export const API_PORT = 6443;

/** The address of the underlay bridge: the first of the node network. */
export function bridgeAddress(config: ResolvedConfig): { address: string; prefix: number } {
  const subnet = Cidr.parse(config.networking.nodeSubnet);
  return { address: subnet.at(1), prefix: subnet.prefix };
}

/** What is wrong with one `--publish`, or undefined. Throws nothing. */
export function publishProblem(publish: Publish, config: ResolvedConfig): string | undefined {
  for (const [name, port] of Object.entries({ hostPort: publish.hostPort, nodePort: publish.nodePort })) {
    if (!Number.isInteger(port) || port < 1 || port > 65535) {
      return `${name} ${port}: a whole number from 1 to 65535 is expected`;
    }
  }
  const address = publish.address === undefined ? undefined : loopbackProblem(publish.address);
  if (address) return `address ${JSON.stringify(publish.address)}: ${address}`;
  const one = resolvePublish(publish);
  return publishProblems({ ...config, publish: [one] })[0]?.message;
}

type Subnet = "podSubnet" | "serviceSubnet" | "nodeSubnet";

export function networkProblems({ networking }: ResolvedConfig): { field: Subnet; message: string }[] {
  const names: Subnet[] = ["podSubnet", "serviceSubnet", "nodeSubnet"];
  const out: { field: Subnet; message: string }[] = [];
  for (const [index, field] of names.entries()) {
    for (const other of names.slice(0, index)) {
      const mine = networking[field];
      const theirs = networking[other];
      if (Cidr.parse(mine).contains(theirs) || Cidr.parse(theirs).contains(mine)) {
        const message = `${mine} overlaps networking.${other} ${theirs}; the three networks must be apart`;
        out.push({ field, message });
      }
    }
  }
  return out;
}

export function sizeProblems({ nodes, networking }: ResolvedConfig): string[] {
  const out: string[] = [];
  const pods = Cidr.parse(networking.podSubnet);
  const podRanges = 2 ** (NODE_CIDR_MASK_SIZE - pods.prefix);
  if (nodes.length > podRanges) {
    out.push(
      `${nodes.length} hosts are too many for networking.podSubnet ${pods}: it has ${podRanges} networks of /${NODE_CIDR_MASK_SIZE}, one a host`,
    );
  }
  const hosts = Cidr.parse(networking.nodeSubnet);
  const addresses = Number(hosts.size) - FIRST_HOST - 1;
  if (nodes.length > addresses) {
    out.push(
      `${nodes.length} hosts are too many for networking.nodeSubnet ${hosts}: it has ${addresses} addresses for hosts`,
    );
  }
  return out;
}

export function publishProblems({
  publish,
  networking,
}: ResolvedConfig): { index: number; message: string }[] {
  const [first, last] = networking.nodePortRange;
  const out: { index: number; message: string }[] = [];
  for (const [index, one] of publish.entries()) {
    if (one.nodePort < first || one.nodePort > last) {
      out.push({
        index,
        message: `nodePort ${one.nodePort} is not in ${first}-${last} (networking.nodePortRange)`,
      });
    }
    const before = publish.findIndex((p) => p.hostPort === one.hostPort && p.address === one.address);
    if (before < index) {
      out.push({
        index,
        message: `${one.address}:${one.hostPort} is published twice (publish[${before}] too)`,
      });
    }
  }
  return out;
}
