// iptables over netlink without a kernel: which rules can be written and read, which are left to the tools, what a
// restore input asks for, and the difference of two contents of a chain.

import t from "tap";
import { canonicalRule, ruleOfWords, splitWords } from "../../dataplane/iptables/index.js";
import { decodeRule } from "../../dataplane/iptables/nft-decode.js";
import type { KernelRule } from "../../dataplane/iptables/nft-kernel.js";
import { expressionsOf, findRule, withoutCounters } from "../../dataplane/iptables/nft-match.js";
import { following } from "../../dataplane/iptables/nft-memory.js";
import { keptLines, plansOf, specOf } from "../../dataplane/iptables/nft-plan.js";
import { RULES } from "../helpers/iptables-rules.js";

for (const family of [4, 6] as const) {
  t.test(`IPv${family}: what is written is read back with the same meaning`, async (t) => {
    for (const rule of RULES[family]) {
      const words = splitWords(rule);
      const expressions = expressionsOf(words, family);
      if (!expressions) {
        t.fail(`is not written: ${rule}`);
        continue;
      }
      const read = decodeRule(expressions, family);
      t.equal(canonicalRule(ruleOfWords(read)), canonicalRule(ruleOfWords(words)), rule);
      t.same(expressionsOf(read, family), expressions, "and written again it is the same");
    }
  });
}

t.test("what only the tools know is not written", async (t) => {
  const foreign: [4 | 6, string][] = [
    [4, "-m limit --limit 3/min -j ACCEPT"],
    [4, "-m multiport -p tcp --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16"],
    [4, "-m conntrack --ctstate NEW --ctproto 6"],
    [4, "-m conntrack --ctstate NOSUCH"],
    [4, "-m recent --set --rcheck --name A"],
    [4, "-m recent --rcheck --reap --name A"],
    [4, "-m recent --set --name A --mask 255.255.255.0"],
    [4, "-m statistic --mode nth --every 3"],
    [4, "-m nfacct --nfacct-name longer-than-a-name-may-be-XXXXXX"],
    [4, "-m nfacct -j ACCEPT"],
    [4, "-p tcp -m tcp --syn"],
    [4, "-p tcp -m tcp --dport http"],
    [4, "-p tcp -m tcp --dport 90:80"],
    [4, "-p tcp -m tcp --dport 70000"],
    [4, "-m tcp --dport 80"],
    [4, "! -p tcp -m tcp --dport 80"],
    [4, "-p nosuch"],
    [4, "-s www.example.org -j ACCEPT"],
    [4, "-s 10.0.0.1,10.0.0.2 -j ACCEPT"],
    [4, "-s 10.0.0.0/255.255.0.0"],
    [4, "-s fd00::1"],
    [4, "! -s 0.0.0.0/0"],
    [4, "-i +"],
    [4, "-i much-too-long-a-name"],
    [4, "-f -j ACCEPT"],
    [4, "-s 10.0.0.1 -s 10.0.0.2"],
    [4, "-j DNAT --to-destination 10.0.0.1:80"],
    [4, "-p icmp -j DNAT --to-destination 10.0.0.1:80"],
    [6, "-j DNAT --to-destination [fd00::1]:80"],
    [4, "-j DNAT --to-destination 10.0.0.1-10.0.0.9"],
    [4, "-j DNAT --to-destination 10.0.0.1:80 --persistent"],
    [4, "-j MASQUERADE --to-ports 1-9"],
    [4, "-j REJECT --reject-with icmp6-no-route"],
    [4, "-j ACCEPT --bogus"],
    [4, "--bogus"],
    [4, `-m comment --comment "${"x".repeat(256)}"`],
    [6, "-j DNAT --to-destination 10.0.0.1:80"],
    [6, "-s 10.0.0.1"],
    [6, "-m frag --fragid 1"],
  ];
  for (const [family, rule] of foreign) t.equal(expressionsOf(splitWords(rule), family), undefined, rule);
  t.throws(
    () => decodeRule(Buffer.from("ffff0100", "hex"), 4),
    { name: "UnsupportedRule" },
    "truncated expressions",
  );
});

t.test("a rule is found by its bytes or by its meaning", async (t) => {
  const kernel = (rule: string): KernelRule => {
    const expressions = expressionsOf(splitWords(rule), 4) ?? Buffer.alloc(0);
    return { table: "nat", chain: "A", handle: 1, expressions };
  };
  const rules = ["-s 10.0.0.1 -j RETURN", "-p tcp -m tcp --dport 80 -m comment --comment x -j B", "-j B"].map(
    kernel,
  );
  const find = (rule: string) => findRule(rules, splitWords(rule), 4);
  t.equal(find("-j B"), 2);
  t.equal(
    find("-m comment --comment x -p tcp --dport 80 -j B"),
    1,
    "iptables-restore may write it in this order",
  );
  t.equal(find("-j C"), "absent");
  t.equal(find("-m limit --limit 1/s"), "unreadable", "only the tool can say");
  const counted = Buffer.from(rules[0]?.expressions ?? "");
  counted.writeUInt8(7, counted.indexOf("counter") + 23);
  t.equal(
    findRule(
      [{ table: "nat", chain: "A", handle: 1, expressions: counted }],
      ["-s", "10.0.0.1", "-j", "RETURN"],
      4,
    ),
    0,
  );
  t.notSame(counted, rules[0]?.expressions);
  t.same(withoutCounters(counted), rules[0]?.expressions, "counters do not count");
});

