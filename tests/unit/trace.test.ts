// Packets on paper: every match and target that the walker knows, forks and their odds, routing, and what explain and
// rules make of it. That the kernel does the same is tests/kernel/trace.test.ts's business.

import t from "tap";
import { ClusterView } from "../../cli/explain/cluster.js";
import { groupsOf, rawText, ruleText } from "../../cli/explain/groups.js";
import { storyText } from "../../cli/explain/print.js";
import { destinations, sourceOf } from "../../cli/explain/question.js";
import { resultJson, Storyteller } from "../../cli/explain/story.js";
import { createStyle } from "../../cli/style.js";
import type { Node, Pod, Stored } from "../../common/k8s.js";
import {
  chainsOf,
  MemoryIptables,
  parseSave,
  quoteWord,
  type Ruleset,
  renderRestore,
} from "../../dataplane/iptables/index.js";
import { PACKET_COUNTERS } from "../../dataplane/proxy/names.js";
import { renderAll } from "../../dataplane/proxy/render.js";
import { entryJumps } from "../../dataplane/proxy/rules/fixed.js";
import { ChangeTracker } from "../../dataplane/proxy/tracker.js";
import {
  addressOn,
  type Host,
  outcomes,
  type Packet,
  parseHost,
  sourceFor,
  walk,
} from "../../dataplane/trace/index.js";
import { CONTEXT } from "../helpers/proxy-memory.js";
import { type ServiceOptions, service, slice } from "../helpers/service-objects.js";

const NODE = "192.168.56.11";
const POD = "10.244.1.7";
const HOST: Host = {
  addresses: [
    { ip: "127.0.0.1", prefix: 8, device: "lo", scope: "host" },
    { ip: NODE, prefix: 24, device: "eth0", scope: "global" },
    { ip: "10.244.1.1", prefix: 24, device: "cni0", scope: "global" },
    { ip: "10.244.1.0", prefix: 32, device: "flannel.1", scope: "global" },
    { ip: "fd56::11", prefix: 64, device: "eth0", scope: "global" },
  ],
  routes: [
    { to: "0.0.0.0/0", device: "eth0", via: "192.168.56.1" },
    { to: "192.168.56.0/24", device: "eth0", src: NODE },
    { to: "10.244.1.0/24", device: "cni0" },
    { to: "10.244.2.0/24", device: "flannel.1", via: "10.244.2.0" },
    { to: "10.9.0.0/16", device: "", type: "blackhole" },
    { to: "fd56::/64", device: "eth0" },
  ],
  forwarding: true,
  routeLocalnet: false,
};
const FROM_POD: Packet = { protocol: "tcp", src: POD, dst: "10.96.0.10", dport: 80, input: "cni0" };

function rules(...lines: string[]): Ruleset {
  return parseSave(`${lines.join("\n")}\n`);
}

function ends(ruleset: Ruleset, packet: Partial<Packet> = {}, host = HOST) {
  return outcomes(walk(ruleset, host, { ...FROM_POD, ...packet })).map(({ end }) => end);
}

/** One rule in FORWARD that drops: "dropped" when it matches. */
function verdict(match: string, packet: Partial<Packet> = {}, host = HOST): string {
  const text = rules("*filter", ":FORWARD ACCEPT [0:0]", `-A FORWARD ${match} -j DROP`, "COMMIT");
  return outcomes(walk(text, host, { ...FROM_POD, ...packet }))
    .map(({ end: { fate }, assuming }) => (assuming[0] ? `${fate} ${assuming[0].kind}` : fate))
    .join(", ");
}

