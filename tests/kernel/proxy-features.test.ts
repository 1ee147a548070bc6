// The service proxy's features against the real kernel, in both families and with both variants of iptables: real
// connections where the rules alone would not prove much, and what happens under a storm of changes.

import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import type { EndpointSlice, Stored } from "../../common/k8s.js";
import { parseSave, type TableName, type Variant } from "../../dataplane/iptables/index.js";
import { Conntrack } from "../../dataplane/kernel/conntrack.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { addressKey } from "../../dataplane/proxy/addresses.js";
import {
  endpointChain,
  removeProxyRules,
  renderAll,
  type ServiceProxy,
} from "../../dataplane/proxy/index.js";
import { SYNC_BURST } from "../../dataplane/proxy/proxy.js";
import {
  ask,
  askUdp,
  BRIDGE_IP,
  CLIENT_IP,
  Cluster,
  kernelMeaning,
  Lab,
  NODE_IP,
  open,
  run,
  SILENT,
  tally,
  VIP,
  variants,
} from "../helpers/proxy-lab.js";
import { CONTEXT, CONTEXT6, sample } from "../helpers/proxy-memory.js";
import { random } from "../helpers/random.js";
import { RandomServices } from "../helpers/random-services.js";
import { node, type ServiceOptions, service, slice } from "../helpers/service-objects.js";

t.setTimeout(240_000);

const LB = { 4: "5.6.7.8", 6: "2001:db8:5::8" } as const;
const STRANGER = { 4: "203.0.113.9", 6: "2001:db8:9::9" } as const;
const ours = (_table: TableName, name: string) => name.startsWith("KUBE-");

