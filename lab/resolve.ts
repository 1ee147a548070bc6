// A checked configuration with every default filled in, and what only the whole shows to be wrong. Pure.

import { Cidr, type IpFamily, type IpValue, parseIp } from "../common/ip.js";
import { loopbackProblem } from "./formats.js";
import type {
  ClusterConfig,
  IpFamilies,
  NodeConfig,
  Publish,
  ResolvedConfig,
  ResolvedNode,
} from "./types.js";

export const DEFAULT_NAME = "kubeplumb";
const DEFAULT_NODES = 3;
const DEFAULT_DOMAIN = "cluster.local";
/** Those of pods and Services are kind's. */
const DEFAULT_SUBNETS: Record<Subnet, Record<IpFamily, string>> = {
  podSubnet: { 4: "10.244.0.0/16", 6: "fd00:10:244::/56" },
  serviceSubnet: { 4: "10.96.0.0/16", 6: "fd00:10:96::/112" },
  nodeSubnet: { 4: "192.168.56.0/21", 6: "fd00:192:168:56::/64" },
};
const DEFAULT_NODE_PORTS: [number, number] = [30000, 32767];

/** --node-cidr-mask-size-ipv4 and -ipv6 of kube-controller-manager, its defaults. */
export const NODE_CIDR_MASK_SIZE: Record<IpFamily, number> = { 4: 24, 6: 64 };

const FAMILIES: Record<IpFamilies, readonly IpFamily[]> = { ipv4: [4], ipv6: [6], dual: [4, 6] };

/** The primary family first: that of the first network of Services, as for kube-apiserver, or of what else is given. */
function familiesOf({
  ipFamily = "ipv4",
  serviceSubnet,
  podSubnet,
  nodeSubnet,
}: Partial<Record<Subnet, string>> & { ipFamily?: IpFamilies }): readonly IpFamily[] {
  const [first = ""] = (serviceSubnet ?? podSubnet ?? nodeSubnet ?? "").split(",");
  return ipFamily === "dual" && first.includes(":") ? [6, 4] : FAMILIES[ipFamily];
}

/** The first host's place in the node network; the bridge has place 1, the places between stay free. */
const FIRST_HOST = 11;

/** Fills in every default. Pure; `config` has been checked. */
export function resolveConfig(config: ClusterConfig): ResolvedConfig {
  const networking = config.networking ?? {};
  const { ipFamily = "ipv4" } = networking;
  const subnet = (name: Subnet) =>
    networking[name] ??
    familiesOf(networking)
      .map((family) => DEFAULT_SUBNETS[name][family])
      .join(",");
  const nodeSubnet = subnet("nodeSubnet");
  const range = networking.nodePortRange?.split("-").map(Number);
  return {
    name: config.name ?? DEFAULT_NAME,
    networking: {
      ipFamily,
      podSubnet: subnet("podSubnet"),
      serviceSubnet: subnet("serviceSubnet"),
      nodeSubnet,
      loadBalancerPool:
        networking.loadBalancerPool ?? defaultPool(networksOf(nodeSubnet), countOf(config.nodes)),
      iptables: networking.iptables ?? "auto",
      nodePortRange: range ? [range[0] as number, range[1] as number] : DEFAULT_NODE_PORTS,
    },
    nodes: resolveNodes(config.nodes ?? DEFAULT_NODES, networksOf(nodeSubnet)),
    dns: { enabled: config.dns?.enabled ?? true, domain: config.dns?.domain ?? DEFAULT_DOMAIN },
    images: config.images ?? {},
    publish: (config.publish ?? []).map(resolvePublish),
    controlPlane: {
      apiPort: config.controlPlane?.apiPort ?? 0,
      nodeMonitorGracePeriodSeconds: config.controlPlane?.nodeMonitorGracePeriodSeconds ?? 40,
      defaultTolerationSeconds: config.controlPlane?.defaultTolerationSeconds ?? 300,
    },
  };
}

/** The first place of the default pool, when no host has it, and how many there are: MetalLB's examples have as many. */
const POOL_PLACE = 200;
const POOL_SIZE = 51;

function countOf(nodes: ClusterConfig["nodes"] = DEFAULT_NODES): number {
  return typeof nodes === "number" ? nodes : nodes.length;
}

/** In each network from place 200 on, in a smaller one its last addresses, and always behind the last host. */
function defaultPool(subnets: readonly Cidr[], hosts: number): string {
  const ranges = subnets.map((subnet) => {
    const end = subnet.size - 2n;
    const wanted = end < BigInt(POOL_PLACE + POOL_SIZE) ? end - BigInt(POOL_SIZE - 1) : BigInt(POOL_PLACE);
    const behind = BigInt(FIRST_HOST + hosts);
    const first = wanted > behind ? wanted : behind;
    const last = first + BigInt(POOL_SIZE - 1) < end ? first + BigInt(POOL_SIZE - 1) : end;
    return first > last ? "" : `${subnet.at(first)}-${subnet.at(last)}`;
  });
  // Half a pool would leave Services of two families without any address.
  return ranges.includes("") ? "" : ranges.join(",");
}

