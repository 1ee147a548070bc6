// The kernel's rules of one network namespace: over netlink where that is known to give what iptables-nft would, else
// through iptables-restore, iptables-save and iptables of the machine.
// Knows processes and exit codes; what the rules are for is the caller's business.

import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Logger } from "../../common/log.js";
import { CommandError, type CommandResult } from "../kernel/command.js";
import { NetlinkError } from "../kernel/netlink/socket.js";
import { NetNs } from "../kernel/netns.js";
import { meansAbsent, RestoreError } from "./errors.js";
import { KernelCounters, type PacketCounters } from "./nfacct.js";
import { UnsupportedRule } from "./nft-extensions.js";
import { askNft, type NftKernel } from "./nft-kernel.js";
import { type Printed, type Reading, rulesetOf, textOf } from "./nft-read.js";
import { NftRuleset } from "./nft-ruleset.js";
import { chainsOf, parseSave, ruleOfWords } from "./parse.js";
import { renderRestore, renderTables } from "./render.js";
import { rollbackInput, sectionsOf, type TableSection } from "./rollback.js";
import { type ChainAt, isBuiltIn, type RuleAt, type Ruleset, type TableName } from "./rules.js";
import { findTools, type Tools, type Variant, type VariantChoice } from "./variant.js";
import { printWords, quoteWord, splitWords } from "./words.js";

export interface RestoreOptions {
  /** Keep what the input does not mention (--noflush). Default true. */
  noflush?: boolean;
  /** Take the counters in square brackets (--counters). Default true. */
  counters?: boolean;
  /** What the tables hold now, when the caller has just read it: saves reading it again for a roll-back. */
  before?: Ruleset;
}

/** Rules as iptables-save prints them, without counters of rules. */
export interface Printout {
  readonly text: string;
  /** All tables are in it, whichever chains were asked for: how legacy reads, where a part costs as much. */
  readonly whole: boolean;
  /** Each change of any rule of the namespace makes another one; undefined where there is none. */
  readonly version?: number;
}

export type Position = "prepend" | "append";

/** What the proxy and the overlay need of iptables; MemoryIptables is the other implementation. */
export interface IptablesDriver {
  readonly family: 4 | 6;
  readonly variant: Variant;
  readonly version: string;
  readonly randomFully: boolean;
  /** For the match `nfacct`; one set for both families. */
  readonly counters: PacketCounters;
  restore(input: string, options?: RestoreOptions): Promise<void>;
  save(table?: TableName): Promise<string>;
  read(table?: TableName): Promise<Ruleset>;
  hasRules(rules: readonly RuleAt[]): Promise<boolean>;
  ensureChain(table: TableName, chain: string): Promise<void>;
  ensureRule(table: TableName, chain: string, rule: readonly string[], position: Position): Promise<void>;
  ensureRules(rules: readonly (RuleAt & { position: Position })[]): Promise<void>;
  deleteRule(table: TableName, chain: string, rule: readonly string[]): Promise<boolean>;
  deleteChain(table: TableName, chain: string): Promise<void>;
  chainExists(table: TableName, chain: string): Promise<boolean>;
}

export interface IptablesOptions {
  /** Address family; 6 means ip6tables. Default 4. */
  family?: 4 | 6;
  /** Default "auto": `iptables` as the machine has it. */
  variant?: VariantChoice;
  /**
   * The legacy variant's lock (XTABLES_LOCKFILE), which would else be one for all namespaces of the machine.
   * Default: the tool's own (/run/xtables.lock) in this process's own namespace, a file a namespace elsewhere.
   */
  lockFile?: string;
  /**
   * How rules get into the kernel. "auto" is netlink for the nft variant where the installed iptables is known to
   * read what is written (1.8.7 and later), and the tools for everything else.
   */
  path?: "auto" | "tools";
  /** Which way was taken, and why not the other (debug). */
  log?: Logger;
}

/** Seconds that the legacy variant waits for its lock. */
const LOCK_WAIT = "30";

/** A driver of iptables for one namespace. Calls of one object run one after the other. */
export class Iptables implements IptablesDriver {
  readonly family: 4 | 6;
  readonly counters: PacketCounters;
  readonly #ns: NetNs;
  readonly #tools: Tools;
  readonly #env: NodeJS.ProcessEnv;
  readonly #log: Logger | undefined;
  readonly #nft: NftRuleset | undefined;
  #last: Promise<unknown> = Promise.resolve();
  /** Questions answered with yes, and the version of the ruleset that they were asked of. */
  #standing: { generation: number; inputs: Set<string> } | undefined;

