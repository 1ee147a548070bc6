// The service proxy's decisions, without a kernel: names, objects to service ports, which endpoints are used, stale UDP
// flows. One feature after the other: proxy-features; syncing: proxy-sync.

import t from "tap";
import { parseSave } from "../../dataplane/iptables/index.js";
import type { Flow } from "../../dataplane/kernel/conntrack.js";
import { addressKey } from "../../dataplane/proxy/addresses.js";
import {
  ChangeTracker,
  chainHash,
  endpointChain,
  type PortState,
  portChains,
  renderAll,
  selectEndpoints,
} from "../../dataplane/proxy/index.js";
import { isPortChain } from "../../dataplane/proxy/names.js";
import { changedUdpServices, staleFlows } from "../../dataplane/proxy/stale-flows.js";
import { CONTEXT, meaning, tracked, trackedIn } from "../helpers/proxy-memory.js";
import { type ServiceOptions, service, slice } from "../helpers/service-objects.js";

t.test("chain names", async (t) => {
  t.equal(chainHash("ns1/svc1:p80tcp"), "XPGD46QRK7WJZT7O");
  t.equal(chainHash("ns4/svc4:p80tcp"), "4SW47YFZTEDKD3PK");
  t.equal(chainHash("default/kubernetes:httpstcp"), "NPX46M4PTMTKRN6Y");
  const port = (id: string, protocol: "tcp" | "udp") => ({ id, protocol });
  t.equal(portChains(port("kube-system/kube-dns:dns", "udp")).svc, "KUBE-SVC-TCOU7JCQXEZGVUNU");
  t.equal(endpointChain(port("ns1/svc1:p80", "tcp"), { text: "10.180.0.1:80" }), "KUBE-SEP-SXIVWICOYRO3J4NJ");
  t.equal(endpointChain(port("ns4/svc4:p80", "tcp"), { text: "10.180.0.4:80" }), "KUBE-SEP-UKSFD7AGPMPPLUHC");
  t.ok(isPortChain("KUBE-SEP-SXIVWICOYRO3J4NJ") && isPortChain("KUBE-FW-SXIVWICOYRO3J4NJ"));
  t.notOk(
    isPortChain("KUBE-SERVICES") || isPortChain("KUBE-SEP-short") || isPortChain("MY-SVC-SXIVWICOYRO3J4NJ"),
  );
});

