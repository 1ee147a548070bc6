// pods/eviction: deletes a pod as `kubectl drain` asks for it, as far as PodDisruptionBudgets allow. The rules and texts
// are those of the real server's eviction subresource. Knows no HTTP.

import { type DeleteOptions, POD_DISRUPTION_BUDGETS } from "../../common/client.js";
import type { KubeObject, Pod, PodDisruptionBudget, Status, Stored } from "../../common/k8s.js";
import { matchLabels, selectorOf } from "../../common/selector.js";
import { type Body, decodeBody, type Expected } from "./body.js";
import { draftOf, type Engine, timestamp } from "./engine.js";
import type { Remover } from "./remove.js";
import * as status from "./status.js";
import type { Change, WriteRequest, Writer } from "./write.js";

export const EVICTION: Expected = {
  apiVersion: "policy/v1",
  kind: "Eviction",
  schema: "io.k8s.api.policy.v1.Eviction",
};
const BUDGETS = { group: "policy", version: "v1", plural: "poddisruptionbudgets" };
const BUDGET_NAMED = { group: "policy", plural: "poddisruptionbudget" };
/** So many evicted pods may wait to be seen as deleted by the controller. */
const MOST_DISRUPTED = 2000;
/** Suggested to who comes before the controller has calculated, in seconds. */
const RETRY_AFTER_SECONDS = 10;

interface EvictionObject extends KubeObject {
  deleteOptions?: DeleteOptions & { dryRun?: unknown };
}

type Budget = Stored<PodDisruptionBudget>;

export class Evictor {
  readonly #engine: Engine;
  readonly #writer: Writer;
  readonly #remover: Remover;

  constructor(engine: Engine, writer: Writer, remover: Remover) {
    this.#engine = engine;
    this.#writer = writer;
    this.#remover = remover;
  }

  /** @throws StatusError NotFound; TooManyRequests when a budget does not allow it; the reasons of a delete. */
  async evict(request: WriteRequest, name: string, body: Body): Promise<Status> {
    const { object } = decodeBody(this.#engine, body, EVICTION, request.fieldValidation);
    const wanted = object.metadata?.name;
    if (wanted && wanted !== name)
      throw status.badRequest("name in URL does not match name in Eviction object");
    const { dryRun: asked, ...options } = (object as EvictionObject).deleteOptions ?? {};
    const { kind, namespace, user } = request;
    // kubectl drain --dry-run=server says it in the body only.
    const dryRun = request.dryRun || (Array.isArray(asked) && asked.length > 0);
    const entry = await kind.store.get(kind.key(namespace, name));
    if (!entry) throw status.notFound(kind.resource, name);
    const pod = entry.value as Stored<Pod>;
    const budget = isDisruptedAnyway(pod) ? undefined : await this.#budgetOf(pod);
    const guarded = budget !== undefined && isGuarded(pod, budget);
    if (budget && guarded) await this.#take({ ...request, dryRun }, budget, name);
    if (!dryRun) await this.#mark(request, name, guarded ? undefined : budget);
    await this.#remover.delete({ kind, namespace, name, user, options: { ...options, dryRun } });
    return { kind: "Status", apiVersion: "v1", metadata: {}, status: "Success", code: 201 };
  }

  async #budgetOf({ metadata }: Stored<Pod>): Promise<Budget | undefined> {
    const kind = this.#engine.kindOf(POD_DISRUPTION_BUDGETS);
    const { entries } = await kind.store.range(kind.range(metadata.namespace));
    const budgets = entries
      .map(({ value }) => value as Budget)
      .filter(({ spec }) => matchLabels(selectorOf(spec?.selector), metadata.labels));
    if (budgets.length <= 1) return budgets[0];
    throw status.failure({
      code: 500,
      reason: "InternalError",
      message:
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
    });
  }

