// Whether a firewall's rules stop what a cluster needs, and what the doctor says about it: rules as iptables-save and
// `nft -j` print them, no kernel. The real firewalls are in tests/runtimes.

import t from "tap";
import { Cidr } from "../../common/ip.js";
import { type Filters, judge, mixedVariants } from "../../dataplane/firewall/findings.js";
import { controlNeeds, nodeNeeds, type Place } from "../../dataplane/firewall/needs.js";
import { parseTable } from "../../dataplane/firewall/nft-rules.js";
import { parseSave } from "../../dataplane/iptables/index.js";

const place: Place = {
  family: 4,
  uplink: "eth1",
  ip: "192.168.56.11",
  network: Cidr.parse("10.244.0.0/16"),
  podCIDR: Cidr.parse("10.244.1.0/24"),
  peers: ["192.168.56.12", "192.168.56.13"],
};
const place6: Place = {
  ...place,
  family: 6,
  ip: "fd00:56::11",
  network: Cidr.parse("fd00:10:244::/56"),
  podCIDR: Cidr.parse("fd00:10:244:1::/64"),
  peers: ["fd00:56::12"],
};

/** `needs: commands` of each finding. */
const said = (filters: Partial<Filters>, where = place): string[] =>
  judge({ iptables: [], tables: [], unread: [], ...filters }, where, [
    ...nodeNeeds(where),
    ...controlNeeds(where, 6443),
  ]).map(({ need, commands }) => `${need}: ${commands.join("; ")}`);

const iptables = (lines: string, { own = true, command = "iptables" } = {}): Partial<Filters> => ({
  iptables: [{ command, own, rules: parseSave(`*filter\n${lines.trim()}\nCOMMIT\n`) }],
});

const POLICIES = ":INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]";
const OPEN = ":INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]";
const INPUT = "iptables -I INPUT -i eth1 -p";

t.test("iptables", (t) => {
  t.strictSame(said(iptables(OPEN)), []);
  t.strictSame(
    said(iptables(OPEN.replace("FORWARD ACCEPT", "FORWARD DROP"))),
    [],
    "the overlay lets pods through",
  );
  const all = [
    `vxlan: ${INPUT} udp --dport 8472 -j ACCEPT`,
    `kubelet: ${INPUT} tcp --dport 10250 -j ACCEPT`,
    `api: ${INPUT} tcp --dport 6443 -j ACCEPT`,
  ];
  t.strictSame(said(iptables(POLICIES)), all);
  const accepted = [
    "-A INPUT -i eth1 -p udp -m udp --dport 8472 -j ACCEPT",
    "-A INPUT -i eth1 -p tcp -m multiport --dports 6443,10250 -j ACCEPT",
  ].join("\n");
  t.strictSame(said(iptables(`${POLICIES}\n${accepted}`)), []);
  t.strictSame(
    said(iptables(`${POLICIES}\n${accepted.replaceAll("eth1", "eth0")}`)),
    all,
    "another interface",
  );
  const onePeer = "-A INPUT -s 192.168.56.12/32 -p udp -m udp --dport 8472 -j ACCEPT";
  t.match(said(iptables(`${POLICIES}\n${onePeer}`)), all, "one of two peers is not enough");
  const otherPeer = onePeer.replace(".12", ".13");
  t.strictSame(said(iptables(`${POLICIES}\n${onePeer}\n${otherPeer}`)), all.slice(1), "both are");
  const direct = "-A FORWARD -i eth1 -o cni0 -m conntrack ! --ctstate DNAT -j DROP";
  t.strictSame(said(iptables(`${OPEN}\n${direct}`)), [], "what is not translated may be stopped there");
  const someClient = "-A INPUT -s 10.9.0.0/24 -p tcp -m tcp --dport 6443 -j ACCEPT";
  t.strictSame(
    said(iptables(`${POLICIES}\n${someClient}`)),
    all.slice(0, 2),
    "for the API server's clients nobody can tell",
  );
  const loopback = "-A INPUT -s 127.0.0.0/8 -p tcp -m tcp --dport 6443 -j ACCEPT";
  t.strictSame(said(iptables(`${POLICIES}\n${loopback}`)), all, "but it is not the machine itself");
  const set = "-A INPUT -m set --match-set friends src -j ACCEPT";
  t.strictSame(said(iptables(`${POLICIES}\n${set}`)), [], "what cannot be known is no finding");
  const reject = "-A FORWARD -j REJECT --reject-with icmp-host-prohibited";
  const forward = ["-s", "-d"].map((side) => `iptables -I FORWARD ${side} 10.244.0.0/16 -j ACCEPT`);
  t.strictSame(said(iptables(`${OPEN}\n${reject}`)), [`pods: ${forward.join("; ")}`], "before the overlay's");
  t.strictSame(
    said(iptables(POLICIES, { own: false, command: "iptables-legacy" })).map((line) => line.split(" ")[1]),
    Array(4).fill("iptables-legacy"),
    "in the other form the overlay has no rules",
  );
  t.end();
});

