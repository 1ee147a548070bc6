// What is read of a host's rules for explain and rules, against iptables-save of the same kernel: the same lines and,
// parsed, the same rules; a walk that reads only the chains which it meets ends where one through all rules ends.

import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import t from "tap";
import { LazyRules } from "../../cli/explain/lazy-rules.js";
import { silentLogger } from "../../common/log.js";
import { type ChainAt, chainsOf, findTools, Iptables, parseSave } from "../../dataplane/iptables/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { ServiceProxy } from "../../dataplane/proxy/index.js";
import { type Packet, walk } from "../../dataplane/trace/index.js";
import { ANY_TABLE_RULES, COUNTERS, FILTER_RULES, NAT_RULES } from "../helpers/iptables-rules.js";
import { open, variants } from "../helpers/proxy-lab.js";
import { NODE } from "../helpers/proxy-packets.js";
import { RandomServices } from "../helpers/random-services.js";

type Family = 4 | 6;

/** iptables-save's text without its remarks about the time, and without the blank too many of libxt_nfacct. */
async function saved(iptables: Iptables): Promise<string> {
  return (await iptables.save()).replace(/^#.*\n/gm, "").replaceAll("--nfacct-name  ", "--nfacct-name ");
}

/** A driver over netlink, and why the tools had to help it. */
function openNft(ns: NetNs, family: Family): { iptables: Iptables; helped: string[] } {
  const helped: string[] = [];
  const write = (line: string) => {
    const { why, msg } = JSON.parse(line) as { why?: string; msg: string };
    if (why !== undefined) helped.push(msg);
  };
  return {
    iptables: Iptables.open(ns, { family, variant: "nft", log: pino({ level: "debug" }, { write }) }),
    helped,
  };
}

function everyForm(family: Family): string {
  const any = [...ANY_TABLE_RULES[family], "-m comment --comment default/web:http -j TO"];
  const table = (name: string, rules: readonly string[]) =>
    `*${name}\n:FORMS - [0:0]\n:TO - [0:0]\n${rules.map((rule) => `-A FORMS ${rule}`).join("\n")}\nCOMMIT\n`;
  return (
    table("nat", [...any.filter((rule) => !rule.endsWith("DROP")), ...NAT_RULES[family]]) +
    table("filter", [...any, ...FILTER_RULES[family]]) +
    table("mangle", any)
  );
}

const readable = variants.includes("nft") && findTools(4, "nft").readsNetlinkRules;

for (const family of readable ? ([4, 6] as const) : []) {
  t.test(`IPv${family}: read over netlink as iptables-save prints it`, async (t) => {
    using ns = NetNs.create("print");
    const { iptables, helped } = openNft(ns, family);
    t.equal((await iptables.print()).text, "", "nothing");
    if (!iptables.counters.ensure(COUNTERS)) t.comment("no nfacct here");
    await iptables.restore(everyForm(family));
    helped.length = 0;
    const { text, whole, version } = await iptables.print();
    const expected = await saved(iptables);
    t.equal(text, expected, "line by line");
    t.same(parseSave(text), parseSave(expected), "and parsed");
    t.ok(whole);
    t.same(helped, [], "without the tools");

    const part = await iptables.print([
      { table: "nat", chain: "TO" },
      { table: "filter", chain: "FORMS" },
      { table: "filter", chain: "NO-SUCH" },
      { table: "raw", chain: "OUTPUT" },
      { table: "mangle", chain: "INPUT" },
    ]);
    const names = chainsOf(parseSave(part.text)).map(({ table, name }) => `${table} ${name}`);
    t.same(names.sort(), ["filter FORMS", "mangle INPUT", "nat TO"], "those that there are");
    t.same(parseSave(part.text).get("filter")?.get("FORMS"), parseSave(expected).get("filter")?.get("FORMS"));
    t.notOk(part.whole);
    t.equal(part.version, version, "nothing has changed");
    await iptables.restore("*nat\n-A TO -p tcp\nCOMMIT\n");
    t.not((await iptables.print([{ table: "nat", chain: "TO" }])).version, version);
  });

  t.test(`IPv${family}: one chain of somebody else's is left to the tool`, async (t) => {
    using ns = NetNs.create("foreign");
    const { iptables, helped } = openNft(ns, family);
    await iptables.restore(everyForm(family).replaceAll(/^.*nfacct.*\n/gm, ""));
    for (const rate of ["3/min", "4/min"]) {
      await ns.exec(findTools(family, "nft").iptables, [
        ...["-A", "OUTPUT", "-m", "limit", "--limit", rate],
        ...["-m", "comment", "--comment", 'a "b" \\ c', "-j", "ACCEPT"],
      ]);
    }
    helped.length = 0;
    t.equal((await iptables.print()).text, await saved(iptables));
    t.same(await iptables.read(), parseSave(await iptables.save()));
    t.same(helped, Array(2).fill("iptables -S is called instead of netlink"));
    // What iptables will have nothing to do with: a table with a set of nft's own.
    await ns.exec("nft", [
      `add rule ${family === 4 ? "ip" : "ip6"} filter OUTPUT ct state new tcp dport { 1, 2 } accept`,
    ]);
    const printed = (await iptables.print()).text.replace(/^#.*\n/gm, "");
    t.equal(printed, await saved(iptables), "as iptables-save says it");
    t.notMatch(printed, /\*filter/);
  });
}

for (const variant of variants) {
  for (const family of [4, 6] as const) {
    t.test(
      `IPv${family} ${variant}: by the chains that a packet meets, or by all: the same ways`,
      async (t) => {
        using ns = NetNs.create("lazy");
        const iptables = open(ns, variant, family);
        const proxy = new ServiceProxy({
          ns,
          iptables,
          nodeName: "node-1",
          nodeIPs: [family === 4 ? "192.168.56.11" : "fd56::11"],
          detectLocal: { mode: "ClusterCIDR", cidrs: [family === 4 ? "10.244.0.0/16" : "fd00:244::/48"] },
          minSyncPeriodMs: 0,
          log: silentLogger,
        });
        const world = new RandomServices(family * 100 + variant.length, proxy, family);
        for (let step = 0; step < 80; step++) world.step();
        proxy.setSynced("services");
        proxy.setSynced("endpointslices");
        proxy.start();
        await proxy.flush();
        const all = await iptables.read();
        const ports = [...proxy.ports.values()];
        t.ok(ports.length > 3, `${ports.length} Service ports`);
        t.same(parseSave((await iptables.print()).text), parseSave(await iptables.save()));
        const facts = NODE[family];
        const read = new Set<string>();
        const lazy = new LazyRules((chains) => {
          for (const { table, chain } of chains) read.add(`${table} ${chain}`);
          return iptables.print(chains);
        });
        for (const { port } of ports) {
          for (const dst of [port.clusterIP, ...port.externalIPs, ...port.loadBalancerIPs]) {
            for (const input of [undefined, "eth0", "cni0"]) {
              const src =
                input === "eth0" ? (family === 4 ? "192.168.56.1" : "fd56::1") : facts.addresses[1]?.ip;
              const packet: Packet = {
                protocol: port.protocol,
                src: src ?? "",
                dst,
                dport: port.port,
                ...(input && { input }),
              };
              t.same(await lazy.walk(facts, packet), walk(all, facts, packet), `${dst} by ${input}`);
            }
          }
        }
        if (variant === "nft") t.ok(read.size > 10, `${read.size} of ${chainsOf(all).length} chains`);
        await proxy.stop();
      },
    );
  }
}

t.test("rules that change while a walk reads them: it begins again", async (t) => {
  const answers = new Map<string, string>();
  let version = 1;
  const put = (chain: string, rule: string) => answers.set(chain, `-A ${chain} ${rule}\n`);
  put("OUTPUT", "-j A");
  put("A", "-j OLD");
  put("OLD", "-j DNAT --to-destination 10.244.1.2:80");
  const read = async (chains: readonly ChainAt[]) => {
    await sleep(1);
    const wanted = chains.filter(({ table, chain }) => table === "nat" && answers.has(chain));
    const lines = [
      ...wanted.map(({ chain }) => `:${chain} ${chain === "OUTPUT" ? "ACCEPT" : "-"} [0:0]\n`),
      ...wanted.map(({ chain }) => answers.get(chain) ?? ""),
    ];
    if (wanted.some(({ chain }) => chain === "A") && version === 1) {
      answers.delete("OLD");
      put("A", "-j NEW");
      put("NEW", "-j DNAT --to-destination 10.244.1.3:80");
      version = 2;
      return { text: `*nat\n${lines.join("")}COMMIT\n`, whole: false, version: 1 };
    }
    return { text: `*nat\n${lines.join("")}COMMIT\n`, whole: false, version };
  };
  const packet = { protocol: "tcp", src: "192.168.56.11", dst: "10.96.0.10", dport: 80 } as const;
  const { end } = await new LazyRules(read).walk(NODE[4], packet);
  t.match(end, { fate: "leaves", packet: { dst: "10.244.1.3" } });
});
