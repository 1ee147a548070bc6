// The iptables text format and the service proxy's rules, without a kernel: names, golden rulesets, packets walked
// through rules on paper, what a sync sends, and that partial syncs and a full one end in the same state.

import { performance } from "node:perf_hooks";
import t from "tap";
import type { EndpointSlice, Service, Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { locate } from "../../dataplane/iptables/errors.js";
import {
  type Chain,
  canonicalRule,
  chainsOf,
  fixedPoint,
  MemoryIptables,
  parseSave,
  quoteWord,
  RestoreError,
  type Ruleset,
  renderRestore,
  ruleOfWords,
  splitWords,
  type TableName,
} from "../../dataplane/iptables/index.js";
import { rollbackInput, sectionsOf } from "../../dataplane/iptables/rollback.js";
import { atLeast, parseVersion } from "../../dataplane/iptables/variant.js";
import type { Flow } from "../../dataplane/proxy/conntrack.js";
import {
  allChains,
  ChangeTracker,
  chainHash,
  endpointChain,
  type PortState,
  portChains,
  type RuleContext,
  renderAll,
  ServiceProxy,
  type ServiceProxyOptions,
  selectEndpoints,
} from "../../dataplane/proxy/index.js";
import { isPortChain } from "../../dataplane/proxy/names.js";
import { entryJumps } from "../../dataplane/proxy/rules/fixed.js";
import { type Clock, SyncRunner } from "../../dataplane/proxy/runner.js";
import { addressKey, changedUdpServices, staleFlows } from "../../dataplane/proxy/stale-flows.js";
import { chainNames, distribution, walk } from "../helpers/packet-walk.js";
import { type ServiceOptions, service, slice } from "../helpers/service-objects.js";

const CONTEXT: RuleContext = {
  family: 4,
  clusterCIDR: "10.244.0.0/16",
  masqueradeAll: false,
  localhostNodePorts: true,
  randomFully: true,
  tcpBeLiberal: false,
};

/** A small seeded generator: a failing run can be run again. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function tracked(...objects: (Stored<Service> | Stored<EndpointSlice>)[]): PortState[] {
  const tracker = new ChangeTracker({ nodeName: "node-1", family: 4, startTime: 0 });
  for (const object of objects) {
    if (object.kind === "Service") tracker.serviceChanged(undefined, object as Stored<Service>);
    else tracker.endpointSliceChanged(undefined, object as Stored<EndpointSlice>);
  }
  tracker.take();
  return [...tracker.ports.values()];
}

/** The rules as lines per chain, by meaning: what two rulesets must agree in. */
function meaning(rules: Ruleset): Record<string, string[]> {
  const chains = chainsOf(rules).filter((chain) => chain.rules.length > 0 || chain.policy === undefined);
  return Object.fromEntries(
    chains
      .map(({ table, name, rules: list }) => [`${table} ${name}`, list.map(canonicalRule)] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );
}

function inMemory(states: readonly PortState[], context = CONTEXT): Ruleset {
  const kernel = new MemoryIptables();
  kernel.apply(renderAll(states, context));
  for (const { table, chain, rule } of entryJumps(context).toReversed()) {
    kernel.apply(`*${table}\n-I ${chain} ${rule.map(quoteWord).join(" ")}\nCOMMIT\n`);
  }
  return kernel.ruleset();
}

t.test("iptables text: words, rules, probabilities", async (t) => {
  const words = ["-m", "comment", "--comment", `it's "q" \\ x -> y`, "-j", "KUBE-SVC-A", "*", "#"];
  t.same(splitWords(words.map(quoteWord).join(" ")), words);
  t.same(splitWords('-A X  -m comment --comment "a \\" b"\t-j Y'), [
    "-A",
    "X",
    "-m",
    "comment",
    "--comment",
    'a " b',
    "-j",
    "Y",
  ]);
  t.throws(() => quoteWord("two\nlines"), RangeError);
  t.throws(() => quoteWord(""), RangeError);
  t.throws(() => splitWords('"open'), SyntaxError);
  t.equal(fixedPoint(0.3333333333), fixedPoint(0.33333333349));
  t.not(fixedPoint(0.3333333333), fixedPoint(0.3333333));
  t.throws(() => parseSave("*nat\n-A NOWHERE -j ACCEPT\n"), {
    message: /line 2: chain NOWHERE is not declared/,
  });
  t.throws(() => parseSave("*bogus\n"), { message: /line 1: unknown table/ });
  t.same(parseVersion("iptables v1.8.9 (nf_tables)\n"), { version: "1.8.9", variant: "nft" });
  t.same(parseVersion("iptables v1.6.1"), { version: "1.6.1", variant: "legacy" });
  t.ok(atLeast("1.8.9", "1.6.2") && atLeast("1.10", "1.9") && !atLeast("1.6.1", "1.6.2"));
});

t.test("parse(render(x)) is x", async (t) => {
  const pick = random(7);
  const texts = ["10.0.0.1", "a b", 'say "hi"', "back\\slash", "x->y", "0x4000/0x4000", "--dport", "!", "-j"];
  const word = () => texts[pick(texts.length)] as string;
  for (let round = 0; round < 200; round++) {
    const chains: Chain[] = [];
    for (const table of ["filter", "nat"] as TableName[]) {
      for (let i = pick(4); i > 0; i--) {
        const rules = Array.from({ length: pick(4) }, () => ({
          args: Array.from({ length: 1 + pick(5) }, word),
          ...(pick(2) && { comment: word() }),
          ...(pick(3) === 0 && { counters: { packets: BigInt(1 + pick(9)), bytes: BigInt(pick(10_000)) } }),
        }));
        const counters = pick(2) ? { counters: { packets: 3n, bytes: BigInt(pick(99)) } } : {};
        chains.push({ table, name: `C${i}`, rules, ...(pick(3) === 0 && { policy: "DROP" }), ...counters });
      }
    }
    t.same(chainsOf(parseSave(renderRestore(chains))), chains, `round ${round}`);
  }
});

t.test("canonical rules: what is sent equals what both variants print back", async (t) => {
  const same: [sent: string, printed: string][] = [
    [
      '-m comment --comment "default/web:http cluster IP" -m tcp -p tcp -d 10.96.0.5 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ',
      '! -s 10.244.0.0/16 -d 10.96.0.5/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ',
    ],
    [
      '-m comment --comment "a" -m recent --name KUBE-SEP-A --rcheck --seconds 10800 --reap -j KUBE-SEP-A',
      "-m comment --comment a -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-A --mask 255.255.255.255 --rsource -j KUBE-SEP-A",
    ],
    [
      "-m comment --comment default/web -m recent --name KUBE-SEP-A --set -m tcp -p tcp -j DNAT --to-destination 10.244.1.2:8080",
      '-p tcp -m comment --comment "default/web" -m recent --set --name KUBE-SEP-A --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.1.2:8080',
    ],
    [
      "-m statistic --mode random --probability 0.3333333333 -j A",
      "-m statistic --mode random --probability 0.33333333349 -j A",
    ],
    ["-j MARK --or-mark 0x00004000", "-j MARK --set-xmark 0x4000/0x4000"],
    ["-j MARK --xor-mark 0x00004000", "-j MARK --set-xmark 0x4000/0x0"],
    ["-m mark ! --mark 0x00004000/0x00004000 -j RETURN", "-m mark ! --mark 0x4000/0x4000 -j RETURN"],
    [
      "-m tcp -p tcp -d 10.96.0.5 --dport 80 -j REJECT",
      "-d 10.96.0.5/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
    ],
    [
      "-m conntrack --ctstate DNAT,ESTABLISHED,RELATED -j DROP",
      "-m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
    ],
  ];
  const canonical = (text: string) => canonicalRule(ruleOfWords(splitWords(text)));
  for (const [sent, printed] of same) t.equal(canonical(sent), canonical(printed), sent);
  const all = new Set(same.map(([sent]) => canonical(sent)));
  t.equal(all.size, same.length, "different rules stay different");
  t.not(canonical("-s 10.0.0.1 -j A"), canonical("! -s 10.0.0.1 -j A"));
  t.not(canonical("-j A"), canonical("-g A"));
  t.not(canonical("-f -j A"), canonical("-j A"), "options that nobody loaded");
});

t.test("a refused restore: the line is named, earlier tables are taken back", async (t) => {
  const input = "*filter\n:FIRST - [0:0]\nCOMMIT\n*nat\n:SECOND - [0:0]\n-A SECOND -j KUBE-NOPE\nCOMMIT\n";
  const nft =
    "iptables-nft-restore v1.8.9 (nf_tables): Chain 'KUBE-NOPE' does not exist\nError occurred at line: 7\nTry `x'";
  t.same(locate(input, nft), { line: 6, text: "-A SECOND -j KUBE-NOPE", table: "nat" });
  const legacy =
    "iptables-restore v1.8.9 (legacy): Couldn't load target `KUBE-NOPE':No such file\n\nError occurred at line: 6";
  t.match(locate(input, legacy), { line: 6, text: "-A SECOND -j KUBE-NOPE" });
  t.match(locate(input, "line 5: CHAIN_DEL failed (Device or resource busy): chain X"), { line: 5 });
  t.match(locate(input, "iptables-restore: line 2 failed"), { line: 2, table: "filter" });
  t.same(locate(input, "no idea"), {});
  t.match(
    new RestoreError("node-1", input, nft, undefined).message,
    /node-1 failed at line 6 .*KUBE-NOPE\) of table nat: Chain/,
  );

  const kernel = new MemoryIptables();
  kernel.apply("*filter\n:MINE - [0:0]\n-A MINE -s 10.0.0.1 -j DROP\n-A FORWARD -j MINE\nCOMMIT\n");
  const before = kernel.ruleset();
  const change = "*filter\n:MINE - [0:0]\n:NEW - [0:0]\n-A MINE -j NEW\n-I INPUT -j NEW\nCOMMIT\n";
  kernel.apply(change);
  t.notSame(meaning(kernel.ruleset()), meaning(before));
  kernel.apply(rollbackInput(before, sectionsOf(change)));
  t.same(meaning(kernel.ruleset()), meaning(before));
});

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
    const { cluster, local, reachable, any } = selectEndpoints(state as PortState);
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
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
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

t.test("golden: NodePort, external IP, load balancer, affinity, policy Local", async (t) => {
  const chainOf = (states: PortState[], name: string, context = CONTEXT) =>
    allChains(states, context)
      .find((chain) => chain.name === name && chain.table === "nat")
      ?.rules.map(canonicalRule);
  const lines = (...texts: string[]) => texts.map((text) => canonicalRule(ruleOfWords(splitWords(text))));
  const build = (options: ServiceOptions) =>
    tracked(
      service("ns2/svc2", "172.30.0.42", [{ name: "p80", port: 80, nodePort: 30001 }], {
        type: "NodePort",
        ...options,
      }),
      slice("ns2/svc2", [{ name: "p80", port: 8080 }], ["10.180.0.2", { ip: "10.180.0.3", node: "node-2" }]),
    );
  const port = { id: "ns2/svc2:p80", protocol: "tcp" } as const;
  const { svc, svl, ext } = portChains(port);
  const sep = (ip: string) => endpointChain(port, { text: `${ip}:8080` });

  const open = build({ externalIPs: ["192.168.99.22"], ingress: [{ ip: "5.6.7.8" }] });
  t.same(
    chainOf(open, "KUBE-NODEPORTS"),
    lines(`-m comment --comment ns2/svc2:p80 -m tcp -p tcp --dport 30001 -j ${ext}`),
  );
  t.same(
    chainOf(open, "KUBE-SERVICES")?.slice(1, 3),
    lines(
      `-m comment --comment "ns2/svc2:p80 external IP" -m tcp -p tcp -d 192.168.99.22 --dport 80 -j ${ext}`,
      `-m comment --comment "ns2/svc2:p80 loadbalancer IP" -m tcp -p tcp -d 5.6.7.8 --dport 80 -j ${ext}`,
    ),
  );
  t.same(
    chainOf(open, ext),
    lines(
      `-m comment --comment "masquerade traffic for ns2/svc2:p80 external destinations" -j KUBE-MARK-MASQ`,
      `-j ${svc}`,
    ),
  );

  const local = build({ externalTrafficPolicy: "Local" });
  t.same(
    chainOf(local, ext),
    lines(
      `-m comment --comment "pod traffic for ns2/svc2:p80 external destinations" -s 10.244.0.0/16 -j ${svc}`,
      `-m comment --comment "masquerade LOCAL traffic for ns2/svc2:p80 external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ`,
      `-m comment --comment "route LOCAL traffic for ns2/svc2:p80 external destinations" -m addrtype --src-type LOCAL -j ${svc}`,
      `-j ${svl}`,
    ),
  );
  t.same(
    chainOf(local, svl),
    lines(`-m comment --comment "ns2/svc2:p80 -> 10.180.0.2:8080" -j ${sep("10.180.0.2")}`),
  );

  const sticky = build({
    sessionAffinity: "ClientIP",
    sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } },
  });
  const seen = (ip: string) =>
    `-m comment --comment "ns2/svc2:p80 -> ${ip}:8080" -m recent --name ${sep(ip)} --rcheck --seconds 60 --reap -j ${sep(ip)}`;
  t.same(chainOf(sticky, svc)?.slice(1, 3), lines(seen("10.180.0.2"), seen("10.180.0.3")));
  t.same(
    chainOf(sticky, sep("10.180.0.2"))?.[1],
    lines(
      `-m comment --comment ns2/svc2:p80 -m recent --name ${sep("10.180.0.2")} --set -m tcp -p tcp -j DNAT --to-destination 10.180.0.2:8080`,
    )[0],
  );

  const shy: RuleContext = {
    ...CONTEXT,
    clusterCIDR: undefined,
    localhostNodePorts: false,
    randomFully: false,
    tcpBeLiberal: true,
  };
  t.equal(
    chainOf(open, svc, shy)?.length,
    2,
    "without a detector nobody is masqueraded on the way to a ClusterIP",
  );
  t.match(chainOf(open, "KUBE-SERVICES", shy)?.at(-1), /"!","-d","127\.0\.0\.0\/8"/);
  t.notOk(allChains(open, shy).some(({ name }) => name === "KUBE-FIREWALL"));
  t.equal(allChains(open, shy).find(({ name }) => name === "KUBE-FORWARD")?.rules.length, 2);
  t.equal(
    chainOf(open, svc, { ...CONTEXT, masqueradeAll: true })?.[0],
    lines(
      `-m comment --comment "ns2/svc2:p80 cluster IP" -m tcp -p tcp -d 172.30.0.42 --dport 80 -j KUBE-MARK-MASQ`,
    )[0],
  );
  const sctp = tracked(
    service("ns3/s", "172.30.0.43", [{ port: 9, protocol: "SCTP" }]),
    slice("ns3/s", [{ port: 9, protocol: "SCTP" }], ["10.180.0.2"]),
  );
  t.match(renderAll(sctp, CONTEXT), /-m sctp -p sctp -d 172\.30\.0\.43 --dport 9 -j KUBE-SVC-/);
});

