// What the service proxy's options change, and objects out of the ordinary, a feature an entry: node ports' addresses,
// detect-local modes, masquerading, many endpoints, several slices, the other family. Pure.

import { service, slice } from "../../helpers/service-objects.js";
import {
  BOTH,
  detect,
  either,
  eitherMasqueraded,
  exposed,
  type Feature,
  HERE,
  NODE_PORT,
  PORT,
  VIP,
  web,
} from "./proxy-feature-words.js";

export const OPTIONS: Feature[] = [
  {
    name: "node-port-addresses",
    about: "--nodeport-addresses: one rule an address; 127.0.0.1 is none of them.",
    context: { nodePortIPs: ["10.244.1.1", "192.168.56.11"], localhostNodePorts: false },
    objects: exposed({}),
    whole: true,
    packets: [
      ["outside", NODE_PORT, eitherMasqueraded],
      ["pod", "10.244.1.1:30080", eitherMasqueraded],
      ["loopback", "127.0.0.1:30080", "the host itself"],
    ],
  },
  {
    name: "localhost-node-ports-off",
    about: "All addresses but loopback; nothing is opened there, so KUBE-FIREWALL is not needed.",
    context: { localhostNodePorts: false },
    objects: exposed({}),
    whole: true,
    packets: [
      ["outside", NODE_PORT, eitherMasqueraded],
      ["loopback", "127.0.0.1:30080", "the host itself"],
    ],
  },
  {
    name: "detect-none",
    about: "Nobody is known to be a pod: no source is replaced on the way to a ClusterIP.",
    context: { localDetector: undefined },
    objects: exposed({ externalTrafficPolicy: "Local" }),
    packets: [
      ["pod", VIP, either],
      ["outside", VIP, either],
      ["pod", NODE_PORT, HERE],
    ],
  },
  {
    name: "detect-node-cidr",
    about: "Detect-local mode NodeCIDR: only this node's pods keep their address.",
    context: detect({ mode: "NodeCIDR" }, ["fd00:244:0:1::/64", "10.244.1.0/24"]),
    objects: exposed({ externalTrafficPolicy: "Local" }),
    packets: [
      ["pod", VIP, either],
      ["10.244.2.20 flannel.1", VIP, eitherMasqueraded],
      ["pod", NODE_PORT, either],
      ["10.244.2.20 flannel.1", NODE_PORT, HERE],
    ],
  },
  {
    name: "detect-bridge",
    about: "Detect-local mode BridgeInterface.",
    context: detect({ mode: "BridgeInterface", interface: "cni0" }),
    objects: exposed({ externalTrafficPolicy: "Local" }),
    packets: [
      ["pod", VIP, either],
      ["10.244.1.7 eth0", VIP, eitherMasqueraded],
      ["pod", NODE_PORT, either],
    ],
  },
  {
    name: "detect-interface-prefix",
    about: "Detect-local mode InterfaceNamePrefix.",
    context: detect({ mode: "InterfaceNamePrefix", prefix: "veth" }),
    objects: exposed({ externalTrafficPolicy: "Local" }),
    packets: [
      ["10.9.9.9 veth1234", VIP, either],
      ["pod", VIP, eitherMasqueraded],
      ["10.9.9.9 veth1234", NODE_PORT, either],
    ],
  },
  {
    name: "masquerade-all",
    about: "--masquerade-all.",
    context: { masqueradeAll: true },
    objects: web(),
    packets: [["pod", VIP, eitherMasqueraded]],
  },
  {
    name: "masquerade-bit",
    about:
      "--iptables-masquerade-bit 31, an iptables without --random-fully, and nf_conntrack_tcp_be_liberal.",
    context: { masqueradeMark: "0x80000000", randomFully: false, tcpBeLiberal: true },
    objects: exposed({}),
    whole: true,
    packets: [["outside", NODE_PORT, eitherMasqueraded]],
  },
  {
    name: "large-cluster",
    about: "More than 1,000 endpoints: rules about single ones carry no comments.",
    context: { endpointComments: false },
    objects: web({ sessionAffinity: "ClientIP" }),
    packets: [["pod", VIP, either]],
  },
  {
    name: "ports-and-slices",
    about:
      "TCP, UDP and SCTP ports of one Service without selector, from several slices by hand; one is by name (FQDN).",
    objects: [
      service("default/mix", "10.96.0.20", [
        { name: "web", port: 80, appProtocol: "kubernetes.io/h2c" },
        { name: "dns", port: 53, protocol: "UDP" },
        { name: "sig", port: 3868, protocol: "SCTP" },
      ]),
      slice(
        "default/mix",
        [
          { name: "web", port: 8080 },
          { name: "dns", port: 5353, protocol: "UDP" },
        ],
        ["10.244.1.10", { ip: "192.0.2.7", node: "" }],
        { name: "default/mix-1" },
      ),
      slice("default/mix", [{ name: "web", port: 8080 }], ["10.244.1.10"], { name: "default/mix-2" }),
      slice("default/mix", [{ name: "sig", port: 3868, protocol: "SCTP" }], ["10.244.1.11"], {
        name: "default/mix-3",
      }),
      slice("default/mix", [{ name: "web", port: 8080 }], ["web.example.org"], {
        name: "default/mix-4",
        addressType: "FQDN",
      }),
    ],
    packets: [
      ["pod", "10.96.0.20:80", "10.244.1.10:8080 | 192.0.2.7:8080"],
      ["pod", "10.96.0.20:53/udp", "10.244.1.10:5353 | 192.0.2.7:5353"],
      ["pod", "10.96.0.20:3868/sctp", "10.244.1.11:3868"],
      ["pod", "10.96.0.20:53", "as addressed"],
    ],
  },
  {
    name: "not-ours",
    about: "Headless, ExternalName and another proxy's Services: no rules.",
    objects: [
      service("default/headless", "None", [PORT], { clusterIPs: ["None"] }),
      slice("default/headless", [{ name: "http", port: 1 }], ["10.244.1.9"], {
        labels: { "service.kubernetes.io/headless": "" },
      }),
      service("default/name", "", [PORT], { type: "ExternalName", externalName: "example.org" }),
      service("default/other", "10.96.0.30", [PORT], {
        labels: { "service.kubernetes.io/service-proxy-name": "cilium" },
      }),
      slice("default/other", [{ name: "http", port: 8080 }], ["10.244.1.9"]),
    ],
    packets: [["pod", "10.96.0.30:80", "as addressed"]],
  },
  {
    name: "ipv6",
    about: "The same in IPv6, which has no localhost node ports: addresses of the other family are left out.",
    family: 6,
    objects: [
      service("default/web", "10.96.0.10", [PORT], {
        type: "LoadBalancer",
        clusterIPs: ["10.96.0.10", "fd00:96::10"],
        externalTrafficPolicy: "Local",
        externalIPs: ["198.51.100.4", "2001:db8:1::4"],
        ingress: [{ ip: "5.6.7.8" }, { ip: "2001:db8:2::8" }],
        loadBalancerSourceRanges: ["203.0.113.0/24", "2001:db8::/64"],
        sessionAffinity: "ClientIP",
      }),
      slice(
        "default/web",
        [{ name: "http", port: 8080 }],
        [
          { ip: "fd00:244:0:1::10", node: "node-1" },
          { ip: "fd00:244:0:2::20", node: "node-2" },
        ],
        { addressType: "IPv6", name: "default/web-6" },
      ),
      slice("default/web", [{ name: "http", port: 8080 }], BOTH, { name: "default/web-4" }),
    ],
    packets: [
      ["pod", "[fd00:96::10]:80", "[fd00:244:0:1::10]:8080 | [fd00:244:0:2::20]:8080"],
      ["outside", "[fd00:56::11]:30080", "[fd00:244:0:1::10]:8080"],
      ["outside", "[2001:db8:2::8]:80", "[fd00:244:0:1::10]:8080"],
      ["2001:db8:9::9 eth0", "[2001:db8:2::8]:80", "dropped"],
      ["2001:db8:9::9 eth0", "[2001:db8:1::4]:80", "[fd00:244:0:1::10]:8080"],
      ["loopback", "[::1]:30080", "the host itself"],
      [
        "node",
        "[fd00:96::10]:80",
        "[fd00:244:0:1::10]:8080 masqueraded | [fd00:244:0:2::20]:8080 masqueraded",
      ],
    ],
  },
];
