// Rules that count packets (nfacct), without a kernel: where they stand, what is written where the kernel has no
// counters, what happens when they are lost, and what the metrics show.

import t from "tap";
import { type MemoryIptables, TABLES, type TableName } from "../../dataplane/iptables/index.js";
import { keptLines } from "../../dataplane/iptables/nft-plan.js";
import { PACKET_COUNTERS } from "../../dataplane/proxy/names.js";
import {
  CONTEXT,
  CONTEXT6,
  inMemory,
  meaning,
  memoryProxy,
  sample,
  trackedIn,
} from "../helpers/proxy-memory.js";
import { service, slice } from "../helpers/service-objects.js";

const INVALID = "iptables_ct_state_invalid_dropped_packets_total";
const LOCALHOST = "iptables_localhost_nodeports_accepted_packets_total";

/** Of the full syncs that nobody asks for. */
const HOUR_MS = 3_600_000;

function web(number: number, nodePort = 30000 + number) {
  const [name, ip] = [`default/web-${number}`, `10.96.1.${number}`];
  const ports = [{ name: "http", port: 80, nodePort }];
  return {
    service: service(name, ip, ports, { type: "NodePort" }),
    slice: slice(name, [{ name: "http", port: 8080 }], ["10.244.1.2"]),
  };
}

function linesOf(kernel: MemoryIptables, table: TableName, chain: string): string[] {
  const rules = kernel.ruleset(table).get(table)?.get(chain)?.rules ?? [];
  return rules.map(({ args, comment }) => [comment, ...args].join(" "));
}

function flush(kernel: MemoryIptables): void {
  kernel.apply(TABLES.map((table) => `*${table}\nCOMMIT\n`).join(""), { noflush: false });
}

t.test("which rules count", async (t) => {
  const one = web(1);
  const states = trackedIn(4, [one.service, one.slice]);
  const counted = (context: typeof CONTEXT) =>
    Object.entries(meaning(inMemory(states, context)))
      .filter(([, rules]) => rules.join().includes("nfacct"))
      .map(([chain]) => chain);
  t.same(counted(CONTEXT), ["filter KUBE-FORWARD", "nat KUBE-NODEPORTS"]);
  t.same(
    counted({ ...CONTEXT, localhostNodePorts: false }),
    ["filter KUBE-FORWARD"],
    "no NodePorts on loopback",
  );
  t.same(
    counted({ ...CONTEXT, tcpBeLiberal: true }),
    ["nat KUBE-NODEPORTS"],
    "nothing is INVALID that matters",
  );
  t.same(counted({ ...CONTEXT6, packetCounters: false }), []);
  t.same(counted(CONTEXT6), ["filter KUBE-FORWARD"], "IPv6 has no NodePorts on loopback");
});

t.test("a kernel without counters: the rules are as before, and no metric has a value", async (t) => {
  const one = web(1);
  const { kernel, proxy, begin } = memoryProxy();
  kernel.counters.supported = false;
  proxy.serviceChanged(undefined, one.service);
  proxy.endpointSliceChanged(undefined, one.slice);
  await begin();
  const states = trackedIn(4, [one.service, one.slice]);
  t.same(meaning(kernel.ruleset()), meaning(inMemory(states, { ...CONTEXT, packetCounters: false })));
  t.notMatch(await kernel.save(), /nfacct/);
  t.same([await sample(proxy, INVALID), await sample(proxy, LOCALHOST)], [Number.NaN, Number.NaN]);
  await proxy.stop();
});

t.test("counters that come, and that are lost with the rules", async (t) => {
  const [one, two] = [web(1), web(2)];
  const { kernel, clock, proxy, begin, sync } = memoryProxy();
  kernel.counters.supported = false;
  proxy.serviceChanged(undefined, one.service);
  proxy.endpointSliceChanged(undefined, one.slice);
  await begin();
  kernel.counters.supported = true;
  flush(kernel);
  await clock.advance(HOUR_MS);
  t.match(
    linesOf(kernel, "filter", "KUBE-FORWARD")[0],
    /--nfacct-name ct_state_invalid_dropped_pkts -j DROP/,
  );
  t.equal(linesOf(kernel, "nat", "KUBE-NODEPORTS").length, 2);

  flush(kernel);
  kernel.counters.values.clear();
  proxy.serviceChanged(undefined, two.service);
  proxy.endpointSliceChanged(undefined, two.slice);
  await sync();
  const states = trackedIn(4, [one.service, one.slice, two.service, two.slice]);
  t.same(meaning(kernel.ruleset()), meaning(inMemory(states)), "a refused partial sync, then a full one");
  t.equal(await sample(proxy, "sync_proxy_rules_iptables_partial_restore_failures_total"), 1);
  await proxy.stop();
});

t.test("metrics show what the kernel counts when somebody asks", async (t) => {
  const { kernel, proxy, begin } = memoryProxy();
  await begin();
  t.same([await sample(proxy, INVALID), await sample(proxy, LOCALHOST)], [0, 0]);
  kernel.counters.values.set(PACKET_COUNTERS.invalidDropped, 7);
  kernel.counters.values.set(PACKET_COUNTERS.localhostAccepted, 41);
  t.same([await sample(proxy, INVALID), await sample(proxy, LOCALHOST)], [7, 41]);
  kernel.counters.values.set(PACKET_COUNTERS.localhostAccepted, 2);
  t.equal(await sample(proxy, LOCALHOST), 2, "somebody has set it back");
  kernel.counters.values.delete(PACKET_COUNTERS.localhostAccepted);
  t.same([await sample(proxy, INVALID), await sample(proxy, LOCALHOST)], [7, Number.NaN]);
  await proxy.stop();
});

t.test("a node port more or less is two rules of KUBE-NODEPORTS", async (t) => {
  const { kernel, proxy, begin, sync } = memoryProxy();
  const all = Array.from({ length: 100 }, (_, i) => web(i + 1));
  for (const one of all) {
    proxy.serviceChanged(undefined, one.service);
    proxy.endpointSliceChanged(undefined, one.slice);
  }
  await begin();
  const before = linesOf(kernel, "nat", "KUBE-NODEPORTS");
  t.equal(before.length, 200);
  const more = web(101);
  proxy.serviceChanged(undefined, more.service);
  proxy.endpointSliceChanged(undefined, more.slice);
  await sync();
  const between = linesOf(kernel, "nat", "KUBE-NODEPORTS");
  t.equal(keptLines(before, between).filter((from) => from < 0).length, 2);
  const gone = all[49];
  proxy.serviceChanged(gone?.service, undefined);
  await sync();
  const after = linesOf(kernel, "nat", "KUBE-NODEPORTS");
  t.equal(keptLines(between, after).filter((from) => from >= 0).length, 200);
  const inputs = kernel.inputs.length;
  proxy.endpointSliceChanged(
    more.slice,
    slice("default/web-101", [{ name: "http", port: 8080 }], ["10.244.1.3"]),
  );
  await sync();
  t.equal(kernel.inputs.length, inputs + 1);
  t.notMatch(kernel.inputs.at(-1), /KUBE-NODEPORTS/, "an endpoint does not touch the chain");
  await proxy.stop();
});