t.test("packets walked through the rules", async (t) => {
  const LOCAL = ["192.168.56.11", "10.244.1.1"];
  const POD = "10.244.1.7";
  const OUTSIDE = "203.0.113.9";
  const endpoints = Array.from({ length: 7 }, (_, i) => ({
    ip: `10.244.${1 + (i % 2)}.${10 + i}`,
    node: `node-${1 + (i % 2)}`,
  }));
  const build = (options: ServiceOptions, list: typeof endpoints) =>
    inMemory(
      tracked(
        service("default/web", "10.96.0.10", [{ name: "http", port: 80, nodePort: 30080 }], {
          type: "NodePort",
          ...options,
        }),
        slice("default/web", [{ name: "http", port: 8080 }], list),
      ),
    );
  const go = (rules: Ruleset, src: string, dst: string, dport: number) =>
    walk(rules, { src, dst, dport, protocol: "tcp" }, { local: LOCAL, dice: () => true });

  const open = build({}, endpoints);
  for (let n = 1; n <= endpoints.length; n++) {
    const rules = build({}, endpoints.slice(0, n));
    const odds = distribution(rules, { src: POD, dst: "10.96.0.10", dport: 80, protocol: "tcp" }, LOCAL);
    t.equal(odds.size, n);
    for (const [, odd] of odds) t.ok(Math.abs(odd - 1 / n) < 1e-8, `1/${n}`);
  }
  t.match(go(open, POD, "10.96.0.10", 80), {
    masqueraded: false,
    packet: { src: POD, dst: "10.244.1.10", dport: 8080 },
  });
  t.match(go(open, OUTSIDE, "10.96.0.10", 80), { masqueraded: true, verdict: "accept" });
  t.match(go(open, "192.168.56.11", "10.96.0.10", 80), { masqueraded: true });
  t.match(go(open, "10.244.1.10", "10.96.0.10", 80), { masqueraded: true }, "hairpin");
  t.match(
    go(open, OUTSIDE, "192.168.56.11", 30080),
    { masqueraded: true, packet: { dport: 8080, mark: 0 } },
    "the mark is taken off",
  );
  t.match(go(open, "127.0.0.1", "127.0.0.1", 30080), { masqueraded: true, packet: { dport: 8080 } });
  t.match(go(open, OUTSIDE, "192.168.56.11", 30081), { masqueraded: false, packet: { dport: 30081 } });
  t.match(go(open, POD, "10.96.0.10", 81), { packet: { dst: "10.96.0.10" } });
  t.match(go(open, POD, "10.244.2.5", 80), { masqueraded: false }, "pod to pod: no NAT");

  const none = build({ externalIPs: ["198.51.100.4"] }, []);
  for (const [src, dst, port] of [
    [POD, "10.96.0.10", 80],
    ["192.168.56.11", "10.96.0.10", 80],
    [OUTSIDE, "192.168.56.11", 30080],
    [OUTSIDE, "198.51.100.4", 80],
  ] as const) {
    t.equal(go(none, src, dst, port).verdict, "REJECT", `${src} to ${dst}:${port}`);
  }

  const local = build({ externalTrafficPolicy: "Local" }, endpoints);
  t.match(
    go(local, OUTSIDE, "192.168.56.11", 30080),
    { masqueraded: false, packet: { src: OUTSIDE } },
    "client address kept",
  );
  const only = distribution(
    local,
    { src: OUTSIDE, dst: "192.168.56.11", dport: 30080, protocol: "tcp" },
    LOCAL,
  );
  t.equal(only.size, 4, "local endpoints only");
  const away = build(
    { externalTrafficPolicy: "Local" },
    endpoints.filter(({ node }) => node === "node-2"),
  );
  t.equal(
    go(away, OUTSIDE, "192.168.56.11", 30080).verdict,
    "DROP",
    "a load balancer shall try another node",
  );
  t.match(
    go(away, POD, "192.168.56.11", 30080),
    { verdict: "accept", masqueraded: false, packet: { dport: 8080 } },
    "short circuit",
  );
  t.match(go(away, "192.168.56.11", "192.168.56.11", 30080), {
    verdict: "accept",
    masqueraded: true,
    packet: { dport: 8080 },
  });
  const inner = build(
    { internalTrafficPolicy: "Local" },
    endpoints.filter(({ node }) => node === "node-2"),
  );
  t.equal(go(inner, POD, "10.96.0.10", 80).verdict, "DROP");
  t.match(go(inner, OUTSIDE, "192.168.56.11", 30080), { verdict: "accept", packet: { dport: 8080 } });

  const sticky = build({ sessionAffinity: "ClientIP" }, endpoints);
  const list = endpointChain({ id: "default/web:http", protocol: "tcp" }, { text: "10.244.1.14:8080" });
  const again = walk(
    sticky,
    { src: POD, dst: "10.96.0.10", dport: 80, protocol: "tcp" },
    { local: LOCAL, dice: () => true, seen: (name) => name === list },
  );
  t.equal(again.packet.dst, "10.244.1.14");
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

/** A clock that goes when it is told to. */
class FakeClock implements Clock {
  time = 0;
  #timers = new Map<number, { at: number; callback: () => void }>();
  #next = 1;
  now(): number {
    return this.time;
  }
  setTimeout(callback: () => void, ms: number): number {
    this.#timers.set(this.#next, { at: this.time + ms, callback });
    return this.#next++;
  }
  clearTimeout(handle: unknown): void {
    this.#timers.delete(handle as number);
  }
  async advance(ms: number): Promise<void> {
    const end = this.time + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.time = due[1].at;
      this.#timers.delete(due[0]);
      due[1].callback();
      await settle();
    }
    this.time = end;
    await settle();
  }
}

/** Lets every promise and immediate that is ready run. */
async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
}

