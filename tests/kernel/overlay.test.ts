// The overlay against the real kernel: hosts of IPv4, of both families and of IPv6 on one underlay, pods by CNI, and
// everything that can go wrong. Runs in namespaces that it makes itself.

import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { addNetwork, type CniResult, defaultConflist } from "../../cni/index.js";
import { Cidr, type IpFamily } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { Iptables } from "../../dataplane/iptables/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { changeEntries, reconcileEntries } from "../../dataplane/overlay/entries.js";
import { Overlay, type OverlayOptions, OverlayRefusal } from "../../dataplane/overlay/index.js";

const NETWORK = { 4: "10.244.0.0/16", 6: "fd00:10:244::/56" } as const;
const DEVICE = { 4: "flannel.1", 6: "flannel-v6.1" } as const;
const RTPROT_KERNEL = 2;
const dir = mkdtempSync(join(tmpdir(), "kubeplumb-overlay-"));
const underlay = NetNs.create("underlay");
const bridge = RtNetlink.open(underlay);

/** What a host has of one family. */
interface Stack {
  ip: string;
  podCIDR: string;
  iptables: Iptables;
}

interface Host {
  name: string;
  ns: NetNs;
  rt: RtNetlink;
  stacks: Partial<Record<IpFamily, Stack>>;
  runDir: string;
  overlay: Overlay;
}

function stackOf({ name, stacks }: Pick<Host, "name" | "stacks">, family: IpFamily = 4): Stack {
  const stack = stacks[family];
  if (!stack) throw new Error(`${name} has no IPv${family}`);
  return stack;
}

const hosts = new Map<string, Host>();
const nodes = new Map<string, Stored<Node>>();
let revision = 1;

/** What the API server does for the overlays: keeps Nodes and tells everybody. */
function putNode(name: string, change: { podCIDRs?: string[]; annotations?: Record<string, string> }): void {
  const old = nodes.get(name);
  const { podCIDRs = old?.spec?.podCIDRs, annotations = {} } = change;
  nodes.set(name, {
    apiVersion: "v1",
    kind: "Node",
    metadata: {
      name,
      uid: name,
      resourceVersion: String(revision++),
      creationTimestamp: `2026-01-01T00:00:0${name.at(-1)}Z`,
      annotations: { ...old?.metadata.annotations, ...annotations },
    },
    spec: { podCIDR: podCIDRs?.[0], podCIDRs },
    status: { conditions: [{ type: "NetworkUnavailable", status: "False" }] },
  });
  tellAll();
}

function tellAll(): void {
  const all = [...nodes.values()];
  for (const host of hosts.values()) {
    const own = nodes.get(host.name);
    if (own) host.overlay.setOwnNode(own);
    host.overlay.nodesChanged(all);
  }
}

function overlayFor(host: Omit<Host, "overlay">, change: Partial<OverlayOptions> = {}): Overlay {
  return new Overlay({
    ns: host.ns,
    nodeName: host.name,
    uplink: "eth0",
    stacks: ([4, 6] as const).flatMap((family) => {
      const stack = host.stacks[family];
      return stack ? [{ publicIP: stack.ip, network: NETWORK[family], iptables: stack.iptables }] : [];
    }),
    runDir: host.runDir,
    publish: async (annotations) => putNode(host.name, { annotations }),
    log: silentLogger,
    // These never look by themselves, so that what they repair they have been told of by the kernel.
    checkPeriodMs: ["node-2", "node-5"].includes(host.name) ? 3_600_000 : 200,
    ...change,
  });
}