t.test("both forms of iptables", (t) => {
  const rules = (lines: string) => parseSave(`*filter\n${lines}\nCOMMIT\n`);
  const filters = (other: string): Filters => ({
    iptables: [
      { command: "iptables", own: true, rules: rules(OPEN) },
      { command: "iptables-legacy", own: false, rules: rules(other) },
    ],
    tables: [],
    unread: [],
  });
  t.equal(mixedVariants(filters(OPEN)), undefined, "empty tables change nothing");
  t.match(mixedVariants(filters(POLICIES)), { detail: /rules of iptables-legacy too/ });
  t.match(mixedVariants(filters(`${OPEN}\n-A INPUT -j ACCEPT`)), { remedy: /^see iptables-legacy-save;/ });
  t.end();
});

t.test("ufw is known by its chains, IPv6 too", (t) => {
  const ufw = (prefix: string) => `${POLICIES}
:${prefix}-before-input - [0:0]
:${prefix}-not-local - [0:0]
:${prefix}-logging-deny - [0:0]
:${prefix}-reject-forward - [0:0]
-A INPUT -j ${prefix}-before-input
-A FORWARD -j ${prefix}-reject-forward
-A ${prefix}-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ${prefix}-before-input -j ${prefix}-not-local
-A ${prefix}-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ${prefix}-not-local -m limit --limit 3/min --limit-burst 10 -j ${prefix}-logging-deny
-A ${prefix}-not-local -j DROP
-A ${prefix}-reject-forward -j REJECT`;
  const lines = [
    "vxlan: ufw allow 8472/udp",
    "kubelet: ufw allow 10250/tcp",
    "pods: ufw route allow in on cni0; ufw route allow out on cni0",
    "api: ufw allow 6443/tcp",
  ];
  t.strictSame(said(iptables(ufw("ufw"))), lines);
  t.strictSame(said(iptables(ufw("ufw6"), { command: "ip6tables" }), place6), lines);
  t.end();
});

type Rule = readonly object[];
interface Chain {
  hook?: string;
  prio?: number;
  policy?: string;
  rules?: readonly Rule[];
}

function table(
  chains: Record<string, Chain>,
  { name = "filter", family = "inet", sets = [] as object[] } = {},
) {
  const nftables = Object.entries(chains).flatMap(([chain, { rules = [], ...base }]) => [
    { chain: { family, table: name, name: chain, ...base } },
    ...rules.map((expr) => ({ rule: { family, table: name, chain, expr } })),
  ]);
  return { tables: [parseTable(family, name, JSON.stringify({ nftables: [...sets, ...nftables] }))] };
}

const is = (left: object, right: unknown, op = "==") => ({ match: { op, left, right } });
const meta = (key: string) => ({ meta: { key } });
const field = (protocol: string, name: string) => ({ payload: { protocol, field: name } });
const drop = { drop: null };
const accept = { accept: null };
const input = (...rules: Rule[]): Record<string, Chain> => ({
  input: { hook: "input", prio: 0, policy: "accept", rules },
});
/** Of what is for ports of the machine. */
const stopped = (filters: Partial<Filters>, where = place) =>
  said(filters, where).map((line) => line.split(":")[0]);
const PORTS = ["vxlan", "kubelet", "api"];

t.test("nf_tables: matches", (t) => {
  const when = (what: string, matches: Rule, wanted: string[]) =>
    t.strictSame(stopped(table(input([...matches, drop]))), wanted, what);
  const dport = field("tcp", "dport");
  when("nothing asked", [], PORTS);
  when("a port", [is(dport, 6443)], ["api"]);
  when("another protocol's port is no match, not even negated", [is(dport, 1, "!=")], ["kubelet", "api"]);
  when("any transport's", [is(field("th", "dport"), 8472)], ["vxlan"]);
  when("a range", [is(dport, { range: [6000, 7000] })], ["api"]);
  when("a set of ports and ranges", [is(dport, { set: [22, { range: [10000, 11000] }] })], ["kubelet"]);
  when("an interface", [is(meta("iifname"), "eth1")], PORTS);
  when("a wildcard", [is(meta("iifname"), "eth*")], PORTS);
  when("another interface", [is(meta("iifname"), "eth0")], []);
  when("all but this interface", [is(meta("iifname"), "eth1", "!=")], []);
  when("a protocol", [is(meta("l4proto"), { set: ["udp", "icmp"] })], ["vxlan"]);
  when("a source", [is(field("ip", "saddr"), { prefix: { addr: "192.168.56.0", len: 24 } })], PORTS);
  when("IPv6 of an IPv4 packet", [is(field("ip6", "saddr"), "::1", "!=")], []);
  when("a new connection", [is({ ct: { key: "state" } }, ["new", "untracked"], "in")], PORTS);
  when("an established one", [is({ ct: { key: "state" } }, { set: ["established", "related"] })], []);
  when("the machine's own address", [is({ fib: { result: "type", flags: ["daddr"] } }, "local")], PORTS);
  when(
    "a concatenation",
    [is({ concat: [meta("l4proto"), field("th", "dport")] }, { set: [{ concat: ["tcp", 6443] }] })],
    ["api"],
  );
  when("what cannot be known does not stop", [is({ socket: { key: "mark" } }, 1)], []);
  when("nor what is limited", [{ limit: { rate: 1, per: "second" } }], []);
  when("counters and logs are no matter", [{ counter: { packets: 0, bytes: 0 } }, { log: null }], PORTS);
  t.end();
});

