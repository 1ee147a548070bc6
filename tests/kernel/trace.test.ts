// The walker of dataplane/trace against the kernel: a few hundred generated cases, rules by the proxy's own renderer,
// real packets in namespaces. Whatever the kernel does must be one of the things that the walker had said.

import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { Iptables, quoteWord, type Ruleset } from "../../dataplane/iptables/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import type { PortState, ServicePort } from "../../dataplane/proxy/model.js";
import { endpointChain, KUBE_FORWARD, PACKET_COUNTERS } from "../../dataplane/proxy/names.js";
import { renderAll } from "../../dataplane/proxy/render.js";
import type { RuleContext } from "../../dataplane/proxy/rules/context.js";
import { entryJumps } from "../../dataplane/proxy/rules/fixed.js";
import { localDetector } from "../../dataplane/proxy/rules/local-detector.js";
import { ChangeTracker } from "../../dataplane/proxy/tracker.js";
import {
  type End,
  HOST_FACTS_SCRIPT,
  type Host,
  outcomes,
  type Packet,
  parseHost,
  sourceFor,
  walk,
} from "../../dataplane/trace/index.js";
import { ask as askTcp } from "../helpers/proxy-lab.js";
import { random } from "../helpers/random.js";
import { service, slice } from "../helpers/service-objects.js";

const PODS = 3;
const FAR_PODS = 2;
const TCP_PORT = 8080;
const UDP_PORT = 5353;
/** Nobody listens there. */
const SHUT_PORT = 9;