export function resolvePublish({ hostPort, nodePort, address = "127.0.0.1" }: Publish): Required<Publish> {
  return { hostPort, nodePort, address };
}

/** The networks of a field, one a family. Throws RangeError when it has not been checked. */
export function networksOf(text: string): Cidr[] {
  return text.split(",").map((one) => Cidr.parse(one));
}

function resolveNodes(nodes: number | NodeConfig[], subnets: readonly Cidr[]): ResolvedNode[] {
  const list = typeof nodes === "number" ? Array.from({ length: nodes }, () => ({}) as NodeConfig) : nodes;
  return list.map(({ name, labels = {}, taints = [] }, index) => {
    const place = BigInt(FIRST_HOST + index);
    // Out of range is reported by sizeProblems, which needs the whole to be resolved first.
    const ips = subnets.map((subnet) => (place < subnet.size - 1n ? subnet.at(place) : ""));
    return { name: name ?? `node-${index + 1}`, ip: ips[0] ?? "", ips, labels, taints };
  });
}

/** Where the API server is for pods: this port of the bridge's address (kubeadm's default port). */
export const API_PORT = 6443;

/** Where the cluster's DNS is: the tenth address of each network of Services, as kubeadm has it. */
export function dnsAddresses(serviceSubnet: string): string[] {
  return networksOf(serviceSubnet).map((one) => one.at(10));
}

/** The addresses of the underlay bridge: the first of each node network. */
export function bridgeAddresses(config: ResolvedConfig): { address: string; prefix: number }[] {
  return networksOf(config.networking.nodeSubnet).map((one) => ({ address: one.at(1), prefix: one.prefix }));
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
  const wanted = familiesOf(networking);
  const out: { field: Subnet; message: string }[] = [];
  for (const [index, field] of names.entries()) {
    const mine = networksOf(networking[field]);
    if (mine.map(({ family }) => family).join() !== wanted.join()) {
      const expected = wanted.map((family) => `one IPv${family} network`).join(", a comma and ");
      out.push({ field, message: `networking.ipFamily is ${networking.ipFamily}: expected is ${expected}` });
      continue;
    }
    for (const other of names.slice(0, index)) {
      for (const theirs of networksOf(networking[other])) {
        const one = mine.find((network) => network.overlaps(theirs));
        if (!one) continue;
        const message = `${one} overlaps networking.${other} ${theirs}; the three networks must be apart`;
        out.push({ field, message });
      }
    }
  }
  return out;
}

export function sizeProblems({ nodes, networking }: ResolvedConfig): string[] {
  const out: string[] = [];
  for (const pods of networksOf(networking.podSubnet)) {
    const mask = NODE_CIDR_MASK_SIZE[pods.family];
    const podRanges = 2 ** (mask - pods.prefix);
    if (nodes.length > podRanges) {
      out.push(
        `${nodes.length} hosts are too many for networking.podSubnet ${pods}: it has ${podRanges} networks of /${mask}, one a host`,
      );
    }
  }
  for (const hosts of networksOf(networking.nodeSubnet)) {
    const addresses = hosts.size - BigInt(FIRST_HOST + 1);
    if (BigInt(nodes.length) > addresses) {
      out.push(
        `${nodes.length} hosts are too many for networking.nodeSubnet ${hosts}: it has ${addresses} addresses for hosts`,
      );
    }
  }
  return out;
}

/** The pool's addresses must be of the node network, and nobody else's. */
export function poolProblems(config: ResolvedConfig): string[] {
  const { networking, nodes } = config;
  const taken = new Map(nodes.flatMap(({ name, ips }) => ips.map((ip) => [ip, name] as const)));
  for (const { address } of bridgeAddresses(config)) taken.set(address, "the underlay bridge");
  const subnets = networksOf(networking.nodeSubnet);
  const out: string[] = [];
  for (const range of networking.loadBalancerPool === "" ? [] : networking.loadBalancerPool.split(",")) {
    const [first, last] = range.split("-").map((ip) => parseIp(ip)) as [IpValue, IpValue];
    const subnet = subnets.find((one) => one.family === first.family);
    if (!subnet || !inside(subnet, first) || !inside(subnet, last)) {
      out.push(`${range} is not in networking.nodeSubnet ${networking.nodeSubnet}`);
      continue;
    }
    for (const [ip, who] of taken) {
      if (ip === "") continue;
      const { family, value } = parseIp(ip);
      if (family === first.family && value >= first.value && value <= last.value)
        out.push(`${range} contains ${ip}, the address of ${who}`);
    }
  }
  return out;
}

/** Neither the network's own address nor its last one, which is IPv4's broadcast. */
function inside(subnet: Cidr, { value }: IpValue): boolean {
  return value > subnet.base && value < subnet.base + subnet.size - 1n;
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