  /** Takes one disruption from the budget; tried again on what the controller wrote in between. */
  async #take(request: WriteRequest, { metadata }: Budget, podName: string): Promise<void> {
    const change = (old: Stored): Change => ({ object: taken(old as Budget, podName), warnings: [] });
    const kind = this.#engine.kindOf({ ...BUDGETS, kind: "PodDisruptionBudget", namespaced: true });
    await this.#writer.modify({ ...request, kind }, { name: metadata.name, part: "status", change });
  }

  /**
   * The reason stays readable while the pod terminates.
   * @param spared The budget that was not touched because the pod was not healthy: it still must not be.
   */
  async #mark(request: WriteRequest, name: string, spared: Budget | undefined): Promise<void> {
    const change = (old: Stored): Change => {
      const pod = old as Stored<Pod>;
      if (spared && isGuarded(pod, spared)) throw unsettled(spared.metadata.name);
      return { object: marked(pod), warnings: [] };
    };
    await this.#writer.modify(request, { name, part: "unchecked", change });
  }
}

/** It ends, has ended, or never began: nobody is disrupted. */
function isDisruptedAnyway({ metadata, status }: Stored<Pod>): boolean {
  return !!metadata.deletionTimestamp || ["Succeeded", "Failed", "Pending"].includes(status?.phase ?? "");
}

/** A pod that is not ready does not count as healthy: it may go without the budget being touched, if policy says so. */
function isGuarded(pod: Stored<Pod>, { spec, status: counted }: Budget): boolean {
  const ready = pod.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True");
  if (ready) return true;
  if (spec?.unhealthyPodEvictionPolicy === "AlwaysAllow") return false;
  const { currentHealthy = 0, desiredHealthy = 0 } = counted ?? {};
  return !(currentHealthy >= desiredHealthy && desiredHealthy > 0);
}

/** The budget with one disruption less. @throws StatusError TooManyRequests, Forbidden. */
function taken(budget: Budget, podName: string): KubeObject {
  const { name, generation = 0 } = budget.metadata;
  const { disruptionsAllowed: allowed = 0, disruptedPods = {}, observedGeneration = 0 } = budget.status ?? {};
  if (observedGeneration < generation) throw unsettled(name);
  if (allowed < 0) throw status.forbidden(BUDGET_NAMED, name, "pdb disruptions allowed is negative");
  if (Object.keys(disruptedPods).length > MOST_DISRUPTED) {
    const text = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
    throw status.forbidden(BUDGET_NAMED, name, text);
  }
  if (allowed === 0) throw refusal(whyNone(budget));
  const draft = draftOf(budget) as Budget;
  const now = timestamp();
  const conditions = (draft.status?.conditions ?? []).map((condition) =>
    condition.type === "DisruptionAllowed" && allowed === 1
      ? { ...condition, status: "False", reason: "InsufficientPods", message: "", lastTransitionTime: now }
      : condition,
  );
  const left = { disruptionsAllowed: allowed - 1, disruptedPods: { ...disruptedPods, [podName]: now } };
  return { ...draft, status: { ...draft.status, ...left, conditions } } as KubeObject;
}

function whyNone({ metadata: { name }, status: counted }: Budget): string {
  const { desiredHealthy = 0, currentHealthy = 0, conditions = [] } = counted ?? {};
  const failed = conditions.find(
    ({ type, reason }) => type === "DisruptionAllowed" && reason === "SyncFailed",
  );
  if (failed) {
    return `The disruption budget ${name} does not allow evicting pods currently because it failed sync: ${failed.message}`;
  }
  return `The disruption budget ${name} needs ${desiredHealthy} healthy pods and has ${currentHealthy} currently`;
}

function unsettled(name: string): status.StatusError {
  return refusal(
    `The disruption budget ${name} is still being processed by the server.`,
    RETRY_AFTER_SECONDS,
  );
}

function refusal(cause: string, retryAfterSeconds?: number): status.StatusError {
  return status.failure({
    code: 429,
    reason: "TooManyRequests",
    message: "Cannot evict pod as it would violate the pod's disruption budget.",
    details: {
      causes: [{ reason: "DisruptionBudget", message: cause }],
      ...(retryAfterSeconds ? { retryAfterSeconds } : {}),
    },
  });
}

function marked(pod: Stored<Pod>): KubeObject {
  const others = (pod.status?.conditions ?? []).filter(({ type }) => type !== "DisruptionTarget");
  const condition = {
    type: "DisruptionTarget",
    status: "True",
    reason: "EvictionByEvictionAPI",
    message: "Eviction API: evicting",
    lastTransitionTime: timestamp(),
  };
  return { ...pod, status: { ...pod.status, conditions: [...others, condition] } } as KubeObject;
}
