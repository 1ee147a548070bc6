// The service proxy's sync engine, without a kernel: when it runs, what it sends, what it does when something fails,
// and that partial syncs and a full one end in the same state.

import { performance } from "node:perf_hooks";
import t from "tap";
import type { Service, Stored } from "../../common/k8s.js";
import {
  chainsOf,
  MemoryIptables,
  RestoreError,
  type Ruleset,
  renderRestore,
} from "../../dataplane/iptables/index.js";
import { endpointChain, portChains, removeProxyRules } from "../../dataplane/proxy/index.js";
import { SyncRunner } from "../../dataplane/proxy/runner.js";
import {
  CONTEXT,
  CONTEXT6,
  FakeClock,
  inMemory,
  meaning,
  memoryProxy,
  sample,
  settle,
  trackedIn,
} from "../helpers/proxy-memory.js";
import { random } from "../helpers/random.js";
import { RandomServices } from "../helpers/random-services.js";
import { service, slice, WEB, webSlice } from "../helpers/service-objects.js";

function chainNames(rules: Ruleset): string[] {
  return [...(rules.get("nat")?.keys() ?? [])];
}

t.test("runner: first at once, coalesced, spaced from completion, retried with growing delay", async (t) => {
  const clock = new FakeClock();
  const starts: number[] = [];
  let fail = 0;
  let release: (() => void) | undefined;
  const runner = new SyncRunner({
    clock,
    minIntervalMs: 1000,
    retryMs: [2000, 5000],
    work: async () => {
      starts.push(clock.time);
      if (fail-- > 0) throw new Error("refused");
      await new Promise<void>((resolve) => {
        release = resolve;
      });
      return true;
    },
  });
  runner.request();
  runner.request();
  await settle();
  t.same(starts, [0]);
  await clock.advance(300);
  runner.request();
  runner.request();
  release?.();
  await settle();
  await clock.advance(999);
  t.same(starts, [0], "not yet");
  await clock.advance(1);
  t.same(starts, [0, 1300], "one for both requests, 1000 ms after the first ended");
  release?.();
  await settle();
  await clock.advance(5000);
  t.same(starts, [0, 1300], "nothing to do, nothing done");
  fail = 3;
  runner.request();
  await settle();
  await clock.advance(20_000);
  t.same(starts.slice(2), [6300, 8300, 12_300, 17_300], "2 s, 4 s, then the longest");
  runner.request();
  const stopped = runner.stop();
  release?.();
  await stopped;
  await clock.advance(60_000);
  t.equal(starts.length, 6, "stopped");
});

t.test("runner: a burst of two, then spaced", async (t) => {
  const clock = new FakeClock();
  const starts: number[] = [];
  let sent = true;
  const work = async () => {
    starts.push(clock.time);
    return sent;
  };
  const runner = new SyncRunner({ clock, minIntervalMs: 1000, burst: 2, retryMs: [2000, 5000], work });
  for (const ms of [0, 10, 10, 10]) {
    await clock.advance(ms);
    runner.request();
    await settle();
  }
  t.same(starts, [0, 10], "two at once, the others wait");
  await clock.advance(3000);
  t.same(starts, [0, 10, 1000], "one for both, when an interval has passed since the first");
  runner.request();
  await settle();
  runner.request();
  await settle();
  t.same(starts.slice(3), [3030, 3030], "after a pause two again");
  await clock.advance(10_000);
  starts.length = 0;
  sent = false;
  for (let i = 0; i < 3; i++) {
    runner.request();
    await settle();
  }
  sent = true;
  for (let i = 0; i < 3; i++) {
    runner.request();
    await settle();
  }
  t.equal(starts.length, 5, "what sends nothing takes no turn");
  await runner.stop();
});