t.test("matches", async (t) => {
  const yes = "dropped";
  const no = "leaves";
  const cases: [match: string, expected: string, packet?: Partial<Packet>][] = [
    ["", yes],
    ["-s 10.244.0.0/16", yes],
    ["! -s 10.244.0.0/16", no],
    ["-d 10.96.0.11/32", no],
    ["-d 10.96.0.10/32 -p tcp -m tcp --dport 80", yes],
    ["-p tcp -m tcp ! --dport 80", no],
    ["-p tcp -m tcp --dport 81:", no],
    ["-p tcp -m tcp --dport :80", yes],
    ["-p tcp -m tcp --dport 1:79", no],
    ["-p 6", yes],
    ["-p udp", no],
    ["-p udp -m udp --dport 80", yes, { protocol: "udp" }],
    ["-p tcp -m tcp --sport 1000", yes, { sport: 1000 }],
    ["-p tcp -m tcp --sport 1000", "dropped unknown, leaves"],
    ["-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", yes],
    ["-p tcp -m tcp --tcp-flags ACK ACK", no],
    ["-p tcp -m tcp --tcp-flags ACK NONE", yes],
    ["-p tcp -m tcp ! --tcp-flags SYN SYN", no],
    ["-p tcp -m multiport --dports 1:5,80", yes],
    ["-p tcp -m multiport --dports 81,82", no],
    ["-i cni0", yes],
    ["-i cni+", yes],
    ["! -i cni0", no],
    ["-o eth0", yes],
    ["-o cni0", no],
    ["-m mark --mark 0x4000/0x4000", no],
    ["-m mark --mark 0x4000/0x4000", yes, { mark: 0xffff_ffff }],
    ["-m mark ! --mark 0x4000/0x4000", yes],
    ["-m mark --mark 0x80000000/0x80000000", yes, { mark: 0x8000_0000 }],
    ["-m conntrack --ctstate NEW", yes],
    ["-m conntrack --ctstate RELATED,ESTABLISHED", no],
    ["-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT", yes],
    ["-m state --state NEW", yes],
    ["-m addrtype --src-type LOCAL", no],
    ["-m addrtype --dst-type UNICAST,BROADCAST", yes],
    ["-m addrtype --dst-type BROADCAST", yes, { dst: "192.168.57.255" }],
    ["-m addrtype ! --dst-type LOCAL", yes],
    ["-m addrtype --dst-type BLACKHOLE", "dropped unknown, leaves"],
    ["-m addrtype --dst-type LOCAL --limit-iface-in", "dropped unknown, leaves"],
    ['-m comment --comment "any thing"', yes],
    ["-m nfacct --nfacct-name x", yes],
    ["-m statistic --mode random --probability 0.25", "dropped, leaves"],
    ["-m statistic --mode nth --every 2 --packet 0", "dropped unknown, leaves"],
    ["-m recent --rcheck --seconds 60 --name A --rsource", "dropped seen, leaves"],
    ["-m recent --set --name A --rsource", yes],
    ["-m recent --rcheck --hitcount 4 --name A --rsource", "dropped unknown, leaves"],
    ["-m limit --limit 1/sec", "dropped unknown, leaves"],
    ["-m physdev --physdev-in veth1", "dropped unknown, leaves"],
    ["-m conntrack --ctorigdst 10.0.0.1", "dropped unknown, leaves"],
    // What is known to fail decides, whatever is not known.
    ["-p udp -m limit --limit 1/sec", no],
    ["-m limit --limit 1/sec -m statistic --mode random --probability 0.5", "dropped unknown, leaves"],
  ];
  const host: Host = {
    ...HOST,
    addresses: [...HOST.addresses, { ip: "192.168.57.1", prefix: 24, device: "eth2", scope: "global" }],
  };
  for (const [match, expected, packet] of cases) t.equal(verdict(match, packet, host), expected, match);
  const six: Partial<Packet> = { src: "fd56::2", dst: "fd56::3", input: "eth0" };
  t.equal(verdict("-s fd56::/64 -d fd56:0:0::3/128", six), yes, "IPv6");
  t.equal(verdict("-m addrtype --dst-type MULTICAST", { ...six, dst: "ff02::1" }, HOST), "unroutable");
});