for (const family of [4, 6] as const) {
  for (const variant of variants) {
    t.test(`IPv${family} ${variant}: traffic`, async (t) => {
      const lab = await Lab.create(3);
      t.teardown(() => lab.close());
      const { host, outside } = lab;
      const [pod, first, second] = [lab.pod(0), lab.pod(1), lab.pod(2)];
      const cluster = new Cluster(host, variant, {}, family);
      t.teardown(() => cluster.proxy.stop());
      await run(outside, `-${family} addr add ${STRANGER[family]}/${family === 4 ? 32 : 128} dev lo`);
      await cluster.start();
      await cluster.service();
      await cluster.endpoints(first);
      const own = `pod-1 ${pod.ips[family]}`;
      const masqueraded = `pod-1 ${BRIDGE_IP[family]}`;
      t.equal(await ask(pod.ns, VIP[family], 80), own, "pod to ClusterIP: own address");
      t.equal(await ask(first.ns, VIP[family], 80), masqueraded, "hairpin");
      t.equal(await ask(outside, VIP[family], 80), masqueraded, "outside to ClusterIP");
      t.equal(await ask(outside, NODE_IP[family], 30080), masqueraded, "NodePort");

      const balanced: ServiceOptions = { type: "LoadBalancer", ingress: [{ ip: LB[family] }] };
      await cluster.service({
        ...balanced,
        loadBalancerSourceRanges: [`${CLIENT_IP[family]}/${family === 4 ? 32 : 128}`],
      });
      t.equal(await ask(outside, LB[family], 80), masqueraded, "within the source ranges");
      const stranger = (ip: string, port: number, options: { timeout?: number } = {}) =>
        ask(outside, ip, port, { localAddress: STRANGER[family], ...options });
      t.equal(await stranger(LB[family], 80, SILENT), "ETIMEDOUT", "outside of them");
      t.equal(await stranger(NODE_IP[family], 30080), masqueraded, "node ports are not asked");
      await cluster.service({ ...balanced, loadBalancerSourceRanges: ["203.0.113.0/24", "2001:db8:9::/48"] });
      t.equal(await stranger(LB[family], 80), masqueraded);
      t.equal(await ask(outside, LB[family], 80, SILENT), "ETIMEDOUT");

      await cluster.service({ ...balanced, externalTrafficPolicy: "Local" });
      t.equal(
        await stranger(LB[family], 80),
        `pod-1 ${STRANGER[family]}`,
        "policy Local keeps the client's address",
      );
      await cluster.endpoints({ ip: second.ips[family], node: "node-2" });
      t.equal(
        await stranger(LB[family], 80, SILENT),
        "ETIMEDOUT",
        "no endpoint here: another node may have one",
      );
      t.equal(
        await ask(pod.ns, LB[family], 80),
        `pod-2 ${pod.ips[family]}`,
        "a pod is let through, as itself",
      );

      await cluster.service();
      await cluster.endpoints(
        { ip: first.ips[family], zones: ["a"] },
        { ip: second.ips[family], zones: ["b"] },
      );
      t.equal((await tally(pod.ns, VIP[family], 80, 60)).size, 2);
      for (const [zone, name] of [
        ["a", "pod-1"],
        ["b", "pod-2"],
      ] as const) {
        cluster.proxy.nodeChanged(node("node-1", { labels: { "topology.kubernetes.io/zone": zone } }));
        await cluster.proxy.flush();
        t.same([...(await tally(pod.ns, VIP[family], 80, 30)).keys()], [name], `zone ${zone}`);
      }
      await cluster.endpoints(
        { ip: first.ips[family], conditions: { ready: false, serving: true, terminating: true } },
        { ip: second.ips[family], conditions: { ready: false } },
      );
      t.same(
        [...(await tally(pod.ns, VIP[family], 80, 20)).keys()],
        ["pod-1"],
        "terminating is better than nobody",
      );
    });

    t.test(`IPv${family} ${variant}: UDP flows of a Service that is emptied, gone, and back`, async (t) => {
      const lab = await Lab.create(3);
      t.teardown(() => lab.close());
      const cluster = new Cluster(lab.host, variant, {}, family);
      t.teardown(() => cluster.proxy.stop());
      await cluster.start();
      await cluster.service();
      await cluster.endpoints(lab.pod(1));
      const any = family === 4 ? "0.0.0.0" : "::";
      const inside = await lab.pod(0).ns.udp({ host: any });
      const remote = await lab.outside.udp({ host: any });
      using conntrack = Conntrack.open(lab.host, family);
      t.teardown(() => [inside, remote].map((socket) => socket.close()));
      const answers = async (attempts?: number) => [
        (await askUdp(inside, VIP[family], 53, attempts)).split(" ")[0],
        (await askUdp(remote, NODE_IP[family], 30053, attempts)).split(" ")[0],
      ];
      const translated = () =>
        conntrack.udpFlows().filter(({ original, reply }) => original.dst !== reply.src);
      t.same(await answers(), ["pod-1", "pod-1"]);
      t.equal(translated().length, 2);
      await cluster.endpoints();
      t.equal(translated().length, 0, "emptied: forgotten");
      t.same(await answers(2), ["nothing", "nothing"]);
      await cluster.endpoints(lab.pod(2));
      t.same(await answers(), ["pod-2", "pod-2"], "the same sockets reach the new one");
      await cluster.removeService();
      t.equal(translated().length, 0, "gone: forgotten");
      t.same(await answers(2), ["nothing", "nothing"], "which tracks flows to the bare addresses");
      const bare = conntrack.udpFlows().filter(({ original }) => original.dst === addressKey(VIP[family]));
      t.ok(bare.length > 0);
      await cluster.service();
      t.same(await answers(), ["pod-2", "pod-2"], "back: not held up by those");
    });

    t.test(
      `IPv${family} ${variant}: any series of changes leaves in the kernel what one full sync would`,
      async (t) => {
        using ns = NetNs.create("series");
        const { proxy, iptables } = new Cluster(ns, variant, {}, family);
        const world = new RandomServices(family * 10 + variant.length, proxy, family);
        proxy.setSynced("services");
        proxy.setSynced("endpointslices");
        proxy.start();
        const wanted = (ports: ServiceProxy["ports"]) => {
          const { randomFully } = iptables;
          const context = { ...(family === 4 ? CONTEXT : CONTEXT6), place: world.place, randomFully };
          return kernelMeaning(parseSave(renderAll(ports.values(), context)));
        };
        for (let round = 0; round < 12; round++) {
          for (let n = 0; n < 6; n++) world.step();
          await proxy.flush();
          t.same(kernelMeaning(await iptables.read(), ours), wanted(proxy.ports), `round ${round}`);
        }
        t.equal(await sample(proxy, "sync_proxy_rules_iptables_restore_failures_total"), 0);
        t.equal(await sample(proxy, "sync_full_proxy_rules_duration_seconds_count"), 1);

        // Somebody deletes one chain, with the rules that lead to it.
        await iptables.restore("*nat\n-F KUBE-SERVICES\n-F KUBE-NODEPORTS\n-X KUBE-NODEPORTS\nCOMMIT\n");
        world.step();
        await proxy.stop();
        const restarted = async () => {
          const fresh = new Cluster(ns, variant, {}, family);
          world.tellAll(fresh.proxy);
          await fresh.start();
          return fresh.proxy;
        };
        const second = await restarted();
        t.same(kernelMeaning(await iptables.read(), ours), wanted(second.ports), "healed by a restart");
        await second.stop();
        const third = await restarted();
        t.equal(
          await sample(third, "sync_proxy_rules_iptables_last"),
          0,
          "a restart finds every rule, however the kernel prints it",
        );
        await third.stop({ cleanup: true });
        t.notMatch(await iptables.save(), /KUBE-/);
      },
    );
  }
}