t.test("proxy: waits for both lists, sends only what changed, cleans up", async (t) => {
  const { kernel, clock, proxy, sync } = memoryProxy();
  kernel.apply("*nat\n:MINE - [0:0]\n-A MINE -s 10.1.1.1 -j ACCEPT\n-A PREROUTING -j MINE\nCOMMIT\n");
  const before = meaning(kernel.ruleset());
  kernel.inputs.length = 0;
  const http = [{ name: "http", port: 80 }];
  const services = Array.from({ length: 20 }, (_, i) => service(`default/s${i}`, `10.96.1.${i}`, http));
  const ports = [{ name: "http", port: 8080 }];
  const slices = services.map((_, i) =>
    slice(`default/s${i}`, ports, [`10.244.1.${i + 2}`, `10.244.2.${i + 2}`]),
  );
  for (const one of services) proxy.serviceChanged(undefined, one);
  proxy.start();
  proxy.setSynced("services");
  await clock.advance(5000);
  t.equal(kernel.inputs.length, 0, "nothing before both lists are known");
  for (const one of slices) proxy.endpointSliceChanged(undefined, one);
  proxy.setSynced("endpointslices");
  await sync();
  t.equal(kernel.inputs.length, 1, "one restore");
  t.equal(chainNames(kernel.ruleset()).filter((name) => name.startsWith("KUBE-SVC-")).length, 20);

  const changed = slice("default/s7", ports, ["10.244.1.9", "10.244.3.3"]);
  proxy.endpointSliceChanged(slices[7], changed);
  await sync();
  const last = kernel.inputs.at(-1) ?? "";
  const port = { id: "default/s7:http", protocol: "tcp" } as const;
  const sep = (ip: string) => endpointChain(port, { text: `${ip}:8080` });
  t.same(
    last
      .split("\n")
      .filter((line) => /^[*:]|^-X/.test(line))
      .map((line) => line.split(" [")[0]),
    [
      "*nat",
      `:${portChains(port).svc} -`,
      `:${sep("10.244.3.3")} -`,
      `:${sep("10.244.2.9")} -`,
      `-X ${sep("10.244.2.9")}`,
    ],
    "the service's chain, its new endpoint and the one that is gone; not KUBE-SERVICES, not the endpoint that stayed",
  );
  const inputs = kernel.inputs.length;
  proxy.endpointSliceChanged(changed, { ...changed });
  proxy.serviceChanged(services[3], { ...(services[3] as Stored<Service>) });
  await sync();
  t.equal(kernel.inputs.length, inputs, "no change: nothing sent");

  t.equal(await sample(proxy, "sync_proxy_rules_duration_seconds_count"), 2);
  t.equal(await sample(proxy, "sync_partial_proxy_rules_duration_seconds_count"), 1);
  t.equal(await sample(proxy, "sync_full_proxy_rules_duration_seconds_count"), 1);
  t.equal(await sample(proxy, "sync_proxy_rules_iptables_last", 'table="nat"'), 5);

  await clock.advance(3_600_000);
  t.equal(await sample(proxy, "sync_full_proxy_rules_duration_seconds_count"), 2, "a full round every hour");
  t.equal(kernel.inputs.length, inputs, "which sends nothing when the kernel has everything");
  await proxy.stop({ cleanup: true });
  t.same(meaning(kernel.ruleset()), before, "everything of ours is gone, what was there is there");
  await t.rejects(proxy.flush(), { message: /was stopped/ });
});

t.test("proxy: a refused restore leaves the old rules and is made good by a full sync", async (t) => {
  const { kernel, clock, proxy, sync } = memoryProxy();
  const http = [{ name: "http", port: 80 }];
  const web = service("default/web", "10.96.0.10", http);
  const one = slice("default/web", [{ name: "http", port: 8080 }], ["10.244.1.2"]);
  const two = slice("default/web", [{ name: "http", port: 8080 }], ["10.244.1.3"]);
  proxy.serviceChanged(undefined, web);
  proxy.endpointSliceChanged(undefined, one);
  proxy.setSynced("services");
  proxy.setSynced("endpointslices");
  proxy.start();
  await sync();
  const good = meaning(kernel.ruleset());

  let refuse = 3;
  kernel.beforeRestore = (input) => {
    if (refuse-- > 0) throw new RestoreError("memory", input, "iptables-restore: line 2 failed", undefined);
  };
  proxy.endpointSliceChanged(one, two);
  const flushed = proxy.flush();
  await clock.advance(1000);
  t.same(meaning(kernel.ruleset()), good, "old rules stay");
  await clock.advance(60_000);
  await flushed;
  t.match(renderRestore(chainsOf(kernel.ruleset())), /--to-destination 10\.244\.1\.3:8080/);
  t.notMatch(renderRestore(chainsOf(kernel.ruleset())), /10\.244\.1\.2/);
  t.equal(await sample(proxy, "sync_proxy_rules_iptables_partial_restore_failures_total"), 1);

  // Somebody removed a chain that the next partial sync relies on: it is refused, and the full sync in the same
  // round puts everything back.
  const { svc } = portChains({ id: "default/web:http", protocol: "tcp" });
  kernel.apply(`*nat\n:KUBE-SERVICES - [0:0]\n:${svc} - [0:0]\n-X ${svc}\nCOMMIT\n`);
  kernel.apply("*nat\n:STALE - [0:0]\n:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]\n-A STALE -j ACCEPT\nCOMMIT\n");
  proxy.serviceChanged(
    web,
    service("default/web", "10.96.0.10", [{ name: "http", port: 80, nodePort: 30080 }], { type: "NodePort" }),
  );
  await sync();
  const names = chainNames(kernel.ruleset());
  t.ok(names.includes("STALE"), "a foreign chain stays");
  t.ok(names.includes(portChains({ id: "default/web:http", protocol: "tcp" }).ext));
  await proxy.stop();
  t.ok(chainNames(kernel.ruleset()).includes(svc), "without cleanup the rules stay");
});

