// What explain tells of a packet to a Service, and the groups and notes of rules, over the rules that the proxy makes.

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
  renderRestore,
} from "../../dataplane/iptables/index.js";
import { PACKET_COUNTERS } from "../../dataplane/proxy/names.js";
import { renderAll } from "../../dataplane/proxy/render.js";
import { entryJumps } from "../../dataplane/proxy/rules/fixed.js";
import { ChangeTracker } from "../../dataplane/proxy/tracker.js";
import { type Host, walk } from "../../dataplane/trace/index.js";
import { CONTEXT } from "../helpers/proxy-memory.js";
import { type ServiceOptions, service, slice } from "../helpers/service-objects.js";
import { HOST, NODE, POD, rules } from "./helpers/trace-host.js";

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