for (const variant of variants) {
  t.test(`${variant}: a restore that fails in its second table`, async (t) => {
    using ns = NetNs.create("midway");
    const { proxy, iptables, ...cluster } = withService(ns, variant);
    t.teardown(() => proxy.stop());
    await cluster.endpoints("10.244.1.2");
    const sep = endpointChain({ id: "default/web", protocol: "tcp" }, { text: "10.244.1.2:8080" });
    await iptables.restore(`*nat\n:HOLD - [0:0]\n-A HOLD -j ${sep}\nCOMMIT\n`);
    // No endpoint: filter gets a REJECT rule, nat shall lose a chain that somebody holds.
    await cluster.endpoints();
    t.equal(await sample(proxy, "sync_proxy_rules_iptables_partial_restore_failures_total"), 1);
    t.equal(await sample(proxy, "sync_full_proxy_rules_duration_seconds_count"), 2);
    const left = kernelMeaning(await iptables.read(), ours);
    t.same(left[`nat ${sep} -`], [], "held, so empty");
    delete left[`nat ${sep} -`];
    const wanted = renderAll(proxy.ports.values(), { ...CONTEXT, randomFully: iptables.randomFully });
    t.same(left, kernelMeaning(parseSave(wanted)));
    await cluster.endpoints("10.244.1.2");
    t.match(await iptables.save("nat"), `-A ${sep} -p tcp`, "and filled again");
  });
}

/** A proxy with default/web, TCP 80. */
function withService(ns: NetNs, variant: Variant) {
  const { proxy, iptables } = new Cluster(ns, variant);
  let old: Stored<EndpointSlice> | undefined;
  proxy.serviceChanged(undefined, service("default/web", VIP[4], [{ port: 80 }]));
  proxy.setSynced("services");
  proxy.setSynced("endpointslices");
  proxy.start();
  const endpoints = (...ips: string[]) => {
    const now = slice("default/web", [{ port: 8080 }], ips);
    proxy.endpointSliceChanged(old, now);
    old = now;
    return proxy.flush();
  };
  return { proxy, iptables, endpoints };
}

const [variant = "nft"] = variants;

t.test("node port addresses, detect-local by bridge, a mark of its own", async (t) => {
  const lab = await Lab.create(2);
  t.teardown(() => lab.close());
  const { host, outside } = lab;
  const options = {
    nodePortAddresses: ["192.168.56.0/24"],
    detectLocal: { mode: "BridgeInterface", interface: "cni0" },
    masqueradeBit: 31,
  } as const;
  const before = host.sysctl("net/ipv4/conf/all/route_localnet");
  const cluster = new Cluster(host, variant, options);
  t.teardown(() => cluster.proxy.stop());
  await cluster.start();
  await cluster.service();
  await cluster.endpoints(lab.pod(1));
  t.equal(
    host.sysctl("net/ipv4/conf/all/route_localnet"),
    before,
    "loopback is not asked for, so not opened",
  );
  t.equal(await ask(outside, NODE_IP[4], 30080), "pod-1 10.244.1.1");
  t.equal(await ask(outside, "10.244.1.1", 30080), "ECONNREFUSED", "another address of the host");
  t.equal(await ask(host, "127.0.0.1", 30080), "ECONNREFUSED");
  t.equal(await ask(lab.pod(0).ns, VIP[4], 80), `pod-1 ${lab.pod(0).ip}`, "by the bridge: a pod");
  t.equal(await ask(outside, VIP[4], 80), "pod-1 10.244.1.1", "by the uplink: none");
});

t.test("health check node port: open past an INPUT policy of DROP, also without endpoints", async (t) => {
  const lab = await Lab.create(1);
  t.teardown(() => lab.close());
  const server = createServer((socket) => socket.end("healthy").on("error", () => socket.destroy()));
  await lab.host.listen(server, { port: 32_000 });
  t.teardown(() => server.close());
  const cluster = new Cluster(lab.host, variant);
  t.teardown(() => cluster.proxy.stop());
  await cluster.iptables.restore("*filter\n:INPUT DROP [0:0]\nCOMMIT\n");
  await cluster.start();
  t.equal(await ask(lab.outside, NODE_IP[4], 32_000, SILENT), "ETIMEDOUT");
  await cluster.service({
    type: "LoadBalancer",
    externalTrafficPolicy: "Local",
    healthCheckNodePort: 32_000,
  });
  t.equal(await ask(lab.outside, NODE_IP[4], 32_000), "healthy");
});