async function addHost(n: number, families: readonly IpFamily[] = [4]): Promise<Host> {
  const name = `node-${n}`;
  const ns = NetNs.create(name);
  const rt = RtNetlink.open(ns);
  await bridge.addVeth({ name: `port${n}`, master: "br0", up: true, peer: { name: "eth0", ns } });
  await rt.setLink("eth0", { up: true });
  await rt.setLink("lo", { up: true });
  const stacks: Host["stacks"] = {};
  for (const family of families) {
    const iptables = Iptables.open(ns, { family });
    stacks[family] =
      family === 4
        ? { ip: `192.168.56.${10 + n}`, podCIDR: `10.244.${n}.0/24`, iptables }
        : { ip: `fd00:56::1${n}`, podCIDR: `fd00:10:244:${n}::/64`, iptables };
    await rt.addAddress("eth0", `${stacks[family].ip}/${family === 4 ? 21 : 64}`);
  }
  const facts = { name, ns, rt, stacks, runDir: join(dir, name, "run") };
  const host: Host = { ...facts, overlay: overlayFor(facts) };
  hosts.set(name, host);
  host.overlay.start();
  putNode(name, { podCIDRs: families.map((family) => stackOf(host, family).podCIDR) });
  return host;
}

interface TestPod {
  ns: NetNs;
  /** The first; of a pod with two families the IPv4 one. */
  ip: string;
  ips: string[];
}

const pods = new Map<string, TestPod>();

