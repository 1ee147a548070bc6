// Two namespaces that get the same iptables inputs, one by the tools and one over netlink, and all that can be compared
// of them.

import { type Logger, pino } from "pino";
import type t from "tap";
import { findTools, Iptables, type TableName } from "../../dataplane/iptables/index.js";
import { askNft, type KernelRule } from "../../dataplane/iptables/nft-kernel.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { COUNTERS } from "./iptables-rules.js";

type Family = 4 | 6;

/** Whether this machine's iptables-nft reads what is written over netlink. */
export function hasNft(): boolean {
  try {
    return findTools(4, "nft").readsNetlinkRules && findTools(6, "nft").readsNetlinkRules;
  } catch {
    return false;
  }
}

/** A log that keeps why the tools had to help. */
export function logTo(reasons: string[]): Logger {
  const write = (line: string) => {
    const { why } = JSON.parse(line) as { why?: string };
    if (why !== undefined) reasons.push(why);
  };
  return pino({ level: "debug" }, { write });
}

/** One namespace written by the tools, one over netlink. */
export class Pair implements Disposable {
  readonly family: Family;
  readonly byTools: NetNs;
  readonly byNetlink: NetNs;
  readonly tools: Iptables;
  readonly netlink: Iptables;
  /** Why the tools had to help the other driver. */
  readonly helped: string[] = [];

  constructor(family: Family = 4) {
    this.family = family;
    this.byTools = NetNs.create("by-tools");
    this.byNetlink = NetNs.create("by-netlink");
    this.tools = Iptables.open(this.byTools, { family, variant: "nft", path: "tools" });
    this.netlink = Iptables.open(this.byNetlink, { family, variant: "nft", log: logTo(this.helped) });
    for (const { counters } of [this.tools, this.netlink]) counters.ensure(COUNTERS);
  }

  async restore(input: string): Promise<void> {
    await Promise.all([this.tools.restore(input), this.netlink.restore(input)]);
  }

  [Symbol.dispose](): void {
    this.byTools.close();
    this.byNetlink.close();
  }

  /** iptables-save with counters, without its lines about the time. */
  async saved(ns: NetNs): Promise<string> {
    const { stdout } = await ns.exec(findTools(this.family, "nft").save, ["-c"]);
    return stdout.replace(/^#.*\n/gm, "");
  }

  rules(ns: NetNs): KernelRule[] {
    return askNft(ns, this.family, (kernel) => kernel.rules()) ?? [];
  }

  /** Compares everything that can be seen of the two. */
  async same(t: Tap, what: string): Promise<void> {
    t.equal(await this.saved(this.byNetlink), await this.saved(this.byTools), `iptables-save: ${what}`);
    const bytes = (ns: NetNs) =>
      this.rules(ns)
        .map(({ table, chain, expressions }) => `${table} ${chain} ${expressions.toString("hex")}`)
        .join("\n");
    t.equal(bytes(this.byNetlink), bytes(this.byTools), `bytes in the kernel: ${what}`);
    const chains = (ns: NetNs) =>
      (askNft(ns, this.family, (kernel) => kernel.chains()) ?? [])
        .map((chain) => JSON.stringify(chain))
        .sort();
    t.same(chains(this.byNetlink), chains(this.byTools), `chains: ${what}`);
    t.same(this.helped, [], "all over netlink");
    this.helped.length = 0;
  }
}

type Tap = Pick<typeof t, "equal" | "same" | "ok">;

/** Some with counters; ip6tables-nft-restore 1.8.9 loses them. */
export function tableOf(table: TableName, rules: readonly string[], family: Family): string {
  const lines = rules.map((rule, i) => `${family === 4 && i % 7 === 3 ? "[3:456] " : ""}-A FORMS ${rule}`);
  return [`*${table}`, ":FORMS - [0:0]", ":TO - [0:0]", ...lines, "COMMIT", ""].join("\n");
}