t.test("targets and the order of hooks", async (t) => {
  const [dnat] = ends(
    rules(
      "*raw",
      ":PREROUTING ACCEPT [0:0]",
      "-A PREROUTING -j MARK --set-xmark 0x3/0xf",
      "COMMIT",
      "*mangle",
      ":PREROUTING ACCEPT [0:0]",
      "-A PREROUTING -m mark --mark 0x3 -j MARK --set-xmark 0x10/0x0",
      "COMMIT",
      "*nat",
      ":PREROUTING ACCEPT [0:0]",
      ":POSTROUTING ACCEPT [0:0]",
      "-A PREROUTING -p tcp -m mark --mark 0x13 -j DNAT --to-destination 10.244.2.2:8080",
      "-A PREROUTING -j DNAT --to-destination 10.0.0.1",
      "-A POSTROUTING -o flannel.1 -d 10.244.2.2/32 -j MASQUERADE",
      "COMMIT",
      "*filter",
      ":FORWARD DROP [0:0]",
      "-A FORWARD -i cni0 -o flannel.1 -d 10.244.2.2/32 -m conntrack --ctstate DNAT -j ACCEPT",
      "COMMIT",
    ),
  );
  t.match(dnat, {
    fate: "leaves",
    device: "flannel.1",
    translated: true,
    masqueraded: true,
    packet: { src: "10.244.1.0", dst: "10.244.2.2", dport: 8080, mark: 0x13 },
  });

  const calls = (last: string) =>
    rules(
      "*filter",
      ":FORWARD DROP [0:0]",
      ":A - [0:0]",
      ":B - [0:0]",
      `-A FORWARD ${last}`,
      "-A FORWARD -j ACCEPT",
      "-A A -g B",
      "-A A -j REJECT",
      "-A B -j LOG",
      "-A B -d 10.96.0.10/32 -j RETURN",
      "-A B -j REJECT",
      "COMMIT",
    );
  t.match(ends(calls("-j A")), [{ fate: "leaves" }], "goto returns to the caller's caller");
  t.match(ends(calls("-g A")), [{ fate: "dropped" }], "from a built-in chain: to the policy");
  t.match(ends(calls("-j RETURN")), [{ fate: "dropped" }]);
  t.match(ends(calls("-j B"), { dst: "10.96.0.11" }), [{ fate: "rejected" }]);
  const [policy] = outcomes(walk(calls("-j RETURN"), HOST, FROM_POD));
  t.match(policy?.steps.at(-1), { kind: "policy", chain: "FORWARD", policy: "DROP" });
  t.match(ends(calls("-j TPROXY --on-port 1")), [{ fate: "unknown", why: /TPROXY/ }], "no guess");
  t.match(
    ends(
      rules(
        "*nat",
        ":PREROUTING ACCEPT [0:0]",
        "-A PREROUTING -j DNAT --to-destination 10.0.0.1-10.0.0.9",
        "COMMIT",
      ),
    ),
    [{ fate: "unknown" }],
  );

  const nat = (chain: string, rule: string) =>
    rules("*nat", `:${chain} ACCEPT [0:0]`, `-A ${chain} ${rule}`, "COMMIT");
  t.match(ends(nat("PREROUTING", "-p tcp -j REDIRECT --to-ports 9")), [
    { fate: "local", packet: { dst: "10.244.1.1", dport: 9 } },
  ]);
  t.match(ends(nat("POSTROUTING", `-j SNAT --to-source ${NODE}:1-9`)), [
    { packet: { src: NODE }, masqueraded: true },
  ]);
  const six: Partial<Packet> = { src: "fd56::2", dst: "fd56::99", input: "eth0" };
  t.match(ends(nat("PREROUTING", "-p tcp -j DNAT --to-destination [fd56::3]:8080"), six), [
    { packet: { dst: "fd56::3", dport: 8080 } },
  ]);
  t.match(ends(nat("PREROUTING", "-j DNAT --to-destination fd56::3"), six), [
    { packet: { dst: "fd56::3", dport: 80 } },
  ]);
});