async function addPod(host: Host, name: string): Promise<TestPod> {
  const ns = NetNs.create(name);
  const conflist = defaultConflist({ subnetFile: join(host.runDir, "flannel", "subnet.env") });
  const result: CniResult = await addNetwork(conflist, {
    containerId: name,
    netns: ns.path,
    ifName: "eth0",
    binDirs: [],
    stateDir: join(dir, host.name, "cni"),
    hostNs: host.ns,
  });
  const ips = (result.ips ?? []).map(({ address }) => address.split("/")[0] ?? "");
  const pod = { ns, ip: ips[0] ?? "", ips };
  pods.set(name, pod);
  return pod;
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + 15_000;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`never came true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const pings = (from: NetNs, to: string) =>
  from.exec("ping", ["-c", "1", "-W", "2", to]).then(
    () => true,
    () => false,
  );

/** The source address that a UDP server in `to` sees of a datagram from `from` to `ip`. */
async function seenSource(from: NetNs, to: Pick<TestPod, "ns" | "ip">, ip = to.ip): Promise<string> {
  const any = ip.includes(":") ? "::" : "0.0.0.0";
  const server = await to.ns.udp({ host: any, port: 5353 });
  const client = await from.udp({ host: any });
  try {
    client.send("hello", 5353, ip);
    const [, sender] = await once(server, "message", { signal: AbortSignal.timeout(10_000) });
    return sender.address;
  } finally {
    client.close();
    server.close();
  }
}

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
  const client = from.connect({ host: ip, port: 5354, timeout: 10_000 });
  client.end(Buffer.alloc(1 << 20));
  client.resume();
  await once(client, "close", { signal: AbortSignal.timeout(20_000) });
  server.close();
  return seen[0] ?? { source: "nobody", bytes: 0 };
}

/** Neighbours, FDB entries and routes of a family's device, as short texts. */
async function entries(host: Host, family: IpFamily = 4): Promise<string[]> {
  const device = DEVICE[family];
  const [neighbors, fdb, routes] = [
    await host.rt.listNeighbors(device),
    await host.rt.listFdb(device),
    await host.rt.listRoutes(device),
  ];
  return [
    ...neighbors.map((n) => `neigh ${n.ip} ${n.mac}${n.permanent ? " permanent" : ""}`),
    ...fdb.map((e) => `fdb ${e.mac} ${e.dst}${e.self ? " self" : ""}${e.permanent ? " permanent" : ""}`),
    ...routes
      .filter((r) => r.family === family && r.protocol !== RTPROT_KERNEL)
      .map((r) => `route ${r.dst} via ${r.via}${r.onlink ? " onlink" : ""}`),
  ].sort();
}

const macOf = async (host: Host, family: IpFamily = 4): Promise<string> =>
  (await host.rt.getLink(DEVICE[family]))?.mac ?? "";

const wantedEntries = (...peers: Host[]): Promise<string[]> => wantedOf(4, ...peers);

async function wantedOf(family: IpFamily, ...peers: Host[]): Promise<string[]> {
  const out: string[] = [];
  for (const peer of peers) {
    const { ip, podCIDR } = stackOf(peer, family);
    const vtep = Cidr.parse(podCIDR).network;
    const mac = await macOf(peer, family);
    out.push(`neigh ${vtep} ${mac} permanent`);
    out.push(`fdb ${mac} ${ip} self permanent`);
    out.push(`route ${podCIDR} via ${vtep} onlink`);
  }
  return out.sort();
}

const same = (a: readonly string[], b: readonly string[]): boolean => JSON.stringify(a) === JSON.stringify(b);

await bridge.addBridge({ name: "br0", up: true });
const [one, two, three] = [await addHost(1), await addHost(2), await addHost(3)];
await Promise.all([one.overlay.ready, two.overlay.ready, three.overlay.ready]);
const podOne = await addPod(one, "pod-one");
const podTwo = await addPod(two, "pod-two");
const podThree = await addPod(three, "pod-three");

t.teardown(async () => {
  for (const { overlay, rt } of hosts.values()) {
    await overlay.stop();
    rt.close();
  }
  bridge.close();
  rmSync(dir, { recursive: true, force: true });
});

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
    t.ok(await pings(from.ns, to.ip), `${from.ip} reaches ${to.ip}`);
    t.equal(await seenSource(from.ns, to), from.ip);
  }
  t.ok(await pings(one.ns, podThree.ip), "a host reaches a remote pod");
  t.ok(await pings(podOne.ns, stackOf(two).ip), "a pod reaches another host");
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
  t.ok(await pings(podOne.ns, podTwo.ip));
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
  t.ok(await pings(podOne.ns, podThree.ip));
});

t.test("a deleted device comes back with its MAC and all its entries", async (t) => {
  const mac = await macOf(two);
  const wanted = await wantedEntries(one, three);
  await two.rt.deleteLink("flannel.1");
  await until("the entries are back", async () => {
    return (await two.rt.getLink("flannel.1")) !== undefined && same(await entries(two), wanted);
  });
  t.equal(await macOf(two), mac);
  t.ok(await pings(podTwo.ns, podOne.ip));
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
  t.ok(await pings(podTwo.ns, podOne.ip));
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
  t.ok(await pings(podOne.ns, podThree.ip));
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
  t.ok(await pings(podThree.ns, podOne.ip));
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

t.test("hosts of both families: a device, entries, rules and announcements for each", async (t) => {
  const [four, five] = [await addHost(4, [4, 6]), await addHost(5, [4, 6])];
  await Promise.all([four.overlay.ready, five.overlay.ready]);
  await until("the hosts know each other", async () => {
    return same(await entries(four, 6), await wantedOf(6, five));
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
  for (const [family, i] of [
    [4, 0],
    [6, 1],
  ] as const) {
    const [from, to] = [a.ips[i] ?? "", b.ips[i] ?? ""];
    const start = performance.now();
    t.equal(await seenSource(a.ns, b, to), from, `UDP over IPv${family}`);
    t.ok(performance.now() - start < 900, "at once: no address is still being checked for duplicates");
    t.strictSame(await seenByTcp(a.ns, b.ns, to), { source: from, bytes: 1 << 20 }, `TCP over IPv${family}`);
    t.equal(await seenSource(b.ns, c, c.ips[i]), to, "two pods of one host");
    t.ok(await pings(a.ns, stackOf(four, family).ip), "a pod reaches its own host");
    t.ok(await pings(a.ns, stackOf(five, family).ip), "and another one");
    t.ok(await pings(four.ns, from), "a host reaches its own pod");
    const vtep = Cidr.parse(stackOf(four, family).podCIDR).network;
    t.equal(await seenSource(four.ns, b, to), vtep, "a host reaches a remote pod from its overlay address");
    t.strictSame(await seenByTcp(four.ns, b.ns, to), { source: vtep, bytes: 1 << 20 });
  }
  // 1430 less the headers of IPv6 and ICMPv6; one byte more does not fit.
  const big = (size: number) => ["-c", "1", "-W", "2", "-M", "do", "-s", String(size), b.ips[1] ?? ""];
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
  t.ok(await pings(from.ns, to.ips[1] ?? ""));
  await four.ns.exec("ip6tables", ["-t", "nat", "-F"]);
  await four.ns.exec("ip6tables", ["-F", "FLANNEL-FWD"]);
  t.notOk(await pings(from.ns, to.ips[1] ?? ""), "and nobody else lets it pass");
  await until("the rules are back", async () => same(sorted(await ours()).nat, wanted.nat));
  t.strictSame(sorted(await ours()), wanted);
  t.ok(await pings(from.ns, to.ips[1] ?? ""));
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
  t.ok(await pings(from.ns, to.ips[1] ?? ""));
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
  t.ok(await pings(from.ns, to.ips[1] ?? ""));
});

t.test("a new IPv6 address of the uplink is followed by itself and by all", async (t) => {
  const [four, five] = [hosts.get("node-4") as Host, hosts.get("node-5") as Host];
  const [from, to] = [pods.get("pod-four") as TestPod, pods.get("pod-five") as TestPod];
  await five.rt.addAddress("eth0", "fd00:56::55/64");
  await five.rt.deleteAddress("eth0", "fd00:56::15/64");
  stackOf(five, 6).ip = "fd00:56::55";
  await until("the others have followed", async () => same(await entries(four, 6), await wantedOf(6, five)));
  t.equal((await five.rt.getLink("flannel-v6.1"))?.vxlan?.local, "fd00:56::55");
  t.ok(await pings(from.ns, to.ips[1] ?? ""));
});

t.test("one family that fails does not stop the other", async (t) => {
  const [four, five] = [hosts.get("node-4") as Host, hosts.get("node-5") as Host];
  const [from, to] = [pods.get("pod-four") as TestPod, pods.get("pod-five") as TestPod];
  await five.rt.deleteAddress("eth0", "fd00:56::55/64");
  await five.rt.deleteLink("flannel.1");
  await until("it says why", () => five.overlay.state.phase === "failing");
  t.match(five.overlay.state, { message: "the uplink eth0 has no IPv6 address" });
  // Until the device is back there is nothing to list.
  const listed = () => entries(five).catch(() => []);
  await until("IPv4 is whole again", async () =>
    same(await listed(), await wantedEntries(one, two, three, four)),
  );
  t.ok(await pings(from.ns, to.ip));
  await five.rt.addAddress("eth0", "fd00:56::55/64");
  await until("it is well again", () => five.overlay.state.phase === "ready");
  t.strictSame(await entries(four, 6), await wantedOf(6, five));
  t.ok(await pings(from.ns, to.ips[1] ?? ""));
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
    const wanted = await wantedOf(6, hosts.get("node-4") as Host, five, six);
    return same(await entries(seven, 6), wanted) && (await entries(five, 6)).length === 9;
  });
  t.equal(await seenSource(a.ns, b), a.ip);
  t.strictSame(await seenByTcp(a.ns, b.ns, b.ip), { source: a.ip, bytes: 1 << 20 });
  const both = pods.get("pod-five") as TestPod;
  t.equal(await seenSource(both.ns, a), both.ips[1]);
  await six.overlay.stop({ cleanup: true });
  t.notOk(await six.rt.getLink("flannel-v6.1"));
  t.notMatch(await stackOf(six, 6).iptables.save(), /FLANNEL/);
});

t.test("stop with cleanup leaves nothing", async (t) => {
  await two.overlay.stop({ cleanup: true });
  t.notOk(await two.rt.getLink("flannel.1"));
  t.notMatch(await stackOf(two).iptables.save(), /FLANNEL/);
  t.notOk(existsSync(join(two.runDir, "flannel", "subnet.env")));
});
