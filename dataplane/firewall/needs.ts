// Which packets a firewall of this machine has to let through, as packets that can be walked on paper.
// Pure; what flannel, the kubelet and the API server listen on, and where pods' packets go.

import { Cidr, formatIp, type IpFamily, parseIp } from "../../common/ip.js";
import { DEVICE, PORT } from "../overlay/index.js";
import type { Packet } from "../trace/index.js";

/** The bridge of the pods. */
export const BRIDGE = "cni0";
const KUBELET_PORT = 10250;

/** Where a machine is in its cluster, in one address family. */
export interface Place {
  readonly family: IpFamily;
  /** The device that leads to the other machines, and the address on it. */
  readonly uplink: string;
  readonly ip: string;
  /** Of all pods, and of those of this machine. */
  readonly network: Cidr;
  readonly podCIDR: Cidr;
  /** Underlay addresses of the other nodes, as far as there are any yet. */
  readonly peers: readonly string[];
}

export interface Flow {
  readonly packet: Packet & { readonly input: string };
  /** The device that it leaves by; absent: it is for the machine itself. */
  readonly output?: string;
  /** Its destination was a node port or a ClusterIP. */
  readonly translated?: boolean;
}

export interface Need {
  readonly id: "vxlan" | "kubelet" | "api" | "pods";
  /** For people. */
  readonly title: string;
  readonly flows: readonly Flow[];
  /** Nobody knows who sends: it is enough when some source is let through. */
  readonly fromAnybody: boolean;
  /** A port of the machine itself. */
  readonly port?: { readonly protocol: "tcp" | "udp"; readonly number: number };
}

/** Another address of the same network, whatever its prefix is. */
function neighbour(ip: string): string {
  const { family, value } = parseIp(ip);
  return formatIp(value ^ 1n, family);
}

function toPort(place: Place, src: string, protocol: "tcp" | "udp", dport: number): Flow {
  return { packet: { protocol, src, dst: place.ip, dport, input: place.uplink } };
}

export function nodeNeeds(place: Place): Need[] {
  const { peers, ip } = place;
  const senders = peers.length > 0 ? peers : [neighbour(ip)];
  return [
    {
      id: "vxlan",
      title: `VXLAN of the other nodes (UDP ${PORT})`,
      flows: senders.map((src) => toPort(place, src, "udp", PORT)),
      fromAnybody: peers.length === 0,
      port: { protocol: "udp", number: PORT },
    },
    {
      id: "kubelet",
      title: `the API server's calls of the kubelet (TCP ${KUBELET_PORT})`,
      flows: [toPort(place, neighbour(ip), "tcp", KUBELET_PORT)],
      fromAnybody: true,
      port: { protocol: "tcp", number: KUBELET_PORT },
    },
    { id: "pods", title: "what pods send and get", flows: podFlows(place), fromAnybody: false },
  ];
}

/** For the machine of `kubeplumb control`. */
export function controlNeeds(place: Place, port: number): Need[] {
  return [
    {
      id: "api",
      title: `calls of the API server (TCP ${port})`,
      flows: [toPort(place, neighbour(place.ip), "tcp", port)],
      fromAnybody: true,
      port: { protocol: "tcp", number: port },
    },
  ];
}

/** Pods of one bridge to one another (br_netfilter), to and from other nodes, and out; node ports of this machine. */
function podFlows({ family, uplink, ip, network, podCIDR }: Place): Flow[] {
  const tunnel = DEVICE[family];
  const [own, other] = [podCIDR.at(2), podCIDR.at(3)];
  const far = farPod(network, podCIDR);
  const away = neighbour(ip);
  const flow = (input: string, src: string, output: string, dst: string, translated = false): Flow => ({
    packet: { protocol: "tcp", src, dst, dport: 80, input },
    output,
    translated,
  });
  return [
    flow(BRIDGE, own, BRIDGE, other),
    flow(BRIDGE, own, tunnel, far),
    flow(tunnel, far, BRIDGE, own),
    flow(BRIDGE, own, uplink, away),
    flow(uplink, away, BRIDGE, own, true),
  ];
}

/** An address of the pods' network that is not of this machine's block. */
function farPod(network: Cidr, podCIDR: Cidr): string {
  const last = network.at(network.size - 2n);
  return podCIDR.contains(last) ? network.at(2) : last;
}

/** The block of a machine that has none yet, for the same questions: the first of the network. */
export function firstBlock(network: Cidr): Cidr {
  const prefix = network.family === 6 ? 64 : 24;
  return Cidr.of(parseIp(network.network), Math.max(network.prefix, prefix));
}