t.test("services and slices become service ports with endpoints", async (t) => {
  const http = [{ name: "http", port: 80 }];
  const skipped: [string, ServiceOptions, string?][] = [
    ["default/headless", { clusterIPs: ["None"] }, "None"],
    ["default/ext", { type: "ExternalName", externalName: "example.org" }, "10.96.0.2"],
    ["default/other", { labels: { "service.kubernetes.io/service-proxy-name": "x" } }],
    ["default/six", { clusterIPs: ["fd00::1"] }, "fd00::1"],
  ];
  for (const [name, options, ip = "10.96.0.3"] of skipped) {
    t.same(tracked(service(name, ip, http, options)), [], `${name} is left alone`);
  }
  const [plain] = tracked(service("default/web", "10.96.0.9", [{ port: 80 }]));
  t.match(plain?.port, { id: "default/web", key: "default/web/tcp", protocol: "tcp", affinitySeconds: 0 });
  const [sticky] = tracked(
    service("default/web", "10.96.0.9", http, {
      sessionAffinity: "ClientIP",
      externalTrafficPolicy: "Local",
      ingress: [{ ip: "5.6.7.8" }, { ip: "5.6.7.9", ipMode: "Proxy" }, { ip: "fd00::7" }],
    }),
  );
  t.match(sticky?.port, { affinitySeconds: 10_800, loadBalancerIPs: ["5.6.7.8"], externalLocal: true });

  const checked = (options: ServiceOptions) =>
    tracked(service("default/web", "10.96.0.9", http, { healthCheckNodePort: 32_000, ...options }))[0]?.port
      .healthCheckNodePort;
  t.equal(checked({ type: "LoadBalancer", externalTrafficPolicy: "Local" }), 32_000);
  t.equal(checked({ type: "LoadBalancer", externalTrafficPolicy: "Cluster" }), 0);
  t.equal(checked({ type: "NodePort", externalTrafficPolicy: "Local" }), 0, "for load balancers only");
  const [six] = trackedIn(6, [
    service("default/web", "fd00:96:0:0::9", http, { clusterIPs: ["10.96.0.9", "fd00:96:0:0::9"] }),
    slice("default/web", [{ name: "http", port: 80 }], ["FD00:244:0:1:0::2", "10.244.1.2"], {
      addressType: "IPv6",
    }),
  ]);
  t.match(six, { port: { clusterIP: "fd00:96::9" }, endpoints: [{ text: "[fd00:244:0:1::2]:80" }] });
  t.equal(six?.endpoints.length, 1, "one spelling an address, no address of another family");

  const states = tracked(
    service("default/web", "10.96.0.9", [
      { name: "http", port: 80 },
      { name: "dns", port: 53, protocol: "UDP" },
    ]),
    slice(
      "default/web",
      [{ name: "http", port: 8080 }],
      ["10.244.2.2", { ip: "10.244.1.9", node: "node-2" }],
      { name: "default/a" },
    ),
    slice("default/web", [{ name: "http", port: 8080 }], ["10.244.1.9"], { name: "default/b" }),
    slice("default/web", [{ name: "dns", port: 5353, protocol: "UDP" }], ["10.244.1.9"], {
      name: "default/c",
    }),
    slice("default/web", [{ name: "http", port: 1 }], ["fd00::2"], {
      name: "default/d",
      addressType: "IPv6",
    }),
    slice("default/web", [{ name: "http", port: 2 }], ["10.9.9.9"], {
      name: "default/e",
      labels: { "service.kubernetes.io/headless": "" },
    }),
  );
  const texts = (id: string) =>
    states.find((state) => state.port.id === id)?.endpoints.map(({ text, local }) => [text, local]);
  t.same(
    texts("default/web:http"),
    [
      ["10.244.1.9:8080", true],
      ["10.244.2.2:8080", true],
    ],
    "merged, sorted, local wins",
  );
  t.same(texts("default/web:dns"), [["10.244.1.9:5353", true]]);
});

t.test("the tracker tells what changed and nothing else", async (t) => {
  const tracker = new ChangeTracker({ nodeName: "node-1", family: 4, startTime: 1000 });
  const http = [{ name: "http", port: 80 }];
  const web = service("default/web", "10.96.0.9", http);
  const api = service("default/api", "10.96.0.8", http);
  const one = slice("default/web", [{ name: "http", port: 8080 }], ["10.244.1.2"]);
  t.ok(tracker.serviceChanged(undefined, web));
  t.ok(tracker.serviceChanged(undefined, api));
  t.ok(tracker.endpointSliceChanged(undefined, one));
  t.same(tracker.pending, { services: 2, endpoints: 1 });
  t.same([...tracker.take().dirty.keys()].sort(), ["default/api:http/tcp", "default/web:http/tcp"]);
  t.same(tracker.take().dirty.size, 0);

  t.notOk(tracker.serviceChanged(web, service("default/web", "10.96.0.9", http)), "same again");
  t.notOk(
    tracker.endpointSliceChanged(one, slice("default/web", [{ name: "http", port: 8080 }], ["10.244.1.2"])),
  );
  const at = (time: string) => ({
    annotations: { "endpoints.kubernetes.io/last-change-trigger-time": time },
  });
  const two = slice(
    "default/web",
    [{ name: "http", port: 8080 }],
    ["10.244.1.3"],
    at("2026-01-01T00:00:01.5Z"),
  );
  const held = tracker.ports.get("default/web:http/tcp");
  t.ok(tracker.endpointSliceChanged(one, two));
  const changes = tracker.take();
  t.same([...changes.dirty.keys()], ["default/web:http/tcp"]);
  t.same(changes.triggerTimes, [Date.parse("2026-01-01T00:00:01.5Z")]);
  t.same(
    held?.endpoints.map(({ ip }) => ip),
    ["10.244.1.2"],
    "a state once handed out does not change",
  );

  tracker.endpointSliceChanged(two, one);
  tracker.endpointSliceChanged(one, two);
  t.same(tracker.take().dirty.size, 0, "there and back again is no change");
  tracker.endpointSliceChanged(
    two,
    slice("default/web", [{ name: "http", port: 8080 }], [], at("1970-01-01T00:00:00.5Z")),
  );
  t.same(tracker.take().triggerTimes, [], "from before the proxy's start");

  const moved = slice("default/api", [{ name: "http", port: 8080 }], ["10.244.1.3"], {
    name: "default/web-abc",
  });
  t.ok(tracker.endpointSliceChanged(two, moved));
  t.same([...tracker.take().dirty.keys()].sort(), ["default/api:http/tcp"]);
  t.ok(tracker.serviceChanged(api, undefined));
  t.same(
    [...tracker.take().dirty.values()].map(({ now }) => now),
    [undefined],
  );
  t.equal(tracker.ports.size, 1);
  t.ok(tracker.endpointSliceChanged(moved, undefined));
});

