// Restore inputs straight to the kernel: the same rules that iptables-nft-restore would leave, written over nfnetlink
// in one transaction for all tables. Whatever is not known for sure is left to the restore tool, the whole input.
// Knows when to give up; how it is sent is nft-restore.ts's business.
//
// The tool is slow in itself: of 14 s for 4,000 Services iptables-nft-restore spends 13 on its own.

import { SyscallError } from "../kernel/libc.js";
import { NETLINK_NETFILTER, NetlinkError, NetlinkSocket } from "../kernel/netlink/socket.js";
import type { NetNs } from "../kernel/netns.js";
import { RestoreError } from "./errors.js";
import { UnsupportedRule } from "./nft-extensions.js";
import type { NftKernel } from "./nft-kernel.js";
import { type Found, findRule } from "./nft-match.js";
import { ChainMemory } from "./nft-memory.js";
import { plansOf, type RuleLine, type TablePlan } from "./nft-plan.js";
import { type Printed, type Reading, readChains } from "./nft-read.js";
import { type Pace, Refused, Restore, type WriteOptions } from "./nft-restore.js";
import type { RuleAt } from "./rules.js";
import { quoteWord, splitWords } from "./words.js";

/** Inputs with more lines are sent in portions: new chains first, as nothing leads into them. */
const LARGE = 2000;

/**
 * How long a socket waits for the next change. It keeps the namespace alive, so it is not kept for good; and the kernel
 * takes 10 ms and more to close it, in which a thread is not there for others.
 */
const LINGER_MS = 1000;

/** nf_tables of one namespace and family, written as iptables-nft writes. Calls must not overlap. */
export class NftRuleset {
  readonly #ns: NetNs;
  readonly #family: 4 | 6;
  readonly #memory = new ChainMemory();
  readonly #pace: Pace = { slow: false };
  #socket: NetlinkSocket | undefined;
  #closing: NodeJS.Timeout | undefined;

  constructor(ns: NetNs, family: 4 | 6) {
    this.#ns = ns;
    this.#family = family;
  }

  /**
   * Applies a restore input with the meaning of `iptables-nft-restore --noflush`: all of it or, when something comes
   * back or is thrown, nothing. What comes back is why it is a matter for the tool, which also words refusals.
   * @throws RestoreError for a large input with a jump to no chain, at which the tool would need minutes.
   */
  async restore(input: string, options: WriteOptions): Promise<string | undefined> {
    let large = false;
    try {
      const plans = plansOf(input);
      large = plans.reduce((lines, plan) => lines + this.#linesToSend(plan), 0) > LARGE;
      const state = { memory: this.#memory, pace: this.#pace };
      await new Restore(this.#open(), this.#family, state, options).run(plans, large);
      this.#closeSoon();
      return undefined;
    } catch (error) {
      // With answers in it, perhaps, that nobody has read.
      this.#close();
      if (error instanceof UnsupportedRule) return error.message;
      this.#memory.clear();
      // No netlink (rights, an old kernel): the tool will say it in its own way.
      if (error instanceof NetlinkError || error instanceof SyscallError) return error.message;
      if (!(error instanceof Refused)) throw error;
      // A target that is missing is the only fault of an input; all else may be a kernel that wants another form.
      if (!large || !error.line || error.refusal.code !== "ENOENT") return error.message;
      throw new RestoreError(this.#ns.name, input, wordsFor(error.line), error.refusal);
    }
  }

  #open(): NetlinkSocket {
    clearTimeout(this.#closing);
    this.#socket ??= NetlinkSocket.open(this.#ns, NETLINK_NETFILTER);
    return this.#socket;
  }

  #closeSoon(): void {
    this.#closing = setTimeout(() => this.#close(), LINGER_MS).unref();
  }

  #close(): void {
    clearTimeout(this.#closing);
    this.#socket?.closeSlowly();
    this.#socket = undefined;
  }

  /** See {@link readChains}. */
  read<Rule>(reading: Reading<Rule>): Promise<Printed<Rule>> {
    return readChains(this.#ns, this.#family, reading);
  }

  /** Of a chain that is remembered little is sent, or it is there already. */
  #linesToSend({ table, chains }: TablePlan): number {
    let lines = chains.size;
    for (const chain of chains.values())
      if (!this.#memory.has(table, chain.name)) lines += chain.lines.length;
    return lines;
  }

  /** Whether all rules stand in their chains; undefined when a chain holds rules that only the tool can read. */
  hasRules(kernel: NftKernel, rules: readonly RuleAt[]): boolean | undefined {
    const chains = new Map<string, RuleAt[]>();
    for (const at of rules) {
      const id = `${at.table} ${at.chain}`;
      chains.set(id, [...(chains.get(id) ?? []), at]);
    }
    const answers: Found[] = [];
    const generation = kernel.generation();
    for (const group of chains.values()) {
      const [first] = group;
      if (!first) continue;
      const known = new Set(this.#memory.current(kernel, generation, first.table, first.chain)?.lines);
      const unknown = group.filter(
        ({ chain, rule }) => !known.has(`-A ${chain} ${rule.map(quoteWord).join(" ")}`),
      );
      if (unknown.length === 0) continue;
      const found = kernel.rules(first.table, first.chain);
      for (const { rule } of unknown) answers.push(findRule(found, rule, this.#family));
    }
    if (answers.includes("absent")) return false;
    return answers.includes("unreadable") ? undefined : true;
  }
}

/** In the tool's own words, which RestoreError understands. */
function wordsFor({ line, text }: RuleLine): string {
  const words = splitWords(text);
  const target = words[words.findIndex((word) => word === "-j" || word === "-g") + 1];
  return `iptables-restore: line ${line} failed: Chain '${target}' does not exist`;
}
