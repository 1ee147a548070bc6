// Makes the kernel agree with the desired ruleset: a partial round sends what is believed to differ, a full round
// looks first what there is. Effects of the proxy on iptables are here and nowhere else.

import type { IptablesDriver, RuleAt, Ruleset } from "../iptables/index.js";
import { cleanupInput } from "./cleanup.js";
import { chainsInPlace, kernelChains, missingRules } from "./compare.js";
import type { ChainId, DesiredRuleset, Plan } from "./desired.js";
import { type RestoreInput, restoreInput } from "./input.js";
import { isPortChain } from "./names.js";
import type { RuleContext } from "./rules/context.js";
import { entryJumps } from "./rules/fixed.js";
import { EMPTY_BODY } from "./sorted-lines.js";

export class RulesetApplier {
  readonly #iptables: IptablesDriver;
  readonly #desired: DesiredRuleset;
  readonly #jumps: readonly RuleAt[];

  constructor(
    iptables: IptablesDriver,
    desired: DesiredRuleset,
    context: Pick<RuleContext, "localhostNodePorts">,
  ) {
    this.#iptables = iptables;
    this.#desired = desired;
    this.#jumps = entryJumps(context);
  }

  /** One restore with the chains that changed, none when nothing did. Throws RestoreError; nothing is applied then. */
  async partial(): Promise<RestoreInput> {
    const plan = this.#desired.partialPlan();
    const input = restoreInput(plan);
    await this.#iptables.restore(input.text);
    this.#desired.applied(plan, false);
    return input;
  }

  /** Reads the kernel and sends, in one restore, whatever is missing or different; stale chains and jumps included. */
  async full(): Promise<RestoreInput> {
    const kernel = await this.#iptables.read();
    const same = await chainsInPlace(this.#desired, kernel);
    const wanted = this.#desired.fullPlan(kernelChains(kernel), (id) => same.has(id));
    const plan = keepReferenced(wanted, kernel);
    const input = restoreInput(plan, await this.#missingJumps(kernel));
    await this.#iptables.restore(input.text, { before: kernel });
    this.#desired.applied(wanted, true);
    return input;
  }

  /** A jump that was read is there; one that was not might be written in a way that only iptables understands. */
  async #missingJumps(kernel: Ruleset): Promise<RuleAt[]> {
    const missing: RuleAt[] = [];
    for (const jump of missingRules(this.#jumps, kernel)) {
      const target = jump.rule.at(-1);
      const rules = kernel.get(jump.table)?.get(jump.chain)?.rules ?? [];
      const similar = rules.some(({ args }) => args.at(-1) === target);
      if (!similar || !(await this.#iptables.hasRules([jump]))) missing.push(jump);
    }
    return missing;
  }
}

/**
 * Takes away everything that a proxy in iptables mode made, whatever its options were; needs no running proxy.
 * @throws RestoreError when the kernel refuses; then all is as it was.
 */
export async function removeProxyRules(iptables: IptablesDriver): Promise<void> {
  const kernel = await iptables.read();
  await iptables.restore(cleanupInput(kernel), { before: kernel });
}

/** A stale chain to which a foreign rule jumps cannot be deleted: it is emptied. */
function keepReferenced(plan: Plan, kernel: Ruleset): Plan {
  const stale = new Set(plan.remove);
  if (stale.size === 0) return plan;
  const kept = new Set<ChainId>();
  for (const [name, { rules }] of kernel.get("nat") ?? []) {
    // Our own chains are rewritten or go; they will not refer to it.
    if (isPortChain(name) || plan.write.has(`nat ${name}`)) continue;
    for (const { args } of rules) {
      for (const word of args) if (stale.has(`nat ${word}`)) kept.add(`nat ${word}`);
    }
  }
  if (kept.size === 0) return plan;
  return {
    write: new Map([...plan.write, ...[...kept].map((id) => [id, EMPTY_BODY] as const)]),
    remove: plan.remove.filter((id) => !kept.has(id)),
  };
}