t.test("runner: first at once, coalesced, spaced from completion, retried with growing delay", async (t) => {
  const clock = new FakeClock();
  const starts: number[] = [];
  let fail = 0;
  let release: (() => void) | undefined;
  const runner = new SyncRunner({
    clock,
    minIntervalMs: 1000,
    retryMs: [2000, 5000],
    work: async () => {
      starts.push(clock.time);
      if (fail-- > 0) throw new Error("refused");
      await new Promise<void>((resolve) => {
        release = resolve;
      });
    },
  });
  runner.request();
  runner.request();
  await settle();
  t.same(starts, [0]);
  await clock.advance(300);
  runner.request();
  runner.request();
  release?.();
  await settle();
  await clock.advance(999);
  t.same(starts, [0], "not yet");
  await clock.advance(1);
  t.same(starts, [0, 1300], "one for both requests, 1000 ms after the first ended");
  release?.();
  await settle();
  await clock.advance(5000);
  t.same(starts, [0, 1300], "nothing to do, nothing done");
  fail = 3;
  runner.request();
  await settle();
  await clock.advance(20_000);
  t.same(starts.slice(2), [6300, 8300, 12_300, 17_300], "2 s, 4 s, then the longest");
  runner.request();
  const stopped = runner.stop();
  release?.();
  await stopped;
  await clock.advance(60_000);
  t.equal(starts.length, 6, "stopped");
});

