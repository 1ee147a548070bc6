// The text format of iptables, without a kernel: words, rules, what is sent against what is printed back, and what an
// error names.

import t from "tap";
import { locate, meansAbsent } from "../../dataplane/iptables/errors.js";
import {
  type Chain,
  canonicalRule,
  chainsOf,
  fixedPoint,
  MemoryIptables,
  parseSave,
  quoteWord,
  RestoreError,
  renderRestore,
  ruleOfWords,
  splitWords,
  type TableName,
} from "../../dataplane/iptables/index.js";
import { rollbackInput, sectionsOf } from "../../dataplane/iptables/rollback.js";
import { atLeast, parseVersion } from "../../dataplane/iptables/variant.js";
import { meaning } from "../helpers/proxy-memory.js";
import { random } from "../helpers/random.js";

t.test("iptables text: words, rules, probabilities", async (t) => {
  const words = ["-m", "comment", "--comment", `it's "q" \\ x -> y`, "-j", "KUBE-SVC-A", "*", "#"];
  t.same(splitWords(words.map(quoteWord).join(" ")), words);
  t.same(splitWords('-A X  -m comment --comment "a \\" b"\t-j Y'), [
    "-A",
    "X",
    "-m",
    "comment",
    "--comment",
    'a " b',
    "-j",
    "Y",
  ]);
  t.throws(() => quoteWord("two\nlines"), RangeError);
  t.throws(() => quoteWord(""), RangeError);
  t.throws(() => splitWords('"open'), SyntaxError);
  t.equal(fixedPoint(0.3333333333), fixedPoint(0.33333333349));
  t.not(fixedPoint(0.3333333333), fixedPoint(0.3333333));
  t.throws(() => parseSave("*nat\n-A NOWHERE -j ACCEPT\n"), {
    message: /line 2: chain NOWHERE is not declared/,
  });
  t.throws(() => parseSave("*bogus\n"), { message: /line 1: unknown table/ });
  t.same(parseVersion("iptables v1.8.9 (nf_tables)\n"), { version: "1.8.9", variant: "nft" });
  t.same(parseVersion("iptables v1.6.1"), { version: "1.6.1", variant: "legacy" });
  t.ok(atLeast("1.8.9", "1.6.2") && atLeast("1.10", "1.9") && !atLeast("1.6.1", "1.6.2"));
});

t.test("parse(render(x)) is x", async (t) => {
  const pick = random(7);
  const texts = ["10.0.0.1", "a b", 'say "hi"', "back\\slash", "x->y", "0x4000/0x4000", "--dport", "!", "-j"];
  const word = () => texts[pick(texts.length)] as string;
  for (let round = 0; round < 200; round++) {
    const chains: Chain[] = [];
    for (const table of ["filter", "nat"] as TableName[]) {
      for (let i = pick(4); i > 0; i--) {
        const rules = Array.from({ length: pick(4) }, () => ({
          args: Array.from({ length: 1 + pick(5) }, word),
          ...(pick(2) && { comment: word() }),
          ...(pick(3) === 0 && { counters: { packets: BigInt(1 + pick(9)), bytes: BigInt(pick(10_000)) } }),
        }));
        const counters = pick(2) ? { counters: { packets: 3n, bytes: BigInt(pick(99)) } } : {};
        chains.push({ table, name: `C${i}`, rules, ...(pick(3) === 0 && { policy: "DROP" }), ...counters });
      }
    }
    t.same(chainsOf(parseSave(renderRestore(chains))), chains, `round ${round}`);
  }
});

