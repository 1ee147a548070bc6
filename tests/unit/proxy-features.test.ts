// Every feature of the service proxy: its rules as a file to read (tests/golden/proxy), and what they do to packets.
// Each entry of the table is one feature; docs/proxy.md refers to them by name.

import t from "tap";
import { type Chain, renderRuleLine } from "../../dataplane/iptables/index.js";
import {
  allChains,
  type DetectLocal,
  endpointChain,
  localDetector,
  type PortState,
  type RuleContext,
} from "../../dataplane/proxy/index.js";
import { golden, goldenFiles, projectFile } from "../helpers/golden.js";
import { type ApiObject, CONTEXT, CONTEXT6, inMemory, trackedIn } from "../helpers/proxy-memory.js";
import { fateOf, oddsOf, type Sender } from "../helpers/proxy-packets.js";
import { type EndpointWords, type ServiceOptions, service, slice } from "../helpers/service-objects.js";

const VIP = "10.96.0.10:80";
const NODE_PORT = "192.168.56.11:30080";
const LB = "5.6.7.8:80";
/** Endpoints on this node and on another. */
const HERE = "10.244.1.10:8080";
const THERE = "10.244.2.20:8080";
const BOTH: EndpointWords[] = [
  { ip: "10.244.1.10", node: "node-1" },
  { ip: "10.244.2.20", node: "node-2" },
];

type Row = readonly [from: Sender, to: string, fate: string, seen?: readonly string[]];

interface Feature {
  name: string;
  /** What a reader of the rules should know. */
  about: string;
  objects: ApiObject[];
  context?: Partial<RuleContext>;
  family?: 6;
  /** Show the chains that every node has, too. */
  whole?: boolean;
  packets: Row[];
}

function web(options: ServiceOptions = {}, endpoints: EndpointWords[] = BOTH): ApiObject[] {
  return [
    service("default/web", "10.96.0.10", [{ name: "http", port: 80 }], options),
    slice("default/web", [{ name: "http", port: 8080 }], endpoints),
  ];
}

const PORT = { name: "http", port: 80, nodePort: 30080 };

function exposed(options: ServiceOptions, endpoints: EndpointWords[] = BOTH): ApiObject[] {
  return [
    service("default/web", "10.96.0.10", [PORT], { type: "NodePort", ...options }),
    slice("default/web", [{ name: "http", port: 8080 }], endpoints),
  ];
}

function detect(mode: DetectLocal, podCIDRs?: string[]): Partial<RuleContext> {
  return { localDetector: localDetector(mode, 4, podCIDRs) };
}

const either = `${HERE} | ${THERE}`;
const eitherMasqueraded = `${HERE} masqueraded | ${THERE} masqueraded`;
const AWAY: EndpointWords[] = [{ ip: "10.244.2.20", node: "node-2" }];
const TERMINATING = { ready: false, serving: true, terminating: true };

const FEATURES: Feature[] = [
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

/** Every node has them, with the same rules whatever Services there are. */
const COMMON = /^KUBE-(FORWARD|FIREWALL|POSTROUTING|MARK-MASQ|PROXY-CANARY)$/;

/** As iptables-save would show it, but for empty chains and what all nodes have; a blank line between chains. */
function dump(about: string, states: readonly PortState[], context: RuleContext, whole: boolean): string {
  const chains = allChains(states, context).filter(({ name }) => whole || !COMMON.test(name));
  const lines = [`# ${about}`];
  for (const table of ["filter", "nat"] as const) {
    const shown = chains.filter((chain: Chain) => chain.table === table && chain.rules.length > 0);
    if (shown.length > 0) lines.push("", `*${table}`);
    for (const { name, rules } of shown) lines.push("", ...rules.map((rule) => renderRuleLine(name, rule)));
  }
  return `${lines.join("\n")}\n`;
}

for (const { name, about, objects, context, family = 4, whole = false, packets } of FEATURES) {
  t.test(name, async (t) => {
    const node: RuleContext = { ...(family === 6 ? CONTEXT6 : CONTEXT), ...context };
    const states = trackedIn(family, objects);
    const text = dump(about, states, node, whole);
    t.equal(text, golden(`proxy/${name}.rules`, text), `rules as in tests/golden/proxy/${name}.rules`);
    const rules = inMemory(states, node);
    for (const [from, to, fate, seen] of packets) {
      t.equal(fateOf(rules, family, from, to, seen), fate, `${from} to ${to}`);
    }
  });
}

t.test("each of n endpoints gets 1/n", async (t) => {
  for (let n = 1; n <= 7; n++) {
    const endpoints = Array.from({ length: n }, (_, i) => ({ ip: `10.244.1.${10 + i}` }));
    const odds = oddsOf(inMemory(trackedIn(4, web({}, endpoints))), 4, "pod", VIP);
    t.equal(odds.size, n);
    for (const [where, share] of odds) t.ok(Math.abs(share - 1 / n) < 1e-8, `${where}: 1/${n}`);
  }
});

t.test("every feature is in docs/proxy.md, every golden file is a feature's", async (t) => {
  const docs = projectFile("docs/proxy.md");
  for (const { name } of FEATURES) t.ok(docs.includes(`\`${name}\``), name);
  const paths = [...docs.matchAll(/`((?:rules\/)?[\w-]+\.ts)`/g)].map(([, path]) => path as string);
  for (const path of paths.filter((path) => !path.endsWith(".test.ts"))) {
    t.doesNotThrow(() => projectFile(`dataplane/proxy/${path}`), path);
  }
  t.same(goldenFiles("proxy"), FEATURES.map(({ name }) => `${name}.rules`).sort());
});