t.test("runner: a burst of two, then spaced", async (t) => {
  const clock = new FakeClock();
  const starts: number[] = [];
  const work = async () => {
    starts.push(clock.time);
  };
  const runner = new SyncRunner({ clock, minIntervalMs: 1000, burst: 2, retryMs: [2000, 5000], work });
  for (const ms of [0, 10, 10, 10]) {
    await clock.advance(ms);
    runner.request();
    await settle();
  }
  t.same(starts, [0, 10], "two at once, the others wait");
  await clock.advance(3000);
  t.same(starts, [0, 10, 1000], "one for both, when an interval has passed since the first");
  runner.request();
  await settle();
  runner.request();
  await settle();
  t.same(starts.slice(3), [3030, 3030], "after a pause two again");
  await runner.stop();
});

const NO_HOST = {
  name: "none",
  run: <T>(fn: () => T): T => fn(),
  sysctl: ((): string => "0") as ServiceProxyOptions["ns"]["sysctl"],
};

function memoryProxy(options: Partial<ServiceProxyOptions> = {}) {
  const kernel = new MemoryIptables();
  const clock = new FakeClock();
  const proxy = new ServiceProxy({
    ns: NO_HOST,
    iptables: kernel,
    nodeName: "node-1",
    nodeIPs: ["192.168.56.11"],
    clusterCIDR: "10.244.0.0/16",
    log: silentLogger,
    clock,
    ...options,
  });
  const sync = async () => {
    const done = proxy.flush();
    await clock.advance(1000);
    return done;
  };
  return { kernel, clock, proxy, sync };
}