t.test("canonical rules: what is sent equals what both variants print back", async (t) => {
  const same: [sent: string, printed: string][] = [
    [
      '-m comment --comment "default/web:http cluster IP" -m tcp -p tcp -d 10.96.0.5 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ',
      '! -s 10.244.0.0/16 -d 10.96.0.5/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ',
    ],
    [
      '-m comment --comment "a" -m recent --name KUBE-SEP-A --rcheck --seconds 10800 --reap -j KUBE-SEP-A',
      "-m comment --comment a -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-A --mask 255.255.255.255 --rsource -j KUBE-SEP-A",
    ],
    [
      "-m comment --comment default/web -m recent --name KUBE-SEP-A --set -m tcp -p tcp -j DNAT --to-destination 10.244.1.2:8080",
      '-p tcp -m comment --comment "default/web" -m recent --set --name KUBE-SEP-A --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.1.2:8080',
    ],
    [
      "-m statistic --mode random --probability 0.3333333333 -j A",
      "-m statistic --mode random --probability 0.33333333349 -j A",
    ],
    ["-j MARK --or-mark 0x00004000", "-j MARK --set-xmark 0x4000/0x4000"],
    ["-j MARK --xor-mark 0x00004000", "-j MARK --set-xmark 0x4000/0x0"],
    ["-m mark ! --mark 0x00004000/0x00004000 -j RETURN", "-m mark ! --mark 0x4000/0x4000 -j RETURN"],
    [
      "-m tcp -p tcp -d 10.96.0.5 --dport 80 -j REJECT",
      "-d 10.96.0.5/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
    ],
    [
      "-m conntrack --ctstate DNAT,ESTABLISHED,RELATED -j DROP",
      "-m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
    ],
  ];
  const canonical = (text: string) => canonicalRule(ruleOfWords(splitWords(text)));
  for (const [sent, printed] of same) t.equal(canonical(sent), canonical(printed), sent);
  const all = new Set(same.map(([sent]) => canonical(sent)));
  t.equal(all.size, same.length, "different rules stay different");
  t.not(canonical("-s 10.0.0.1 -j A"), canonical("! -s 10.0.0.1 -j A"));
  t.not(canonical("-j A"), canonical("-g A"));
  t.not(canonical("-f -j A"), canonical("-j A"), "options that nobody loaded");
});

t.test("a refused restore: the line is named, earlier tables are taken back", async (t) => {
  const input = "*filter\n:FIRST - [0:0]\nCOMMIT\n*nat\n:SECOND - [0:0]\n-A SECOND -j KUBE-NOPE\nCOMMIT\n";
  const nft =
    "iptables-nft-restore v1.8.9 (nf_tables): Chain 'KUBE-NOPE' does not exist\nError occurred at line: 7\nTry `x'";
  t.same(locate(input, nft), { line: 6, text: "-A SECOND -j KUBE-NOPE", table: "nat" });
  const legacy =
    "iptables-restore v1.8.9 (legacy): Couldn't load target `KUBE-NOPE':No such file\n\nError occurred at line: 6";
  t.match(locate(input, legacy), { line: 6, text: "-A SECOND -j KUBE-NOPE" });
  t.match(locate(input, "line 5: CHAIN_DEL failed (Device or resource busy): chain X"), { line: 5 });
  t.match(locate(input, "iptables-restore: line 2 failed"), { line: 2, table: "filter" });
  t.same(locate(input, "no idea"), {});
  t.match(
    new RestoreError("node-1", input, nft, undefined).message,
    /node-1 failed at line 6 .*KUBE-NOPE\) of table nat: Chain/,
  );

  const kernel = new MemoryIptables();
  kernel.apply("*filter\n:MINE - [0:0]\n-A MINE -s 10.0.0.1 -j DROP\n-A FORWARD -j MINE\nCOMMIT\n");
  const before = kernel.ruleset();
  const change = "*filter\n:MINE - [0:0]\n:NEW - [0:0]\n-A MINE -j NEW\n-I INPUT -j NEW\nCOMMIT\n";
  kernel.apply(change);
  t.notSame(meaning(kernel.ruleset()), meaning(before));
  kernel.apply(rollbackInput(before, sectionsOf(change)));
  t.same(meaning(kernel.ruleset()), meaning(before));
});

t.test("what is not there is told from what went wrong", async (t) => {
  const tool = "ip6tables v1.8.9 (legacy): ";
  for (const stderr of [
    "iptables: No chain/target/match by that name.",
    "iptables v1.8.9 (nf_tables): chain `X' in table `nat' is incompatible, use 'nft' tool.",
    // Of a kernel without the module ip6_tables.
    `${tool}can't initialize ip6tables table \`nat': Table does not exist (do you need to insmod?)`,
  ])
    t.ok(meansAbsent({ exitCode: 3, stderr }), stderr);
  for (const stderr of [
    `${tool}can't initialize ip6tables table \`nat': Permission denied (you must be root)`,
    "Another app is currently holding the xtables lock; still 0s 0us time ahead to have a chance to grab the lock...",
  ])
    t.notOk(meansAbsent({ exitCode: 4, stderr }), stderr);
});
