// Overlays of hosts of both families and of IPv6 only against the real kernel, beside hosts of IPv4. Runs in namespaces
// that it makes itself.

import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import t from "tap";
import { Cidr } from "../../common/ip.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import {
  addHost,
  addPod,
  entries,
  type Host,
  hosts,
  macOf,
  nodes,
  one,
  pings,
  podOne,
  pods,
  reaches,
  same,
  seenSource,
  stackOf,
  type TestPod,
  three,
  two,
  underlay,
  until,
  wantedEntries,
  wantedOf,
} from "../helpers/overlay-hosts.js";

/** The same for TCP, with a megabyte for the server to read: segments as large as the path says. */
async function seenByTcp(from: NetNs, to: NetNs, ip: string): Promise<{ source: string; bytes: number }> {
  const seen: { source: string; bytes: number }[] = [];
  const server = createServer(async (socket) => {
    const one = { source: socket.remoteAddress ?? "", bytes: 0 };
    seen.push(one);
    for await (const chunk of socket) one.bytes += chunk.length;
    socket.end();
  });
  await to.listen(server, { host: ip, port: 5354 });
  const client = from.connect({ host: ip, port: 5354, timeout: 60_000 });
  client.end(Buffer.alloc(1 << 20));
  client.resume();
  await once(client, "close", { signal: AbortSignal.timeout(60_000) });
  server.close();
  return seen[0] ?? { source: "nobody", bytes: 0 };
}

/** The lines of `ip` about a namespace's IPv6 addresses, flags at the end. */
const globalV6 = async (ns: NetNs): Promise<string> => {
  const { stdout } = await ns.exec("ip", ["-6", "-o", "address", "show", "scope", "global"]);
  return stdout
    .replace(/^.*?(?=inet6)/gm, "")
    .replace(/ *\\.*$/gm, "")
    .trim();
};

t.test("hosts of both families: a device, entries, rules and announcements for each", async (t) => {
  const [four, five] = [await addHost(4, [4, 6]), await addHost(5, [4, 6])];
  await Promise.all([four.overlay.ready, five.overlay.ready]);
  await until("the hosts know each other", async () => {
    const others = [one, two, three];
    return (
      same(await entries(four, 6), await wantedOf(6, five)) &&
      same(await entries(five, 6), await wantedOf(6, four)) &&
      same(await entries(four), await wantedEntries(...others, five)) &&
      same(await entries(five), await wantedEntries(...others, four))
    );
  });
  const uplink = await four.rt.getLink("eth0");
  const link = await four.rt.getLink("flannel-v6.1");
  t.match(link, { kind: "vxlan", mtu: 1430, up: true });
  t.strictSame(link?.vxlan, {
    id: 1,
    port: 8472,
    learning: false,
    local: "fd00:56::14",
    linkIndex: uplink?.index,
  });
  const addresses = (await four.rt.listAddresses("flannel-v6.1")).filter(({ scope }) => scope === 0);
  t.strictSame(
    addresses.map(({ cidr }) => cidr),
    ["fd00:10:244:4::/128"],
  );
  t.equal(four.ns.sysctl("net/ipv6/conf/flannel-v6.1/accept_ra"), "0");
  t.match(await four.rt.getLink("flannel.1"), { kind: "vxlan", mtu: 1450, up: true });
  t.not(await macOf(four, 4), link?.mac, "a MAC for each");
  t.equal(
    readFileSync(join(four.runDir, "flannel", "subnet.env"), "utf8"),
    [
      "FLANNEL_NETWORK=10.244.0.0/16",
      "FLANNEL_SUBNET=10.244.4.1/24",
      "FLANNEL_IPV6_NETWORK=fd00:10:244::/56",
      "FLANNEL_IPV6_SUBNET=fd00:10:244:4::1/64",
      "FLANNEL_MTU=1430",
      "FLANNEL_IPMASQ=true",
      "",
    ].join("\n"),
  );
  t.strictSame(nodes.get("node-4")?.metadata.annotations, {
    "flannel.alpha.coreos.com/backend-data": JSON.stringify({ VNI: 1, VtepMAC: await macOf(four) }),
    "flannel.alpha.coreos.com/backend-v6-data": JSON.stringify({ VNI: 1, VtepMAC: link?.mac }),
    "flannel.alpha.coreos.com/backend-type": "vxlan",
    "flannel.alpha.coreos.com/kube-subnet-manager": "true",
    "flannel.alpha.coreos.com/public-ip": "192.168.56.14",
    "flannel.alpha.coreos.com/public-ipv6": "fd00:56::14",
  });
  const { stdout } = await four.ns.exec("ip", ["-d", "-6", "link", "show", "flannel-v6.1"]);
  t.match(stdout, /vxlan id 1 local fd00:56::14 dev eth0 srcport 0 0 dstport 8472 nolearning/);
  const { stdout: route } = await four.ns.exec("ip", ["-6", "route", "show", "fd00:10:244:5::/64"]);
  t.match(route, /via fd00:10:244:5:: dev flannel-v6\.1 .*onlink/);
  // The IPv4 hosts see two more hosts of IPv4, and nothing of IPv6.
  await until("the IPv4 hosts know them", async () =>
    same(await entries(one), await wantedEntries(two, three, four, five)),
  );
  t.notOk(await one.rt.getLink("flannel-v6.1"));
});