t.test("proxy: waits for both lists, sends only what changed, cleans up", async (t) => {
  const { kernel, clock, proxy, sync } = memoryProxy();
  kernel.apply("*nat\n:MINE - [0:0]\n-A MINE -s 10.1.1.1 -j ACCEPT\n-A PREROUTING -j MINE\nCOMMIT\n");
  const before = meaning(kernel.ruleset());
  kernel.inputs.length = 0;
  const http = [{ name: "http", port: 80 }];
  const services = Array.from({ length: 20 }, (_, i) => service(`default/s${i}`, `10.96.1.${i}`, http));
  const ports = [{ name: "http", port: 8080 }];
  const slices = services.map((_, i) =>
    slice(`default/s${i}`, ports, [`10.244.1.${i + 2}`, `10.244.2.${i + 2}`]),
  );
  for (const one of services) proxy.serviceChanged(undefined, one);
  proxy.start();
  proxy.setSynced("services");
  await clock.advance(5000);
  t.equal(kernel.inputs.length, 0, "nothing before both lists are known");
  for (const one of slices) proxy.endpointSliceChanged(undefined, one);
  proxy.setSynced("endpointslices");
  await sync();
  t.equal(kernel.inputs.length, 1, "one restore");
  t.equal(chainNames(kernel.ruleset(), "nat").filter((name) => name.startsWith("KUBE-SVC-")).length, 20);

  const changed = slice("default/s7", ports, ["10.244.1.9", "10.244.3.3"]);
  proxy.endpointSliceChanged(slices[7], changed);
  await sync();
  const last = kernel.inputs.at(-1) ?? "";
  const port = { id: "default/s7:http", protocol: "tcp" } as const;
  const sep = (ip: string) => endpointChain(port, { text: `${ip}:8080` });
  t.same(
    last
      .split("\n")
      .filter((line) => /^[*:]|^-X/.test(line))
      .map((line) => line.split(" [")[0]),
    [
      "*nat",
      `:${portChains(port).svc} -`,
      `:${sep("10.244.3.3")} -`,
      `:${sep("10.244.2.9")} -`,
      `-X ${sep("10.244.2.9")}`,
    ],
    "the service's chain, its new endpoint and the one that is gone; not KUBE-SERVICES, not the endpoint that stayed",
  );
  const inputs = kernel.inputs.length;
  proxy.endpointSliceChanged(changed, { ...changed });
  proxy.serviceChanged(services[3], { ...(services[3] as Stored<Service>) });
  await sync();
  t.equal(kernel.inputs.length, inputs, "no change: nothing sent");

  const text = await proxy.metrics();
  t.match(text, /kubeproxy_sync_proxy_rules_duration_seconds_count [2-9]/);
  t.match(text, /kubeproxy_sync_partial_proxy_rules_duration_seconds_count [1-9]/);
  t.match(text, /kubeproxy_sync_full_proxy_rules_duration_seconds_count 1/);
  t.match(text, /kubeproxy_sync_proxy_rules_iptables_last\{table="nat"\} \d+/);

  await clock.advance(3_600_000);
  t.match(
    await proxy.metrics(),
    /kubeproxy_sync_full_proxy_rules_duration_seconds_count 2/,
    "a full round every hour",
  );
  t.equal(kernel.inputs.length, inputs, "which sends nothing when the kernel has everything");
  await proxy.stop({ cleanup: true });
  t.same(meaning(kernel.ruleset()), before, "everything of ours is gone, what was there is there");
  await t.rejects(proxy.flush(), { message: /was stopped/ });
});