t.test("which endpoints are used", async (t) => {
  const select = (
    options: ServiceOptions,
    ...endpoints: [ip: string, node: string, ready: boolean, terminating?: boolean][]
  ) => {
    const [state] = tracked(
      service("default/web", "10.96.0.9", [{ name: "http", port: 80, nodePort: 30080 }], options),
      slice(
        "default/web",
        [{ name: "http", port: 8080 }],
        endpoints.map(([ip, node, ready, terminating]) => ({
          ip,
          node,
          conditions: { ready, serving: ready || terminating === true, terminating: terminating === true },
        })),
      ),
    );
    const { cluster, local, reachable, any } = selectEndpoints(state as PortState, CONTEXT.place);
    const ips = (list: readonly { ip: string }[]) => list.map(({ ip }) => ip.at(-1)).join("");
    return [ips(cluster), ips(local), ips(reachable), any];
  };
  const NP = { type: "NodePort" } as const;
  t.same(
    select(NP, ["10.0.0.1", "node-1", true], ["10.0.0.2", "node-2", true], ["10.0.0.3", "node-2", false]),
    ["12", "", "12", true],
  );
  t.same(
    select(NP, ["10.0.0.1", "node-1", false, true], ["10.0.0.2", "node-2", true]),
    ["2", "", "2", true],
    "ready ones win",
  );
  t.same(
    select(NP, ["10.0.0.1", "node-1", false, true], ["10.0.0.2", "node-2", false]),
    ["1", "", "1", true],
    "else serving",
  );
  t.same(select(NP, ["10.0.0.1", "node-1", false]), ["", "", "", false]);
  const local = { ...NP, externalTrafficPolicy: "Local" } as const;
  t.same(select(local, ["10.0.0.1", "node-1", true], ["10.0.0.2", "node-2", true]), ["12", "1", "12", true]);
  t.same(
    select(local, ["10.0.0.1", "node-1", false, true], ["10.0.0.2", "node-2", true]),
    ["2", "1", "21", true],
    "KEP-1669: local terminating",
  );
  const internal = { internalTrafficPolicy: "Local" } as const;
  const [cluster, own, reachable, any] = [
    ...select({ ...internal, ports: [{ name: "http", port: 80 }] }, ["10.0.0.2", "node-2", true]),
  ];
  t.same([cluster, own, reachable, any], ["", "", "", true], "no node port: the cluster set is of no use");
});