t.test("both families of a node: neither touches the other's rules", async (t) => {
  using ns = NetNs.create("dual");
  const [four, six] = [new Cluster(ns, variant, {}, 4), new Cluster(ns, variant, {}, 6)];
  await Promise.all([four.start(), six.start()]);
  await Promise.all([four.service(), six.service()]);
  await removeProxyRules(open(ns, variant, 4));
  t.notMatch(await four.iptables.save(), /KUBE-/);
  t.match(await six.iptables.save(), /-A KUBE-SERVICES -d fd00:96::10/);
  await Promise.all([four.proxy.stop(), six.proxy.stop({ cleanup: true })]);
  t.notMatch(await six.iptables.save(), /KUBE-/);
});

t.test("conntrack sysctls of the namespace are kube-proxy's", async (t) => {
  using ns = NetNs.create("sysctls");
  const timeout = (name: string) => ns.sysctl(`net/netfilter/nf_conntrack_${name}`);
  const cluster = new Cluster(ns, variant, { conntrack: { tcpBeLiberal: true, udpTimeout: 17 } });
  await cluster.start();
  t.equal(timeout("tcp_timeout_established"), "86400");
  t.equal(timeout("tcp_timeout_close_wait"), "3600");
  t.equal(timeout("udp_timeout"), "17");
  t.equal(timeout("tcp_be_liberal"), "1");
  t.notMatch(await cluster.iptables.save(), /--ctstate INVALID/, "liberal: nothing is INVALID that matters");
  await cluster.proxy.stop();
});

const SECONDS = process.env.KUBEPLUMB_LONG_TESTS ? 10 : 3;
const FLAPS = SECONDS * 1000;
const SYNC_MS = 200;

t.test(`1,000 endpoint flaps a second for ${SECONDS} s`, async (t) => {
  const lab = await Lab.create(2);
  t.teardown(() => lab.close());
  const { proxy, iptables } = new Cluster(lab.host, variant, { minSyncPeriodMs: SYNC_MS });
  t.teardown(() => proxy.stop());
  const pick = random(5);
  const names = Array.from({ length: 20 }, (_, i) => `default/s${i}`);
  const slices = names.map((name) => slice(name, [{ port: 8080 }], [], { name }));
  for (const [i, name] of names.entries()) {
    proxy.serviceChanged(undefined, service(name, `10.96.0.${i + 1}`, [{ port: 80 }]));
    proxy.endpointSliceChanged(undefined, slices[i]);
  }
  proxy.setSynced("services");
  proxy.setSynced("endpointslices");
  const started = performance.now();
  proxy.start();
  await proxy.flush();
  const ips = ["10.244.1.2", "10.244.1.3", "10.244.2.2", "10.244.2.3"];
  const flap = (i: number, ips: string[]) => {
    const name = names[i] as string;
    const now = slice(name, [{ port: 8080 }], ips, { name });
    proxy.endpointSliceChanged(slices[i], now);
    slices[i] = now;
  };
  for (let flaps = 0; flaps < FLAPS; await sleep(5)) {
    for (; flaps < Math.min(FLAPS, performance.now() - started); flaps++) {
      flap(pick(names.length), ips.slice(pick(4)).slice(0, pick(4)));
    }
  }
  flap(0, ["10.244.1.3"]);
  await proxy.flush();
  const intervals = Math.ceil((performance.now() - started) / SYNC_MS);
  const wanted = renderAll(proxy.ports.values(), { ...CONTEXT, randomFully: iptables.randomFully });
  t.same(kernelMeaning(await iptables.read(), ours), kernelMeaning(parseSave(wanted)));
  const syncs = await sample(proxy, "sync_proxy_rules_duration_seconds_count");
  // One an interval, the free ones, and the one that the flush asks for.
  t.ok(syncs <= intervals + SYNC_BURST + 1, `${syncs} syncs in ${intervals} intervals, not one a flap`);
  t.equal(await sample(proxy, "sync_proxy_rules_iptables_restore_failures_total"), 0);
  t.equal(await ask(lab.pod(0).ns, "10.96.0.1", 80), `pod-1 ${lab.pod(0).ip}`);
  t.equal(proxy.health().healthy, true);
});
