// The rules that count packets against the real kernel: real packets are counted, the metrics show them, and
// iptables-save reads the rules as they were meant, whichever way they were written.

import { pino } from "pino";
import t from "tap";
import { canonicalRule, Iptables, parseSave } from "../../dataplane/iptables/index.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import { removeProxyRules, type ServiceProxy } from "../../dataplane/proxy/index.js";
import { PACKET_COUNTERS } from "../../dataplane/proxy/names.js";
import { ask, BRIDGE_IP, Cluster, kernelMeaning, Lab, NODE_IP, VIP, variants } from "../helpers/proxy-lab.js";
import { sample } from "../helpers/proxy-memory.js";
import { RawSocket } from "../helpers/raw-socket.js";

t.setTimeout(240_000);

const IPPROTO_TCP = 6;
const SYN_AND_FIN = 0x03;

/** [INVALID packets dropped, packets to NodePorts on loopback] as /metrics has them. */
async function counted(proxy: ServiceProxy): Promise<number[]> {
  return [
    await sample(proxy, "iptables_ct_state_invalid_dropped_packets_total"),
    await sample(proxy, "iptables_localhost_nodeports_accepted_packets_total"),
  ];
}

/** TCP that opens and ends at once: conntrack calls it INVALID. */
function sendInvalid(from: NetNs, to: string, family: 4 | 6): void {
  using socket = RawSocket.open(from, family, IPPROTO_TCP);
  const header = Buffer.alloc(20);
  header.writeUInt16BE(40_000, 0);
  header.writeUInt16BE(8080, 2);
  header.writeUInt8(5 << 4, 12);
  header.writeUInt8(SYN_AND_FIN, 13);
  socket.send(to, header);
}

const probe = await Lab.create(0);
const possible = Iptables.open(probe.host).counters.ensure(Object.values(PACKET_COUNTERS));
probe.close();

if (!possible) t.pass("this kernel has no nfacct");
else {
  for (const family of [4, 6] as const) {
    for (const variant of variants) {
      t.test(`IPv${family} ${variant}: packets are counted`, async (t) => {
        const lab = await Lab.create(2);
        t.teardown(() => lab.close());
        const { host, outside } = lab;
        const cluster = new Cluster(host, variant, {}, family);
        t.teardown(() => cluster.proxy.stop());
        await cluster.start();
        await cluster.service();
        await cluster.endpoints(lab.pod(0));
        t.same(await counted(cluster.proxy), [0, 0]);

        const answer = `pod-0 ${BRIDGE_IP[family]}`;
        t.equal(await ask(outside, NODE_IP[family], 30080), answer, "NodePort from outside");
        t.equal(await ask(host, NODE_IP[family], 30080), answer, "NodePort of the host's own address");
        t.equal(await ask(lab.pod(1).ns, VIP[family], 80), `pod-0 ${lab.pod(1).ips[family]}`, "ClusterIP");
        t.same(await counted(cluster.proxy), [0, 0], "nothing of that by way of loopback");

        if (family === 4) {
          t.equal(await ask(host, "127.0.0.1", 30080), answer);
          t.equal(await ask(host, "127.0.0.7", 30080), answer);
          t.same(await counted(cluster.proxy), [0, 2], "one packet a connection passes the nat table");
        }

        using arrival = RawSocket.open(lab.pod(0).ns, family, IPPROTO_TCP);
        sendInvalid(outside, lab.pod(0).ips[family], family);
        t.equal(await arrival.receive(200), undefined, "INVALID: dropped");
        sendInvalid(outside, lab.pod(0).ips[family], family);
        sendInvalid(outside, NODE_IP[family], family);
        t.equal((await counted(cluster.proxy))[0], 2, "those that were to be forwarded");

        const saved = parseSave(await cluster.iptables.save());
        t.same(
          kernelMeaning(await cluster.iptables.read()),
          kernelMeaning(saved),
          "read as iptables-save prints it",
        );
        const [invalid] = saved.get("filter")?.get("KUBE-FORWARD")?.rules ?? [];
        const wanted = `-m conntrack --ctstate INVALID -m nfacct --nfacct-name ${PACKET_COUNTERS.invalidDropped} -j DROP`;
        t.equal(canonicalRule(invalid ?? { args: [] }), canonicalRule({ args: wanted.split(" ") }));
        t.equal(saved.get("nat")?.get("KUBE-NODEPORTS")?.rules.length, family === 4 ? 4 : 2);

        await removeProxyRules(cluster.iptables);
        t.notMatch(await cluster.iptables.save(), /KUBE-|nfacct/);
        const again = new Cluster(host, variant, {}, family);
        t.teardown(() => again.proxy.stop());
        await again.start();
        t.equal((await counted(again.proxy))[0], 2, "the counters outlive the rules, as kube-proxy's do");
      });
    }
  }

  t.test("over netlink and by iptables-nft-restore: the same rules, and no tool for ours", async (t) => {
    if (!variants.includes("nft")) return t.pass("no iptables-nft here");
    const lab = await Lab.create(1);
    t.teardown(() => lab.close());
    const said: string[] = [];
    const write = (line: string) => said.push((JSON.parse(line) as { msg: string }).msg);
    const iptables = Iptables.open(lab.host, { variant: "nft", log: pino({ level: "debug" }, { write }) });
    if (iptables.path !== "netlink") return t.pass("an iptables that is too old");
    const cluster = new Cluster(lab.host, "nft", { iptables });
    t.teardown(() => cluster.proxy.stop());
    await cluster.start();
    await cluster.service();
    await cluster.endpoints(lab.pod(0));
    const printed = await iptables.save();
    t.match(
      printed,
      /-m tcp --dport 30080 -m nfacct --nfacct-name +localhost_nps_accepted_pkts -j KUBE-EXT-/,
    );
    t.same(said, ["iptables driver"], "the tools had not to help");
    const byTools = Iptables.open(lab.outside, { variant: "nft", path: "tools" });
    byTools.counters.ensure(Object.values(PACKET_COUNTERS));
    await byTools.restore(printed);
    const rules = (text: string) => text.replace(/^#.*\n/gm, "").replace(/\[\d+:\d+\]/g, "");
    t.equal(rules(await byTools.save()), rules(printed));
  });
}