t.test("nf_tables: chains", (t) => {
  const jump = (target: string) => ({ jump: { target } });
  const goto = (target: string) => ({ goto: { target } });
  const tcp = is(meta("l4proto"), "tcp");
  t.strictSame(stopped(table({ ...input([jump("a")], [drop]), a: { rules: [[accept]] } })), []);
  t.strictSame(
    stopped(table({ ...input([jump("a")], [drop]), a: { rules: [[{ return: null }], [accept]] } })),
    PORTS,
  );
  t.strictSame(
    stopped(table({ ...input([goto("a")], [drop]), a: { rules: [[tcp, drop]] } })),
    ["kubelet", "api"],
    "after goto nothing of the caller follows",
  );
  t.strictSame(stopped(table({ ...input([jump("a")], [accept]), a: { rules: [[{ reject: {} }]] } })), PORTS);
  const last = { hook: "input", prio: 10, policy: "drop" };
  t.strictSame(
    stopped(table({ ...input([accept]), last })),
    PORTS,
    "accepted is not accepted by the next hook",
  );
  const vmap = (data: unknown) => [{ vmap: { key: meta("l4proto"), data } }];
  t.strictSame(
    stopped(
      table(
        input(
          vmap({
            set: [
              ["tcp", drop],
              ["udp", accept],
            ],
          }),
        ),
      ),
    ),
    ["kubelet", "api"],
  );
  const sets = [
    { set: { name: "ports", elem: [6443, { elem: { val: 10250, comment: "kubelet" } }] } },
    { map: { name: "verdicts", elem: [["udp", drop]] } },
  ];
  t.strictSame(stopped(table(input([is(field("tcp", "dport"), "@ports"), drop]), { sets })), [
    "kubelet",
    "api",
  ]);
  t.strictSame(stopped(table(input(vmap("@verdicts")), { sets })), ["vxlan"]);
  t.strictSame(stopped(table(input([drop]), { family: "ip6" })), [], "the other family's table");
  t.strictSame(stopped(table(input([drop]), { family: "ip6" }), place6), PORTS);
  t.strictSame(stopped(table({ own: { rules: [[drop]] } })), [], "a chain that nothing leads to");
  t.end();
});

t.test("nf_tables: what to change", (t) => {
  const both = {
    input: { hook: "input", prio: 0, policy: "drop" },
    forward: { hook: "forward", prio: 0, policy: "drop" },
  };
  t.strictSame(said(table(both, { name: "mine" })), [
    "vxlan: nft insert rule inet mine input iifname eth1 udp dport 8472 accept",
    "kubelet: nft insert rule inet mine input iifname eth1 tcp dport 10250 accept",
    "pods: nft insert rule inet mine forward ip saddr 10.244.0.0/16 accept; nft insert rule inet mine forward ip daddr 10.244.0.0/16 accept",
    "api: nft insert rule inet mine input iifname eth1 tcp dport 6443 accept",
  ]);
  t.match(said(table(both), place6)[2], /ip6 saddr fd00:10:244::\/56 accept/);
  const allowed = [is(field("ip", "saddr"), "10.9.0.7"), is(field("tcp", "dport"), 6443), accept];
  t.strictSame(
    stopped(table({ input: { ...both.input, rules: [allowed] } })),
    ["vxlan", "kubelet"],
    "somebody may call the API server",
  );
  const dnat = [is({ ct: { key: "status" } }, "dnat", "in"), accept];
  const fromOutside = [is(meta("iifname"), "eth1"), drop];
  const forward = (...rules: Rule[]) =>
    table({ forward: { hook: "forward", prio: 0, policy: "accept", rules } });
  t.strictSame(stopped(forward(fromOutside)), ["pods"], "node ports");
  t.strictSame(stopped(forward(dnat, fromOutside)), [], "are known by their translation");
  const zone = { ...input([{ goto: { target: "filter_IN_work" } }]), filter_IN_work: { rules: [[drop]] } };
  t.strictSame(
    said(table(zone, { name: "firewalld" }))[0],
    [
      "vxlan: firewall-cmd --zone=work --add-port=8472/udp",
      "firewall-cmd --permanent --zone=work --add-port=8472/udp",
    ].join("; "),
  );
  t.end();
});