t.test("a restore input, chain by chain", async (t) => {
  const [plan] = plansOf(
    "*nat\n# a comment\n:A - [0:0]\n-N B\n-A A -j B\n[3:4] -A A -j ACCEPT\n-I PREROUTING -j A\n-D OUTPUT -j A\n-X C\nCOMMIT\n",
  );
  t.same([...(plan?.chains.keys() ?? [])], ["A", "B", "PREROUTING", "OUTPUT"]);
  t.match(plan?.chains.get("A"), { declared: true, created: false, appendsOnly: true });
  t.match(plan?.chains.get("B"), { declared: false, created: true, lines: [] });
  t.match(plan?.chains.get("A")?.lines[1], { verb: "A", line: 6 });
  t.equal(plan?.chains.get("PREROUTING")?.appendsOnly, false);
  t.same([...(plan?.remove ?? [])], [["C", 9]]);
  const counted = specOf("[3:4] -A A -j ACCEPT", true);
  t.same(counted, { words: ["-j", "ACCEPT"], counters: { packets: 3n, bytes: 4n } });
  t.same(specOf("[3:4] -A A -j ACCEPT", false), { words: ["-j", "ACCEPT"] }, "without --counters");
  for (const line of [
    ":INPUT DROP [0:0]",
    ":A - [1:2]",
    ":A - [0:0]\n:A - [0:0]",
    ":A - [0:0]\n-D A -j B",
    "-A A -j B\n-D A -j B",
    "-X INPUT",
    "-X A\n-A A -j B",
    "-P INPUT DROP",
    "-R A 1 -j B",
    "-E A B",
    "-A this-name-is-longer-than-it-may-be -j B",
    "nonsense",
  ]) {
    t.throws(() => plansOf(`*filter\n${line}\nCOMMIT\n`), { name: "UnsupportedRule" }, JSON.stringify(line));
  }
  for (const input of [
    "*nat\n:A - [0:0]\n",
    "*bogus\n:A - [0:0]\nCOMMIT\n",
    "*nat\nCOMMIT\n-A A -j B\n",
    ":A - [0:0]\n*nat\nCOMMIT\n",
    "*nat\nCOMMIT\n*nat\nCOMMIT\n",
  ]) {
    t.throws(() => plansOf(input), { name: "UnsupportedRule" }, JSON.stringify(input));
  }
  t.same(plansOf("\n# nothing\n"), []);
  t.throws(() => specOf("-I A 3 -j B", true), { name: "UnsupportedRule" });
});

/** Length of the longest common subsequence, by the book. */
function longestCommon(a: readonly string[], b: readonly string[]): number {
  const row = new Array<number>(b.length + 1).fill(0);
  for (const one of a) {
    let diagonal = 0;
    b.forEach((other, j) => {
      const above = row[j + 1] ?? 0;
      row[j + 1] = one === other ? diagonal + 1 : Math.max(above, row[j] ?? 0);
      diagonal = above;
    });
  }
  return row[b.length] ?? 0;
}

t.test("the difference of two contents", async (t) => {
  const letters = [..."abcdefghijklmnopqrstuvwxyz"];
  const shuffled = (list: readonly string[]) =>
    list
      .map((value) => ({ value, at: Math.random() }))
      .sort((a, b) => a.at - b.at)
      .map(({ value }) => value);
  for (let round = 0; round < 400; round++) {
    const before = shuffled(letters).slice(0, round % 20);
    // Half of the rounds edit, half of them mix.
    const after =
      round % 2 ? shuffled(letters).slice(0, (round * 7) % 20) : before.filter((_, i) => (i * round) % 5);
    if (round % 3 === 0) after.splice(after.length >> 1, 0, "new", "newer");
    const kept = keptLines(before, after);
    const stays = kept.filter((from) => from >= 0);
    const right =
      kept.length === after.length &&
      kept.every((from, i) => from < 0 || before[from] === after[i]) &&
      stays.every((from, i) => i === 0 || from > (stays[i - 1] as number)) &&
      stays.length === longestCommon(before, after);
    if (!right) t.fail(JSON.stringify({ before, after, kept }));
  }
  t.same(keptLines(["a", "b", "b", "c"], ["b", "a", "b", "c"]), [-1, 0, 2, 3], "equal lines");
  t.equal(following(7), 8);
  t.equal(following(0xffff_ffff), 1, "the kernel leaves 0 out");
});
