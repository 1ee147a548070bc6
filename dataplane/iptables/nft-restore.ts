// The way of one restore input to nf_tables. Live chains change in one transaction; of a large input the chains
// that are new go before, in portions, for nothing leads into them yet, and are taken back when the rest is refused.
// A long chain with a new content is sent as the difference to the old one. Bytes are nft-batch.ts's business.

import type { NetlinkError, NetlinkSocket } from "../kernel/netlink/socket.js";
import { NftBatch, type Place } from "./nft-batch.js";
import { writeRule } from "./nft-encode.js";
import { UnsupportedRule } from "./nft-extensions.js";
import { MESSAGE } from "./nft-format.js";
import { handleOf, NftKernel } from "./nft-kernel.js";
import { findRule, linesOf } from "./nft-match.js";
import { type ChainMemory, following, type KnownChain, LONG_CHAIN, ownCopy } from "./nft-memory.js";
import { type ChainPlan, keptLines, type RuleLine, specOf, type TablePlan } from "./nft-plan.js";
import { isBuiltIn, type TableName } from "./rules.js";

/** Somebody else changes the ruleset all the time: after so many attempts the tool may try. */
const ATTEMPTS = 20;
const PORTION_BYTES = 1024 * 1024;
/** Room for one message more than a portion. */
const SPARE_BYTES = 4096;
/** A request of this size can be sent, where the machine lets us. */
const REQUEST_BYTES = 512 * 1024 * 1024;
/** New rules whose handles the kernel shall tell: more would not fit a receive buffer; then they are asked for. */
const ECHOED = 100;

export interface WriteOptions {
  /** Take the counters in square brackets. */
  readonly counters: boolean;
}

/**
 * Whether the kernel takes long for any change to this ruleset, however small: it checks a table anew with each. Then
 * another thread waits for it, and other hosts' changes are made meanwhile.
 */
export interface Pace {
  slow: boolean;
}

/** Milliseconds that the event loop may be held up. */
const SLOW_MS = 2;

/** A refused transaction; nothing of it was done. */
export class Refused extends Error {
  override readonly name = "Refused";
  readonly refusal: NetlinkError;
  /** Line of the input that was refused, where it was one. */
  readonly line: RuleLine | undefined;
  constructor(refusal: NetlinkError, line: RuleLine | undefined) {
    super(`${refusal.message}${line ? ` at line ${line.line}: ${line.text}` : ""}`, { cause: refusal });
    this.refusal = refusal;
    this.line = line;
  }
}

/** A chain that the kernel did not have. */
type NewChain = ChainPlan & { readonly table: TableName };

const textsOf = (lines: readonly RuleLine[]): string[] => lines.map(({ text }) => text);

/** The sending of one input. */
export class Restore {
  readonly #socket: NetlinkSocket;
  readonly #kernel: NftKernel;
  readonly #family: 4 | 6;
  readonly #memory: ChainMemory;
  readonly #pace: Pace;
  readonly #options: WriteOptions;
  readonly #room: number;
  #generation: number;
  #batch: NftBatch;
  #lines = new Map<number, RuleLine>();
  /** Called with each handle that the kernel tells. */
  #echoes = new Map<number, (handle: number) => void>();
  /** To be done when everything is in the kernel. */
  #afterwards: (() => void)[] = [];
  #plans: readonly TablePlan[] = [];

  constructor(
    socket: NetlinkSocket,
    family: 4 | 6,
    { memory, pace }: { memory: ChainMemory; pace: Pace },
    options: WriteOptions,
  ) {
    this.#socket = socket;
    this.#kernel = new NftKernel(socket, family);
    this.#family = family;
    this.#memory = memory;
    this.#pace = pace;
    this.#options = options;
    this.#room = socket.growSendBuffer(REQUEST_BYTES);
    this.#generation = this.#kernel.generation();
    this.#batch = new NftBatch(family);
  }