t.test("packets of both families go from pod to pod with the pod's own address", async (t) => {
  const [four, five] = [hosts.get("node-4") as Host, hosts.get("node-5") as Host];
  const [a, b, c] = [
    await addPod(four, "pod-four"),
    await addPod(five, "pod-five"),
    await addPod(five, "pod-c"),
  ];
  t.strictSame(a.ips, ["10.244.4.2", "fd00:10:244:4::2"]);
  t.match(await globalV6(a.ns), /^inet6 fd00:10:244:4::2\/64 .* nodad$/m);
  for (const { ns } of [a, b, c, four, five]) {
    t.notMatch(await globalV6(ns), /(?<! nodad)$/m, `${ns.name}: no address is checked for duplicates first`);
  }
  for (const [family, i] of [
    [4, 0],
    [6, 1],
  ] as const) {
    const [from, to] = [a.ips[i] ?? "", b.ips[i] ?? ""];
    t.equal(await seenSource(a.ns, b, to), from, `UDP over IPv${family}`);
    t.strictSame(await seenByTcp(a.ns, b.ns, to), { source: from, bytes: 1 << 20 }, `TCP over IPv${family}`);
    t.equal(await seenSource(b.ns, c, c.ips[i]), to, "two pods of one host");
    t.ok(await reaches(a.ns, stackOf(four, family).ip), "a pod reaches its own host");
    t.ok(await reaches(a.ns, stackOf(five, family).ip), "and another one");
    t.ok(await reaches(four.ns, from), "a host reaches its own pod");
    const vtep = Cidr.parse(stackOf(four, family).podCIDR).network;
    t.equal(await seenSource(four.ns, b, to), vtep, "a host reaches a remote pod from its overlay address");
    t.strictSame(await seenByTcp(four.ns, b.ns, to), { source: vtep, bytes: 1 << 20 });
  }
  // 1430 less the headers of IPv6 and ICMPv6; one byte more does not fit.
  const big = (size: number) => ["-c", "1", "-W", "10", "-M", "do", "-s", String(size), b.ips[1] ?? ""];
  await a.ns.exec("ping", big(1382));
  await t.rejects(a.ns.exec("ping", big(1383)));
  t.equal(await seenSource(podOne.ns, a), podOne.ip, "a pod of an IPv4 host reaches one of both families");
  t.equal(await seenSource(a.ns, podOne), a.ip);
});

t.test("IPv6 that leaves the pod network is masqueraded", async (t) => {
  using rt = RtNetlink.open(underlay);
  await rt.addAddress("br0", "fd00:56::1/64");
  const four = hosts.get("node-4") as Host;
  const pod = pods.get("pod-four") as TestPod;
  t.equal(await seenSource(pod.ns, { ns: underlay, ip: "fd00:56::1" }), stackOf(four, 6).ip);
});

