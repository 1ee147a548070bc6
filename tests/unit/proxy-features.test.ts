// Every feature of the service proxy: its rules as a file to read (tests/golden/proxy), and what they do to packets.
// Each entry of the two tables is one feature; docs/proxy.md refers to them by name.

import t from "tap";
import { type Chain, renderRuleLine } from "../../dataplane/iptables/index.js";
import { allChains, type PortState, type RuleContext } from "../../dataplane/proxy/index.js";
import { golden, goldenFiles, projectFile } from "../helpers/golden.js";
import { CONTEXT, CONTEXT6, inMemory, trackedIn } from "../helpers/proxy-memory.js";
import { fateOf, oddsOf } from "../helpers/proxy-packets.js";
import { VIP, web } from "./helpers/proxy-feature-words.js";
import { OPTIONS } from "./helpers/proxy-features-options.js";
import { TRAFFIC } from "./helpers/proxy-features-traffic.js";

const FEATURES = [...TRAFFIC, ...OPTIONS];

/** Every node has them, with the same rules whatever Services there are. */
const COMMON = /^KUBE-(FORWARD|FIREWALL|POSTROUTING|MARK-MASQ|PROXY-CANARY)$/;

/** As iptables-save would show it, but for empty chains and what all nodes have; a blank line between chains. */
function dump(about: string, states: readonly PortState[], context: RuleContext, whole: boolean): string {
  const chains = allChains(states, context).filter(({ name }) => whole || !COMMON.test(name));
  const lines = [`# ${about}`];
  for (const table of ["filter", "nat"] as const) {
    const shown = chains.filter((chain: Chain) => chain.table === table && chain.rules.length > 0);
    if (shown.length > 0) lines.push("", `*${table}`);
    for (const { name, rules } of shown) lines.push("", ...rules.map((rule) => renderRuleLine(name, rule)));
  }
  return `${lines.join("\n")}\n`;
}

for (const { name, about, objects, context, family = 4, whole = false, packets } of FEATURES) {
  t.test(name, async (t) => {
    const node: RuleContext = { ...(family === 6 ? CONTEXT6 : CONTEXT), ...context };
    const states = trackedIn(family, objects);
    const text = dump(about, states, node, whole);
    t.equal(text, golden(`proxy/${name}.rules`, text), `rules as in tests/golden/proxy/${name}.rules`);
    const rules = inMemory(states, node);
    for (const [from, to, fate, seen] of packets) {
      t.equal(fateOf(rules, family, from, to, seen), fate, `${from} to ${to}`);
    }
  });
}

t.test("each of n endpoints gets 1/n", async (t) => {
  for (let n = 1; n <= 7; n++) {
    const endpoints = Array.from({ length: n }, (_, i) => ({ ip: `10.244.1.${10 + i}` }));
    const odds = oddsOf(inMemory(trackedIn(4, web({}, endpoints))), 4, "pod", VIP);
    t.equal(odds.size, n);
    for (const [where, share] of odds) t.ok(Math.abs(share - 1 / n) < 1e-8, `${where}: 1/${n}`);
  }
});

t.test("every feature is in docs/proxy.md, every golden file is a feature's", async (t) => {
  const docs = projectFile("docs/proxy.md");
  for (const { name } of FEATURES) t.ok(docs.includes(`\`${name}\``), name);
  const paths = [...docs.matchAll(/`((?:rules\/)?[\w-]+\.ts)`/g)].map(([, path]) => path as string);
  for (const path of paths.filter((path) => !path.endsWith(".test.ts"))) {
    t.doesNotThrow(() => projectFile(`dataplane/proxy/${path}`), path);
  }
  t.same(goldenFiles("proxy"), FEATURES.map(({ name }) => `${name}.rules`).sort());
});
