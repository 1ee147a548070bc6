// The service proxy without a kernel: states made of API objects, rules by meaning, a proxy over iptables in memory
// and a clock that goes when it is told to.

import type { EndpointSlice, Service, Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import {
  canonicalRule,
  chainsOf,
  MemoryIptables,
  quoteWord,
  type Ruleset,
} from "../../dataplane/iptables/index.js";
import {
  ChangeTracker,
  localDetector,
  type PortState,
  type RuleContext,
  renderAll,
  ServiceProxy,
  type ServiceProxyOptions,
} from "../../dataplane/proxy/index.js";
import { PACKET_COUNTERS } from "../../dataplane/proxy/names.js";
import { entryJumps } from "../../dataplane/proxy/rules/fixed.js";
import type { Clock } from "../../dataplane/proxy/runner.js";

export const CONTEXT: RuleContext = {
  family: 4,
  place: { name: "node-1", zone: undefined },
  nodeIP: "192.168.56.11",
  localDetector: localDetector({ mode: "ClusterCIDR", cidrs: ["10.244.0.0/16"] }, 4),
  masqueradeAll: false,
  masqueradeMark: "0x4000",
  nodePortIPs: undefined,
  localhostNodePorts: true,
  endpointComments: true,
  randomFully: true,
  tcpBeLiberal: false,
  packetCounters: true,
};

export const CONTEXT6: RuleContext = {
  ...CONTEXT,
  family: 6,
  nodeIP: "fd00:56::11",
  localDetector: localDetector({ mode: "ClusterCIDR", cidrs: ["fd00:244::/48"] }, 6),
  localhostNodePorts: false,
};

export type ApiObject = Stored<Service> | Stored<EndpointSlice>;

/** What the IPv4 tracker of node-1 makes of the objects. */
export function tracked(...objects: ApiObject[]): PortState[] {
  return trackedIn(4, objects);
}

export function trackedIn(family: 4 | 6, objects: readonly ApiObject[]): PortState[] {
  const tracker = new ChangeTracker({ nodeName: "node-1", family, startTime: 0 });
  for (const object of objects) {
    if (object.kind === "Service") tracker.serviceChanged(undefined, object as Stored<Service>);
    else tracker.endpointSliceChanged(undefined, object as Stored<EndpointSlice>);
  }
  tracker.take();
  return [...tracker.ports.values()];
}

/** The rules as lines per chain, by meaning: what two rulesets must agree in. */
export function meaning(rules: Ruleset): Record<string, string[]> {
  const chains = chainsOf(rules).filter((chain) => chain.rules.length > 0 || chain.policy === undefined);
  return Object.fromEntries(
    chains
      .map(({ table, name, rules: list }) => [`${table} ${name}`, list.map(canonicalRule)] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );
}

/** The ruleset of a node that nobody else writes to. */
export function inMemory(states: readonly PortState[], context = CONTEXT): Ruleset {
  const kernel = new MemoryIptables(context.family);
  kernel.counters.ensure(Object.values(PACKET_COUNTERS));
  kernel.apply(renderAll(states, context));
  for (const { table, chain, rule } of entryJumps(context).toReversed()) {
    kernel.apply(`*${table}\n-I ${chain} ${rule.map(quoteWord).join(" ")}\nCOMMIT\n`);
  }
  return kernel.ruleset();
}

export class FakeClock implements Clock {
  time = 0;
  #timers = new Map<number, { at: number; callback: () => void }>();
  #next = 1;
  now(): number {
    return this.time;
  }
  setTimeout(callback: () => void, ms: number): number {
    this.#timers.set(this.#next, { at: this.time + ms, callback });
    return this.#next++;
  }
  clearTimeout(handle: unknown): void {
    this.#timers.delete(handle as number);
  }
  async advance(ms: number): Promise<void> {
    const end = this.time + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.time = due[1].at;
      this.#timers.delete(due[0]);
      due[1].callback();
      await settle();
    }
    this.time = end;
    await settle();
  }
}

/** Lets every promise and immediate that is ready run. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** A namespace with this machine's addresses in which nothing can be changed. */
export const NO_HOST: ServiceProxyOptions["ns"] = {
  name: "none",
  run: <T>(fn: () => T): T => fn(),
  sysctl: ((): string => "0") as ServiceProxyOptions["ns"]["sysctl"],
};

export function memoryProxy(options: Partial<ServiceProxyOptions> = {}, family: 4 | 6 = 4) {
  const kernel = new MemoryIptables(family);
  const clock = new FakeClock();
  const proxy = new ServiceProxy({
    ns: NO_HOST,
    iptables: kernel,
    nodeName: "node-1",
    nodeIPs: ["192.168.56.11", "fd00:56::11"],
    detectLocal: { mode: "ClusterCIDR", cidrs: ["10.244.0.0/16", "fd00:244::/48"] },
    log: silentLogger,
    clock,
    ...options,
  });
  const sync = async () => {
    const done = proxy.flush();
    await clock.advance(1000);
    return done;
  };
  /** Both lists are known, and the kernel has what they say. */
  const begin = () => {
    proxy.setSynced("services");
    proxy.setSynced("endpointslices");
    proxy.start();
    return sync();
  };
  return { kernel, clock, proxy, sync, begin };
}

/**
 * One number of the proxy's metrics, without the prefix that all have; summed over labels that are not given.
 * NaN when there is none.
 */
export async function sample(proxy: ServiceProxy, name: string, labels = ""): Promise<number> {
  const lines = (await proxy.metrics()).split("\n");
  const found = lines.filter(
    (line) => line.startsWith(`kubeproxy_${name}{`) || line.startsWith(`kubeproxy_${name} `),
  );
  const values = found.filter((line) => line.includes(labels)).map((line) => Number(line.split(" ").at(-1)));
  return values.length ? values.reduce((a, b) => a + b) : Number.NaN;
}