t.test("ip6tables has flannel's rules, which forward against a DROP policy and come back", async (t) => {
  const four = hosts.get("node-4") as Host;
  const { iptables } = stackOf(four, 6);
  const ours = async () =>
    (await iptables.save()).split("\n").filter((line) => /^-A (FLANNEL|POSTROUTING|FORWARD)/.test(line));
  const random = iptables.randomFully ? " --random-fully" : "";
  const masq = '-m comment --comment "flanneld masq" -j';
  const forward = '-m comment --comment "flanneld forward" -j';
  const wanted = {
    filter: [
      `-A FORWARD ${forward} FLANNEL-FWD`,
      `-A FLANNEL-FWD -s fd00:10:244::/56 ${forward} ACCEPT`,
      `-A FLANNEL-FWD -d fd00:10:244::/56 ${forward} ACCEPT`,
    ],
    nat: [
      `-A POSTROUTING ${masq} FLANNEL-POSTRTG`,
      `-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 ${masq} RETURN`,
      `-A FLANNEL-POSTRTG -s fd00:10:244:4::/64 -d fd00:10:244::/56 ${masq} RETURN`,
      `-A FLANNEL-POSTRTG -s fd00:10:244::/56 -d fd00:10:244:4::/64 ${masq} RETURN`,
      `-A FLANNEL-POSTRTG ! -s fd00:10:244::/56 -d fd00:10:244:4::/64 ${masq} RETURN`,
      `-A FLANNEL-POSTRTG -s fd00:10:244::/56 ! -d ff00::/8 ${masq} MASQUERADE${random}`,
      `-A FLANNEL-POSTRTG ! -s fd00:10:244::/56 -d fd00:10:244::/56 ${masq} MASQUERADE${random}`,
    ],
  };
  const sorted = (lines: readonly string[]) => ({
    filter: lines.filter((line) => /FORWARD|FWD/.test(line)),
    nat: lines.filter((line) => /POSTR/.test(line)),
  });
  t.strictSame(sorted(await ours()), wanted);
  await iptables.restore("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n");
  const [from, to] = [pods.get("pod-four") as TestPod, pods.get("pod-five") as TestPod];
  t.ok(await reaches(from.ns, to.ips[1] ?? ""));
  // The overlay's own check may come between the flush and the packet: then both are done again.
  await until("and nobody else lets it pass", async () => {
    await four.ns.exec("ip6tables", ["-t", "nat", "-F"]);
    await four.ns.exec("ip6tables", ["-F", "FLANNEL-FWD"]);
    return !(await pings(from.ns, to.ips[1] ?? ""));
  });
  await until("the rules are back", async () => isDeepStrictEqual(sorted(await ours()), wanted));
  t.strictSame(sorted(await ours()), wanted);
  t.ok(await reaches(from.ns, to.ips[1] ?? ""));
});

t.test("a host of both families that leaves takes both along, and gets them back", async (t) => {
  const [four, five] = [hosts.get("node-4") as Host, hosts.get("node-5") as Host];
  const [from, to] = [pods.get("pod-four") as TestPod, pods.get("pod-five") as TestPod];
  const all = [...nodes.values()];
  const kept = [await entries(four), await entries(four, 6)];
  four.overlay.nodesChanged(all.filter(({ metadata }) => metadata.name !== "node-5"));
  await four.overlay.flush();
  t.strictSame(await entries(four, 6), []);
  t.strictSame(await entries(four), await wantedEntries(one, two, three));
  t.notOk(await pings(from.ns, to.ips[1] ?? ""));
  four.overlay.nodesChanged(all);
  await four.overlay.flush();
  t.strictSame([await entries(four), await entries(four, 6)], kept);
  t.strictSame(await entries(four, 6), await wantedOf(6, five));
  t.ok(await reaches(from.ns, to.ips[1] ?? ""));
});

