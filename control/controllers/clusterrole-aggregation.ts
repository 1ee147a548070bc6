// Keeps the rules of ClusterRoles that are made of others (aggregationRule): admin, edit, view and whoever does as they.
// Knows ClusterRoles.

import { CLUSTER_ROLES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type { ClusterRole, PolicyRule, Stored } from "../../common/k8s.js";
import { matchLabels, selectorOf } from "../../common/selector.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { canonicalJson, semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import { onChange, type Reconciler } from "./reconcile.js";

/** The rules of a role that is made of others, each once, in the order of their roles' names. Pure. */
export function aggregatedRules(
  role: Stored<ClusterRole>,
  all: readonly Stored<ClusterRole>[],
): PolicyRule[] {
  const rules = new Map<string, PolicyRule>();
  for (const selector of role.aggregationRule?.clusterRoleSelectors ?? []) {
    const chosen = all
      .filter(({ metadata }) => metadata.name !== role.metadata.name)
      .filter(({ metadata }) => matchLabels(selectorOf(selector), metadata.labels))
      .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
    for (const rule of chosen.flatMap((one) => one.rules ?? [])) rules.set(canonicalJson(rule), rule);
  }
  return [...rules.values()];
}

export class ClusterRoleAggregationController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #roles: Informer<ClusterRole>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#roles = context.informers.get(CLUSTER_ROLES);
    this.#queue = queue;
  }

  watch(): void {
    this.#roles.subscribe(
      onChange(() => {
        for (const { metadata, aggregationRule } of this.#roles.list())
          if (aggregationRule) this.#queue.add(metadata.name);
      }),
    );
  }

  async reconcile(name: string): Promise<void> {
    const role = this.#roles.get(name);
    if (!role?.aggregationRule) return;
    const rules = aggregatedRules(role, this.#roles.list());
    if (semanticallyEqual(rules, role.rules)) return;
    await this.#context.client.update(CLUSTER_ROLES, { ...role, rules } as ClusterRole);
  }
}