/** Addresses of one family. */
interface Plan {
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

const V4: Plan = {
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
const V6: Plan = {
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

const folder = mkdtempSync(join(tmpdir(), "kubeplumb-trace-test-"));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

async function ip(ns: NetNs, ...commands: string[]): Promise<void> {
  for (const command of commands) await ns.exec("ip", command.split(" "));
}

/** A node with pods on a bridge, pods behind another link, and a client outside. */
class World {
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
async function ask(from: NetNs, { protocol, dst, dport }: Packet, ms: number): Promise<string> {
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

/** What a client must see of such an end. */
function seen(end: End, plan: Plan): string[] {
  const { fate, packet } = end;
  if (fate === "dropped") return ["timeout"];
  if (fate === "rejected") return ["refused"];
  if (fate === "unroutable") return ["timeout", "EHOSTUNREACH", "ENETUNREACH", "EINVAL"];
  if (fate === "unknown") return [];
  const servers = new Map([
    ...Array.from({ length: PODS }, (_, i) => [plan.pod(i), `pod-${i}`] as const),
    ...Array.from({ length: FAR_PODS }, (_, i) => [plan.far(i), `far-${i}`] as const),
    [plan.node, "node"],
  ]);
  const server = servers.get(packet.dst);
  const listening = packet.dport === (packet.protocol === "tcp" ? TCP_PORT : UDP_PORT);
  if (server && listening) return [`${server} ${packet.src}`];
  // A host answers for a closed port; to an address that nobody has there is no answer.
  return server || fate === "local" ? ["refused"] : ["timeout"];
}

type Dice = (below: number) => number;

function pick<T>(dice: Dice, list: readonly T[]): T {
  return list[dice(list.length)] as T;
}

/** Services of every kind, named after the round so that their chains and lists are new. */
function generate(dice: Dice, plan: Plan, round: string, count: number): PortState[] {
  const tracker = new ChangeTracker({ nodeName: "node-1", family: plan.family, startTime: 0 });
  for (let i = 0; i < count; i++) {
    const name = `default/${round}-${i}`;
    const protocol = pick(dice, ["TCP", "TCP", "UDP"]);
    const port = { name: "p", protocol, port: 80 + i };
    const type = pick(dice, ["ClusterIP", "NodePort", "LoadBalancer"]);
    const policy = () => pick(dice, ["Cluster", "Cluster", "Local"]);
    const options = {
      type,
      clusterIPs: [plan.vip(i)],
      internalTrafficPolicy: policy(),
      externalTrafficPolicy: type === "ClusterIP" ? undefined : policy(),
      sessionAffinity: pick(dice, ["None", "None", "ClientIP"]),
      externalIPs: dice(3) === 0 ? [plan.external(i)] : [],
      ...(type === "LoadBalancer" && { ingress: [{ ip: plan.balancer(i) }] }),
      ...(dice(2) === 0 && {
        loadBalancerSourceRanges: [`${pick(dice, [plan.client, plan.node])}/${plan.bits}`],
      }),
    };
    const nodePort = type === "ClusterIP" ? {} : { nodePort: 30000 + i };
    tracker.serviceChanged(undefined, service(name, plan.vip(i), [{ ...port, ...nodePort }], options));
    const all = [
      ...Array.from({ length: PODS }, (_, n) => ({ ip: plan.pod(n), node: "node-1" })),
      ...Array.from({ length: FAR_PODS }, (_, n) => ({ ip: plan.far(n), node: "node-2" })),
      { ip: plan.node, node: "node-1" },
    ];
    const conditions = [
      ...[{ ready: true }, { ready: true }, { ready: true }],
      { ready: false, serving: true, terminating: true },
      { ready: false, serving: false, terminating: false },
    ];
    const size = pick(dice, [0, 1, 2, 3, 4, 6]);
    const endpoints = all
      .sort(() => dice(3) - 1)
      .slice(0, size)
      .map((endpoint) => ({ ...endpoint, conditions: pick(dice, conditions) }));
    const target = dice(12) === 0 ? SHUT_PORT : protocol === "TCP" ? TCP_PORT : UDP_PORT;
    tracker.endpointSliceChanged(
      undefined,
      slice(name, [{ name: "p", port: target, protocol }], endpoints, { addressType: `IPv${plan.family}` }),
    );
  }
  tracker.take();
  return [...tracker.ports.values()];
}

interface Case {
  from: NetNs;
  packet: Packet;
  port: ServicePort;
}

/** Every way to address a service port, from a random place. */
function caseOf(dice: Dice, world: World, plan: Plan, host: Host, port: ServicePort): Case | undefined {
  const { protocol, clusterIP, nodePort, externalIPs, loadBalancerIPs } = port;
  const place = pick(dice, ["pod", "pod", "host", "outside"]);
  const pod = dice(PODS);
  const loopback = plan.family === 4 ? "127.0.0.1" : "::1";
  const targets: [string, number][] = [
    [clusterIP, port.port],
    [clusterIP, port.port],
    ...[...externalIPs, ...loadBalancerIPs].map((one): [string, number] => [one, port.port]),
    ...(nodePort
      ? [[plan.node, nodePort] as [string, number], [plan.gateway, nodePort] as [string, number]]
      : []),
    ...(nodePort && place === "host" ? [[loopback, nodePort] as [string, number]] : []),
    ...(dice(10) === 0
      ? [[clusterIP, 7] as [string, number], [plan.far(0), TCP_PORT] as [string, number]]
      : []),
  ];
  const [dst, dport] = pick(dice, targets);
  if (place === "host") {
    const src = sourceFor(host, dst);
    return src === undefined ? undefined : { from: world.host, port, packet: { protocol, src, dst, dport } };
  }
  const from = place === "pod" ? (world.pods[pod] as NetNs) : world.outside;
  const src = place === "pod" ? plan.pod(pod) : plan.client;
  const input = place === "pod" ? "cni0" : "eth0";
  return { from, port, packet: { protocol, src, dst, dport, input } };
}

/** Rules of somebody else, with every match and target that the proxy's own rules leave out. */
function foreignRules(plan: Plan, ports: readonly PortState[]): string {
  const [reject, drop, other] = ports.map(({ port }) => port);
  return [
    "*raw",
    `-A PREROUTING -i cni+ -p tcp -m tcp --dport ${drop?.port} -j DROP`,
    "COMMIT",
    "*mangle",
    `-A PREROUTING -s ${plan.pod(0)} -j MARK --set-xmark 0x4000/0x4000`,
    "-A OUTPUT -p udp -j MARK --or-mark 0x1",
    "COMMIT",
    "*filter",
    ":FORWARD DROP [0:0]",
    ":HERE - [0:0]",
    ":THERE - [0:0]",
    `-A INPUT -i lo -m mark --mark 0x1/0x1 -m addrtype --src-type LOCAL -j RETURN`,
    `-A INPUT -p udp -m multiport --dports 1:4,${UDP_PORT} ! -i eth0 -j DROP`,
    "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A FORWARD -m conntrack --ctstate NEW -j HERE",
    `-A FORWARD -s ${plan.client} -m conntrack --ctstate DNAT -j ACCEPT`,
    "-A HERE -o far0 -g THERE",
    `-A HERE ! -d ${plan.pod(2)} -i cni0 -j ACCEPT`,
    `-A HERE -d ${plan.pod(2)} -j REJECT`,
    `-A THERE -d ${plan.far(0)} -j RETURN`,
    "-A THERE -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT",
    "-A THERE -m state --state NEW -j ACCEPT",
    `-A OUTPUT -p tcp -m tcp -d ${reject?.clusterIP} -j REJECT`,
    "COMMIT",
    "*nat",
    `-A PREROUTING -p tcp -d ${plan.gateway} -m tcp --dport ${other?.nodePort || 7} -j REDIRECT --to-ports ${SHUT_PORT}`,
    `-A POSTROUTING -m mark --mark 0x1/0x1 -o far0 -j SNAT --to-source ${plan.node}`,
    `-A POSTROUTING -s ${plan.podNet} ! -d ${plan.podNet} -j MASQUERADE`,
    "COMMIT",
    "",
  ].join("\n");
}

/** Which clients the lists of `recent` know: what the kernel has answered says it. */
class Memory {
  readonly #known = new Map<string, Set<string>>();
  /** Ports whose packets may have been remembered although nobody answered. */
  readonly #unsure = new Set<string>();

  lookup({ port, packet }: Case): (list: string) => boolean | undefined {
    return (list) =>
      this.#unsure.has(port.key) ? undefined : (this.#known.get(list)?.has(packet.src) ?? false);
  }

  learn({ port, packet }: Case, ends: readonly End[], answer: string, plan: Plan): void {
    if (!port.affinitySeconds) return;
    const [end, ...more] = ends.filter((one) => one.translated && seen(one, plan).includes(answer));
    if (!end) return;
    if (more.length > 0) this.#unsure.add(port.key);
    const { dst, dport } = end.packet;
    const list = endpointChain(port, { text: dst.includes(":") ? `[${dst}]:${dport}` : `${dst}:${dport}` });
    const clients = this.#known.get(list) ?? new Set();
    this.#known.set(list, clients.add(packet.src));
  }
}

/** Over veth TCP notices an ICMPv6 refusal of its second SYN only, a second after the first. */
const PATIENCE_MS = { 4: 250, 6: 1500 } as const;

interface Round {
  plan: Plan;
  services: number;
  cases: number;
  context?: Partial<RuleContext>;
  foreign?: boolean;
}

const ROUNDS: Record<string, Round> = {
  plain: { plan: V4, services: 45, cases: 4 },
  foreign: {
    plan: V4,
    services: 45,
    cases: 6,
    foreign: true,
    context: {
      localhostNodePorts: false,
      localDetector: localDetector({ mode: "BridgeInterface", interface: "cni0" }, 4),
    },
  },
  strict: {
    plan: V4,
    services: 30,
    cases: 3,
    context: { localDetector: undefined, nodePortIPs: [V4.node], endpointComments: false },
  },
  all: { plan: V4, services: 20, cases: 3, context: { masqueradeAll: true } },
  six: { plan: V6, services: 45, cases: 5, context: { localhostNodePorts: false } },
};

function contextOf({ plan, context }: Round, iptables: Iptables): RuleContext {
  return {
    family: plan.family,
    place: { name: "node-1", zone: undefined },
    nodeIP: plan.node,
    localDetector: localDetector({ mode: "ClusterCIDR", cidrs: [plan.podNet] }, plan.family),
    masqueradeAll: false,
    masqueradeMark: "0x4000",
    nodePortIPs: undefined,
    localhostNodePorts: true,
    endpointComments: true,
    randomFully: iptables.randomFully,
    tcpBeLiberal: false,
    packetCounters: iptables.counters.ensure(Object.values(PACKET_COUNTERS)),
    ...context,
  };
}

/** Puts a round's rules into an empty kernel and reads them back: what is walked is what iptables-save says. */
async function load(iptables: Iptables, round: Round, ports: readonly PortState[]): Promise<Ruleset> {
  const context = contextOf(round, iptables);
  const empty = ["raw", "mangle", "nat", "filter"].map((table) => `*${table}\nCOMMIT\n`).join("");
  await iptables.restore(`${empty}*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n`, { noflush: false });
  await iptables.restore(renderAll(ports, context));
  for (const { table, chain, rule } of [...entryJumps(context)].reverse()) {
    await iptables.restore(`*${table}\n-I ${chain} ${rule.map(quoteWord).join(" ")}\nCOMMIT\n`);
  }
  if (round.foreign) await iptables.restore(foreignRules(round.plan, ports));
  return iptables.read();
}

const world = await World.create();
t.teardown(() => world.close());

for (const [name, round] of Object.entries(ROUNDS)) {
  t.test(`walker and kernel agree: ${name}`, async (t) => {
    const { plan } = round;
    const dice = random(name.length * 7919 + 20_261_121);
    const iptables = Iptables.open(world.host, {
      family: plan.family,
      lockFile: join(folder, `lock-${name}`),
    });
    const ports = generate(dice, plan, name, round.services);
    if (plan.family === 4) {
      world.host.sysctl(
        "net/ipv4/conf/all/route_localnet",
        contextOf(round, iptables).localhostNodePorts ? 1 : 0,
      );
    }
    const rules = await load(iptables, round, ports);
    t.ok(rules.get("filter")?.get(KUBE_FORWARD), "the rules are in the kernel");
    const host = await world.facts(plan.family);
    const memory = new Memory();
    const kinds = new Map<string, number>();

    const check = async (one: Case) => {
      const ends = outcomes(walk(rules, host, one.packet, { seen: memory.lookup(one) })).map(
        ({ end }) => end,
      );
      const expected = new Set(ends.flatMap((end) => seen(end, plan)));
      let answer = await ask(one.from, one.packet, PATIENCE_MS[plan.family]);
      // A busy machine answers late.
      if (!expected.has(answer)) answer = await ask(one.from, one.packet, 30_000);
      if (!expected.has(answer)) {
        const { src, dst, dport, protocol } = one.packet;
        t.fail(`${one.port.id}: ${src} to ${dst}:${dport}/${protocol}`, {
          answer,
          expected: [...expected],
          ends,
        });
      }
      memory.learn(one, ends, answer, plan);
      const fate = ends.some((end) => end.masqueraded)
        ? "masqueraded"
        : answer.split(" ")[1]
          ? "kept"
          : answer;
      kinds.set(fate, (kinds.get(fate) ?? 0) + 1);
    };

    // Drawn before the first packet, so that the seed alone decides.
    const cases = ports.map(({ port }) =>
      Array.from({ length: round.cases }, () => caseOf(dice, world, plan, host, port)),
    );
    // A service port remembers its clients in order; different ones do not meet.
    await inParallel(cases, async (ofPort) => {
      for (const one of ofPort) if (one) await check(one);
    });
    t.comment([...kinds].map(([kind, count]) => `${kind} ${count}`).join(", "));
    t.ok(
      ["masqueraded", "kept", "refused", "timeout"].every((kind) => kinds.has(kind)),
      "all kinds of answers",
    );
    if (name === "plain") await everyBranch(t, rules, host, plan, ports);
  });
}

async function inParallel<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const left = [...items];
  const worker = async () => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) await work(item);
  };
  await Promise.all(Array.from({ length: 16 }, worker));
}

/** A walker that says "anything" would agree with every kernel: what it says is possible must happen, as often. */
async function everyBranch(
  t: Test,
  rules: Ruleset,
  host: Host,
  plan: Plan,
  ports: readonly PortState[],
): Promise<void> {
  const REQUESTS = 60;
  const choices = ports.flatMap(({ port }) => {
    const packet: Packet = {
      protocol: port.protocol,
      src: plan.pod(0),
      dst: port.clusterIP,
      dport: port.port,
      input: "cni0",
    };
    const ways = outcomes(walk(rules, host, packet));
    return ways.length > 1 && !port.affinitySeconds ? [{ packet, ways }] : [];
  });
  t.ok(choices.length >= 5, `${choices.length} Services with a choice`);
  await inParallel(choices.slice(0, 8), async ({ packet, ways }) => {
    const total = ways.reduce((sum, { odds }) => sum + odds, 0);
    t.ok(Math.abs(total - 1) < 1e-8, "odds add up to 1");
    const counts = new Map<string, number>();
    const patience = ways.some(({ end }) => seen(end, plan).includes("timeout")) ? 2000 : 30_000;
    for (let i = 0; i < REQUESTS; i++) {
      const answer = await ask(world.pods[0] as NetNs, packet, patience);
      counts.set(answer, (counts.get(answer) ?? 0) + 1);
    }
    for (const { end, odds } of ways) {
      const [answer = ""] = seen(end, plan);
      // Two endpoints with a closed port look alike.
      const alike = ways.filter((way) => seen(way.end, plan)[0] === answer);
      const share = alike.reduce((sum, way) => sum + way.odds, 0);
      const deviation = Math.abs((counts.get(answer) ?? 0) - REQUESTS * share);
      const sigma = Math.sqrt(REQUESTS * share * (1 - share)) || 1;
      t.ok(
        deviation < 5 * sigma,
        `${packet.dst}: ${answer} ${counts.get(answer) ?? 0} of ${REQUESTS}, odds ${odds}`,
      );
    }
  });
}
