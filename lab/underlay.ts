// The wire between the hosts: a bridge in the lab's root namespace, a veth to each host's eth0, addresses, the
// default route; and single addresses that lead to a host. Knows devices and addresses, nothing of Kubernetes.

import { ipFamily, ipToBytes } from "../common/ip.js";
import { CommandError } from "../dataplane/kernel/command.js";
import { NetNs } from "../dataplane/kernel/netns.js";
import { NetlinkError, RtNetlink } from "../dataplane/kernel/rtnetlink.js";

export const BRIDGE = "underlay";
export const UPLINK = "eth0";
const MTU = 1500;

/** The bridge's own address in one family; the default route of the hosts. */
export interface BridgeAddress {
  address: string;
  prefix: number;
}

/** What must hold in every host and in the root before interfaces are made there. */
const SYSCTLS: readonly (readonly [key: string, value: number])[] = [
  ["net.ipv4.ip_forward", 1],
  // The machine's own setting is inherited; loose or strict filtering would drop NodePort replies and VXLAN traffic.
  ["net.ipv4.conf.all.rp_filter", 0],
  ["net.ipv4.conf.default.rp_filter", 0],
];

/** Is not there on a kernel without IPv6: then there is nothing to set. */
const NO_IPV6: readonly (readonly [key: string, value: number])[] = [
  // No link-local addresses, router solicitations and multicast reports on each veth: whoever needs IPv6 on an
  // interface of his switches it on.
  ["net.ipv6.conf.default.disable_ipv6", 1],
];

/** For a cluster that speaks IPv6. */
const IPV6: readonly (readonly [key: string, value: number])[] = [
  ["net.ipv6.conf.all.forwarding", 1],
  ["net.ipv6.conf.default.accept_ra", 0],
  // Nobody else gives addresses here: no seconds of waiting whether one is a duplicate.
  ["net.ipv6.conf.default.accept_dad", 0],
];

/** So that Service addresses work for traffic that stays on a bridge (kubeadm's preflight asks for it). */
const BRIDGE_CALLS = "net.bridge.bridge-nf-call-iptables";

interface WiredHost {
  ns: NetNs;
  ips: readonly string[];
  /** Its bridge port: the wire's end of the cable. */
  port: string;
}

/** The wire. One per lab. */
export class Underlay implements Disposable {
  readonly root: NetNs;
  readonly #netlink: RtNetlink;
  readonly #gateways: readonly BridgeAddress[];
  readonly #ipv6: boolean;
  /** By name. */
  readonly #hosts = new Map<string, WiredHost>();

  private constructor(root: NetNs, netlink: RtNetlink, gateways: readonly BridgeAddress[]) {
    this.root = root;
    this.#netlink = netlink;
    this.#gateways = gateways;
    this.#ipv6 = gateways.some(({ address }) => ipFamily(address) === 6);
  }

  /** Makes the bridge, one address a family, in the namespace of this process. Throws NetlinkError. */
  static async create(gateways: readonly BridgeAddress[]): Promise<Underlay> {
    const root = NetNs.current("lab");
    const underlay = new Underlay(root, RtNetlink.open(root), gateways);
    await underlay.#makeBridge();
    return underlay;
  }

  async #makeBridge(): Promise<void> {
    this.#prepare(this.root);
    const netlink = this.#netlink;
    await netlink.setLink("lo", { up: true });
    await netlink.addBridge({ name: BRIDGE, mtu: MTU, up: true });
    this.#enable(this.root, BRIDGE);
    for (const { address, prefix } of this.#gateways)
      await netlink.addAddress(BRIDGE, `${address}/${prefix}`);
    // Everything beyond the lab is answered at once with "network unreachable": ip_forward and no route do that.
  }

  /** A host: a namespace with eth0 on the bridge, an address for each of the bridge's. The caller closes it. */
  async addHost(name: string, ips: readonly string[]): Promise<NetNs> {
    const ns = NetNs.create(name);
    try {
      this.#prepare(ns);
      await bridgeCalls(ns);
      const peer = { name: UPLINK, ns, mac: macOf(ips[0] ?? "") };
      const port = `host${this.#hosts.size + 1}`;
      await this.#netlink.addVeth({ name: port, peer, mtu: MTU, master: BRIDGE, up: true });
      using netlink = RtNetlink.open(ns);
      await netlink.setLink("lo", { up: true });
      this.#enable(ns, UPLINK);
      await netlink.setLink(UPLINK, { up: true, mtu: MTU });
      const host = { ns, ips, port };
      await this.#configure(host);
      this.#hosts.set(name, host);
      return ns;
    } catch (error) {
      ns.close();
      throw error;
    }
  }

