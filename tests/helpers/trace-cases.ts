// Generated cases for the walker and the kernel: Services of every kind, packets to them from everywhere, and rules of
// somebody else. The seed alone decides.

import type { NetNs } from "../../dataplane/kernel/netns.js";
import type { PortState, ServicePort } from "../../dataplane/proxy/model.js";
import { ChangeTracker } from "../../dataplane/proxy/tracker.js";
import { type Host, type Packet, sourceFor } from "../../dataplane/trace/index.js";
import { service, slice } from "./service-objects.js";
import { FAR_PODS, type Plan, PODS, SHUT_PORT, TCP_PORT, UDP_PORT, type World } from "./trace-world.js";

type Dice = (below: number) => number;

function pick<T>(dice: Dice, list: readonly T[]): T {
  return list[dice(list.length)] as T;
}

/** Services of every kind, named after the round so that their chains and lists are new. */
export function generate(dice: Dice, plan: Plan, round: string, count: number): PortState[] {
  const tracker = new ChangeTracker({ nodeName: "node-1", family: plan.family, startTime: 0 });
  for (let i = 0; i < count; i++) {
    const name = `default/${round}-${i}`;
    const protocol = pick(dice, ["TCP", "TCP", "UDP"]);
    const port = { name: "p", protocol, port: 80 + i };
    const type = pick(dice, ["ClusterIP", "NodePort", "LoadBalancer"]);
    const policy = () => pick(dice, ["Cluster", "Cluster", "Local"]);
    const options = {
      type,
      clusterIPs: [plan.vip(i)],
      internalTrafficPolicy: policy(),
      externalTrafficPolicy: type === "ClusterIP" ? undefined : policy(),
      sessionAffinity: pick(dice, ["None", "None", "ClientIP"]),
      externalIPs: dice(3) === 0 ? [plan.external(i)] : [],
      ...(type === "LoadBalancer" && { ingress: [{ ip: plan.balancer(i) }] }),
      ...(dice(2) === 0 && {
        loadBalancerSourceRanges: [`${pick(dice, [plan.client, plan.node])}/${plan.bits}`],
      }),
    };
    const nodePort = type === "ClusterIP" ? {} : { nodePort: 30000 + i };
    tracker.serviceChanged(undefined, service(name, plan.vip(i), [{ ...port, ...nodePort }], options));
    const all = [
      ...Array.from({ length: PODS }, (_, n) => ({ ip: plan.pod(n), node: "node-1" })),
      ...Array.from({ length: FAR_PODS }, (_, n) => ({ ip: plan.far(n), node: "node-2" })),
      { ip: plan.node, node: "node-1" },
    ];
    const conditions = [
      ...[{ ready: true }, { ready: true }, { ready: true }],
      { ready: false, serving: true, terminating: true },
      { ready: false, serving: false, terminating: false },
    ];
    const size = pick(dice, [0, 1, 2, 3, 4, 6]);
    const endpoints = all
      .sort(() => dice(3) - 1)
      .slice(0, size)
      .map((endpoint) => ({ ...endpoint, conditions: pick(dice, conditions) }));
    const target = dice(12) === 0 ? SHUT_PORT : protocol === "TCP" ? TCP_PORT : UDP_PORT;
    tracker.endpointSliceChanged(
      undefined,
      slice(name, [{ name: "p", port: target, protocol }], endpoints, { addressType: `IPv${plan.family}` }),
    );
  }
  tracker.take();
  return [...tracker.ports.values()];
}

export interface Case {
  from: NetNs;
  packet: Packet;
  port: ServicePort;
}

/** Every way to address a service port, from a random place. */
export function caseOf(
  dice: Dice,
  world: World,
  plan: Plan,
  host: Host,
  port: ServicePort,
): Case | undefined {
  const { protocol, clusterIP, nodePort, externalIPs, loadBalancerIPs } = port;
  const place = pick(dice, ["pod", "pod", "host", "outside"]);
  const pod = dice(PODS);
  const loopback = plan.family === 4 ? "127.0.0.1" : "::1";
  const targets: [string, number][] = [
    [clusterIP, port.port],
    [clusterIP, port.port],
    ...[...externalIPs, ...loadBalancerIPs].map((one): [string, number] => [one, port.port]),
    ...(nodePort
      ? [[plan.node, nodePort] as [string, number], [plan.gateway, nodePort] as [string, number]]
      : []),
    ...(nodePort && place === "host" ? [[loopback, nodePort] as [string, number]] : []),
    ...(dice(10) === 0
      ? [[clusterIP, 7] as [string, number], [plan.far(0), TCP_PORT] as [string, number]]
      : []),
  ];
  const [dst, dport] = pick(dice, targets);
  if (place === "host") {
    const src = sourceFor(host, dst);
    return src === undefined ? undefined : { from: world.host, port, packet: { protocol, src, dst, dport } };
  }
  const from = place === "pod" ? (world.pods[pod] as NetNs) : world.outside;
  const src = place === "pod" ? plan.pod(pod) : plan.client;
  const input = place === "pod" ? "cni0" : "eth0";
  return { from, port, packet: { protocol, src, dst, dport, input } };
}

/** Rules of somebody else, with every match and target that the proxy's own rules leave out. */
export function foreignRules(plan: Plan, ports: readonly PortState[]): string {
  const [reject, drop, other] = ports.map(({ port }) => port);
  return [
    "*raw",
    `-A PREROUTING -i cni+ -p tcp -m tcp --dport ${drop?.port} -j DROP`,
    "COMMIT",
    "*mangle",
    `-A PREROUTING -s ${plan.pod(0)} -j MARK --set-xmark 0x4000/0x4000`,
    "-A OUTPUT -p udp -j MARK --or-mark 0x1",
    "COMMIT",
    "*filter",
    ":FORWARD DROP [0:0]",
    ":HERE - [0:0]",
    ":THERE - [0:0]",
    `-A INPUT -i lo -m mark --mark 0x1/0x1 -m addrtype --src-type LOCAL -j RETURN`,
    `-A INPUT -p udp -m multiport --dports 1:4,${UDP_PORT} ! -i eth0 -j DROP`,
    "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A FORWARD -m conntrack --ctstate NEW -j HERE",
    `-A FORWARD -s ${plan.client} -m conntrack --ctstate DNAT -j ACCEPT`,
    "-A HERE -o far0 -g THERE",
    `-A HERE ! -d ${plan.pod(2)} -i cni0 -j ACCEPT`,
    `-A HERE -d ${plan.pod(2)} -j REJECT`,
    `-A THERE -d ${plan.far(0)} -j RETURN`,
    "-A THERE -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT",
    "-A THERE -m state --state NEW -j ACCEPT",
    `-A OUTPUT -p tcp -m tcp -d ${reject?.clusterIP} -j REJECT`,
    "COMMIT",
    "*nat",
    `-A PREROUTING -p tcp -d ${plan.gateway} -m tcp --dport ${other?.nodePort || 7} -j REDIRECT --to-ports ${SHUT_PORT}`,
    `-A POSTROUTING -m mark --mark 0x1/0x1 -o far0 -j SNAT --to-source ${plan.node}`,
    `-A POSTROUTING -s ${plan.podNet} ! -d ${plan.podNet} -j MASQUERADE`,
    "COMMIT",
    "",
  ].join("\n");
}
