// The iptables driver and the service proxy against the real kernel: real connections through ClusterIPs and node
// ports, in namespaces that the test makes; both variants of iptables where this machine has them.

import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { parseSave, RestoreError, type TableName, type Variant } from "../../dataplane/iptables/index.js";
import { Conntrack } from "../../dataplane/kernel/conntrack.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { endpointChain, renderAll } from "../../dataplane/proxy/index.js";
import {
  ask,
  askUdp,
  CLIENT_IP,
  Cluster,
  Lab,
  kernelMeaning as meaning,
  NODE_IP,
  open,
  run,
  tally,
  VIP,
  variants,
} from "../helpers/proxy-lab.js";
import { CONTEXT, sample } from "../helpers/proxy-memory.js";
import { CHI_SQUARE_1E5, chiSquare } from "../helpers/stats.js";

t.ok(variants.length > 0, `variants of iptables here: ${variants.join(", ")}`);

for (const variant of variants) {
  t.test(`${variant}: driver`, async (t) => {
    using ns = NetNs.create("driver");
    const iptables = open(ns, variant);
    t.equal(iptables.variant, variant);
    t.equal((await iptables.read()).size, 0, "an empty namespace");
    t.notOk(await iptables.chainExists("nat", "MINE"));
    const jump = ["-m", "comment", "--comment", 'it\'s "mine"', "-j", "MINE"];
    await iptables.ensureChain("nat", "MINE");
    await iptables.ensureRule("nat", "MINE", ["-s", "10.0.0.1", "-j", "RETURN"], "append");
    await iptables.ensureChain("nat", "MINE");
    t.ok(await iptables.chainExists("nat", "MINE"));
    const standing = [{ table: "nat", chain: "MINE", rule: ["-s", "10.0.0.1", "-j", "RETURN"] }] as const;
    const other = open(ns, variant);
    for (const source of ["10.0.0.8", "10.0.0.1"]) {
      const rule = ["-s", source, "-j", "RETURN"];
      t.ok(await iptables.hasRules(standing));
      t.ok(await iptables.hasRules(standing), "asked again");
      await other.ensureRule("nat", "MINE", rule, "append");
      await other.deleteRule("nat", "MINE", rule);
      const stands = source !== "10.0.0.1";
      t.equal(await iptables.hasRules(standing), stands, "what somebody else changes is noticed");
    }
    await iptables.ensureRule("nat", "MINE", standing[0].rule, "append");
    for (let i = 0; i < 2; i++) {
      await iptables.ensureRules([
        { table: "nat", chain: "POSTROUTING", rule: jump, position: "append" },
        { table: "nat", chain: "PREROUTING", rule: ["-s", "10.0.0.2", "-j", "MINE"], position: "prepend" },
        { table: "nat", chain: "PREROUTING", rule: ["-s", "10.0.0.3", "-j", "MINE"], position: "prepend" },
        { table: "filter", chain: "FORWARD", rule: ["-s", "10.0.0.4", "-j", "ACCEPT"], position: "append" },
      ]);
    }
    const read = await iptables.read();
    const args = (table: TableName, chain: string) =>
      read
        .get(table)
        ?.get(chain)
        ?.rules.map((rule) => rule.args.join(" "));
    t.same(
      args("nat", "PREROUTING"),
      ["-s 10.0.0.2/32 -j MINE", "-s 10.0.0.3/32 -j MINE"],
      "once each, first on top",
    );
    t.same(read.get("nat")?.get("POSTROUTING")?.rules, [{ args: ["-j", "MINE"], comment: 'it\'s "mine"' }]);
    t.same(args("nat", "MINE"), ["-s 10.0.0.1/32 -j RETURN"], "ensureChain leaves rules");
    t.same(args("filter", "FORWARD"), ["-s 10.0.0.4/32 -j ACCEPT"]);

    const before = meaning(read);
    const refused: [string, number, RegExp][] = [
      [
        "*filter\n:X1 - [0:0]\n-I FORWARD -j X1\n:MINE2 - [0:0]\nCOMMIT\n*nat\n:MINE - [0:0]\n-A MINE -s 10.1.1.1 -j NOPE\nCOMMIT\n",
        8,
        /NOPE/,
      ],
      ["*nat\n:MINE - [0:0]\n-A MINE --bogus\nCOMMIT\n", 3, /bogus/],
      ["*nat\n:MINE - [0:0]\n-X MINE\nCOMMIT\n", 3, /-X MINE/],
    ];
    for (const [input, line, text] of refused) {
      const error = await iptables.restore(input).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      t.ok(error instanceof RestoreError);
      t.match(error, { line, lineText: text, message: text });
      t.same(meaning(await iptables.read()), before, "the old state, in every table");
    }
    const flushing = iptables.restore("*filter\nCOMMIT\n*nat\n-A NOWHERE -j ACCEPT\nCOMMIT\n", {
      noflush: false,
    });
    await t.rejects(flushing, RestoreError);
    t.same(meaning(await iptables.read()), before, "even a table that was flushed");
    await t.rejects(iptables.deleteChain("nat", "MINE"), RestoreError, "still referenced");
    t.ok(await iptables.deleteRule("nat", "POSTROUTING", jump));
    t.notOk(await iptables.deleteRule("nat", "POSTROUTING", jump));
    t.notOk(await iptables.deleteRule("nat", "NOWHERE", jump));
    for (const source of ["10.0.0.2", "10.0.0.3"])
      await iptables.deleteRule("nat", "PREROUTING", ["-s", source, "-j", "MINE"]);
    await iptables.deleteChain("nat", "MINE");
    await iptables.deleteChain("nat", "MINE");
    t.notOk(await iptables.chainExists("nat", "MINE"));
    await t.rejects(iptables.deleteRule("nat", "PREROUTING", ["--bogus"]), { name: "CommandError" });
  });

  t.test(`${variant}: traffic`, async (t) => {
    const lab = await Lab.create(4);
    t.teardown(() => lab.close());
    const { host, outside } = lab;
    const cluster = new Cluster(host, variant);
    t.teardown(() => cluster.proxy.stop());
    await cluster.start();
    await cluster.service();

    for (const [from, ip, port] of [
      [lab.pod(0).ns, VIP[4], 80],
      [host, VIP[4], 80],
      [outside, NODE_IP[4], 30080],
      [host, "127.0.0.1", 30080],
    ] as const) {
      t.equal(await ask(from, ip, port), "ECONNREFUSED", `no endpoints: ${from.name} to ${ip}:${port}`);
    }

    await cluster.endpoints(lab.pod(1));
    t.equal(await ask(lab.pod(0).ns, VIP[4], 80), `pod-1 ${lab.pod(0).ip}`, "pod to ClusterIP: own address");
    t.equal(await ask(lab.pod(1).ns, VIP[4], 80), "pod-1 10.244.1.1", "hairpin: masqueraded");
    t.equal(await ask(host, VIP[4], 80), "pod-1 10.244.1.1", "host to ClusterIP");
    t.equal(await ask(outside, VIP[4], 80), "pod-1 10.244.1.1", "not a pod to ClusterIP: masqueraded");
    t.equal(await ask(outside, NODE_IP[4], 30080), "pod-1 10.244.1.1", "outside to NodePort: masqueraded");
    t.equal(await ask(lab.pod(0).ns, NODE_IP[4], 30080), "pod-1 10.244.1.1", "pod to NodePort: masqueraded");
    t.equal(await ask(host, "127.0.0.1", 30080), "pod-1 10.244.1.1", "NodePort on loopback");
    t.equal(await ask(lab.pod(0).ns, lab.pod(2).ip, 8080), `pod-2 ${lab.pod(0).ip}`, "pod to pod: no NAT");

    const resolver = await lab.pod(0).ns.udp();
    const remote = await outside.udp();
    t.teardown(() => [resolver, remote].map((socket) => socket.close()));
    t.equal(await askUdp(resolver, VIP[4], 53), `pod-1 ${lab.pod(0).ip}`, "UDP to ClusterIP");
    t.equal(await askUdp(remote, NODE_IP[4], 30053), "pod-1 10.244.1.1", "UDP to NodePort");
    await cluster.endpoints(lab.pod(2));
    t.equal(
      await askUdp(resolver, VIP[4], 53),
      `pod-2 ${lab.pod(0).ip}`,
      "same source port: the old flow is forgotten",
    );
    t.equal(await askUdp(remote, NODE_IP[4], 30053), "pod-2 10.244.1.1", "and that to the NodePort");
    t.ok((await sample(cluster.proxy, "conntrack_reconciler_deleted_entries_total")) > 0);

    await cluster.endpoints(...lab.pods);
    const counts = await tally(lab.pod(0).ns, VIP[4], 80, 1000);
    t.same([...counts.keys()].sort(), ["pod-0", "pod-1", "pod-2", "pod-3"]);
    const chi = chiSquare([...counts.values()]);
    t.ok(chi < (CHI_SQUARE_1E5[3] ?? 0), `even: chi-square ${chi.toFixed(2)} with 3 degrees of freedom`);
    await cluster.endpoints(...lab.pods.slice(1));
    t.notOk(
      (await tally(lab.pod(0).ns, VIP[4], 80, 100)).has("pod-0"),
      "none to a removed endpoint after the sync",
    );

    await cluster.service({ sessionAffinity: "ClientIP" });
    const sticky = await tally(lab.pod(0).ns, VIP[4], 80, 30);
    t.equal(sticky.size, 1, "ClientIP affinity");
    t.match([...sticky.keys()], [/^pod-[123]$/]);
    await cluster.service();
    t.equal((await tally(lab.pod(0).ns, VIP[4], 80, 60)).size, 3, "and without");

    await cluster.service({ externalTrafficPolicy: "Local" });
    t.match(
      await ask(outside, NODE_IP[4], 30080),
      new RegExp(`^pod-[123] ${CLIENT_IP[4]}$`),
      "policy Local keeps the client's address",
    );
    await cluster.endpoints();
    t.equal(await ask(lab.pod(0).ns, VIP[4], 80), "ECONNREFUSED");
    t.equal(await ask(outside, NODE_IP[4], 30080), "ECONNREFUSED");
  });

  t.test(`${variant}: the kernel holds what was meant, whatever happens to it`, async (t) => {
    using ns = NetNs.create("state");
    const foreign = open(ns, variant);
    await foreign.restore(
      "*filter\n:MINE - [0:0]\n-A MINE -s 10.1.1.1 -j DROP\n-A FORWARD -j MINE\nCOMMIT\n*nat\n:MINE - [0:0]\n-A MINE -s 10.1.1.1 -j RETURN\n-A POSTROUTING -j MINE\nCOMMIT\n",
    );
    const before = meaning(await foreign.read());
    const routeLocalnet = ns.sysctl("net/ipv4/conf/all/route_localnet");
    const cluster = new Cluster(ns, variant, { syncPeriodMs: 40 });
    await cluster.start();
    const stickyLocal = () =>
      cluster.service({
        sessionAffinity: "ClientIP",
        externalTrafficPolicy: "Local",
        externalIPs: ["198.51.100.7"],
      });
    const spread = (second: string) =>
      cluster.endpoints(
        { ip: "10.244.1.2", node: "node-1" },
        { ip: second, node: "node-2" },
        { ip: "10.244.3.2", node: "node-3" },
      );
    await stickyLocal();
    await spread("10.244.2.2");
    await spread("10.244.2.3");

    const ours = (_table: TableName, name: string) => name.startsWith("KUBE-");
    const wanted = () =>
      meaning(
        parseSave(
          renderAll(cluster.proxy.ports.values(), {
            ...CONTEXT,
            randomFully: cluster.iptables.randomFully,
            tcpBeLiberal: ns.sysctl("net/netfilter/nf_conntrack_tcp_be_liberal") !== "0",
          }),
        ),
      );
    const inKernel = async () => meaning(await foreign.read(), ours);
    t.same(await inKernel(), wanted(), "partial syncs led to what rendering everything gives");
    for (let round = 1; round <= 12; round++) {
      // Every combination of policies and numbers of endpoints, in an order that looks like chance.
      const die = (round * 7) % 12;
      const nodes = ["node-1", "node-2", "node-2", "node-3"].slice(die % 4);
      await cluster.service({
        externalTrafficPolicy: die % 2 ? "Local" : "Cluster",
        internalTrafficPolicy: die % 3 ? "Cluster" : "Local",
        sessionAffinity: die % 5 ? "None" : "ClientIP",
      });
      await cluster.endpoints(...nodes.map((node, i) => ({ ip: `10.244.${die}.${i}`, node })));
      t.same(await inKernel(), wanted(), `round ${round}`);
    }
    t.equal(await sample(cluster.proxy, "sync_proxy_rules_iptables_restore_failures_total"), 0);
    t.equal(
      await sample(cluster.proxy, "sync_full_proxy_rules_duration_seconds_count"),
      1,
      "all of it by partial syncs",
    );
    await stickyLocal();
    await spread("10.244.2.3");
    const good = meaning(await foreign.read());
    const saved = await foreign.save("nat");
    t.match(saved, /-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES/);
    t.match(
      saved,
      /-m comment --comment "default\/web:http -> 10\.244\.1\.2:8080" -m statistic --mode random --probability 0\.333333333/,
    );

    const healed = async (what: string) => {
      for (let i = 0; i < 3000 && JSON.stringify(await inKernel()) !== JSON.stringify(wanted()); i++)
        await sleep(20);
      await cluster.proxy.flush();
      t.same(await inKernel(), wanted(), `healed: ${what}`);
    };
    await foreign.restore("*nat\n-F KUBE-POSTROUTING\n-F PREROUTING\nCOMMIT\n");
    await healed("chains emptied");
    await foreign.restore("*filter\n-F KUBE-FORWARD\n-F KUBE-FIREWALL\nCOMMIT\n");
    await healed("chains of the filter table emptied");
    await foreign.restore("*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\nCOMMIT\n", { noflush: false });
    await healed("all tables flushed");
    t.ok(
      await foreign.hasRules([
        {
          table: "nat",
          chain: "PREROUTING",
          rule: ["-m", "comment", "--comment", "kubernetes service portals", "-j", "KUBE-SERVICES"],
        },
      ]),
    );

    await foreign.restore(
      "*filter\n:MINE - [0:0]\n-A MINE -s 10.1.1.1 -j DROP\n-A FORWARD -j MINE\nCOMMIT\n*nat\n:MINE - [0:0]\n-A MINE -s 10.1.1.1 -j RETURN\n-A POSTROUTING -j MINE\nCOMMIT\n",
    );
    t.same(Object.keys(meaning(await foreign.read())).sort(), Object.keys(good).sort());

    // Somebody's rule holds on to an endpoint's chain: the partial sync is refused, the full one goes around it.
    const sep = endpointChain({ id: "default/web:http", protocol: "tcp" }, { text: "10.244.3.2:8080" });
    await foreign.restore(`*nat\n:HOLD - [0:0]\n-A HOLD -j ${sep}\nCOMMIT\n`);
    await cluster.endpoints({ ip: "10.244.1.2", node: "node-1" }, { ip: "10.244.2.3", node: "node-2" });
    const refused = await foreign.read("nat");
    t.same(refused.get("nat")?.get(sep)?.rules, [], "kept for the foreign rule, but empty");
    t.notMatch(await foreign.save("nat"), /--to-destination 10\.244\.3\.2/);
    t.equal(await sample(cluster.proxy, "sync_proxy_rules_iptables_partial_restore_failures_total"), 1);
    await foreign.deleteChain("nat", "HOLD");

    // A second proxy, as after a restart: it finds everything in place and sends nothing but what differs.
    await cluster.proxy.stop();
    const again = new Cluster(ns, variant);
    const queued = [
      again.service({
        sessionAffinity: "ClientIP",
        externalTrafficPolicy: "Local",
        externalIPs: ["198.51.100.7"],
      }),
      again.endpoints({ ip: "10.244.1.2", node: "node-1" }, { ip: "10.244.2.3", node: "node-2" }),
    ];
    await again.start();
    await Promise.all(queued);
    t.equal(
      await sample(again.proxy, "sync_proxy_rules_iptables_last", 'table="nat"'),
      0,
      "no rule is sent again",
    );
    t.notOk(await foreign.chainExists("nat", sep), "but the stale chain is gone");
    await again.proxy.stop({ cleanup: true });
    t.same(meaning(await foreign.read()), before, "all of ours is gone, nothing else");

    using fresh = NetNs.create("fresh");
    const last = new Cluster(fresh, variant);
    await last.start();
    t.equal(fresh.sysctl("net/ipv4/conf/all/route_localnet"), "1");
    await last.proxy.stop({ cleanup: true });
    t.equal(fresh.sysctl("net/ipv4/conf/all/route_localnet"), routeLocalnet, "the sysctl is as it was");
    t.notMatch(await last.iptables.save(), /KUBE-/);
  });
}

t.test("conntrack: list and delete", async (t) => {
  using ns = NetNs.create("conntrack");
  await run(ns, "link set lo up");
  // Connections are tracked as soon as a rule asks for their state.
  await open(ns, variants[0] as Variant).restore(
    "*filter\n-A INPUT -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n",
  );
  using conntrack = Conntrack.open(ns, 4);
  t.same(await conntrack.udpFlows(), []);
  const [server, client] = [
    await ns.udp({ host: "127.0.0.1", port: 5300 }),
    await ns.udp({ host: "127.0.0.1", port: 5400 }),
  ];
  t.teardown(() => [server, client].map((socket) => socket.close()));
  const received = once(server, "message");
  client.send("?", 5300, "127.0.0.1");
  await received;
  const flows = await conntrack.udpFlows();
  t.match(flows, [
    {
      original: { src: "127.0.0.1", srcPort: 5400, dst: "127.0.0.1", dstPort: 5300 },
      reply: { src: "127.0.0.1", srcPort: 5300 },
    },
  ]);
  const [flow] = flows;
  t.ok(flow && (await conntrack.delete(flow)));
  t.notOk(flow && (await conntrack.delete(flow)), "gone already: no error");
  t.same(await conntrack.udpFlows(), []);
});
