// A node with pods, another node and a client outside, in namespaces, all with servers that say who they are and who
// asked; and the addresses of both families there.

import { once } from "node:events";
import { createServer, type Server } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { HOST_FACTS_SCRIPT, type Host, type Packet, parseHost } from "../../dataplane/trace/index.js";
import { ask as askTcp } from "./proxy-lab.js";

export const PODS = 3;
export const FAR_PODS = 2;
export const TCP_PORT = 8080;
export const UDP_PORT = 5353;
/** Nobody listens there. */
export const SHUT_PORT = 9;

/** Addresses of one family. */
export interface Plan {
  family: 4 | 6;
  bits: number;
  node: string;
  client: string;
  gateway: string;
  pod: (i: number) => string;
  far: (i: number) => string;
  podNet: string;
  vip: (i: number) => string;
  external: (i: number) => string;
  balancer: (i: number) => string;
}

export const V4: Plan = {
  family: 4,
  bits: 32,
  node: "192.168.56.11",
  client: "192.168.56.1",
  gateway: "10.244.1.1",
  pod: (i) => `10.244.1.${i + 2}`,
  far: (i) => `10.244.2.${i + 2}`,
  podNet: "10.244.0.0/16",
  vip: (i) => `10.96.0.${i + 10}`,
  external: (i) => `198.51.100.${i + 10}`,
  balancer: (i) => `203.0.113.${i + 10}`,
};
export const V6: Plan = {
  family: 6,
  bits: 128,
  node: "fd56::11",
  client: "fd56::1",
  gateway: "fd44:0:0:1::1",
  pod: (i) => `fd44:0:0:1::${i + 2}`,
  far: (i) => `fd44:0:0:2::${i + 2}`,
  podNet: "fd44::/48",
  vip: (i) => `fd96::${(i + 16).toString(16)}`,
  external: (i) => `fd98::${(i + 16).toString(16)}`,
  balancer: (i) => `fd99::${(i + 16).toString(16)}`,
};

async function ip(ns: NetNs, ...commands: string[]): Promise<void> {
  for (const command of commands) await ns.exec("ip", command.split(" "));
}

/** A node with pods on a bridge, pods behind another link, and a client outside. */
export class World {
  readonly host = NetNs.create("node-1");
  readonly outside = NetNs.create("outside");
  readonly far = NetNs.create("node-2");
  readonly pods: NetNs[] = [];
  readonly #close: (() => void)[] = [];

  static async create(): Promise<World> {
    const world = new World();
    const { host, outside, far } = world;
    for (const ns of [host, outside, far]) await ip(ns, "link set lo up");
    await ip(host, `link add eth0 type veth peer name eth0 netns ${outside.path}`);
    await ip(host, `link add far0 type veth peer name eth0 netns ${far.path}`, "link add cni0 type bridge");
    for (const [ns, device, ...addresses] of [
      [host, "eth0", `${V4.node}/24`, `${V6.node}/64`],
      [outside, "eth0", `${V4.client}/24`, `${V6.client}/64`],
      [host, "cni0", `${V4.gateway}/24`, `${V6.gateway}/64`],
      [host, "far0", "192.168.57.1/24", "fd57::1/64"],
      [far, "eth0", "192.168.57.2/24", "fd57::2/64"],
    ] as const) {
      for (const address of addresses) await ip(ns, `addr add ${address} dev ${device} nodad`);
      await ip(ns, `link set ${device} up`);
    }
    await ip(host, `route add default via ${V4.client}`, `-6 route add default via ${V6.client}`);
    await ip(host, "route add 10.244.2.0/24 via 192.168.57.2", "-6 route add fd44:0:0:2::/64 via fd57::2");
    await ip(far, "route add default via 192.168.57.1", "-6 route add default via fd57::1");
    // A client that was told to reach everything of the cluster by way of the node.
    for (const block of ["10.0.0.0/8", "198.51.100.0/24", "203.0.113.0/24"]) {
      await ip(outside, `route add ${block} via ${V4.node}`);
    }
    await ip(outside, `-6 route add fd00::/8 via ${V6.node}`);
    host.sysctl("net/ipv4/ip_forward", 1);
    host.sysctl("net/ipv6/conf/all/forwarding", 1);
    host.sysctl("net/bridge/bridge-nf-call-iptables", 1);
    host.sysctl("net/bridge/bridge-nf-call-ip6tables", 1);
    for (let i = 0; i < PODS; i++) await world.#addPod(i);
    // Hundreds of refusals in a second: none of them shall be left out.
    for (const ns of [host, outside, far, ...world.pods]) {
      ns.sysctl("net/ipv4/icmp_ratelimit", 0);
      ns.sysctl("net/ipv6/icmp/ratelimit", 0);
    }
    for (let i = 0; i < FAR_PODS; i++) {
      await ip(far, `addr add ${V4.far(i)}/32 dev lo`, `addr add ${V6.far(i)}/128 dev lo nodad`);
      for (const plan of [V4, V6]) await world.#serve(far, plan.far(i), `far-${i}`);
    }
    for (const plan of [V4, V6]) await world.#serve(host, plan.node, "node");
    return world;
  }

