// The overlay of IPv4 against the real kernel: hosts on one underlay, pods by CNI, and everything that can go wrong. Runs
// in namespaces that it makes itself.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pino } from "pino";
import t from "tap";
import { Cidr } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";
import { Iptables } from "../../dataplane/iptables/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { changeEntries, reconcileEntries } from "../../dataplane/overlay/entries.js";
import { OverlayRefusal } from "../../dataplane/overlay/index.js";
import {
  dir,
  entries,
  macOf,
  nodes,
  one,
  overlayFor,
  pings,
  podOne,
  podThree,
  podTwo,
  reaches,
  same,
  seenSource,
  stackOf,
  tellAll,
  three,
  two,
  underlay,
  until,
  wantedEntries,
} from "../helpers/overlay-hosts.js";

t.test("the kernel objects are flannel's", async (t) => {
  const link = await one.rt.getLink("flannel.1");
  const uplink = await one.rt.getLink("eth0");
  t.match(link, { kind: "vxlan", mtu: 1450, up: true });
  t.strictSame(link?.vxlan, {
    id: 1,
    port: 8472,
    learning: false,
    local: "192.168.56.11",
    linkIndex: uplink?.index,
  });
  const addresses = (await one.rt.listAddresses("flannel.1")).filter(({ family }) => family === 4);
  t.strictSame(
    addresses.map(({ cidr }) => cidr),
    ["10.244.1.0/32"],
  );
  await until("both peers are in", async () => same(await entries(one), await wantedEntries(two, three)));
  t.strictSame(await entries(one), await wantedEntries(two, three));
  t.equal(
    readFileSync(join(one.runDir, "flannel", "subnet.env"), "utf8"),
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
  );
  t.strictSame(nodes.get("node-1")?.metadata.annotations, {
    "flannel.alpha.coreos.com/backend-data": JSON.stringify({ VNI: 1, VtepMAC: link?.mac }),
    "flannel.alpha.coreos.com/backend-type": "vxlan",
    "flannel.alpha.coreos.com/kube-subnet-manager": "true",
    "flannel.alpha.coreos.com/public-ip": "192.168.56.11",
  });
});

t.test("iproute2 sees the same as we do", async (t) => {
  const { stdout } = await one.ns.exec("ip", ["-d", "link", "show", "flannel.1"]);
  t.match(stdout, /mtu 1450 /);
  t.match(stdout, /vxlan id 1 local 192\.168\.56\.11 dev eth0 srcport 0 0 dstport 8472 nolearning/);
  const { stdout: route } = await one.ns.exec("ip", ["route", "show", "10.244.2.0/24"]);
  t.match(route, /via 10\.244\.2\.0 dev flannel\.1 onlink/);
  const { stdout: neighbor } = await one.ns.exec("ip", ["neigh", "show", "dev", "flannel.1"]);
  t.match(neighbor, new RegExp(`10\\.244\\.2\\.0 lladdr ${await macOf(two)} PERMANENT`));
});

t.test("pods reach pods on all hosts, and are seen with their own address", async (t) => {
  for (const [from, to] of [
    [podOne, podTwo],
    [podTwo, podThree],
    [podThree, podOne],
  ] as const) {
    t.ok(await reaches(from.ns, to.ip), `${from.ip} reaches ${to.ip}`);
    t.equal(await seenSource(from.ns, to), from.ip);
  }
  t.ok(await reaches(one.ns, podThree.ip), "a host reaches a remote pod");
  t.ok(await reaches(podOne.ns, stackOf(two).ip), "a pod reaches another host");
});

t.test("what leaves the pod network is masqueraded", async (t) => {
  const rt = RtNetlink.open(underlay);
  await rt.addAddress("br0", "192.168.56.1/21");
  const outside = { ns: underlay, ip: "192.168.56.1" };
  t.equal(await seenSource(podOne.ns, outside), stackOf(one).ip);
  rt.close();
});