t.test("proxy: a refused restore leaves the old rules and is made good by a full sync", async (t) => {
  const { kernel, clock, proxy, sync } = memoryProxy();
  const http = [{ name: "http", port: 80 }];
  const web = service("default/web", "10.96.0.10", http);
  const one = slice("default/web", [{ name: "http", port: 8080 }], ["10.244.1.2"]);
  const two = slice("default/web", [{ name: "http", port: 8080 }], ["10.244.1.3"]);
  proxy.serviceChanged(undefined, web);
  proxy.endpointSliceChanged(undefined, one);
  proxy.setSynced("services");
  proxy.setSynced("endpointslices");
  proxy.start();
  await sync();
  const good = meaning(kernel.ruleset());

  let refuse = 3;
  kernel.beforeRestore = (input) => {
    if (refuse-- > 0) throw new RestoreError("memory", input, "iptables-restore: line 2 failed", undefined);
  };
  proxy.endpointSliceChanged(one, two);
  const flushed = proxy.flush();
  await clock.advance(1000);
  t.same(meaning(kernel.ruleset()), good, "old rules stay");
  await clock.advance(60_000);
  await flushed;
  t.match(renderRestore(chainsOf(kernel.ruleset())), /--to-destination 10\.244\.1\.3:8080/);
  t.notMatch(renderRestore(chainsOf(kernel.ruleset())), /10\.244\.1\.2/);
  t.match(await proxy.metrics(), /partial_restore_failures_total 1/);

  // Somebody removed a chain that the next partial sync relies on: it is refused, and the full sync in the same
  // round puts everything back.
  const { svc } = portChains({ id: "default/web:http", protocol: "tcp" });
  kernel.apply(`*nat\n:KUBE-SERVICES - [0:0]\n:${svc} - [0:0]\n-X ${svc}\nCOMMIT\n`);
  kernel.apply("*nat\n:STALE - [0:0]\n:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]\n-A STALE -j ACCEPT\nCOMMIT\n");
  proxy.serviceChanged(
    web,
    service("default/web", "10.96.0.10", [{ name: "http", port: 80, nodePort: 30080 }], { type: "NodePort" }),
  );
  await sync();
  const names = chainNames(kernel.ruleset(), "nat");
  t.ok(names.includes("STALE"), "a foreign chain stays");
  t.ok(names.includes(portChains({ id: "default/web:http", protocol: "tcp" }).ext));
  await proxy.stop();
  t.ok(chainNames(kernel.ruleset(), "nat").includes(svc), "without cleanup the rules stay");
});