t.test("routing", async (t) => {
  const none = rules();
  t.match(ends(none), [{ fate: "leaves", device: "eth0", translated: false, masqueraded: false }]);
  t.match(ends(none, { dst: NODE }), [{ fate: "local" }]);
  t.match(ends(none, { dst: "10.9.1.1" }), [{ fate: "unroutable" }], "blackhole");
  t.match(ends(none, {}, { ...HOST, forwarding: false }), [{ fate: "unroutable", why: /does not forward/ }]);
  t.match(ends(none, { dst: "127.0.0.1" }), [{ fate: "unroutable", why: /martian/ }]);
  t.match(ends(none, { dst: "127.0.0.1" }, { ...HOST, routeLocalnet: true }), [{ fate: "local" }]);
  t.match(ends(none, { src: "127.0.0.1", dst: NODE }), [{ fate: "unroutable" }]);

  const made = (packet: Partial<Packet>, ruleset = none, host = HOST) => {
    const { input: _, ...own } = { ...FROM_POD, src: NODE, ...packet };
    return outcomes(walk(ruleset, host, own));
  };
  t.match(made({ dst: "10.9.1.1" }), [{ end: { fate: "unroutable" } }]);
  t.match(made({ src: "127.0.0.1", dst: "127.0.0.1" }), [{ end: { fate: "local" } }]);
  const out = rules(
    "*nat",
    ":PREROUTING ACCEPT [0:0]",
    ":OUTPUT ACCEPT [0:0]",
    ":POSTROUTING ACCEPT [0:0]",
    "-A PREROUTING -j DNAT --to-destination 10.0.0.1",
    "-A OUTPUT -d 127.0.0.1/32 -j DNAT --to-destination 10.244.1.7:80",
    "-A POSTROUTING -s 127.0.0.0/8 -o cni0 -j MASQUERADE",
    "COMMIT",
    "*filter",
    ":OUTPUT ACCEPT [0:0]",
    ":INPUT ACCEPT [0:0]",
    "-A OUTPUT -o cni0 -j DROP",
    "-A INPUT -i lo -p udp -j DROP",
    "COMMIT",
  );
  t.match(made({ src: "127.0.0.1", dst: "127.0.0.1" }, out), [
    { end: { fate: "unroutable", why: /route_localnet/ } },
  ]);
  t.match(
    made({ src: "127.0.0.1", dst: "127.0.0.1" }, out, { ...HOST, routeLocalnet: true }),
    [{ end: { fate: "leaves", device: "cni0", packet: { src: "10.244.1.1", dst: "10.244.1.7" } } }],
    "OUTPUT goes on seeing the old device, POSTROUTING the new one",
  );
  t.match(
    made({ dst: NODE }, out),
    [{ end: { fate: "local", translated: false } }],
    "PREROUTING's nat is settled",
  );
  t.match(
    made({ dst: NODE, protocol: "udp" }, out),
    [{ end: { fate: "dropped" } }],
    "it comes in again by lo",
  );

  t.equal(sourceFor(HOST, "10.244.2.2"), "10.244.1.0");
  t.equal(sourceFor(HOST, "8.8.8.8"), NODE);
  t.equal(sourceFor(HOST, "10.244.1.1"), "10.244.1.1");
  t.equal(sourceFor(HOST, "127.0.0.5"), "127.0.0.1");
  t.equal(sourceFor(HOST, "10.9.9.9"), undefined);
  t.equal(addressOn(HOST, "lo", NODE), NODE, "loopback has none that may leave");
  t.equal(addressOn(HOST, "eth0", "fd56::1"), "fd56::11");
});

t.test("forks", async (t) => {
  const chain = (...lines: string[]) =>
    rules("*nat", ":PREROUTING ACCEPT [0:0]", ...lines.map((line) => `-A PREROUTING ${line}`), "COMMIT");
  const dnat = (n: number) => `-j DNAT --to-destination 10.244.1.${n}:80`;
  const dice = (p: number) => `-m statistic --mode random --probability ${p}`;
  const seen = (n: number) => `-m recent --rcheck --seconds 9 --name L${n} --rsource`;
  const sticky = chain(`${seen(2)} ${dnat(2)}`, `${seen(3)} ${dnat(3)}`, `${dice(0.5)} ${dnat(2)}`, dnat(3));
  const trace = walk(sticky, HOST, FROM_POD);
  t.equal(trace.branches.length, 4, "one fork");
  t.match(
    outcomes(trace).map(({ odds, assuming, end }) => [odds, assuming, end.packet.dst]),
    [
      [1, [{ kind: "seen", list: "L2", seconds: 9 }], "10.244.1.2"],
      [1, [{ kind: "seen", list: "L3" }], "10.244.1.3"],
      [0.5, [], "10.244.1.2"],
      [0.5, [], "10.244.1.3"],
    ],
  );
  const known = walk(sticky, HOST, FROM_POD, { seen: (list) => list === "L3" });
  t.match(outcomes(known), [{ odds: 1, end: { packet: { dst: "10.244.1.3" } } }]);

  const many = chain(...Array.from({ length: 10 }, (_, i) => `${dice(1 / (10 - i))} ${dnat(i)}`));
  const odds = outcomes(walk(many, HOST, FROM_POD)).map((one) => one.odds);
  t.equal(odds.length, 11, "the last of ten is certain, and yet a question of its own");
  t.ok(odds.slice(0, 10).every((one) => Math.abs(one - 0.1) < 1e-8));
  t.ok((odds[10] ?? 1) < 1e-8);
  const nested = chain(
    `${dice(0.5)} -j MARK --set-xmark 0x1/0x1`,
    "-j MARK --set-xmark 0x2/0x2",
    `${dice(0.5)} ${dnat(9)}`,
  );
  t.match(
    outcomes(walk(nested, HOST, FROM_POD)).map((one) => [one.odds, one.end.packet.mark]),
    [
      [0.25, 3],
      [0.25, 3],
      [0.25, 2],
      [0.25, 2],
    ],
  );
  const doubling = chain(
    ...Array.from({ length: 20 }, () => "-m limit --limit 1/sec -j MARK --set-xmark 0x1/0x1"),
  );
  t.throws(() => walk(doubling, HOST, FROM_POD), RangeError, "2^20 ways are too many");
});