t.test("the rules are flannel's, forward even against a DROP policy, and come back", async (t) => {
  const ours = async () =>
    (await stackOf(one).iptables.save())
      .split("\n")
      .filter((line) => /^-A (FLANNEL|POSTROUTING|FORWARD)/.test(line));
  const random = stackOf(one).iptables.randomFully ? " --random-fully" : "";
  const masq = '-m comment --comment "flanneld masq" -j';
  const forward = '-m comment --comment "flanneld forward" -j';
  const wanted = [
    `-A FORWARD ${forward} FLANNEL-FWD`,
    `-A FLANNEL-FWD -s 10.244.0.0/16 ${forward} ACCEPT`,
    `-A FLANNEL-FWD -d 10.244.0.0/16 ${forward} ACCEPT`,
    `-A POSTROUTING ${masq} FLANNEL-POSTRTG`,
    `-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 ${masq} RETURN`,
    `-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 ${masq} RETURN`,
    `-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 ${masq} RETURN`,
    `-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 ${masq} RETURN`,
    `-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 ${masq} MASQUERADE${random}`,
    `-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 ${masq} MASQUERADE${random}`,
  ];
  const sorted = (lines: readonly string[]) => ({
    // Tables come in any order; within a chain the order is what counts.
    filter: lines.filter((line) => /FORWARD|FWD/.test(line)),
    nat: lines.filter((line) => /POSTR/.test(line)),
  });
  t.strictSame(sorted(await ours()), sorted(wanted));
  await stackOf(one).iptables.restore("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n");
  t.ok(await reaches(podOne.ns, podTwo.ip));
  await one.ns.exec("iptables", ["-t", "nat", "-F"]);
  await one.ns.exec("iptables", ["-F", "FLANNEL-FWD"]);
  await until("the rules are back", async () => (await ours()).length === wanted.length);
  t.strictSame(sorted(await ours()), sorted(wanted));
});

t.test("a node that leaves takes its entries along, and gets them back when it returns", async (t) => {
  const gone = nodes.get("node-3");
  nodes.delete("node-3");
  one.overlay.nodesChanged([...nodes.values()]);
  await one.overlay.flush();
  t.strictSame(await entries(one), await wantedEntries(two));
  t.notOk(await pings(podOne.ns, podThree.ip));
  if (gone) nodes.set("node-3", gone);
  one.overlay.nodesChanged([...nodes.values()]);
  await one.overlay.flush();
  t.strictSame(await entries(one), await wantedEntries(two, three));
  t.ok(await reaches(podOne.ns, podThree.ip));
});

t.test("a deleted device comes back with its MAC and all its entries", async (t) => {
  const mac = await macOf(two);
  const wanted = await wantedEntries(one, three);
  await two.rt.deleteLink("flannel.1");
  await until("the entries are back", async () => {
    return (await two.rt.getLink("flannel.1")) !== undefined && same(await entries(two), wanted);
  });
  t.equal(await macOf(two), mac);
  t.ok(await reaches(podTwo.ns, podOne.ip));
});

t.test("a device that somebody set down or gave another MAC is put right", async (t) => {
  const mac = await macOf(two);
  await two.rt.setLink("flannel.1", { up: false });
  await two.rt.setLink("flannel.1", { mac: "02:00:00:00:00:99" });
  const wanted = await wantedEntries(one, three);
  await until("it is as before", async () => {
    const link = await two.rt.getLink("flannel.1");
    return link?.up === true && link.mac === mac && same(await entries(two), wanted);
  });
  t.ok(await reaches(podTwo.ns, podOne.ip));
});

t.test("foreign entries go, missing ones come back", async (t) => {
  const wanted = await wantedEntries(two, three);
  await one.rt.setNeighbor({ dev: "flannel.1", ip: "10.244.99.0", mac: "02:00:00:00:00:01" });
  await one.rt.setFdb({ dev: "flannel.1", mac: "02:00:00:00:00:01", dst: "192.168.56.99" });
  await one.rt.addRoute({ dst: "10.244.99.0/24", via: "10.244.99.0", dev: "flannel.1", onlink: true });
  await one.rt.deleteNeighbor({ dev: "flannel.1", ip: "10.244.2.0" });
  await one.rt.deleteRoute({ dst: "10.244.3.0/24", dev: "flannel.1" });
  t.notSame(await entries(one), wanted);
  await until("the tables are right", async () => same(await entries(one), wanted));
  t.strictSame(await entries(one), wanted);
});