t.test("proxy: flushed tables are noticed; stale and foreign chains after a restart", async (t) => {
  const { kernel, proxy, sync } = memoryProxy({ syncPeriodMs: 10 });
  proxy.serviceChanged(undefined, service("default/web", "10.96.0.10", [{ port: 80 }]));
  proxy.endpointSliceChanged(undefined, slice("default/web", [{ port: 8080 }], ["10.244.1.2"]));
  const foreign = "KUBE-SEP-BBBBBBBBBBBBBBBB";
  kernel.apply(
    `*nat\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n:${foreign} - [0:0]\n:MINE - [0:0]\n-A MINE -j ${foreign}\nCOMMIT\n`,
  );
  proxy.setSynced("services");
  proxy.setSynced("endpointslices");
  proxy.start();
  await sync();
  const names = chainNames(kernel.ruleset(), "nat");
  t.notOk(names.includes("KUBE-SVC-AAAAAAAAAAAAAAAA"), "stale chain removed");
  t.ok(names.includes(foreign), "stale, but somebody refers to it");
  const good = meaning(kernel.ruleset());
  const healed = async () => {
    for (let i = 0; i < 1000 && JSON.stringify(meaning(kernel.ruleset())) !== JSON.stringify(good); i++) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      await sync();
    }
    t.same(meaning(kernel.ruleset()), good);
  };
  kernel.apply("*nat\n-F PREROUTING\n-F KUBE-POSTROUTING\nCOMMIT\n");
  await healed();
  kernel.apply("*mangle\nCOMMIT\n*filter\nCOMMIT\n*nat\n:MINE - [0:0]\nCOMMIT\n", { noflush: false });
  kernel.apply(`*nat\n:${foreign} - [0:0]\n-A MINE -j ${foreign}\nCOMMIT\n`);
  await healed();
  await proxy.stop();
});

