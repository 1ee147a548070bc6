// The ruleset that should be in the kernel, kept up to date port by port, and what of it is believed to be there.
// No effects: a sync asks for a plan, sends it and reports what became of it.

import { type Rule, renderRuleLine, type TableName } from "../iptables/index.js";
import type { PortState } from "./model.js";
import { isPortChain } from "./names.js";
import { type RenderedPort, renderPort, SHARED_CHAINS, tailRules } from "./render.js";
import type { RuleContext } from "./rules/context.js";
import { fixedChains } from "./rules/fixed.js";
import { type ChainBody, SortedLines } from "./sorted-lines.js";

/** A chain with its table, as a key: `nat KUBE-SVC-…`. */
export type ChainId = string;

/** What one restore input shall do to our chains. */
export interface Plan {
  /** Emptied and filled. */
  readonly write: ReadonlyMap<ChainId, ChainBody>;
  /** Emptied and removed. */
  readonly remove: readonly ChainId[];
}

export function chainId(table: TableName, name: string): ChainId {
  return `${table} ${name}`;
}

export function splitChainId(id: ChainId): { table: TableName; name: string } {
  const [table, name] = id.split(" ") as [TableName, string];
  return { table, name };
}

function bodyOf(name: string, rules: readonly Rule[]): ChainBody {
  return { text: rules.map((rule) => renderRuleLine(name, rule)).join("\n"), rules: rules.length };
}

export class DesiredRuleset {
  #context: RuleContext;
  /** Fixed chains and the chains of ports; shared chains are joined from #shared when needed. */
  readonly #chains = new Map<ChainId, ChainBody>();
  readonly #shared = new Map<ChainId, SortedLines>();
  readonly #chainsOfPort = new Map<string, readonly ChainId[]>();
  /** What the kernel has as far as we know. */
  readonly #applied = new Map<ChainId, string>();
  readonly #touched = new Set<ChainId>();
  readonly #dropped = { internal: new Set<string>(), external: new Set<string>() };
  readonly #rules: Record<"filter" | "nat", number> = { filter: 0, nat: 0 };

  constructor(context: RuleContext) {
    this.#context = context;
    for (const { id } of SHARED_CHAINS) {
      this.#shared.set(id, new SortedLines());
      this.#touched.add(id);
    }
    this.#renderFixed();
  }

  /** The node's side changed: everything is rendered anew. Costs what all ports cost. */
  setContext(context: RuleContext, ports: ReadonlyMap<string, PortState>): void {
    this.#context = context;
    this.#renderFixed();
    for (const [key, state] of ports) this.update(key, state);
  }

  #renderFixed(): void {
    for (const { table, name, rules } of fixedChains(this.#context)) {
      this.#set(chainId(table, name), bodyOf(name, rules));
    }
    for (const { id, name } of SHARED_CHAINS) {
      const tail = bodyOf(name, tailRules(id, this.#context));
      if (this.#shared.get(id)?.setTail(tail)) this.#touched.add(id);
    }
  }

  /** Renders one port anew; undefined takes its rules away. Costs what the port costs, however many there are. */
  update(key: string, state: PortState | undefined): void {
    const rendered: RenderedPort | undefined = state && renderPort(state, this.#context);
    const gone = new Set(this.#chainsOfPort.get(key));
    const ids: ChainId[] = [];
    for (const { table, name, rules } of rendered?.chains ?? []) {
      const id = chainId(table, name);
      ids.push(id);
      gone.delete(id);
      this.#set(id, bodyOf(name, rules));
    }
    for (const id of gone) this.#set(id, undefined);
    if (rendered) this.#chainsOfPort.set(key, ids);
    else this.#chainsOfPort.delete(key);
    for (const policy of ["internal", "external"] as const) {
      if (rendered?.dropped[policy]) this.#dropped[policy].add(key);
      else this.#dropped[policy].delete(key);
    }
    for (const { id, name } of SHARED_CHAINS) {
      const lines = this.#shared.get(id);
      if (lines?.set(key, bodyOf(name, rendered?.shared[id] ?? []))) this.#touched.add(id);
    }
  }

  #set(id: ChainId, body: ChainBody | undefined): void {
    const old = this.#chains.get(id);
    if (old?.text === body?.text) return;
    if (body) this.#chains.set(id, body);
    else this.#chains.delete(id);
    const { table } = splitChainId(id);
    if (table === "nat" || table === "filter") this.#rules[table] += (body?.rules ?? 0) - (old?.rules ?? 0);
    this.#touched.add(id);
  }

  /** The body that a chain should have; undefined when it should not exist. */
  body(id: ChainId): ChainBody | undefined {
    return this.#shared.get(id)?.body() ?? this.#chains.get(id);
  }

  /** Ids of every chain that should exist. */
  ids(): ChainId[] {
    return [...this.#chains.keys(), ...this.#shared.keys()];
  }

  /** Rules that should exist, per table. */
  ruleCounts(): Record<"filter" | "nat", number> {
    const out = { ...this.#rules };
    for (const { id, table } of SHARED_CHAINS) out[table] += this.#shared.get(id)?.body().rules ?? 0;
    return out;
  }

  /** Service ports whose traffic is dropped here for want of a local endpoint, per traffic policy. */
  droppedCounts(): { internal: number; external: number } {
    return { internal: this.#dropped.internal.size, external: this.#dropped.external.size };
  }

  /** Chains whose wanted text differs from the one believed to be in the kernel. */
  partialPlan(): Plan {
    const write = new Map<ChainId, ChainBody>();
    const remove: ChainId[] = [];
    for (const id of this.#touched) {
      const body = this.body(id);
      if (!body) {
        if (this.#applied.has(id)) remove.push(id);
      } else if (this.#applied.get(id) !== body.text) write.set(id, body);
    }
    return { write, remove };
  }

  /**
   * Everything, less what `same` says the kernel has already; port chains of the kernel that nobody wants go.
   * @param kernel ids of the chains that exist in the kernel.
   */
  fullPlan(kernel: Iterable<ChainId>, same: (id: ChainId, body: ChainBody) => boolean): Plan {
    const write = new Map<ChainId, ChainBody>();
    for (const id of this.ids()) {
      const body = this.body(id) as ChainBody;
      if (!same(id, body)) write.set(id, body);
    }
    const stale = (id: ChainId) => {
      const { table, name } = splitChainId(id);
      return table === "nat" && isPortChain(name) && !this.#chains.has(id);
    };
    return { write, remove: [...kernel].filter(stale) };
  }

  /** The plan is in the kernel. `full`: the kernel has all that we want. */
  applied(plan: Plan, full: boolean): void {
    if (full) {
      this.#applied.clear();
      for (const id of this.ids()) this.#applied.set(id, this.body(id)?.text ?? "");
      this.#touched.clear();
      return;
    }
    for (const [id, { text }] of plan.write) this.#applied.set(id, text);
    for (const id of plan.remove) this.#applied.delete(id);
    for (const id of [...this.#touched]) {
      if (this.#applied.get(id) === this.body(id)?.text) this.#touched.delete(id);
    }
  }
}