t.test("a host as ip(8) tells it", async (t) => {
  const text = [
    JSON.stringify([
      { ifname: "lo", addr_info: [{ local: "127.0.0.1", prefixlen: 8, scope: "host" }] },
      {
        ifname: "eth0",
        addr_info: [
          { local: NODE, prefixlen: 24, scope: "global" },
          { local: "fe80::1", prefixlen: 64, scope: "link" },
        ],
      },
    ]),
    JSON.stringify([
      { dst: "default", gateway: "192.168.56.1", dev: "eth0", flags: [] },
      { dst: "10.244.2.0/24", gateway: "10.244.2.0", dev: "flannel.1", flags: ["onlink"] },
      { dst: "10.7.0.1", dev: "eth0", metric: 5, prefsrc: NODE },
      { type: "blackhole", dst: "1.0.0.0/8" },
      { dst: "default", dev: "eth9", table: "100" },
      { type: "local", dst: NODE, dev: "eth0", table: "local" },
      { type: "local", dst: "10.8.0.0/16", dev: "lo", table: "local" },
      { dst: "10.6.0.0/16", nexthops: [{ gateway: "192.168.56.2", dev: "eth0" }] },
    ]),
    "[]",
    "1\n1",
    "0",
  ].join("\n--\n");
  const host = parseHost(`${text}\n`, 4);
  t.same(host.routes, [
    { to: "0.0.0.0/0", device: "eth0", via: "192.168.56.1" },
    { to: "10.244.2.0/24", device: "flannel.1", via: "10.244.2.0" },
    { to: "10.7.0.1/32", device: "eth0", src: NODE, metric: 5 },
    { to: "1.0.0.0/8", device: "", type: "blackhole" },
    { to: "10.8.0.0/16", device: "lo", type: "local" },
    { to: "10.6.0.0/16", device: "eth0", via: "192.168.56.2" },
  ]);
  t.same([host.forwarding, host.routeLocalnet, host.addresses.length], [true, true, 3]);
  t.equal(parseHost(`${text}\n`, 6).forwarding, false);
  t.match(ends(rules(), { dst: "10.8.3.3" }, host), [{ fate: "local" }]);
});

function object<T extends Node | Pod>(name: string, rest: Partial<T>, namespace?: string): Stored<T> {
  const metadata = { name, uid: name, resourceVersion: "1", creationTimestamp: "2026-01-01T00:00:00Z" };
  return {
    apiVersion: "v1",
    kind: "",
    ...rest,
    metadata: { ...metadata, ...(namespace && { namespace }) },
  } as Stored<T>;
}

const ENDPOINTS = [
  { ip: "10.244.1.2", node: "node-1" },
  { ip: "10.244.2.2", node: "node-2" },
];

/** Two nodes, a client pod and Services; both hosts have the rules that the proxy of `nodeName` makes. */
function world(options: ServiceOptions = {}, nodeName = "node-1", endpoints = ENDPOINTS, more = "") {
  const web = slice("default/web", [{ name: "http", port: 8080 }], endpoints);
  for (const [i, endpoint] of (web.endpoints ?? []).entries()) {
    endpoint.targetRef = { kind: "Pod", namespace: "default", name: `web-${i}` };
  }
  const pod = (name: string, ip: string, node: string): Stored<Pod> =>
    object<Pod>(
      name,
      { spec: { containers: [], nodeName: node }, status: { phase: "Running", podIPs: [{ ip }] } },
      "default",
    );
  const node = (name: string, address: string): Stored<Node> =>
    object<Node>(name, { status: { addresses: [{ type: "InternalIP", address }] } });
  const view = new ClusterView(["node-1", "node-2"], {
    services: [
      service("default/web", "10.96.0.10", [{ name: "http", port: 80, nodePort: 30080 }], {
        type: "NodePort",
        ...options,
      }),
      service("default/empty", "10.96.0.11", [{ port: 80 }]),
      service("shop/blind", "None", [{ port: 80 }]),
      service("shop/alias", "", [{ port: 80 }], { type: "ExternalName", externalName: "example.org" }),
    ],
    slices: [web],
    pods: [
      pod("client", POD, "node-1"),
      pod("web-0", "10.244.1.2", "node-1"),
      object<Pod>("late", { spec: { containers: [] } }, "default"),
    ],
    nodes: [node("node-1", NODE), node("node-2", "192.168.56.12")],
  });
  const tracker = new ChangeTracker({ nodeName, family: 4, startTime: 0 });
  for (const one of view.services) tracker.serviceChanged(undefined, one);
  tracker.endpointSliceChanged(undefined, web);
  tracker.take();
  const kernel = new MemoryIptables();
  kernel.counters.ensure(Object.values(PACKET_COUNTERS));
  kernel.apply(renderAll(tracker.ports.values(), CONTEXT));
  for (const { table, chain, rule } of [...entryJumps(CONTEXT)].reverse()) {
    kernel.apply(`*${table}\n-I ${chain} ${rule.map(quoteWord).join(" ")}\nCOMMIT\n`);
  }
  kernel.apply(more);
  const other: Host = {
    ...HOST,
    addresses: HOST.addresses.map((one) => (one.ip === NODE ? { ...one, ip: "192.168.56.12" } : one)),
    routes: HOST.routes.map((route) => (route.src ? { ...route, src: "192.168.56.12" } : route)),
  };
  const ruleset = kernel.ruleset();
  const teller = new Storyteller(view, async (name) => {
    const facts = name === "node-1" ? HOST : other;
    return { facts, walk: async (packet) => walk(ruleset, facts, packet) };
  });
  const explain = async (text: string, from?: string) => {
    const stories: string[] = [];
    for (const one of destinations(view, text, "default")) {
      const story = await teller.tell(sourceOf(view, from, "default", one), one);
      JSON.stringify(story.results.map((result) => resultJson(story, result, view.names(4))));
      stories.push(storyText(story, view.names(4), createStyle(false)));
    }
    return stories.join("\n");
  };
  return { view, ruleset, teller, explain };
}