t.test("a deleted IPv6 device comes back as it was, and IPv4 is left alone", async (t) => {
  const four = hosts.get("node-4") as Host;
  const [mac, wanted] = [await macOf(four, 6), await entries(four, 6)];
  const other = await four.rt.getLink("flannel.1");
  await four.rt.deleteLink("flannel-v6.1");
  await until("the entries are back", async () => {
    return (await four.rt.getLink("flannel-v6.1")) !== undefined && same(await entries(four, 6), wanted);
  });
  t.equal(await macOf(four, 6), mac);
  t.strictSame(await four.rt.getLink("flannel.1"), other);
  const [from, to] = [pods.get("pod-four") as TestPod, pods.get("pod-five") as TestPod];
  t.ok(await reaches(from.ns, to.ips[1] ?? ""));
});

t.test("a new IPv6 address of the uplink is followed by itself and by all", async (t) => {
  const [four, five] = [hosts.get("node-4") as Host, hosts.get("node-5") as Host];
  const [from, to] = [pods.get("pod-four") as TestPod, pods.get("pod-five") as TestPod];
  await five.rt.addAddress("eth0", "fd00:56::55/64");
  await five.rt.deleteAddress("eth0", "fd00:56::15/64");
  stackOf(five, 6).ip = "fd00:56::55";
  await until("the others have followed", async () => same(await entries(four, 6), await wantedOf(6, five)));
  t.equal((await five.rt.getLink("flannel-v6.1"))?.vxlan?.local, "fd00:56::55");
  t.ok(await reaches(from.ns, to.ips[1] ?? ""));
});

t.test("one family that fails does not stop the other", async (t) => {
  const [four, five] = [hosts.get("node-4") as Host, hosts.get("node-5") as Host];
  const [from, to] = [pods.get("pod-four") as TestPod, pods.get("pod-five") as TestPod];
  await five.rt.deleteAddress("eth0", "fd00:56::55/64");
  await five.rt.deleteLink("flannel.1");
  const why = "the uplink eth0 has no IPv6 address";
  await until("it says why", () => {
    const { state } = five.overlay;
    return state.phase === "failing" && state.message === why;
  });
  // Until the device is back there is nothing to list.
  const listed = () => entries(five).catch(() => []);
  await until("IPv4 is whole again", async () =>
    same(await listed(), await wantedEntries(one, two, three, four)),
  );
  t.ok(await reaches(from.ns, to.ip));
  await five.rt.addAddress("eth0", "fd00:56::55/64");
  await until("it is well again", () => five.overlay.state.phase === "ready");
  t.strictSame(await entries(four, 6), await wantedOf(6, five));
  t.ok(await reaches(from.ns, to.ips[1] ?? ""));
});

t.test("hosts of IPv6 only work with each other and with those of both families", async (t) => {
  const [six, seven] = [await addHost(6, [6]), await addHost(7, [6])];
  await Promise.all([six.overlay.ready, seven.overlay.ready]);
  const [a, b] = [await addPod(six, "pod-six"), await addPod(seven, "pod-seven")];
  t.strictSame([a.ips, b.ips], [["fd00:10:244:6::2"], ["fd00:10:244:7::2"]]);
  t.equal(
    readFileSync(join(six.runDir, "flannel", "subnet.env"), "utf8"),
    "FLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_IPV6_SUBNET=fd00:10:244:6::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n",
  );
  t.notOk(await six.rt.getLink("flannel.1"));
  const announced = Object.keys(nodes.get("node-6")?.metadata.annotations ?? {});
  t.notOk(announced.some((key) => /backend-data|public-ip$/.test(key)));
  const five = hosts.get("node-5") as Host;
  await until("they are known", async () => {
    const others = [hosts.get("node-4") as Host, five];
    return (
      same(await entries(seven, 6), await wantedOf(6, ...others, six)) &&
      same(await entries(six, 6), await wantedOf(6, ...others, seven)) &&
      (await entries(five, 6)).length === 9
    );
  });
  t.equal(await seenSource(a.ns, b), a.ip);
  t.strictSame(await seenByTcp(a.ns, b.ns, b.ip), { source: a.ip, bytes: 1 << 20 });
  const both = pods.get("pod-five") as TestPod;
  t.equal(await seenSource(both.ns, a), both.ips[1]);
  await six.overlay.stop({ cleanup: true });
  t.notOk(await six.rt.getLink("flannel-v6.1"));
  t.notMatch(await stackOf(six, 6).iptables.save(), /FLANNEL/);
});
