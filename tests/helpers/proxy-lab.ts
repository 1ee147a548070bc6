// A host with pods and a client outside, as namespaces, for tests of the service proxy against the real kernel; both
// address families. Needs the rights to make namespaces.

import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { EndpointSlice, Service, Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import {
  canonicalRule,
  chainsOf,
  findTools,
  Iptables,
  type Ruleset,
  type TableName,
  type Variant,
} from "../../dataplane/iptables/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { ServiceProxy, type ServiceProxyOptions } from "../../dataplane/proxy/index.js";
import { type EndpointWords, type ServiceOptions, service, slice } from "./service-objects.js";

type Family = 4 | 6;

export const NODE_IP = { 4: "192.168.56.11", 6: "fd00:56::11" } as const;
export const CLIENT_IP = { 4: "192.168.56.1", 6: "fd00:56::1" } as const;
export const VIP = { 4: "10.96.0.10", 6: "fd00:96::10" } as const;
/** Where pods see the host's masqueraded packets come from. */
export const BRIDGE_IP = { 4: "10.244.1.1", 6: "fd00:244:0:1::1" } as const;
const PREFIX = { 4: 24, 6: 64 } as const;
const FAMILIES: readonly Family[] = [4, 6];

/** Variants of iptables that this machine has. */
export const variants = (["nft", "legacy"] as Variant[]).filter((variant) => {
  try {
    return findTools(4, variant).version !== "" && findTools(6, variant).version !== "";
  } catch {
    return false;
  }
});

const folder = mkdtempSync(join(tmpdir(), "kubeplumb-proxy-test-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

let count = 0;
/** A driver with a lock of its own. */
export function open(ns: NetNs, variant: Variant, family: Family = 4): Iptables {
  return Iptables.open(ns, { variant, family, lockFile: join(folder, `lock-${count++}`) });
}

/** Rules by chain, by meaning. */
export function kernelMeaning(
  rules: Ruleset,
  keep: (table: TableName, chain: string) => boolean = () => true,
): Record<string, string[]> {
  const chains = chainsOf(rules)
    .filter(({ table, name }) => keep(table, name))
    // Looking at a table makes the kernel create its built-in chains.
    .filter(({ policy, rules: list }) => policy !== "ACCEPT" || list.length > 0)
    .sort((a, b) => (`${a.table} ${a.name}` < `${b.table} ${b.name}` ? -1 : 1));
  return Object.fromEntries(
    chains.map(({ table, name, policy = "-", rules: list }) => [
      `${table} ${name} ${policy}`,
      list.map(canonicalRule),
    ]),
  );
}

export interface Pod {
  name: string;
  /** IPv4. */
  ip: string;
  ips: Readonly<Record<Family, string>>;
  ns: NetNs;
}

/** One host with a bridge and pods on it, and a client on the other side of its uplink. */
export class Lab {
  readonly host = NetNs.create("node-1");
  readonly outside = NetNs.create("outside");
  readonly pods: Pod[] = [];
  readonly #servers: Server[] = [];
  readonly #close: (() => void)[] = [];

  static async create(pods: number): Promise<Lab> {
    const lab = new Lab();
    const { host, outside } = lab;
    for (const ns of [host, outside]) skipDuplicateDetection(ns);
    await run(host, "link set lo up");
    await run(host, "link add eth0 type veth peer name eth1");
    await run(host, `link set eth1 netns ${outside.path}`, "link set eth0 up");
    await run(outside, "link set eth1 up");
    await run(host, "link add cni0 type bridge", "link set cni0 up");
    for (const family of FAMILIES) {
      await addAddress(host, family, NODE_IP[family], "eth0");
      await addAddress(host, family, BRIDGE_IP[family], "cni0");
      await addAddress(outside, family, CLIENT_IP[family], "eth1");
      // As any host: a packet to a ClusterIP needs a route before the rules can send it elsewhere.
      await run(host, `-${family} route add default via ${CLIENT_IP[family]}`);
      // A client that was told to reach service addresses by way of the node.
      await run(outside, `-${family} route add default via ${NODE_IP[family]}`);
    }
    host.sysctl("net/ipv4/ip_forward", 1);
    host.sysctl("net/ipv6/conf/all/forwarding", 1);
    host.sysctl("net/bridge/bridge-nf-call-iptables", 1);
    host.sysctl("net/bridge/bridge-nf-call-ip6tables", 1);
    for (let i = 0; i < pods; i++) await lab.#addPod(i);
    return lab;
  }

  async #addPod(i: number): Promise<void> {
    const [ns, name] = [NetNs.create(`pod-${i}`), `veth${i}`];
    skipDuplicateDetection(ns);
    const ips = { 4: `10.244.1.${i + 2}`, 6: `fd00:244:0:1::${i + 2}` };
    await run(this.host, `link add ${name} type veth peer name eth0 netns ${ns.path}`);
    await run(this.host, `link set ${name} master cni0`, `link set ${name} type bridge_slave hairpin on`);
    await run(this.host, `link set ${name} up`);
    await run(ns, "link set lo up", "link set eth0 up");
    for (const family of FAMILIES) {
      await addAddress(ns, family, ips[family], "eth0");
      await run(ns, `-${family} route add default via ${BRIDGE_IP[family]}`);
    }
    const pod = { name: `pod-${i}`, ip: ips[4], ips, ns };
    this.pods.push(pod);
    for (const host of ["0.0.0.0", "::"]) {
      const server = createServer((socket) => {
        socket.on("error", () => socket.destroy());
        socket.end(`${pod.name} ${socket.remoteAddress}`);
      });
      await ns.listen(server, { port: 8080, host });
      this.#servers.push(server);
      const udp = await ns.udp({ port: 5353, host });
      udp.on("message", (question, { address, port }) =>
        udp.send(`${pod.name} ${address} ${question}`, port, address),
      );
      this.#close.push(() => udp.close());
    }
  }

  pod(i: number): Pod {
    return this.pods[i] as Pod;
  }

  close(): void {
    for (const server of this.#servers) server.close();
    for (const close of this.#close) close();
    for (const ns of [this.host, this.outside, ...this.pods.map((pod) => pod.ns)]) ns.close();
  }
}

/** Each command is the words after `ip`. */
export async function run(ns: NetNs, ...commands: string[]): Promise<void> {
  for (const command of commands) await ns.exec("ip", command.split(" "));
}

async function addAddress(ns: NetNs, family: Family, ip: string, device: string): Promise<void> {
  await run(ns, `-${family} addr add ${ip}/${PREFIX[family]} dev ${device}`);
}

/** IPv6 would be silent for a second on every new interface. */
function skipDuplicateDetection(ns: NetNs): void {
  ns.sysctl("net/ipv6/conf/default/accept_dad", 0);
}

/** For {@link ask} where no answer is expected: ETIMEDOUT. */
export const SILENT = { timeout: 800 } as const;

/** "pod-1 10.244.1.3", or the code of the error. */
export async function ask(
  from: NetNs,
  host: string,
  port: number,
  { timeout = 60_000, localAddress }: { timeout?: number; localAddress?: string } = {},
): Promise<string> {
  const socket = from.connect({ host, port, timeout, ...(localAddress && { localAddress }) });
  let text = "";
  socket.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
  });
  try {
    await once(socket, "close");
    return text;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
}

type Udp = Awaited<ReturnType<NetNs["udp"]>>;

let questions = 0;

/** The answer to a datagram from an open socket, which is sent up to `attempts` times; "nothing" when none comes. */
export async function askUdp(socket: Udp, host: string, port: number, attempts = 400): Promise<string> {
  const first = questions + 1;
  let answer: string | undefined;
  const heard = (data: Buffer) => {
    const [pod, client, question] = String(data).split(" ");
    // Not a late one to somebody's earlier question.
    if (Number(question) >= first) answer ??= `${pod} ${client}`;
  };
  // "Nobody listens" is told by the next send; it is an answer like none.
  const failed = () => undefined;
  socket.on("message", heard).on("error", failed);
  for (let attempt = 0; attempt < attempts && answer === undefined; attempt++) {
    socket.send(String(++questions), port, host);
    for (let wait = 0; wait < 30 && answer === undefined; wait++) await sleep(5);
  }
  socket.off("message", heard).off("error", failed);
  return answer ?? "nothing";
}

/** How many of so many requests each pod answered. */
export async function tally(
  from: NetNs,
  host: string,
  port: number,
  requests: number,
): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  let left = requests;
  const worker = async () => {
    while (left-- > 0) {
      const [who = ""] = (await ask(from, host, port)).split(" ");
      counts.set(who, (counts.get(who) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: 16 }, worker));
  return counts;
}

/** A proxy with one Service: TCP 80 and UDP 53, node ports 30080 and 30053. */
export class Cluster {
  readonly proxy: ServiceProxy;
  readonly iptables: Iptables;
  readonly #family: Family;
  #service: Stored<Service> | undefined;
  readonly #slices = new Map<string, Stored<EndpointSlice>>();

  constructor(ns: NetNs, variant: Variant, options: Partial<ServiceProxyOptions> = {}, family: Family = 4) {
    this.#family = family;
    this.iptables = open(ns, variant, family);
    this.proxy = new ServiceProxy({
      ns,
      iptables: this.iptables,
      nodeName: "node-1",
      nodeIPs: [NODE_IP[4], NODE_IP[6]],
      detectLocal: { mode: "ClusterCIDR", cidrs: ["10.244.0.0/16", "fd00:244::/48"] },
      minSyncPeriodMs: 1,
      log: silentLogger,
      ...options,
    });
  }

  async start(): Promise<void> {
    this.proxy.setSynced("services");
    this.proxy.setSynced("endpointslices");
    this.proxy.start();
    await this.proxy.flush();
  }

  async service(options: ServiceOptions = {}): Promise<void> {
    const ports = [
      { name: "http", port: 80, nodePort: 30080 },
      { name: "dns", port: 53, protocol: "UDP", nodePort: 30053 },
    ];
    await this.#setService(
      service("default/web", VIP[this.#family], ports, { type: "NodePort", ...options }),
    );
  }

  /** Its slices stay. */
  async removeService(): Promise<void> {
    await this.#setService(undefined);
  }

  async #setService(now: Stored<Service> | undefined): Promise<void> {
    this.proxy.serviceChanged(this.#service, now);
    this.#service = now;
    await this.proxy.flush();
  }

  async endpoints(...pods: (Pod | EndpointWords)[]): Promise<void> {
    const words = pods.map((pod) => ("ns" in pod ? { ip: pod.ips[this.#family] } : pod));
    for (const [name, port, protocol] of [
      ["http", 8080, "TCP"],
      ["dns", 5353, "UDP"],
    ] as const) {
      const now = slice("default/web", [{ name, port, protocol }], words, {
        name: `default/web-${name}`,
        addressType: `IPv${this.#family}`,
      });
      this.proxy.endpointSliceChanged(this.#slices.get(name), now);
      this.#slices.set(name, now);
    }
    await this.proxy.flush();
  }
}