t.test("proxy: flushed tables are noticed; stale and foreign chains after a restart", async (t) => {
  const { kernel, proxy, sync } = memoryProxy({ syncPeriodMs: 10 });
  proxy.serviceChanged(undefined, service("default/web", "10.96.0.10", [{ port: 80 }]));
  proxy.endpointSliceChanged(undefined, slice("default/web", [{ port: 8080 }], ["10.244.1.2"]));
  const foreign = "KUBE-SEP-BBBBBBBBBBBBBBBB";
  kernel.apply(
    `*nat\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n:${foreign} - [0:0]\n:MINE - [0:0]\n-A MINE -j ${foreign}\nCOMMIT\n`,
  );
  proxy.setSynced("services");
  proxy.setSynced("endpointslices");
  proxy.start();
  await sync();
  const names = chainNames(kernel.ruleset());
  t.notOk(names.includes("KUBE-SVC-AAAAAAAAAAAAAAAA"), "stale chain removed");
  t.ok(names.includes(foreign), "stale, but somebody refers to it");
  const good = meaning(kernel.ruleset());
  const healed = async () => {
    for (let i = 0; i < 1000 && JSON.stringify(meaning(kernel.ruleset())) !== JSON.stringify(good); i++) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      await sync();
    }
    t.same(meaning(kernel.ruleset()), good);
  };
  kernel.apply("*nat\n-F PREROUTING\n-F KUBE-POSTROUTING\nCOMMIT\n");
  await healed();
  kernel.apply("*mangle\nCOMMIT\n*filter\nCOMMIT\n*nat\n:MINE - [0:0]\nCOMMIT\n", { noflush: false });
  kernel.apply(`*nat\n:${foreign} - [0:0]\n-A MINE -j ${foreign}\nCOMMIT\n`);
  await healed();
  await proxy.stop();
});

t.test("more than 1,000 endpoints: comments go, and nothing is sent again for that", async (t) => {
  const { kernel, clock, proxy, sync, begin } = memoryProxy();
  const many = (count: number) =>
    webSlice(...Array.from({ length: count }, (_, i) => `10.244.${1 + (i >> 7)}.${i & 127}`));
  proxy.serviceChanged(undefined, WEB);
  proxy.endpointSliceChanged(undefined, many(1000));
  await begin();
  const commented = () => kernel.inputs.at(-1)?.includes("default/web:http -> ");
  t.ok(commented());
  proxy.endpointSliceChanged(many(1000), many(1001));
  await sync();
  t.ok(commented(), "a partial sync goes on as it began");
  const { length } = kernel.inputs;
  await clock.advance(3_600_000);
  t.equal(kernel.inputs.length, length, "the hour's full sync finds every rule");
  proxy.endpointSliceChanged(many(1001), many(1002));
  await sync();
  t.notOk(commented(), "what is written from now on has none");
  proxy.endpointSliceChanged(many(1002), many(3));
  await sync();
  t.notOk(commented());
  await clock.advance(3_600_000);
  t.ok(commented(), "a small cluster gets them back");
  await proxy.stop();
});

