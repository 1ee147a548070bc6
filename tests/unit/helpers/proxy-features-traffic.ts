// What Services and their endpoints ask of the service proxy, a feature an entry: addresses, policies, affinity, source
// ranges, terminating endpoints, topology. Pure.

import { endpointChain } from "../../../dataplane/proxy/index.js";
import { service, slice } from "../../helpers/service-objects.js";
import {
  AWAY,
  either,
  eitherMasqueraded,
  exposed,
  type Feature,
  HERE,
  LB,
  NODE_PORT,
  TERMINATING,
  THERE,
  VIP,
  web,
} from "./proxy-feature-words.js";

export const TRAFFIC: Feature[] = [
  {
    name: "node",
    about: "A node without Services: the chains that are always there.",
    objects: [],
    whole: true,
    packets: [
      ["pod", "8.8.8.8:53", "as addressed"],
      ["outside", "192.168.56.11:22", "the host itself"],
      ["outside", "127.0.0.1:10249", "dropped"],
      ["loopback", "127.0.0.1:10249", "the host itself"],
    ],
  },
  {
    name: "cluster-ip",
    about: "A ClusterIP with two endpoints. Pods keep their address, others and hairpins do not.",
    objects: web(),
    packets: [
      ["pod", VIP, either],
      ["node", VIP, eitherMasqueraded],
      ["outside", VIP, eitherMasqueraded],
      ["10.244.1.10 cni0", VIP, `${HERE} masqueraded | ${THERE}`],
      ["pod", "10.96.0.10:81", "as addressed"],
      ["pod", THERE, "as addressed"],
    ],
  },
  {
    name: "no-endpoints",
    about: "Nobody serves: refused at once, wherever it is addressed.",
    objects: exposed({ externalIPs: ["198.51.100.4"], ingress: [{ ip: "5.6.7.8" }] }, []),
    packets: [
      ["pod", VIP, "rejected"],
      ["node", VIP, "rejected"],
      ["outside", NODE_PORT, "rejected"],
      ["outside", "198.51.100.4:80", "rejected"],
      ["outside", LB, "rejected"],
    ],
  },
  {
    name: "node-port",
    about:
      "A node port under externalTrafficPolicy Cluster: any node forwards to any endpoint, so it masquerades.",
    objects: exposed({}),
    packets: [
      ["outside", NODE_PORT, eitherMasqueraded],
      ["pod", NODE_PORT, eitherMasqueraded],
      ["loopback", "127.0.0.1:30080", eitherMasqueraded],
      ["outside", "192.168.56.12:30080", "as addressed"],
      ["outside", "192.168.56.11:30081", "the host itself"],
    ],
  },
  {
    name: "external-addresses",
    about:
      "externalIPs and load-balancer addresses; one whose ipMode is Proxy is the load balancer's own business.",
    objects: web({
      type: "LoadBalancer",
      externalIPs: ["198.51.100.4"],
      ingress: [{ ip: "5.6.7.8" }, { ip: "5.6.7.9", ipMode: "Proxy" }],
    }),
    packets: [
      ["outside", "198.51.100.4:80", eitherMasqueraded],
      ["outside", LB, eitherMasqueraded],
      ["pod", "5.6.7.9:80", "as addressed"],
    ],
  },
  {
    name: "external-policy-local",
    about: "externalTrafficPolicy Local: outsiders reach this node's endpoints and keep their address.",
    objects: exposed({ externalTrafficPolicy: "Local" }),
    packets: [
      ["outside", NODE_PORT, HERE],
      ["pod", NODE_PORT, either],
      ["node", NODE_PORT, eitherMasqueraded],
      ["pod", VIP, either],
    ],
  },
  {
    name: "external-policy-local-elsewhere",
    about:
      "The same with endpoints on other nodes only: a load balancer shall try another node, the node's own may pass.",
    objects: exposed(
      { externalTrafficPolicy: "Local", ingress: [{ ip: "5.6.7.8" }], type: "LoadBalancer" },
      AWAY,
    ),
    packets: [
      ["outside", NODE_PORT, "dropped"],
      ["outside", LB, "dropped"],
      ["pod", LB, THERE],
      ["node", LB, `${THERE} masqueraded`],
      ["pod", VIP, THERE],
    ],
  },
  {
    name: "internal-policy-local",
    about: "internalTrafficPolicy Local: the ClusterIP leads to this node's endpoints, the node port to all.",
    objects: exposed({ internalTrafficPolicy: "Local" }),
    packets: [
      ["pod", VIP, HERE],
      ["outside", NODE_PORT, eitherMasqueraded],
    ],
  },
  {
    name: "internal-policy-local-elsewhere",
    about: "The same without an endpoint here.",
    objects: exposed({ internalTrafficPolicy: "Local" }, AWAY),
    packets: [
      ["pod", VIP, "dropped"],
      ["outside", NODE_PORT, `${THERE} masqueraded`],
    ],
  },
  {
    name: "affinity",
    about: "sessionAffinity ClientIP for a minute: an endpoint that has seen the client gets it again.",
    objects: web({
      sessionAffinity: "ClientIP",
      sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } },
    }),
    packets: [
      ["pod", VIP, either],
      ["pod", VIP, THERE, [endpointChain({ id: "default/web:http", protocol: "tcp" }, { text: THERE })]],
    ],
  },
  {
    name: "source-ranges",
    about: "loadBalancerSourceRanges: this node's own address is in one of them. Node ports are not asked.",
    objects: exposed({
      type: "LoadBalancer",
      ingress: [{ ip: "5.6.7.8" }],
      loadBalancerSourceRanges: [" 203.0.113.0/28 ", "192.168.56.99/24", "2001:db8::/32"],
    }),
    packets: [
      ["outside", LB, eitherMasqueraded],
      ["203.0.113.77 eth0", LB, "dropped"],
      ["pod", LB, "dropped"],
      ["node", LB, eitherMasqueraded],
      ["5.6.7.8 eth0", LB, eitherMasqueraded],
      ["203.0.113.77 eth0", NODE_PORT, eitherMasqueraded],
      ["203.0.113.77 eth0", VIP, eitherMasqueraded],
    ],
  },
  {
    name: "source-ranges-local",
    about: "Source ranges that leave this node out, with externalTrafficPolicy Local and no endpoint here.",
    objects: exposed(
      {
        type: "LoadBalancer",
        externalTrafficPolicy: "Local",
        ingress: [{ ip: "5.6.7.8" }],
        loadBalancerSourceRanges: ["203.0.113.0/24", "10.244.0.0/16"],
        annotations: { "service.beta.kubernetes.io/load-balancer-source-ranges": "198.51.100.0/24" },
      },
      AWAY,
    ),
    packets: [
      ["outside", LB, "dropped"],
      ["198.51.100.1 eth0", LB, "dropped"],
      ["pod", LB, THERE],
      ["5.6.7.8 eth0", LB, "dropped"],
    ],
  },
  {
    name: "health-check-node-port",
    about: "healthCheckNodePort: open to load balancers on a node without endpoints, too.",
    objects: exposed(
      { type: "LoadBalancer", externalTrafficPolicy: "Local", healthCheckNodePort: 32_000 },
      AWAY,
    ),
    packets: [["outside", "192.168.56.11:32000", "the host itself"]],
  },
  {
    name: "terminating",
    about: "No endpoint is ready: those that serve while they terminate are used, hints or not (KEP-1669).",
    objects: exposed({ externalTrafficPolicy: "Local" }, [
      { ip: "10.244.1.10", node: "node-1", conditions: TERMINATING, nodes: ["node-1"] },
      { ip: "10.244.2.20", node: "node-2", conditions: TERMINATING, nodes: ["node-2"] },
      { ip: "10.244.2.21", node: "node-2", conditions: { ready: false } },
    ]),
    packets: [
      ["pod", VIP, either],
      ["outside", NODE_PORT, HERE],
    ],
  },
  {
    name: "topology-zone",
    about: "Every endpoint has a zone hint: those of our zone are used. Policy Local is not narrowed.",
    context: { place: { name: "node-1", zone: "zone-a" } },
    objects: exposed({ externalTrafficPolicy: "Local" }, [
      { ip: "10.244.1.10", node: "node-1", zones: ["zone-b"] },
      { ip: "10.244.2.20", node: "node-2", zones: ["zone-a", "zone-c"] },
    ]),
    packets: [
      ["pod", VIP, THERE],
      ["pod", NODE_PORT, THERE],
      ["outside", NODE_PORT, HERE],
    ],
  },
  {
    name: "topology-node",
    about: "Hints by node go before those by zone.",
    context: { place: { name: "node-1", zone: "zone-a" } },
    objects: web({}, [
      { ip: "10.244.1.10", node: "node-1", zones: ["zone-b"], nodes: ["node-1"] },
      { ip: "10.244.2.20", node: "node-2", zones: ["zone-a"], nodes: ["node-2"] },
    ]),
    packets: [["pod", VIP, HERE]],
  },
  {
    name: "topology-half-hinted",
    about: "One ready endpoint has no hint: hints are not looked at. One that is not ready does not matter.",
    context: { place: { name: "node-1", zone: "zone-a" } },
    objects: [
      ...web({}, [
        { ip: "10.244.1.10", node: "node-1", zones: ["zone-a"] },
        { ip: "10.244.2.20", node: "node-2" },
      ]),
      service("default/hinted", "10.96.0.11", [{ name: "http", port: 80 }]),
      slice(
        "default/hinted",
        [{ name: "http", port: 8080 }],
        [
          { ip: "10.244.1.10", node: "node-1", zones: ["zone-b"], nodes: ["node-3"] },
          { ip: "10.244.2.20", node: "node-2", zones: ["zone-a"], nodes: ["node-3"] },
          { ip: "10.244.2.21", node: "node-2", conditions: { ready: false } },
        ],
      ),
    ],
    packets: [
      ["pod", VIP, either],
      ["pod", "10.96.0.11:80", THERE],
    ],
  },
];
