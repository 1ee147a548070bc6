// Three hosts of IPv4 with overlays on one underlay, a pod by CNI on each, for a kernel test file, gone at its end; more
// hosts of either family, and what their kernels hold.

import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
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
import { Overlay, type OverlayOptions } from "../../dataplane/overlay/index.js";

const NETWORK = { 4: "10.244.0.0/16", 6: "fd00:10:244::/56" } as const;
const DEVICE = { 4: "flannel.1", 6: "flannel-v6.1" } as const;
const RTPROT_KERNEL = 2;
export const dir = mkdtempSync(join(tmpdir(), "kubeplumb-overlay-"));
export const underlay = NetNs.create("underlay");
const bridge = RtNetlink.open(underlay);

/** What a host has of one family. */
interface Stack {
  ip: string;
  podCIDR: string;
  iptables: Iptables;
}

export interface Host {
  name: string;
  ns: NetNs;
  rt: RtNetlink;
  stacks: Partial<Record<IpFamily, Stack>>;
  runDir: string;
  overlay: Overlay;
}

/** @throws Error of a host that has not got this family. */
export function stackOf({ name, stacks }: Pick<Host, "name" | "stacks">, family: IpFamily = 4): Stack {
  const stack = stacks[family];
  if (!stack) throw new Error(`${name} has no IPv${family}`);
  return stack;
}

export const hosts = new Map<string, Host>();
export const nodes = new Map<string, Stored<Node>>();
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

/** Every overlay hears of all Nodes, and of its own. */
export function tellAll(): void {
  const all = [...nodes.values()];
  for (const host of hosts.values()) {
    const own = nodes.get(host.name);
    if (own) host.overlay.setOwnNode(own);
    host.overlay.nodesChanged(all);
  }
}

/** An overlay of a host, not yet started. */
export function overlayFor(host: Omit<Host, "overlay">, change: Partial<OverlayOptions> = {}): Overlay {
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

/** A host on the underlay with its Node, whose overlay starts. */
export async function addHost(n: number, families: readonly IpFamily[] = [4]): Promise<Host> {
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

export interface TestPod {
  ns: NetNs;
  /** The first; of a pod with two families the IPv4 one. */
  ip: string;
  ips: string[];
}

export const pods = new Map<string, TestPod>();

/** A pod on a host, by CNI. */
export async function addPod(host: Host, name: string): Promise<TestPod> {
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

/** Resolves when `holds`. @throws Error after a minute. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + 60_000;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`never came true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Whether an address answers to one ping. */
export const pings = (from: NetNs, to: string) =>
  from.exec("ping", ["-c", "1", "-W", "2", to]).then(
    () => true,
    () => false,
  );

/** True once a ping was answered: one may be lost to a route that is not there yet. */
export async function reaches(from: NetNs, to: string): Promise<true> {
  await until(`${from.name} reaches ${to}`, () => pings(from, to));
  return true;
}

/** The source address that a UDP server in `to` sees of a datagram from `from` to `ip`. */
export async function seenSource(from: NetNs, to: Pick<TestPod, "ns" | "ip">, ip = to.ip): Promise<string> {
  const any = ip.includes(":") ? "::" : "0.0.0.0";
  const server = await to.ns.udp({ host: any, port: 5353 });
  const client = await from.udp({ host: any });
  try {
    client.send("hello", 5353, ip);
    const [, sender] = await once(server, "message", { signal: AbortSignal.timeout(60_000) });
    return sender.address;
  } finally {
    client.close();
    server.close();
  }
}

/** Neighbours, FDB entries and routes of a family's device, as short texts. */
export async function entries(host: Host, family: IpFamily = 4): Promise<string[]> {
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

/** The MAC of a family's device. */
export const macOf = async (host: Host, family: IpFamily = 4): Promise<string> =>
  (await host.rt.getLink(DEVICE[family]))?.mac ?? "";

/** What `entries` of IPv4 should be with these peers. */
export const wantedEntries = (...peers: Host[]): Promise<string[]> => wantedOf(4, ...peers);

/** What `entries` should be with these peers. */
export async function wantedOf(family: IpFamily, ...peers: Host[]): Promise<string[]> {
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

export const same = (a: readonly string[], b: readonly string[]): boolean =>
  JSON.stringify(a) === JSON.stringify(b);

await bridge.addBridge({ name: "br0", up: true });
export const [one, two, three] = [await addHost(1), await addHost(2), await addHost(3)];
await Promise.all([one.overlay.ready, two.overlay.ready, three.overlay.ready]);
export const podOne = await addPod(one, "pod-one");
export const podTwo = await addPod(two, "pod-two");
export const podThree = await addPod(three, "pod-three");

t.teardown(async () => {
  for (const { overlay, rt } of hosts.values()) {
    await overlay.stop();
    rt.close();
  }
  bridge.close();
  rmSync(dir, { recursive: true, force: true });
});