  private constructor(ns: NetNs, tools: Tools, options: IptablesOptions) {
    const { family = 4, lockFile = privateLock(ns), path = "auto", log } = options;
    this.#ns = ns;
    this.family = family;
    this.#tools = tools;
    this.#env = lockFile ? { ...process.env, XTABLES_LOCKFILE: lockFile } : process.env;
    this.#nft = path === "auto" && tools.readsNetlinkRules ? new NftRuleset(ns, family) : undefined;
    this.#log = log;
    this.counters = new KernelCounters(ns, family, log);
    const { variant, version } = tools;
    log?.debug({ host: ns.name, family, variant, version, path: this.path }, "iptables driver");
  }

  /** @throws Error when the machine has no such iptables, naming program and package. */
  static open(ns: NetNs, options: IptablesOptions = {}): Iptables {
    const { family = 4, variant = "auto" } = options;
    return new Iptables(ns, findTools(family, variant), options);
  }

  get variant(): Variant {
    return this.#tools.variant;
  }

  get version(): string {
    return this.#tools.version;
  }

  /** How inputs get into the kernel; a single one may still have to go through the tool (debug log). */
  get path(): "netlink" | "tools" {
    return this.#nft ? "netlink" : "tools";
  }

  get randomFully(): boolean {
    return this.#tools.randomFully;
  }

  /**
   * Applies a restore input. Over netlink all tables are one transaction. With the tool each is one; when a later
   * table is refused, the chains that the earlier ones touched get their old content back, so that a failed restore
   * leaves the old state (give the table with the fewest rules first: all but the last are read beforehand).
   * @throws RestoreError naming the offending line.
   */
  restore(input: string, options: RestoreOptions = {}): Promise<void> {
    const { noflush = true, counters = true } = options;
    if (input === "") return Promise.resolve();
    const flags = [
      ...(noflush ? ["--noflush"] : []),
      ...(counters ? ["--counters"] : []),
      ...this.#restoreWait(),
    ];
    return this.#inTurn(async () => {
      if (noflush && (await this.#restoreOverNetlink(input, counters))) return;
      const earlier = sectionsOf(input).slice(0, -1);
      const saved = options.before ? "" : await this.#saveTables(earlier.map(({ table }) => table));
      try {
        await this.#restoreOnce(flags, input);
      } catch (error) {
        const line = error instanceof RestoreError ? error.line : undefined;
        const done = earlier.filter(({ lastLine }) => line === undefined || lastLine < line);
        await this.#takeBack(options.before ?? parseSave(saved), done, noflush);
        throw error;
      }
    });
  }

  async #restoreOverNetlink(input: string, counters: boolean): Promise<boolean> {
    if (!this.#nft) return false;
    const why = await this.#nft.restore(input, { counters });
    if (why === undefined) return true;
    this.#log?.debug({ host: this.#ns.name, why }, "iptables-restore is called instead of netlink");
    return false;
  }

  /** With noflush only what the input touched, else the whole of each table. */
  async #takeBack(before: Ruleset, done: readonly TableSection[], noflush: boolean): Promise<void> {
    const tables = new Set(done.map(({ table }) => table));
    const whole = () => renderRestore(chainsOf(before).filter(({ table }) => tables.has(table)));
    const input = noflush ? rollbackInput(before, done) : whole();
    if (input === "") return;
    const flags = ["--counters", ...this.#restoreWait()];
    await this.#restoreOnce(noflush ? ["--noflush", ...flags] : flags, input);
  }

