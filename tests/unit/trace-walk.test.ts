// A packet through rules and routes on paper: matches, targets, hooks, routing, and a host as ip(8) tells it.

import t from "tap";
import type { Ruleset } from "../../dataplane/iptables/index.js";
import {
  addressOn,
  type Host,
  outcomes,
  type Packet,
  parseHost,
  sourceFor,
  walk,
} from "../../dataplane/trace/index.js";
import { HOST, NODE, POD, rules } from "./helpers/trace-host.js";

const FROM_POD: Packet = { protocol: "tcp", src: POD, dst: "10.96.0.10", dport: 80, input: "cni0" };

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
