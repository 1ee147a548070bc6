// iptables over netlink against the real kernel: what it leaves must be, to iptables-save and byte for byte, what
// iptables-nft-restore leaves; refused inputs leave nothing; others may change the same rules at any time.

import { spawnSync } from "node:child_process";
import t from "tap";
import { Cidr } from "../../common/ip.js";
import {
  findTools,
  Iptables,
  parseSave,
  RestoreError,
  renderRestore,
} from "../../dataplane/iptables/index.js";
import { askNft, NftKernel } from "../../dataplane/iptables/nft-kernel.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { chains as overlayChains } from "../../dataplane/overlay/rules.js";
import { hasNft, logTo, Pair, tableOf } from "../helpers/iptables-pair.js";
import { ANY_TABLE_RULES, FILTER_RULES, LOOSE_RULES, NAT_RULES } from "../helpers/iptables-rules.js";

if (!hasNft()) t.pass("no iptables-nft here, or one that is too old");
else {
  for (const family of [4, 6] as const) {
    t.test(`IPv${family}: every form of rule`, async (t) => {
      using pair = new Pair(family);
      t.equal(pair.netlink.path, "netlink");
      t.equal(pair.tools.path, "tools");
      const any = ANY_TABLE_RULES[family];
      await pair.restore(
        tableOf("nat", [...any.filter((rule) => !rule.endsWith("DROP")), ...NAT_RULES[family]], family) +
          tableOf("filter", [...any, ...FILTER_RULES[family]], family) +
          tableOf("mangle", any, family) +
          tableOf(
            "raw",
            any.filter((rule) => !rule.includes("--ctstate")),
            family,
          ),
      );
      await pair.same(t, "all forms in all tables");
      const printed = parseSave(await pair.netlink.save());
      t.same(await pair.netlink.read(), printed, "read over netlink and from iptables-save");
      t.same(await pair.netlink.read("nat"), new Map([["nat", printed.get("nat")]]), "one table");
      t.same(pair.helped, []);
      for (const rule of any) {
        const words = printed.get("mangle")?.get("FORMS")?.rules[any.indexOf(rule)];
        const full = [
          ...(words?.comment ? ["-m", "comment", "--comment", words.comment] : []),
          ...(words?.args ?? []),
        ];
        if (!(await pair.netlink.hasRules([{ table: "mangle", chain: "FORMS", rule: full }]))) t.fail(rule);
      }
      t.notOk(await pair.netlink.hasRules([{ table: "mangle", chain: "FORMS", rule: ["-j", "FORMS"] }]));
      t.same(pair.helped, []);
      await pair.restore(tableOf("filter", LOOSE_RULES[family], family));
      await pair.same(t, "forms that come back in other words");
    });
  }

  t.test("built-in chains are made as iptables makes them", async (t) => {
    for (const family of [4, 6] as const) {
      for (const [table, names] of [
        ["raw", ["PREROUTING", "OUTPUT"]],
        ["mangle", ["OUTPUT", "INPUT", "FORWARD", "PREROUTING", "POSTROUTING"]],
        ["nat", ["POSTROUTING", "PREROUTING", "INPUT", "OUTPUT"]],
        ["filter", ["FORWARD", "INPUT", "OUTPUT"]],
        ["security", ["INPUT", "FORWARD", "OUTPUT"]],
      ] as const) {
        using pair = new Pair(family);
        await pair.restore(`*${table}\n${names.map((name) => `-I ${name} -j ACCEPT`).join("\n")}\nCOMMIT\n`);
        await pair.same(t, `${table}, IPv${family}`);
      }
    }
    using pair = new Pair();
    await Promise.all(
      [pair.byTools, pair.byNetlink].map((ns) =>
        ns.exec(findTools(4, "nft").iptables, ["-P", "FORWARD", "DROP"]),
      ),
    );
    await pair.restore("*filter\n-A FORWARD -j ACCEPT\nCOMMIT\n");
    await pair.same(t, "a policy stays");
    t.equal((await pair.netlink.read()).get("filter")?.get("FORWARD")?.policy, "DROP");
  });

  t.test("the overlay's rules", async (t) => {
    using pair = new Pair();
    const facts = {
      network: Cidr.parse("10.244.0.0/16"),
      podCIDR: Cidr.parse("10.244.1.0/24"),
      randomFully: true,
    };
    await pair.restore(renderRestore(overlayChains(facts)));
    await pair.same(t, "flannel's chains");
  });

  t.test("one input after the other", async (t) => {
    using pair = new Pair();
    const inputs = [
      "*nat\n:A - [0:0]\n:B - [0:0]\n-A A -j B\n-A A -s 10.0.0.1 -j RETURN\n-I PREROUTING -j A\n-I PREROUTING -j B\nCOMMIT\n",
      "*nat\n-A A -j ACCEPT\n-I A -p tcp --dport 80 -j B\nCOMMIT\n",
      "*filter\n-N NEW\n-A NEW -j DROP\n-A INPUT -j NEW\nCOMMIT\n*nat\n-D A -j ACCEPT\n-D PREROUTING -j B\nCOMMIT\n",
      "*nat\n-A A -j B\n-A A -j B\n-I A 1 -j B\nCOMMIT\n",
      "*nat\n-D A -j B\n-D A -j B\nCOMMIT\n",
      "*nat\n:A - [0:0]\n[5:6] -A A -m mark --mark 1 -j B\nCOMMIT\n*filter\n-F NEW\nCOMMIT\n",
      "*nat\n:A - [0:0]\n-D PREROUTING -j A\n-X A\n:C - [0:0]\n-X C\nCOMMIT\n*filter\n-D INPUT -j NEW\n-X NEW\nCOMMIT\n",
    ];
    for (const [i, input] of inputs.entries()) {
      await pair.restore(input);
      // A rule number is for the tool.
      if (input.includes("-I A 1")) pair.helped.length = 0;
      await pair.same(t, `input ${i + 1}`);
    }
    await pair.netlink.ensureRule("filter", "INPUT", ["-s", "10.1.1.1", "-j", "DROP"], "append");
    t.ok(await pair.netlink.deleteRule("filter", "INPUT", ["-s", "10.1.1.1", "-j", "DROP"]));
    t.notOk(await pair.netlink.deleteRule("filter", "INPUT", ["-s", "10.1.1.1", "-j", "DROP"]));
    t.same(pair.helped, []);
  });

  t.test("a long chain: only what differs is sent", async (t) => {
    using pair = new Pair();
    const { byNetlink, netlink } = pair;
    const handles = () =>
      askNft(byNetlink, 4, (kernel) => kernel.rules("nat", "LONG"))?.map(({ handle }) => handle) ?? [];
    const line = (i: number) => `-A LONG -d 10.96.${i >> 8}.${i & 255} -j TO`;
    const input = (lines: readonly string[]) =>
      `*nat\n:LONG - [0:0]\n:TO - [0:0]\n${lines.join("\n")}\nCOMMIT\n`;
    let lines = Array.from({ length: 400 }, (_, i) => line(i));
    await pair.restore(`${input(lines)}`);
    await pair.restore("*nat\n-I PREROUTING -j LONG\nCOMMIT\n");
    const change = async (what: string, next: string[], sent: number): Promise<void> => {
      const before = new Set(handles());
      lines = next;
      await pair.restore(input(lines));
      await pair.same(t, what);
      t.equal(handles().filter((handle) => !before.has(handle)).length, sent, `${what}: rules sent`);
    };
    await change("nothing changed", lines, 0);
    await change("one more at the end", [...lines, line(1000)], 1);
    await change("one more in the middle", lines.toSpliced(200, 0, line(1001)), 1);
    await change("one more at the head", [line(1002), ...lines], 1);
    await change("the first, one in the middle, the last go", lines.slice(1, -1).toSpliced(77, 1), 0);
    await change("two swapped", lines.toSpliced(10, 2, lines[11] as string, lines[10] as string), 1);
    await change("equal lines", [...lines, line(5), line(5)], 2);
    await change("and less of them", lines.slice(0, -1), 0);
    const many = Array.from({ length: 150 }, (_, i) => line(2000 + i));
    await change("more than the kernel tells handles of", lines.toSpliced(100, 0, ...many), 150);
    await change("one after that", lines.toSpliced(120, 1, line(3000)), 1);

    const both = async (...args: string[]) => {
      for (const ns of [byNetlink, pair.byTools])
        await ns.exec(findTools(4, "nft").iptables, ["-t", "nat", ...args]);
    };
    await both("-A", "OUTPUT", "-j", "LONG");
    await change("somebody changed another chain", lines.toSpliced(3, 1), 0);
    await both("-I", "LONG", "5", "-j", "TO");
    await both("-D", "LONG", "20");
    await change("somebody put a rule in and took one out", [...lines, line(1003)], 2);
    const last = ["-d", "10.96.3.235", "-j", "TO"];
    const stands = () => netlink.hasRules([{ table: "nat", chain: "LONG", rule: last }]);
    t.ok(await stands(), "the last line of the long chain");
    await both("-D", "LONG", ...last);
    t.notOk(await stands(), "gone");
    await both("-A", "LONG", ...last);
    t.ok(await stands(), "as somebody else wrote it");
    await both("-F", "LONG");
    t.notOk(await stands());
    await change("somebody emptied it", lines, lines.length);
    await change("one after that", lines.toSpliced(50, 1), 0);
    await both("-F");
    await both("-X");
    await change("somebody removed all chains", lines, lines.length);
    for (const ns of [byNetlink, pair.byTools])
      await ns.exec("nft", ["delete", "table", "ip", "nat"]).catch(() => {});
    await pair.restore("*nat\n:TO - [0:0]\nCOMMIT\n");
    await change("the table was removed", lines, lines.length);

    // Another process of ours, as after a restart: it knows nothing yet.
    const other = Iptables.open(byNetlink, { variant: "nft" });
    const before = new Set(handles());
    lines = lines.toSpliced(9, 1, line(4000));
    await Promise.all([other.restore(input(lines)), pair.tools.restore(input(lines))]);
    await pair.same(t, "a driver that begins with a full kernel");
    t.equal(handles().filter((handle) => !before.has(handle)).length, 1, "it sends one rule");
    await change(
      "the first driver notices; it puts its own in the other's place",
      lines.toSpliced(7, 1, line(4001)),
      2,
    );
  });

  t.test("a change between looking and sending is noticed", async (t) => {
    using ns = NetNs.create("race");
    const iptables = Iptables.open(ns, { variant: "nft" });
    const line = (i: number) => `-A LONG -s 10.0.${i >> 8}.${i & 255} -j RETURN`;
    const input = (lines: readonly string[]) => `*nat\n:LONG - [0:0]\n${lines.join("\n")}\nCOMMIT\n`;
    const lines = Array.from({ length: 100 }, (_, i) => line(i));
    await iptables.restore(input(lines));
    // The second question is asked right before the rules are put together.
    let questions = 0;
    const { generation } = NftKernel.prototype;
    NftKernel.prototype.generation = function () {
      const answer = generation.call(this);
      if (++questions === 2) {
        const args = ["-t", "nat", "-D", "LONG", "50"];
        t.equal(ns.run(() => spawnSync(findTools(4, "nft").iptables, args)).status, 0);
      }
      return answer;
    };
    t.teardown(() => {
      NftKernel.prototype.generation = generation;
    });
    await iptables.restore(input([...lines, line(100)]));
    t.ok(questions > 2, "looked again");
    const found = (await iptables.read("nat"))
      .get("nat")
      ?.get("LONG")
      ?.rules.map(({ args }) => args[1]);
    t.same(
      found,
      Array.from({ length: 101 }, (_, i) => `10.0.0.${i}/32`),
    );
  });

  t.test("random changes", async (t) => {
    using pair = new Pair();
    let seed = 42;
    const random = (n: number) => {
      seed = (seed * 1103515245 + 12345) % 2147483648;
      return Math.floor((seed / 2147483648) * n);
    };
    const names = ["LONG", "OTHER"];
    for (let round = 0; round < 25; round++) {
      const parts = names.map((name) => {
        const count = 40 + random(60);
        const lines = Array.from({ length: count }, () => `-A ${name} -s 10.0.0.${random(90)} -j RETURN`);
        return { name, lines };
      });
      const extra = round % 4 === 1 ? ["-I LONG -j OTHER"] : round % 4 === 2 ? ["-A OTHER -j RETURN"] : [];
      const declared = parts.map(({ name }) => `:${name} - [0:0]`);
      const body = [...declared, ...parts.flatMap(({ lines }) => lines), ...extra];
      await pair.restore(`*filter\n${body.join("\n")}\nCOMMIT\n`);
    }
    await pair.same(t, "after 25 inputs");
  });

  t.test("a refused input leaves nothing", async (t) => {
    using pair = new Pair();
    const { netlink, byNetlink } = pair;
    await netlink.restore("*nat\n:LIVE - [0:0]\n-A LIVE -j RETURN\n-A OUTPUT -j LIVE\nCOMMIT\n");
    const before = await pair.saved(byNetlink);
    const small =
      "*mangle\n:M - [0:0]\nCOMMIT\n*nat\n:LIVE - [0:0]\n-A LIVE -j ACCEPT\n:X - [0:0]\n-A X -j NOWHERE\nCOMMIT\n";
    const refused = await netlink.restore(small).then(
      () => undefined,
      (error: unknown) => error,
    );
    t.ok(refused instanceof RestoreError);
    t.match(refused, { line: 8, lineText: "-A X -j NOWHERE" });
    const withoutEmpty = (text: string) =>
      text.replace(/\*mangle\n(:[A-Z]+ ACCEPT \[0:0\]\n)+COMMIT\n/, "").trim();
    t.equal(withoutEmpty(await pair.saved(byNetlink)), withoutEmpty(before));

    // Large: new chains have gone into the kernel already when the rest is refused.
    pair.helped.length = 0;
    const many = Array.from({ length: 4000 }, (_, i) => i);
    const large = (last: string) =>
      `*nat\n:LIVE - [0:0]\n${many.map((i) => `:N${i} - [0:0]`).join("\n")}\n` +
      `${many.map((i) => `-A N${i} -s 10.0.0.1 -j RETURN`).join("\n")}\n` +
      // What is live goes at once, and a user without rights may not send much at once.
      `${many
        .slice(0, 300)
        .map((i) => `-A LIVE -d 10.1.${i >> 8}.${i & 255} -j N${i}`)
        .join("\n")}\n` +
      `${last}\nCOMMIT\n`;
    const bad = large("-A OUTPUT -p tcp -j NO-WHERE");
    const error = await netlink.restore(bad).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    t.ok(error instanceof RestoreError, String(error));
    t.match(error, { lineText: "-A OUTPUT -p tcp -j NO-WHERE", message: /'NO-WHERE' does not exist/ });
    t.equal(withoutEmpty(await pair.saved(byNetlink)), withoutEmpty(before));
    t.same(pair.helped, [], "the tool was not asked");

    await netlink.restore(large("-A OUTPUT -p tcp -j LIVE"));
    const rules = (await netlink.read("nat")).get("nat");
    t.equal(rules?.size, 4000 + 1 + 4);
    t.equal(rules?.get("LIVE")?.rules.length, 300);
    t.same(rules?.get("N3999")?.rules, [{ args: ["-s", "10.0.0.1/32", "-j", "RETURN"] }]);
    t.same(pair.helped, []);
  });

  t.test("what it does not know goes through the tool, the whole input", async (t) => {
    using pair = new Pair();
    const input =
      "*nat\n:A - [0:0]\n-A A -m limit --limit 3/min -j RETURN\nCOMMIT\n*filter\n:F - [0:0]\n-A F -j LOG --log-prefix x\n:INPUT DROP [0:0]\nCOMMIT\n";
    await pair.restore(input);
    t.equal(pair.helped.length, 1);
    t.equal(await pair.saved(pair.byNetlink), await pair.saved(pair.byTools));
    pair.helped.length = 0;
    t.same(await pair.netlink.read(), parseSave(await pair.netlink.save()));
    t.match(pair.helped, [/LOG/, /limit/], "and reads those two chains");
    // The kernel would take these.
    for (const [rule, message] of [
      ["-A A -j DROP", /not intended for filtering/],
      ["-A OUTPUT -i eth0 -j A", /Can't use -i with OUTPUT/],
      ["-A A -j DNAT --to-destination 10.0.0.1:80", /port specification/],
      ["-A A -s 10.0.0.1 -s 10.0.0.2 -j RETURN", /multiple -s/],
      ["-A A -p tcp --dport 80 -p tcp -j RETURN", /multiple -p|not allowed/],
    ] as const) {
      await t.rejects(pair.netlink.restore(`*nat\n${rule}\nCOMMIT\n`), { message });
    }
    for (const input of ["*nat\n:B - [0:0]\n", "*bogus\nCOMMIT\n", "*nat\nCOMMIT\n-A A -j B\n"]) {
      await t.rejects(pair.netlink.restore(input), RestoreError, JSON.stringify(input));
    }
    const rule = ["-m", "limit", "--limit", "3/min", "-j", "RETURN"];
    t.ok(await pair.netlink.hasRules([{ table: "nat", chain: "A", rule }]));
    t.ok(await pair.netlink.deleteRule("nat", "A", rule));
    t.same((await pair.netlink.read("nat")).get("nat")?.get("A")?.rules, []);
  });

  t.test("large loads of both families at once, and somebody else", async (t) => {
    using ns = NetNs.create("both");
    const helped: string[] = [];
    const families = [4, 6] as const;
    const drivers = families.map((family) =>
      Iptables.open(ns, { family, variant: "nft", log: logTo(helped) }),
    );
    const many = Array.from({ length: 3000 }, (_, i) => i);
    const input =
      `*nat\n${many.map((i) => `:N${i} - [0:0]`).join("\n")}\n:ALL - [0:0]\n` +
      `${many.map((i) => `-A N${i} -p tcp --dport ${i} -m comment --comment "port ${i}" -j RETURN`).join("\n")}\n` +
      `${many
        .slice(0, 200)
        .map((i) => `-A ALL -j N${i}`)
        .join("\n")}\n-A OUTPUT -j ALL\nCOMMIT\n`;
    let loaded = false;
    const others = async () => {
      const { iptables } = findTools(4, "nft");
      while (!loaded) await ns.exec(iptables, ["-A", "INPUT", "-s", "10.0.0.1"]);
    };
    const busy = others();
    await Promise.all(drivers.map((driver) => driver.restore(input)));
    loaded = true;
    await busy;
    for (const driver of drivers) {
      const nat = (await driver.read("nat")).get("nat");
      t.equal(nat?.size, 3000 + 1 + 4, `IPv${driver.family}`);
      t.equal(
        [...(nat?.values() ?? [])].filter(({ name, rules }) => name.startsWith("N") && rules.length === 1)
          .length,
        3000,
      );
      t.equal(nat?.get("ALL")?.rules.length, 200);
      t.same(nat?.get("OUTPUT")?.rules, [{ args: ["-j", "ALL"] }]);
    }
    t.same(helped, []);
  });

  t.test("two writers at once: nobody's change is lost", async (t) => {
    using ns = NetNs.create("busy");
    const writers = [0, 1].map(() => Iptables.open(ns, { variant: "nft" }));
    const line = (i: number, n: number) => `-A W${i} -s 10.${i}.${n >> 8}.${n & 255} -j RETURN`;
    const rounds = 12;
    await Promise.all(
      writers.map(async (writer, i) => {
        for (let round = 1; round <= rounds; round++) {
          const lines = Array.from({ length: 100 + round }, (_, n) => line(i, n));
          await writer.restore(`*nat\n:W${i} - [0:0]\n${lines.join("\n")}\nCOMMIT\n`);
          await ns.exec(findTools(4, "nft").iptables, [
            "-t",
            "nat",
            "-A",
            "OUTPUT",
            "-s",
            `10.9.${i}.${round}`,
          ]);
        }
      }),
    );
    const nat = (await writers[0]?.read("nat"))?.get("nat");
    t.equal(nat?.get("W0")?.rules.length, 100 + rounds);
    t.equal(nat?.get("W1")?.rules.length, 100 + rounds);
    t.equal(nat?.get("OUTPUT")?.rules.length, 2 * rounds);
  });
}