t.test("a peer that gets another address is followed by itself and by all", async (t) => {
  await three.rt.addAddress("eth0", "192.168.57.33/21");
  await three.rt.deleteAddress("eth0", "192.168.56.13/21");
  // The kernel drops secondary addresses together with their primary.
  const present = await three.rt.listAddresses("eth0");
  if (!present.some(({ ip }) => ip === "192.168.57.33"))
    await three.rt.addAddress("eth0", "192.168.57.33/21");
  stackOf(three).ip = "192.168.57.33";
  await until("the announcement is new", () => {
    return (
      nodes.get("node-3")?.metadata.annotations?.["flannel.alpha.coreos.com/public-ip"] === stackOf(three).ip
    );
  });
  const wanted = await wantedEntries(two, three);
  await until("others have followed", async () => same(await entries(one), wanted));
  t.equal((await three.rt.getLink("flannel.1"))?.vxlan?.local, stackOf(three).ip);
  t.ok(await reaches(podOne.ns, podThree.ip));
});

t.test("a peer that gets another MAC or block is followed", async (t) => {
  const real = nodes.get("node-3");
  const backend = JSON.stringify({ VNI: 1, VtepMAC: "02:00:00:00:00:33" });
  const fake: Stored<Node> = {
    ...(real as Stored<Node>),
    metadata: {
      ...(real as Stored<Node>).metadata,
      annotations: { ...real?.metadata.annotations, "flannel.alpha.coreos.com/backend-data": backend },
    },
    spec: { podCIDR: "10.244.33.0/24" },
  };
  one.overlay.nodesChanged([...nodes.values()].map((node) => (node === real ? fake : node)));
  await one.overlay.flush();
  t.strictSame(
    await entries(one),
    [
      ...(await wantedEntries(two)),
      "neigh 10.244.33.0 02:00:00:00:00:33 permanent",
      "fdb 02:00:00:00:00:33 192.168.57.33 self permanent",
      "route 10.244.33.0/24 via 10.244.33.0 onlink",
    ].sort(),
  );
  one.overlay.nodesChanged([...nodes.values()]);
  await one.overlay.flush();
  t.strictSame(await entries(one), await wantedEntries(two, three));
});

t.test("a restarted host takes its MAC from its Node", async (t) => {
  const mac = await macOf(three);
  await three.overlay.stop();
  await three.rt.deleteLink("flannel.1");
  three.overlay = overlayFor(three);
  three.overlay.start();
  tellAll();
  await three.overlay.ready;
  t.equal(await macOf(three), mac);
  t.ok(await reaches(podThree.ns, podOne.ip));
});

t.test("Nodes that become known amid a restarted host's first pass: no tunnel is taken away", async (t) => {
  await one.overlay.stop();
  const lines: string[] = [];
  const { ip: publicIP } = stackOf(one);
  // Its programs take their time: that is when the Nodes come.
  const iptables = Iptables.open(one.ns, { variant: "legacy" });
  const restarted = overlayFor(one, {
    stacks: [{ publicIP, network: "10.244.0.0/16", iptables }],
    log: pino({}, { write: (line: string) => void lines.push(line) }),
  });
  restarted.setOwnNode(nodes.get(one.name) as Stored<Node>);
  restarted.start();
  await new Promise((resolve) => setImmediate(resolve));
  restarted.nodesChanged([...nodes.values()]);
  await restarted.flush();
  t.notMatch(lines.join(""), "overlay entries changed");
  t.strictSame(await entries(one), await wantedEntries(two, three));
  await restarted.stop();
  one.overlay = overlayFor(one);
  one.overlay.start();
  tellAll();
  await one.overlay.ready;
});