  async #saveTables(tables: readonly TableName[]): Promise<string> {
    if (this.#isEmpty()) return "";
    const texts: string[] = [];
    for (const table of tables) texts.push((await this.#exec(this.#tools.save, ["-c", "-t", table])).stdout);
    return texts.join("");
  }

  /** The rules as text, all tables or one. */
  async save(table?: TableName): Promise<string> {
    const { stdout } = await this.#inTurn(() => this.#exec(this.#tools.save, table ? ["-t", table] : []));
    return stdout;
  }

  /** The rules as data, without counters. A namespace without any costs no process. */
  read(table?: TableName): Promise<Ruleset> {
    const args = table ? ["-t", table] : [];
    return this.#inTurn(async () => {
      if (this.#isEmpty()) return new Map();
      const printed = await this.#readOverNetlink({ table, rule: ruleOfWords });
      return printed ? rulesetOf(printed) : parseSave((await this.#exec(this.#tools.save, args)).stdout);
    });
  }

  /**
   * The rules as text, all or those of the given chains that there are: {@link save} at the speed of {@link read}.
   * Other calls do not wait for it.
   */
  async print(chains?: readonly ChainAt[]): Promise<Printout> {
    const printed = await this.#readOverNetlink({ chains, rule: printWords });
    if (printed) return { text: textOf(printed), whole: chains === undefined, version: printed.generation };
    return { text: (await this.#exec(this.#tools.save, [])).stdout, whole: true };
  }

  async #readOverNetlink<Rule>(reading: Omit<Reading<Rule>, "foreign">): Promise<Printed<Rule> | undefined> {
    const told = (tool: string, why: Error) =>
      this.#log?.debug({ host: this.#ns.name, why: why.message }, `${tool} is called instead of netlink`);
    const foreign = async ({ table, chain }: ChainAt, why: UnsupportedRule) => {
      told("iptables -S", why);
      const { stdout } = await this.#exec(this.#tools.iptables, this.#args(table, ["-S", chain]));
      const lines = stdout.split("\n").filter((text) => text.startsWith("-A "));
      return lines.map((text) => splitWords(text).slice(2));
    };
    try {
      return await this.#nft?.read({ ...reading, foreign });
    } catch (error) {
      const isKnown = [UnsupportedRule, NetlinkError, CommandError].some((kind) => error instanceof kind);
      if (!isKnown) throw error;
      told("iptables-save", error as Error);
      return undefined;
    }
  }

  /**
   * Whether every one of the rules stands in its chain. One process at most, whatever their number; none when a chain
   * is missing or nothing has changed since the last yes (nft only: legacy has no version to compare).
   */
  hasRules(rules: readonly RuleAt[]): Promise<boolean> {
    if (rules.length === 0) return Promise.resolve(true);
    const input = renderTables(byTable(rules, ({ chain, rule }) => line("-C", chain, rule)));
    return this.#inTurn(async () => {
      const generation = this.#askKernel((kernel) => kernel.generation());
      if (generation !== undefined && generation === this.#standing?.generation) {
        if (this.#standing.inputs.has(input)) return true;
      } else {
        this.#standing = generation === undefined ? undefined : { generation, inputs: new Set() };
      }
      if (this.#chainMissing(rules)) return false;
      const stand =
        this.#askKernel((kernel) => this.#nft?.hasRules(kernel, rules)) ??
        (await this.#asked(this.#tools.restore, ["--noflush", ...this.#restoreWait()], input));
      if (stand) this.#standing?.inputs.add(input);
      return stand;
    });
  }

  #chainMissing(rules: readonly RuleAt[]): boolean {
    return (
      this.#askKernel((kernel) =>
        rules.some(({ table, chain }) => !isBuiltIn(table, chain) && !kernel.hasChain(table, chain)),
      ) ?? false
    );
  }

  /** False also when nobody can say. */
  #isEmpty(): boolean {
    return this.#askKernel((kernel) => !kernel.hasTables()) ?? false;
  }

  #askKernel<T>(question: (kernel: NftKernel) => T): T | undefined {
    return this.variant === "nft" ? askNft(this.#ns, this.family, question) : undefined;
  }

  /** Makes a user-defined chain unless it exists; its rules are left as they are. */
  async ensureChain(table: TableName, chain: string): Promise<void> {
    if (await this.chainExists(table, chain)) return;
    try {
      await this.#inTurn(() => this.#iptables(table, ["-N", chain]));
    } catch (error) {
      // Somebody else made it between the two calls.
      if (!(error instanceof CommandError && /already exists/.test(error.stderr))) throw error;
    }
  }

  /** Puts a rule at the head or the end of a chain unless it stands there already, wherever. */
  ensureRule(table: TableName, chain: string, rule: readonly string[], position: Position): Promise<void> {
    return this.ensureRules([{ table, chain, rule, position }]);
  }

  /**
   * The same for many: one process when all stand, else one check for each and one restore for what is missing.
   * Prepended rules end up in the order given, the first on top.
   */
  async ensureRules(rules: readonly (RuleAt & { position: Position })[]): Promise<void> {
    if (await this.hasRules(rules)) return;
    const missing: (RuleAt & { position: Position })[] = [];
    for (const rule of rules) {
      if (rules.length === 1 || !(await this.hasRules([rule]))) missing.push(rule);
    }
    const prepended = missing.filter((rule) => rule.position === "prepend").reverse();
    const appended = missing.filter((rule) => rule.position === "append");
    const verb = ({ position, chain, rule }: (typeof missing)[number]) =>
      line(position === "prepend" ? "-I" : "-A", chain, rule);
    await this.restore(renderTables(byTable([...prepended, ...appended], verb)));
  }

  /** Removes every copy of a rule; false when there was none. */
  async deleteRule(table: TableName, chain: string, rule: readonly string[]): Promise<boolean> {
    let deleted = false;
    if (this.#nft) {
      const input = renderTables([{ table, chains: [], lines: [line("-D", chain, rule)] }]);
      for (; await this.hasRules([{ table, chain, rule }]); deleted = true) await this.restore(input);
      return deleted;
    }
    while (
      await this.#inTurn(() => this.#asked(this.#tools.iptables, this.#args(table, ["-D", chain, ...rule])))
    ) {
      deleted = true;
    }
    return deleted;
  }

  /**
   * Empties and removes a user-defined chain; nothing to do when there is none.
   * @throws RestoreError when something still jumps to it; then it keeps its rules.
   */
  async deleteChain(table: TableName, chain: string): Promise<void> {
    await this.restore(renderTables([{ table, chains: [], deleteChains: [chain] }]));
  }

  chainExists(table: TableName, chain: string): Promise<boolean> {
    if (isBuiltIn(table, chain)) return Promise.resolve(true);
    return this.#inTurn(
      async () =>
        this.#askKernel((kernel) => kernel.hasChain(table, chain)) ??
        this.#asked(this.#tools.iptables, this.#args(table, ["-S", chain, "1"])),
    );
  }

  /** One after the other: check-then-change must not interleave with another call of this object. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work, work);
    this.#last = result.catch(() => undefined);
    return result;
  }

  #restoreWait(): string[] {
    return this.variant === "legacy" && this.#tools.wait ? ["-w", LOCK_WAIT] : [];
  }

  #args(table: TableName, args: readonly string[]): string[] {
    return [...(this.variant === "legacy" ? ["-w", LOCK_WAIT] : []), "-t", table, ...args];
  }

  #exec(tool: string, args: readonly string[], input?: string): Promise<CommandResult> {
    return this.#ns.exec(tool, args, { env: this.#env, ...(input !== undefined && { input }) });
  }

  #iptables(table: TableName, args: readonly string[]): Promise<CommandResult> {
    return this.#exec(this.#tools.iptables, this.#args(table, args));
  }

  /** Whether a question (-C, -D, -S) found its object; anything but "not there" is thrown. */
  async #asked(tool: string, args: readonly string[], input?: string): Promise<boolean> {
    try {
      await this.#exec(tool, args, input);
      return true;
    } catch (error) {
      if (error instanceof CommandError && meansAbsent(error)) return false;
      throw error;
    }
  }

  async #restoreOnce(flags: readonly string[], input: string): Promise<void> {
    try {
      await this.#exec(this.#tools.restore, flags, input);
    } catch (error) {
      if (!(error instanceof CommandError) || error.exitCode === null) throw error;
      throw new RestoreError(this.#ns.name, input, error.stderr, error);
    }
  }
}

function line(verb: string, chain: string, rule: readonly string[]): string {
  return `${verb} ${chain} ${rule.map(quoteWord).join(" ")}`;
}

function byTable<T extends RuleAt>(rules: readonly T[], render: (rule: T) => string) {
  const tables = [...new Set(rules.map((rule) => rule.table))];
  return tables.map((table) => ({
    table,
    chains: [],
    lines: rules.filter((rule) => rule.table === table).map(render),
  }));
}

function privateLock(ns: NetNs): string | undefined {
  const { inode } = ns;
  if (inode === NetNs.current().inode) return undefined;
  return join(tmpdir(), `kubeplumb-${process.getuid?.() ?? 0}-xtables-${inode}.lock`);
}