t.test("property: any series of partial syncs ends where one full sync would", async (t) => {
  const started = performance.now();
  for (let seed = 1; seed <= 8; seed++) {
    const pick = random(seed);
    const { kernel, proxy, sync } = memoryProxy();
    const services = new Map<string, Stored<Service>>();
    const slices = new Map<string, Stored<EndpointSlice>>();
    const choose = <T>(...options: T[]): T => options[pick(options.length)] as T;
    const ports = [
      { name: "http", port: 80, nodePort: 30080 },
      { name: "dns", port: 53, protocol: "TCP" },
      { name: "dns-udp", port: 53, protocol: "SCTP" },
    ];
    const operation = () => {
      const i = pick(6);
      const name = `default/s${i}`;
      if (pick(3) === 0) {
        const now = pick(4)
          ? service(
              name,
              `10.96.0.${i + pick(2) * 100}`,
              ports
                .slice(pick(3))
                .map((port) => ({ ...port, ...(port.nodePort && { nodePort: 30_080 + i }) })),
              {
                type: "NodePort",
                sessionAffinity: choose("None", "ClientIP"),
                externalTrafficPolicy: choose("Cluster", "Local"),
                internalTrafficPolicy: choose("Cluster", "Local"),
                ...(pick(3) === 0 && { externalIPs: ["198.51.100.1"] }),
                ...(pick(6) === 0 && { labels: { "service.kubernetes.io/service-proxy-name": "other" } }),
              },
            )
          : undefined;
        proxy.serviceChanged(services.get(name), now);
        if (now) services.set(name, now);
        else services.delete(name);
        return;
      }
      const sliceName = `${name}-${pick(2)}`;
      const endpoints = Array.from({ length: pick(4) }, () => ({
        ip: `10.244.${pick(2)}.${pick(5)}`,
        node: choose("node-1", "node-2"),
        conditions: choose(
          { ready: true },
          { ready: true },
          { ready: false },
          { ready: false, serving: true, terminating: true },
        ),
      }));
      const now = pick(5)
        ? slice(
            name,
            ports.map(({ name: portName, port, protocol }) => ({
              name: portName,
              port: port + 8000,
              ...(protocol && { protocol }),
            })),
            endpoints,
            { name: sliceName },
          )
        : undefined;
      proxy.endpointSliceChanged(slices.get(sliceName), now);
      if (now) slices.set(sliceName, now);
      else slices.delete(sliceName);
    };
    proxy.setSynced("services");
    proxy.setSynced("endpointslices");
    proxy.start();
    for (let round = 0; round < 30; round++) {
      for (let n = 1 + pick(3); n > 0; n--) operation();
      await sync();
      const wanted = inMemory(tracked(...services.values(), ...slices.values()));
      t.same(meaning(kernel.ruleset()), meaning(wanted), `seed ${seed}, round ${round}`);
    }
    t.match(
      await proxy.metrics(),
      /full_proxy_rules_duration_seconds_count 1\n/,
      "all but the first were partial",
    );
    t.match(await proxy.metrics(), /iptables_restore_failures_total 0/);
    await proxy.stop();
  }
  t.comment(`${Math.round(performance.now() - started)} ms`);
});