t.test("explain: a Service with a choice", async (t) => {
  const { explain } = world();
  t.equal(
    await explain("web:80", "pod/client"),
    `Service default/web, port http: ClusterIP 10.96.0.10:80/TCP
from pod default/client on node-1 (10.244.1.7)

node-1  10.244.1.7 → 10.96.0.10:80  in by cni0
├─ nat PREROUTING 1                       a new connection: which Service is it for?
├─ nat KUBE-SERVICES 1                    ClusterIP of default/web:http
├─ by chance, one of
│  ├─ 50%
│  │  ├─ nat KUBE-SVC-CDGGSHYLG3RE2FKL 2  chance 1/2: pod default/web-0 on node-1
│  │  └─ nat KUBE-SEP-UIQK3OSOSTRHRPBX 2  DNAT to 10.244.1.2:8080, pod default/web-0 on node-1
│  └─ 50%
│     ├─ nat KUBE-SVC-CDGGSHYLG3RE2FKL 3  to pod default/web-1 on node-2
│     └─ nat KUBE-SEP-4EX2N4PG4ASNZOBF 2  DNAT to 10.244.2.2:8080, pod default/web-1 on node-2
├─ routing                                to the endpoint, see below
├─ nat POSTROUTING 1                      on the way out: is it marked for masquerading?
├─ nat KUBE-POSTROUTING 1                 not marked: the source address stays
└─ on to the endpoint

ODDS   TO                WHO                           SOURCE IT SEES
50%    10.244.1.2:8080   pod default/web-0 on node-1   10.244.1.7 (the client's own)
50%    10.244.2.2:8080   pod default/web-1 on node-2   10.244.1.7 (the client's own)
• source kept: pods keep their address inside the cluster
`,
  );
  const hairpin = await explain("10.96.0.10:80/tcp", "pod/default/web-0");
  t.match(hairpin, /10\.244\.1\.2:8080 +pod default\/web-0 on node-1 +10\.244\.1\.1 \(masqueraded\)/);
  t.match(hairpin, /• masqueraded: hairpin: the endpoint is its own client\n/);
  t.match(
    await explain("web:http"),
    /ClusterIP 10\.96\.0\.10:80[\s\S]*from node-1[\s\S]*NodePort 192\.168\.56\.11:30080[\s\S]*from outside the cluster/,
  );
  t.match(await explain("web:80"), /• masqueraded: the client is no pod \(not from 10\.244\.0\.0\/16\)\n/);
  const node2 = await explain("192.168.56.12:30080", "pod/client");
  t.match(
    node2,
    /out by eth0, on to node-2\n\nnode-2 {2}10\.244\.1\.7 → 192\.168\.56\.12:30080 {2}in by cni0\n/,
  );
  t.match(
    node2,
    /\n50% [\s\S]*\n50% [\s\S]*• masqueraded: externalTrafficPolicy Cluster, so that answers come back this way\n/,
  );
  t.match(
    await explain("192.0.2.1:30080"),
    /192\.0\.2\.1:30080\/TCP: 192\.0\.2\.1, the address of no Service\nfrom node-1/,
  );
});