t.test("golden: the ruleset of a ClusterIP with two endpoints and of one with none", async (t) => {
  const states = tracked(
    service("ns1/svc1", "172.30.0.41", [{ name: "p80", port: 80 }]),
    slice("ns1/svc1", [{ name: "p80", port: 80 }], ["10.180.0.1", { ip: "10.180.0.2", node: "node-2" }]),
    service("ns4/svc4", "172.30.0.44", [{ name: "p80", port: 80, nodePort: 30044 }], {
      type: "NodePort",
      externalIPs: ["192.168.99.4"],
    }),
  );
  const sep2 = endpointChain({ id: "ns1/svc1:p80", protocol: "tcp" }, { text: "10.180.0.2:80" });
  const golden = parseSave(`*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:KUBE-PROXY-CANARY - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name  ct_state_invalid_dropped_pkts -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-SERVICES -d 172.30.0.44/32 -p tcp -m comment --comment "ns4/svc4:p80 has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
-A KUBE-EXTERNAL-SERVICES -d 192.168.99.4/32 -p tcp -m comment --comment "ns4/svc4:p80 has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "ns4/svc4:p80 has no endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 30044 -j REJECT --reject-with icmp-port-unreachable
COMMIT
*nat
:KUBE-PROXY-CANARY - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SVC-XPGD46QRK7WJZT7O - [0:0]
:KUBE-SEP-SXIVWICOYRO3J4NJ - [0:0]
:${sep2} - [0:0]
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES -d 172.30.0.41/32 -p tcp -m comment --comment "ns1/svc1:p80 cluster IP" -m tcp --dport 80 -j KUBE-SVC-XPGD46QRK7WJZT7O
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-XPGD46QRK7WJZT7O ! -s 10.244.0.0/16 -d 172.30.0.41/32 -p tcp -m comment --comment "ns1/svc1:p80 cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment "ns1/svc1:p80 -> 10.180.0.1:80" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-SXIVWICOYRO3J4NJ
-A KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment "ns1/svc1:p80 -> 10.180.0.2:80" -j ${sep2}
-A KUBE-SEP-SXIVWICOYRO3J4NJ -s 10.180.0.1/32 -m comment --comment "ns1/svc1:p80" -j KUBE-MARK-MASQ
-A KUBE-SEP-SXIVWICOYRO3J4NJ -p tcp -m comment --comment "ns1/svc1:p80" -m tcp -j DNAT --to-destination 10.180.0.1:80
-A ${sep2} -s 10.180.0.2/32 -m comment --comment "ns1/svc1:p80" -j KUBE-MARK-MASQ
-A ${sep2} -p tcp -m comment --comment "ns1/svc1:p80" -m tcp -j DNAT --to-destination 10.180.0.2:80
COMMIT
`);
  t.same(meaning(parseSave(renderAll(states, CONTEXT))), meaning(golden));
});

t.test("which UDP flows are forgotten", async (t) => {
  const build = (ips: string[]) =>
    tracked(
      service("default/dns", "10.96.0.53", [{ port: 53, protocol: "UDP", nodePort: 30053 }], {
        type: "NodePort",
      }),
      slice("default/dns", [{ port: 5353, protocol: "UDP" }], ips),
    )[0] as PortState;
  const flow = (dst: string, dstPort: number, backend: string, backendPort = 5353): Flow => ({
    original: { src: "10.244.1.9", srcPort: 4000, dst, dstPort },
    reply: { src: backend, srcPort: backendPort, dst: "10.244.1.9", dstPort: 4000 },
    identity: [],
  });
  const flows = [
    flow("10.96.0.53", 53, "10.244.1.2"),
    flow("10.96.0.53", 53, "10.244.1.3"),
    flow("10.96.0.53", 53, "10.96.0.53", 53),
    flow("192.168.56.11", 30053, "10.244.1.2"),
    flow("8.8.8.8", 30053, "8.8.8.8", 30053),
    flow("8.8.8.8", 53, "8.8.8.8", 53),
  ];
  const stale = (before: PortState | undefined, now: PortState | undefined) =>
    staleFlows(flows, changedUdpServices([{ before, now }]), new Set(["192.168.56.11"])).map((f) =>
      flows.indexOf(f),
    );
  t.same(stale(build(["10.244.1.2", "10.244.1.3"]), build(["10.244.1.3"])), [0, 2, 3]);
  t.same(stale(undefined, build(["10.244.1.2", "10.244.1.3"])), [2], "tracked before there were rules");
  t.same(stale(build(["10.244.1.2"]), build([])), [0, 1, 2, 3], "no endpoints: no backend is right");
  t.same(stale(build(["10.244.1.2"]), undefined), [0, 1, 2, 3], "service gone");
  t.equal(addressKey("fd00::1"), "fd000000000000000000000000000001");
});