  async #addPod(i: number): Promise<void> {
    const ns = NetNs.create(`pod-${i}`);
    this.pods.push(ns);
    await ip(this.host, `link add veth${i} type veth peer name eth0 netns ${ns.path}`);
    await ip(this.host, `link set veth${i} master cni0`, `link set veth${i} type bridge_slave hairpin on`);
    await ip(this.host, `link set veth${i} up`);
    await ip(
      ns,
      "link set lo up",
      `addr add ${V4.pod(i)}/24 dev eth0`,
      `addr add ${V6.pod(i)}/64 dev eth0 nodad`,
    );
    await ip(ns, "link set eth0 up", `route add default via ${V4.gateway}`);
    await ip(ns, `-6 route add default via ${V6.gateway}`);
    for (const plan of [V4, V6]) await this.#serve(ns, plan.pod(i), `pod-${i}`);
  }

  async #serve(ns: NetNs, host: string, name: string): Promise<void> {
    const server: Server = createServer((socket) => {
      socket.on("error", () => socket.destroy());
      socket.end(`${name} ${socket.remoteAddress}`);
    });
    await ns.listen(server, { host, port: TCP_PORT });
    const udp = await ns.udp({ host, port: UDP_PORT });
    udp.on("message", (_data, from) => udp.send(`${name} ${from.address}`, from.port, from.address));
    this.#close.push(
      () => server.close(),
      () => udp.close(),
    );
  }

  async facts(family: 4 | 6): Promise<Host> {
    const { stdout } = await this.host.exec("sh", ["-c", HOST_FACTS_SCRIPT]);
    return parseHost(stdout, family);
  }

  close(): void {
    for (const close of this.#close) close();
    for (const ns of [this.host, this.outside, this.far, ...this.pods]) ns.close();
  }
}

/** Answers of a kernel: "pod-1 10.244.1.2", "refused", "timeout", or the code of another error. */
export async function ask(from: NetNs, { protocol, dst, dport }: Packet, ms: number): Promise<string> {
  if (protocol !== "tcp") return askUdp(from, dst, dport, ms);
  return verdictOf(await askTcp(from, dst, dport, { timeout: ms }));
}

/** An answer stays as it is. */
function verdictOf(code: string): string {
  // EPERM is how a datagram fails that a rule of OUTPUT drops.
  if (code === "ETIMEDOUT" || code === "EPERM") return "timeout";
  return code === "ECONNREFUSED" ? "refused" : code;
}

async function askUdp(from: NetNs, host: string, port: number, ms: number): Promise<string> {
  const socket = await from.udp({ host: host.includes(":") ? "::" : "0.0.0.0" });
  try {
    const connected = once(socket, "connect");
    socket.connect(port, host);
    await connected;
    const answer = once(socket, "message") as Promise<[Buffer]>;
    socket.send("?");
    const [data] = await Promise.race([answer, sleep(ms).then(() => [undefined])]);
    return data ? String(data) : "timeout";
  } catch (error) {
    return verdictOf((error as NodeJS.ErrnoException).code ?? String(error));
  } finally {
    socket.close();
  }
}