t.test("explain: from node to node", async (t) => {
  const { explain } = world({}, "node-1", [{ ip: "192.168.56.12", node: "node-2" }]);
  t.match(
    await explain(`${NODE}:30080`, "node/node-2"),
    /^node-2 [\s\S]* on to node-1\n\nnode-1 [\s\S]* on to node-2\n\nnode-2 .*in by eth0\n[\s\S]*delivered on the host, from 192\.168\.56\.11\n/m,
    "a node port of another node, whose endpoint is in the first node's own network",
  );
});

t.test("explain: policies and dead ends", async (t) => {
  const local = world({ externalTrafficPolicy: "Local", internalTrafficPolicy: "Local" });
  t.match(
    await local.explain("web:30080"),
    /100% +10\.244\.1\.2:8080 .* 192\.168\.56\.1 \(the client's own\)\n• source kept: externalTrafficPolicy Local.*\n• not used: 10\.244\.2\.2:8080 \(default\/web-1\) on node-2: ready\n/,
  );
  t.match(await local.explain("web:30080", "pod/client"), /from a pod: as to the ClusterIP, any endpoint/);
  t.match(
    await local.explain("192.168.56.12:30080", "pod/client"),
    /on to node-2\n[\s\S]*• source kept: pods keep their address/,
  );
  t.match(await local.explain("web:30080", "node/node-1"), /from this node itself: masquerade/);
  const empty = await local.explain("empty");
  t.match(
    empty,
    /filter KUBE-SERVICES 1 +REJECT: default\/empty has no endpoints\n└─ refused: the client is told at once\n/,
  );
  t.match(
    empty,
    /100% +refused +by filter KUBE-SERVICES 1 on node-1\n• default\/empty has no endpoints at all: no pod matches the selector\n/,
  );

  const away = world({ externalTrafficPolicy: "Local" }, "node-3");
  const dropped = await away.explain("web:30080");
  t.match(dropped, /DROP: default\/web:http has no endpoint on this node, and its traffic policy is Local\n/);
  t.match(
    dropped,
    /• endpoint of default\/web:http: 10\.244\.2\.2:8080 \(default\/web-1\) on node-2: ready\n/,
  );

  const ranges = world({
    type: "LoadBalancer",
    ingress: [{ ip: "203.0.113.5" }],
    loadBalancerSourceRanges: ["192.0.2.0/24"],
  });
  t.match(
    await ranges.explain("203.0.113.5:80"),
    /DROP: the client is not in loadBalancerSourceRanges of default\/web:http\n/,
  );
  const foreign = (rule: string) =>
    world({}, "node-1", ENDPOINTS, `*filter\n-I FORWARD ${rule}\nCOMMIT\n`).explain("web:80", "pod/client");
  t.match(
    await foreign("-p tcp --dport 8080 -m comment --comment mine -j DROP"),
    /├─ routing +to the endpoint, see below\n├─ filter FORWARD 1 +DROP: mine\n└─ dropped: the client gets no answer\n\nODDS.*\n100% +dropped +by filter FORWARD 1 on node-1\n/,
  );
  const limited = await foreign("-m limit --limit 1/sec -j DROP");
  t.match(limited, /if -m limit --limit 1\/sec \(not known here\)\n/);
  t.match(
    limited,
    /\n≤100% +dropped +by filter FORWARD 1 on node-1\n≤50% +10\.244\.1\.2:8080 [\s\S]*• the odds are upper bounds/,
  );
  const sticky = world({
    sessionAffinity: "ClientIP",
    sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } },
  });
  const again = await sticky.explain("web:80", "pod/client");
  t.match(
    again,
    /nat KUBE-SVC-\w+ 2–3 +ClientIP affinity: a client seen in the last 60 s goes where it went\n/,
  );
  t.match(again, /50% .*\n50% [\s\S]*• sessionAffinity ClientIP: for 60 s the same client/);
  t.match(
    await sticky.explain("10.96.0.10:81", "pod/client"),
    /unchanged: .* 10\.96\.0\.10 is Service default\/web, whose ports are 80\/TCP/,
  );
  t.match(
    await sticky.explain("10.244.2.2:8080", "pod/client"),
    /10\.244\.2\.2:8080\/TCP: pod default\/web-1 on node-2, the address of no Service\n/,
  );
});