  /**
   * @param large whether to send new chains before.
   * @throws Refused, UnsupportedRule: nothing was done. Throws NetlinkError and SyscallError: it could not be sent.
   */
  async run(plans: readonly TablePlan[], large: boolean): Promise<void> {
    this.#plans = plans;
    const ready = large ? this.#newChains() : [];
    try {
      await this.#sendNewChains(ready);
      for (let attempt = 1; !(await this.#sendRest(ready, attempt === ATTEMPTS)); attempt++);
    } catch (error) {
      // Only when it is certain that nothing of the rest is there: else these chains may be in use.
      if (error instanceof Refused || error instanceof UnsupportedRule) await this.#undo(ready);
      throw error;
    }
    for (const { table, name, lines } of ready) this.#learn(table, name, textsOf(lines));
    for (const work of this.#afterwards) work();
  }

  /** In one transaction; false when somebody else changed the ruleset between looking and sending. */
  async #sendRest(ready: readonly NewChain[], last: boolean): Promise<boolean> {
    const generation = this.#kernel.generation();
    if (generation !== this.#generation) this.#verify(ready);
    this.#generation = generation;
    this.#afterwards = [];
    this.#renew(generation);
    const done = new Set<ChainPlan>(ready);
    for (const plan of this.#plans) this.#writeTable(plan, done);
    try {
      await this.#send();
      return true;
    } catch (error) {
      if (last || !(error instanceof Refused) || error.refusal.code !== "ERESTART") throw error;
      return false;
    }
  }

  /** Somebody else was at work while the new chains were filled: nearly always elsewhere. */
  #verify(ready: readonly NewChain[]): void {
    for (const { table, name, lines } of ready) {
      if (this.#kernel.ruleHandles(table, name).length === lines.length) continue;
      throw new UnsupportedRule(`somebody else changed the new chain ${name}`);
    }
  }

  /** Chains that the kernel does not have yet: nothing leads into them before the rest is sent. */
  #newChains(): NewChain[] {
    const existing = new Set(this.#kernel.chains().map(({ table, name }) => `${table} ${name}`));
    return this.#plans.flatMap(({ table, chains, remove }) =>
      [...chains.values()]
        .filter(
          ({ name, declared, appendsOnly }) =>
            declared && appendsOnly && !remove.has(name) && !existing.has(`${table} ${name}`),
        )
        // The same objects, so that they are known again.
        .map((chain) => Object.assign(chain, { table })),
    );
  }

  /** In portions, whatever others do meanwhile: two address families may be loaded at the same time. */
  async #sendNewChains(chains: readonly NewChain[]): Promise<void> {
    for (const table of new Set(chains.map((chain) => chain.table))) {
      const list = chains.filter((chain) => chain.table === table);
      this.#batch.table(table);
      // All of them before the first rule, which may jump to any.
      for (const { name } of list) {
        this.#batch.chain(table, name);
        if (this.#isFull()) await this.#send();
      }
      for (const { name, lines } of list) {
        for (const line of lines) {
          this.#addRule(table, name, line, "last");
          if (this.#isFull()) await this.#send();
        }
      }
      await this.#send();
    }
  }

  #isFull(): boolean {
    return this.#batch.bytes > Math.min(PORTION_BYTES, this.#room - SPARE_BYTES);
  }

  async #undo(chains: readonly NewChain[]): Promise<void> {
    if (chains.length === 0) return;
    const present = new Set(this.#kernel.chains().map(({ table, name }) => `${table} ${name}`));
    try {
      for (const step of ["flush", "deleteChain"] as const) {
        this.#renew();
        for (const { table, name } of chains) {
          if (!present.has(`${table} ${name}`)) continue;
          this.#batch[step](table, name);
          if (this.#isFull()) await this.#send();
        }
        await this.#send();
      }
    } catch (error) {
      // Nothing leads into these chains; whoever manages them finds and removes them.
      if (!(error instanceof Refused)) throw error;
    }
  }

  /** @param done chains that have been sent. */
  #writeTable({ table, chains, remove }: TablePlan, done: ReadonlySet<ChainPlan>): void {
    this.#batch.table(table);
    const rest = [...chains.values()].filter((chain) => !done.has(chain));
    const fills: (() => void)[] = [];
    for (const chain of rest) {
      const fill = this.#prepare(table, chain);
      if (fill) fills.push(fill);
    }
    for (const fill of fills) fill();
    for (const name of remove.keys()) {
      this.#batch.deleteChain(table, name);
      this.#memory.forget(table, name);
    }
  }

  /** Makes and empties the chain where that is to be done; returns what fills it, once all chains are there. */
  #prepare(table: TableName, chain: ChainPlan): (() => void) | undefined {
    const { name, declared, created, appendsOnly, lines } = chain;
    if (declared && appendsOnly) {
      const texts = textsOf(lines);
      const known = this.#known(table, name, texts);
      if (known) {
        const kept = keptLines(known.lines, texts);
        const stay = kept.filter((from) => from >= 0).length;
        if (stay > texts.length / 2 && stay > known.lines.length / 2) {
          if (stay === texts.length && stay === known.lines.length) return undefined;
          return () => this.#writeDifference(known, chain, kept);
        }
      }
      this.#memory.forget(table, name);
      this.#batch.chain(table, name);
      this.#batch.flush(table, name);
      this.#afterwards.push(() => this.#learn(table, name, texts));
    } else {
      this.#memory.forget(table, name);
      if (declared || created) this.#batch.chain(table, name, created);
      else if (isBuiltIn(table, name) && !this.#kernel.hasChain(table, name))
        this.#batch.chain(table, name, true);
      if (declared) this.#batch.flush(table, name);
    }
    return () => this.#writeLines(table, name, lines);
  }

  /** What a long chain holds; of one that is not remembered it is read. */
  #known(table: TableName, name: string, texts: readonly string[]): KnownChain | undefined {
    const generation = this.#generation;
    const known = this.#memory.current(this.#kernel, generation, table, name);
    if (known || texts.length < LONG_CHAIN) return known;
    const rules = this.#kernel.rules(table, name);
    if (rules.length < LONG_CHAIN) return undefined;
    const lines = linesOf(rules, texts, this.#family).map(ownCopy);
    const tableHandle = this.#kernel.tableHandle(table);
    const found = { table, name, tableHandle, lines, handles: rules.map(({ handle }) => handle), generation };
    this.#memory.set(found);
    return found;
  }

  #writeLines(table: TableName, name: string, lines: readonly RuleLine[]): void {
    const doomed = lines.some(({ verb }) => verb === "D") ? this.#kernel.rules(table, name) : [];
    for (const line of lines) {
      if (line.verb === "F") this.#batch.flush(table, name);
      else if (line.verb === "D") {
        const found = findRule(doomed, specOf(line.text, false).words, this.#family);
        if (typeof found === "string") throw new UnsupportedRule(`${line.text}: ${found}`);
        this.#batch.deleteRule(table, name, doomed.splice(found, 1)[0]?.handle ?? 0);
      } else this.#addRule(table, name, line, line.verb === "A" ? "last" : "first");
    }
  }

  /** Sends the lines that are new and takes out those that are gone, and remembers the result. */
  #writeDifference(known: KnownChain, chain: ChainPlan, kept: readonly number[]): void {
    const { table, name } = known;
    const stays = new Set(kept);
    known.handles.forEach((handle, i) => {
      if (!stays.has(i)) this.#batch.deleteRule(table, name, handle);
    });
    const echo = kept.filter((from) => from < 0).length <= ECHOED;
    const handles = kept.map((from) => known.handles[from] ?? 0);
    let place: Place = "last";
    const places: Place[] = [];
    for (let i = kept.length - 1; i >= 0; i--) {
      places[i] = place;
      if ((kept[i] ?? -1) >= 0) place = { before: handles[i] ?? 0 };
    }
    chain.lines.forEach((line, i) => {
      if ((kept[i] ?? -1) >= 0) return;
      const seq = this.#addRule(table, name, line, places[i] ?? "last", echo);
      if (echo)
        this.#echoes.set(seq, (handle) => {
          handles[i] = handle;
        });
    });
    const lines = kept.map((from, i) => known.lines[from] ?? ownCopy(chain.lines[i]?.text ?? ""));
    this.#afterwards.push(() => {
      if (!echo) this.#learn(table, name, lines);
      else if (handles.includes(0)) this.#memory.forget(table, name);
      else this.#memory.set({ ...known, lines, handles, generation: this.#generation });
    });
  }

  /** Asks for the handles of a chain that was filled as a whole, if it is long. */
  #learn(table: TableName, name: string, texts: readonly string[]): void {
    if (texts.length < LONG_CHAIN) return;
    const tableHandle = this.#kernel.tableHandle(table);
    const handles = this.#kernel.ruleHandles(table, name);
    const generation = this.#generation;
    // When somebody else was faster, they may not be ours.
    if (handles.length !== texts.length || this.#kernel.generation() !== generation) {
      this.#memory.forget(table, name);
    } else this.#memory.set({ table, name, tableHandle, lines: texts.map(ownCopy), handles, generation });
  }

  #addRule(table: TableName, chain: string, line: RuleLine, place: Place, echo = false): number {
    const { words, counters } = specOf(line.text, this.#options.counters);
    refuseAsIptables(table, chain, words);
    const seq = this.#batch.rule({ table, chain, place, echo }, (w) =>
      writeRule(w, words, this.#family, counters, (target) => this.#isChain(table, target)),
    );
    this.#lines.set(seq, line);
    return seq;
  }

  #isChain(table: TableName, name: string): boolean {
    const plan = this.#plans.find((one) => one.table === table);
    const planned = plan?.chains.get(name);
    return planned?.declared || planned?.created || this.#kernel.hasChain(table, name);
  }

  /** @param generation the only version of the ruleset for which the next transaction is right; default any. */
  #renew(generation?: number): void {
    this.#batch = new NftBatch(this.#family, generation, this.#batch.buffer);
    this.#lines = new Map();
    this.#echoes = new Map();
  }

  /** Sends what was gathered as one transaction. Throws Refused. */
  async #send(): Promise<void> {
    if (this.#batch.isIdle) return;
    const { request, acknowledged } = this.#batch.end();
    const [lines, echoes] = [this.#lines, this.#echoes];
    if (request.length > this.#room) {
      throw new UnsupportedRule(`a transaction of ${request.length} bytes where ${this.#room} are allowed`);
    }
    let refused: Refused | undefined;
    let done = false;
    const start = performance.now();
    try {
      await this.#socket.exchangeRaw(
        { operation: "nf_tables transaction", detail: "" },
        request,
        {
          refused: (error, seq) => {
            refused ??= new Refused(error, lines.get(seq));
          },
          told: ({ type, seq, body }) => {
            if (type === MESSAGE.newRule) echoes.get(seq)?.(handleOf(body));
          },
          acknowledged: (seq) => {
            done ||= seq === acknowledged;
          },
        },
        this.#pace.slow,
      );
    } finally {
      this.#renew();
      this.#pace.slow = performance.now() - start > SLOW_MS;
    }
    if (refused) throw refused;
    if (!done) throw new Error(`nf_tables did not acknowledge a transaction of ${request.length} bytes`);
    const next = following(this.#generation);
    this.#memory.committed(this.#generation, next);
    this.#generation = next;
  }
}

/** What the kernel has nothing against, but iptables; it shall say so itself. */
function refuseAsIptables(table: TableName, chain: string, words: readonly string[]): void {
  if (table === "nat" && words.at(-1) === "DROP") throw new UnsupportedRule("DROP in the nat table");
  const [incoming, outgoing] = [words.includes("-i"), words.includes("-o")];
  if (
    (incoming && (chain === "OUTPUT" || chain === "POSTROUTING")) ||
    (outgoing && (chain === "INPUT" || chain === "PREROUTING"))
  ) {
    throw new UnsupportedRule(`an interface that chain ${chain} does not know`);
  }
}