  /** Gives eth0 what it has not got of its addresses and default routes. */
  async #configure({ ns, ips }: WiredHost): Promise<void> {
    using netlink = RtNetlink.open(ns);
    for (const [n, { prefix }] of this.#gateways.entries())
      await netlink.addAddress(UPLINK, `${ips[n]}/${prefix}`).catch(unlessThere);
    for (const { address } of this.#gateways)
      await netlink.addRoute({ dst: "default", via: address, dev: UPLINK });
  }

  /**
   * Lets an address of the wire lead to a host, in place of where it led before: a route of the one who is outside,
   * as a router keeps it that heard of the address from a host (MetalLB's BGP mode).
   */
  async route(address: string, host: string): Promise<void> {
    await this.#netlink.addRoute({ dst: blockOf(address), via: host, dev: BRIDGE });
  }

  async unroute(address: string): Promise<void> {
    try {
      await this.#netlink.deleteRoute({ dst: blockOf(address), dev: BRIDGE });
    } catch (error) {
      if (!(error instanceof NetlinkError && error.code === "ESRCH")) throw error;
    }
  }

  /** The hosts whose end of the wire is up, as a switch sees it. */
  async connected(): Promise<Set<string>> {
    const running = await this.#running();
    return new Set([...this.#hosts].flatMap(([host, { port }]) => (running.has(port) ? [host] : [])));
  }

  /** Calls `listener` when an end of the wire may have gone up or down. Returns how to end that. */
  onConnection(listener: () => void): () => void {
    return this.#netlink.onLink((event) => {
      if (event.type === "link-changed" || event.type === "lost") listener();
    });
  }

  /**
   * From now on a host whose cable is put in again gets its addresses and default routes again, as its own network
   * configuration would see to: the kernel drops routes, and IPv6 addresses, when an interface goes down.
   */
  keepConfigured(onError: (error: Error) => void): void {
    this.#netlink.onLink((event) => {
      if (event.type !== "link-changed") return;
      const host = [...this.#hosts.values()].find(({ port }) => port === event.name);
      if (host) this.#replugged(host).catch(onError);
    });
  }

  async #replugged(host: WiredHost): Promise<void> {
    if ((await this.#running()).has(host.port)) await this.#configure(host);
  }

  /** Names of the links that have a carrier. */
  async #running(): Promise<Set<string>> {
    return new Set((await this.#netlink.listLinks()).filter((l) => l.running).map((l) => l.name));
  }

  #prepare(ns: NetNs): void {
    for (const [key, value] of SYSCTLS) ns.sysctl(key, value);
    for (const [key, value] of NO_IPV6) setIfPresent(ns, key, value);
    if (!this.#ipv6 || IPV6.every(([key, value]) => setIfPresent(ns, key, value))) return;
    throw new Error("this kernel has no IPv6: networking.ipFamily can only be ipv4 here");
  }

  #enable(ns: NetNs, device: string): void {
    if (this.#ipv6) ns.sysctl(`net/ipv6/conf/${device}/disable_ipv6`, 0);
  }

  [Symbol.dispose](): void {
    this.#netlink.close();
  }
}

/**
 * Lets iptables see bridged packets. The switch comes with the module br_netfilter; a rule that matches physical
 * ports makes the kernel load it, also for somebody who may not load modules.
 */
async function bridgeCalls(ns: NetNs): Promise<void> {
  if (setIfPresent(ns, BRIDGE_CALLS, 1)) return;
  const input = "*filter\n-A FORWARD -m physdev --physdev-in none -j ACCEPT\nCOMMIT\n";
  using scratch = NetNs.create("scratch");
  try {
    await scratch.exec("iptables-restore", ["--noflush"], { input });
  } catch (error) {
    // Without physdev there is no such rule; whether the module came along is seen below.
    if (!(error instanceof CommandError)) throw error;
  }
  if (setIfPresent(ns, BRIDGE_CALLS, 1)) return;
  throw new Error(
    `${BRIDGE_CALLS} is missing, so Services would fail between pods of one host; run "sudo modprobe br_netfilter"`,
  );
}

/** Whether the kernel knows the key. */
function setIfPresent(ns: NetNs, key: string, value: number): boolean {
  try {
    ns.sysctl(key, value);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return false;
  }
}

/** An address that an interface has already is as good as one that it got. */
function unlessThere(error: unknown): void {
  if (!(error instanceof NetlinkError && error.code === "EEXIST")) throw error;
}

function blockOf(address: string): string {
  return `${address}/${ipFamily(address) === 6 ? 128 : 32}`;
}

/** Locally administered and the same for the same address, as a machine keeps its card: neighbours stay valid. */
function macOf(ip: string): string {
  const end = ipToBytes(ip).slice(-4);
  return ["02", "42", ...Array.from(end, (byte) => byte.toString(16).padStart(2, "0"))].join(":");
}
