// The walker of dataplane/trace against the kernel: a few hundred generated cases, rules by the proxy's own renderer,
// real packets in namespaces. Whatever the kernel does must be one of the things that the walker had said.

import { join } from "node:path";
import t, { type Test } from "tap";
import { Iptables, quoteWord, type Ruleset } from "../../dataplane/iptables/index.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import type { PortState } from "../../dataplane/proxy/model.js";
import { endpointChain, KUBE_FORWARD, PACKET_COUNTERS } from "../../dataplane/proxy/names.js";
import { renderAll } from "../../dataplane/proxy/render.js";
import type { RuleContext } from "../../dataplane/proxy/rules/context.js";
import { entryJumps } from "../../dataplane/proxy/rules/fixed.js";
import { localDetector } from "../../dataplane/proxy/rules/local-detector.js";
import { type End, type Host, outcomes, type Packet, walk } from "../../dataplane/trace/index.js";
import { random } from "../helpers/random.js";
import { tempDir } from "../helpers/temp-dir.js";
import { type Case, caseOf, foreignRules, generate } from "../helpers/trace-cases.js";
import { ask, FAR_PODS, type Plan, PODS, TCP_PORT, UDP_PORT, V4, V6, World } from "../helpers/trace-world.js";

const folder = tempDir(t);

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