t.test("clean-up: whatever the options were, and not what a kubelet needs", async (t) => {
  const foreign =
    "*nat\n:MINE - [0:0]\n-A MINE -j KUBE-MARK-MASQ\n-A POSTROUTING -s 10.0.0.1 -j MINE\nCOMMIT\n";
  const { kernel, proxy, begin } = memoryProxy({ localhostNodePorts: true });
  proxy.serviceChanged(undefined, WEB);
  await begin();
  await proxy.stop();
  kernel.apply(`${foreign}*filter\n-A INPUT -s 10.0.0.2 -j DROP\n-I INPUT -s 10.0.0.3 -j DROP\nCOMMIT\n`);
  const kubelet = new MemoryIptables();
  kubelet.counters.ensure([...kernel.counters.values.keys()]);
  kubelet.apply(await kernel.save(), { noflush: false });
  kubelet.apply("*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n");

  await removeProxyRules(kernel);
  const left = await kernel.save();
  t.same(left.match(/KUBE-[\w-]+/g), ["KUBE-MARK-MASQ", "KUBE-MARK-MASQ"], "only what somebody's rule needs");
  t.same(left.match(/^-A .*/gm), [
    "-A POSTROUTING -s 10.0.0.1 -j MINE",
    "-A MINE -j KUBE-MARK-MASQ",
    "-A INPUT -s 10.0.0.3 -j DROP",
    "-A INPUT -s 10.0.0.2 -j DROP",
  ]);
  const inputs = kernel.inputs.length;
  kernel.apply("*nat\n-F MINE\nCOMMIT\n");
  await removeProxyRules(kernel);
  await removeProxyRules(kernel);
  t.notMatch(await kernel.save(), /KUBE-/, "nobody needs it any more");
  t.equal(kernel.inputs.length, inputs + 2, "nothing to do, nothing done");

  await removeProxyRules(kubelet);
  t.match(await kubelet.save(), /-A INPUT -j KUBE-FIREWALL/);
  t.match(await kubelet.save(), /-A KUBE-FIREWALL .*-j DROP/);
  t.notMatch(await kubelet.save(), /KUBE-SERVICES|KUBE-PROXY/);
});

t.test("faults by chance between syncs: the next full sync makes all good", async (t) => {
  const { kernel, clock, proxy, sync, begin } = memoryProxy();
  const world = new RandomServices(3, proxy);
  await begin();
  const pick = random(11);
  for (let round = 0; round < 20; round++) {
    for (let n = 0; n < 3; n++) world.step();
    const chains = [...(kernel.ruleset().get("nat")?.keys() ?? [])].filter((name) =>
      name.startsWith("KUBE-"),
    );
    const victim = chains[pick(chains.length)] as string;
    if (pick(2)) {
      kernel.apply(`*nat\n-F ${victim}\nCOMMIT\n`);
    } else {
      // Whoever deletes a chain takes the rules that lead to it first.
      const using = chainsOf(kernel.ruleset("nat")).filter(({ rules }) =>
        rules.some(({ args }) => args.includes(victim)),
      );
      const flushed = [victim, ...using.map(({ name }) => name)].map((name) => `-F ${name}`);
      kernel.apply(`*nat\n${flushed.join("\n")}\n-X ${victim}\nCOMMIT\n`);
    }
    await sync();
    await clock.advance(3_600_000);
    const wanted = inMemory(trackedIn(4, world.objects), { ...CONTEXT, place: world.place });
    t.same(meaning(kernel.ruleset()), meaning(wanted), `round ${round}: ${victim}`);
  }
  await proxy.stop();
});

for (const family of [4, 6] as const) {
  t.test(`property, IPv${family}: any series of partial syncs ends where one full sync would`, async (t) => {
    const started = performance.now();
    for (let seed = 1; seed <= 5; seed++) {
      const { kernel, proxy, sync, begin } = memoryProxy({}, family);
      const world = new RandomServices(seed, proxy, family);
      await begin();
      for (let round = 0; round < 30; round++) {
        for (let n = 1 + (round % 3); n > 0; n--) world.step();
        await sync();
        const context = { ...(family === 4 ? CONTEXT : CONTEXT6), place: world.place };
        const wanted = inMemory(trackedIn(family, world.objects), context);
        t.same(meaning(kernel.ruleset()), meaning(wanted), `seed ${seed}, round ${round}`);
      }
      t.equal(
        await sample(proxy, "sync_full_proxy_rules_duration_seconds_count"),
        1,
        "all but the first were partial",
      );
      t.equal(await sample(proxy, "sync_proxy_rules_iptables_restore_failures_total"), 0);
      await proxy.stop();
    }
    t.comment(`${Math.round(performance.now() - started)} ms`);
  });
}