t.test("explain: what cannot be", async (t) => {
  const { explain } = world();
  const refused: [text: string, from: string | undefined, message: RegExp][] = [
    ["nope", undefined, /no Service default\/nope; in default there are: web, empty/],
    ["shop/web", undefined, /no Service shop\/web; did you mean default\/web\?/],
    ["web:99", undefined, /no port 99; there are: http 80:30080\/TCP/],
    ["shop/blind", undefined, /headless/],
    ["shop/alias", undefined, /ExternalName: a DNS alias of example\.org/],
    ["10.96.0.10", undefined, /a port is expected, as in 10\.96\.0\.10:80/],
    ["fd00::1", undefined, /as in \[fd00::1\]:80/],
    ["10.96.0.10:0", undefined, /no address with a port/],
    ["a/b/c", undefined, /is expected/],
    ["web", "pod/nobody", /no pod default\/nobody; in default there are: client, web-0, late/],
    ["web", "pod/late", /no address yet/],
    ["web", "node/node-9", /no node node-9; there are: node-1, node-2/],
    ["web", "moon", /is expected/],
  ];
  for (const [text, from, message] of refused)
    await t.rejects(explain(text, from), { message }, `${text} ${from}`);
});

t.test("rules: groups and notes", async (t) => {
  const { ruleset, view } = world({ externalIPs: ["198.51.100.7"] });
  const names = view.names(4);
  const groups = groupsOf(ruleset, names);
  t.same(
    groups.map(({ title }) => title),
    ["Entry points", "default/empty", "default/web:http", "For all Services"],
  );
  const rulesIn = groups.flatMap(({ parts }) => parts.flatMap((part) => part.rules));
  const all = chainsOf(ruleset).flatMap((chain) => chain.rules);
  t.same(new Set(rulesIn.map(({ rule }) => rule)), new Set(all), "every rule once");
  t.equal(rulesIn.length, all.length);
  t.ok(
    rulesIn.every(({ note }) => note !== ""),
    "and none without a note",
  );
  const [web, none] = groupsOf(ruleset, names, "default/web");
  t.equal(none, undefined);
  t.same(
    web?.parts.map(
      ({ chain, rules: list }) =>
        `${chain.table} ${chain.name.slice(0, 13)} ${list.map(({ number }) => number)}`,
    ),
    [
      "nat KUBE-SERVICES 1,2",
      "nat KUBE-NODEPORT 1,2",
      "nat KUBE-EXT-CDGG 1,2",
      "nat KUBE-SVC-CDGG 1,2,3",
      "nat KUBE-SEP-UIQK 1,2",
      "nat KUBE-SEP-4EX2 1,2",
    ],
  );
  const ranges = world({
    type: "LoadBalancer",
    externalIPs: ["198.51.100.7"],
    ingress: [{ ip: "203.0.113.5" }],
    loadBalancerSourceRanges: ["192.0.2.0/24"],
  });
  const [balanced] = groupsOf(ranges.ruleset, ranges.view.names(4), "default/web");
  t.match(
    balanced?.parts.map(({ chain, rules: list }) => `${chain.table} ${chain.name}: ${list[0]?.note}`),
    [
      /^nat KUBE-SERVICES: ClusterIP of default\/web:http$/,
      /^nat KUBE-NODEPORTS: NodePort 30080 of/,
      /^filter KUBE-PROXY-FIREWALL: the client is not in/,
      /^nat KUBE-FW-\w+: source range 192\.0\.2\.0\/24 may$/,
    ],
  );
  t.match(
    balanced?.parts[0]?.rules.map(({ note }) => note),
    [/^ClusterIP/, /^external IP of default\/web:http$/, /^load balancer address of default\/web:http$/],
  );
  t.equal(
    ruleText({ args: ["-s", "1.2.3.4", "-m", "comment", "--comment", "a b", "-j", "X"] }),
    "-s 1.2.3.4 -j X",
  );
  const save = renderRestore(chainsOf(ruleset));
  const raw = rawText(save, groupsOf(ruleset, names, "default/web"));
  t.match(raw, /^\*nat\n:KUBE/);
  t.match(raw, /\nCOMMIT$/);
  t.notMatch(raw, /default\/empty|\*filter/);
  t.equal(raw.split("\n").filter((line) => line.startsWith("-A ")).length, 13);
  t.equal(parseSave(raw).get("nat")?.get("KUBE-SERVICES")?.rules.length, 2);
  t.same(
    groupsOf(
      rules("*nat", ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]", "-A KUBE-SVC-AAAAAAAAAAAAAAAA -j RETURN", "COMMIT"),
      names,
    ).map(({ title }) => title),
    ["Of Services that the API does not have"],
  );
});