t.test("failure of a later step takes the earlier ones back", async (t) => {
  const ns = NetNs.create("alone");
  const rt = RtNetlink.open(ns);
  await rt.setLink("lo", { up: true });
  await rt.addBridge("under");
  await rt.addVxlan({ name: "vx", id: 9, port: 8472, local: "10.0.0.1", link: "under", learning: false });
  const link = await rt.getLink("vx");
  const device = { index: link?.index ?? 0, name: "vx" };
  const peer = {
    node: "x",
    podCIDR: Cidr.parse("10.244.7.0/24"),
    vtepIP: "10.244.7.0",
    vtepMAC: "02:00:00:00:00:07",
    publicIP: "10.0.0.7",
  };
  // A device that is down takes neighbours and FDB entries but no route.
  await t.rejects(reconcileEntries(rt, device, [peer]), /ENETDOWN/);
  t.strictSame(await rt.listNeighbors("vx"), []);
  t.strictSame(await rt.listFdb("vx"), []);
  await rt.setLink("vx", { up: true });
  t.strictSame(await reconcileEntries(rt, device, [peer]), { added: 1, removed: 0 });
  t.strictSame(await reconcileEntries(rt, device, [peer]), { added: 0, removed: 0 });

  const lease = (n: number, mac = n) => ({
    node: `x${n}`,
    podCIDR: Cidr.parse(`10.244.${n}.0/24`),
    vtepIP: `10.244.${n}.0`,
    vtepMAC: `02:00:00:00:00:${mac.toString(16).padStart(2, "0")}`,
    publicIP: `10.0.0.${n}`,
  });
  // More than one batch of messages; then some stay, one changes its MAC, one goes.
  const many = Array.from({ length: 100 }, (_, i) => lease(i + 8));
  const all = [peer, ...many];
  t.strictSame(await changeEntries(rt, device, { before: [peer], after: all }), { added: 100, removed: 0 });
  t.strictSame(await reconcileEntries(rt, device, all), { added: 0, removed: 0 });
  const fewer = [lease(8, 200), ...many.slice(2)];
  const change = await changeEntries(rt, device, { before: all, after: fewer });
  t.strictSame(change, { added: 1, removed: 7 }, "two peers go with three entries each, one MAC with one");
  t.strictSame(await reconcileEntries(rt, device, fewer), { added: 0, removed: 0 });
  const missing = { ...device, index: 4711 };
  await t.rejects(changeEntries(rt, missing, { before: [], after: [peer, lease(8)] }), /ENODEV.*; .*ENODEV/s);
  rt.close();
  ns.close();
});

t.test("it refuses what cannot work, and says why", async (t) => {
  const wrong = (podCIDR: string, name = "node-9"): Stored<Node> => ({
    apiVersion: "v1",
    kind: "Node",
    metadata: { name, uid: name, resourceVersion: "1", creationTimestamp: "2026-02-01T00:00:00Z" },
    spec: { podCIDR },
  });
  const ns = NetNs.create("node-9");
  const rt = RtNetlink.open(ns);
  await rt.addBridge({ name: "eth0", up: true });
  await rt.addAddress("eth0", "192.168.56.12/21");
  const stack = { ip: "192.168.56.12", podCIDR: "", iptables: Iptables.open(ns) };
  const host = { name: "node-9", ns, rt, stacks: { 4: stack }, runDir: join(dir, "node-9") };
  const outside = overlayFor(host);
  outside.setOwnNode(wrong("10.99.1.0/24"));
  outside.start();
  await t.rejects(outside.ready, {
    name: "OverlayRefusal",
    message: "Node node-9: podCIDR 10.99.1.0/24 is not inside the pod network 10.244.0.0/16",
  });
  t.match(outside.state, { phase: "refused" });
  await outside.stop();
  const taken = overlayFor(host);
  taken.setOwnNode(wrong("10.244.9.0/24"));
  taken.nodesChanged([...nodes.values(), wrong("10.244.9.0/24")]);
  taken.start();
  const error: unknown = await taken.ready.catch((reason: unknown) => reason);
  t.ok(error instanceof OverlayRefusal);
  t.match(error, { message: /same public IP 192\.168\.56\.12 as the older Node node-2/ });
  t.notOk(await rt.getLink("flannel.1"), "nothing was made");
  t.notOk(existsSync(join(host.runDir, "flannel", "subnet.env")));
  await taken.stop();
  rt.close();
});

t.test("stop with cleanup leaves nothing", async (t) => {
  await two.overlay.stop({ cleanup: true });
  t.notOk(await two.rt.getLink("flannel.1"));
  t.notMatch(await stackOf(two).iptables.save(), /FLANNEL/);
  t.notOk(existsSync(join(two.runDir, "flannel", "subnet.env")));
});
