// Empties a namespace that is being deleted and then lets it go. Knows Namespaces; everything else only by kind.

import { NAMESPACES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type { KubeObject, Namespace, Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import { messageOf } from "./objects.js";
import { onSight, type Reconciler } from "./reconcile.js";
import { SERVED } from "./served.js";
import { timestamp } from "./time.js";

const FINALIZER = "kubernetes";
/** Objects go in crowds (a pod an event): look once for many of them. */
const GATHER_MS = 50;
const RETRY_MS = 5000;

type Condition = NonNullable<NonNullable<Namespace["status"]>["conditions"]>[number];

/** What is still in a namespace: counts by resource, and by finalizer that holds it; what failed on the way. */
interface Remaining {
  resources: Map<string, number>;
  finalizers: Map<string, number>;
  errors: unknown[];
}

/** Conditions of a namespace with nothing to tell, in their order: type, reason and message. */
const SATISFIED = [
  ["NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"],
  [
    "NamespaceDeletionGroupVersionParsingFailure",
    "ParsedGroupVersions",
    "All legacy kube types successfully parsed",
  ],
  [
    "NamespaceDeletionContentFailure",
    "ContentDeleted",
    "All content successfully deleted, may be waiting on finalization",
  ],
  ["NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"],
  ["NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"],
] as const;

/** What holds the deletion up: reason and message by the type of the condition. */
function troubles({
  resources,
  finalizers,
  errors,
}: Remaining): Map<string, { reason: string; message: string }> {
  const list = (counts: ReadonlyMap<string, number>, word: string) =>
    [...counts]
      .map(([name, count]) => `${name} ${word} ${count} resource instances`)
      .sort()
      .join(", ");
  const found = new Map<string, { reason: string; message: string }>();
  if (errors.length > 0)
    found.set("NamespaceDeletionContentFailure", {
      reason: "ContentDeletionFailed",
      message: `Failed to delete all resource types, ${errors.length} remaining: ${errors.map(messageOf).sort().join(", ")}`,
    });
  if (resources.size > 0)
    found.set("NamespaceContentRemaining", {
      reason: "SomeResourcesRemain",
      message: `Some resources are remaining: ${list(resources, "has")}`,
    });
  if (finalizers.size > 0)
    found.set("NamespaceFinalizersRemaining", {
      reason: "SomeFinalizersRemain",
      message: `Some content in the namespace has finalizers remaining: ${list(finalizers, "in")}`,
    });
  return found;
}

/** The conditions that tell what a deletion waits for, with kube-controller-manager's reasons and messages. */
function deletionConditions(
  present: readonly Condition[] | undefined,
  remaining: Remaining,
  now: string,
): Condition[] {
  const found = troubles(remaining);
  return SATISFIED.map(([type, reason, message]) => {
    const trouble = found.get(type);
    const status = trouble ? "True" : "False";
    const before = present?.find((other) => other.type === type);
    const lastTransitionTime = (before?.status === status && before.lastTransitionTime) || now;
    return { type, status, lastTransitionTime, reason, message, ...trouble };
  });
}

export class NamespaceController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #namespaces: Informer<Namespace>;
  readonly #contents: Informer<KubeObject>[];
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#namespaces = context.informers.get(NAMESPACES);
    this.#contents = SERVED.filter((r) => r.namespaced).map((r) => context.informers.get(r));
    this.#queue = queue;
  }

  watch(): void {
    this.#namespaces.subscribe(
      onSight(({ metadata }) => {
        if (metadata.deletionTimestamp) this.#queue.add(metadata.name);
      }),
    );
    for (const informer of this.#contents) {
      informer.subscribe({ delete: (object) => this.#contentGone(object.metadata.namespace ?? "") });
    }
  }

  #contentGone(name: string): void {
    if (this.#namespaces.get(name)?.metadata.deletionTimestamp) this.#queue.addAfter(name, GATHER_MS);
  }

  async reconcile(name: string): Promise<void> {
    const namespace = this.#namespaces.get(name);
    if (!namespace?.metadata.deletionTimestamp) return;
    const finalizers = namespace.spec?.finalizers ?? [];
    if (!finalizers.includes(FINALIZER)) return;
    const remaining = await this.#empty(name);
    const [failed] = remaining.errors;
    if (remaining.resources.size > 0 || failed !== undefined) {
      await this.#tell(namespace, remaining);
      if (failed !== undefined) throw failed;
      this.#queue.addAfter(name, RETRY_MS);
      return;
    }
    const draft = {
      ...namespace,
      spec: { ...namespace.spec, finalizers: finalizers.filter((finalizer) => finalizer !== FINALIZER) },
    } as Namespace;
    await this.#context.client.update(NAMESPACES, draft, { subresource: "finalize" });
  }

  /** Asks for the deletion of everything; returns what is still there. Asks the API, not the cache: it decides. */
  async #empty(name: string): Promise<Remaining> {
    const { client } = this.#context;
    const remaining: Remaining = { resources: new Map(), finalizers: new Map(), errors: [] };
    for (const { resource } of this.#contents) {
      let { items } = await client.list(resource, { namespace: name });
      if (items.some((item) => !item.metadata.deletionTimestamp)) {
        try {
          await client.deleteCollection(resource, { namespace: name, propagationPolicy: "Background" });
        } catch (error) {
          remaining.errors.push(error);
        }
        ({ items } = await client.list(resource, { namespace: name }));
      }
      if (items.length === 0) continue;
      remaining.resources.set(`${resource.plural}.${resource.group}`, items.length);
      for (const finalizer of items.flatMap((item) => item.metadata.finalizers ?? [])) {
        remaining.finalizers.set(finalizer, (remaining.finalizers.get(finalizer) ?? 0) + 1);
      }
    }
    return remaining;
  }

  async #tell(namespace: Stored<Namespace>, remaining: Remaining): Promise<void> {
    const now = timestamp(this.#context.now());
    const conditions = deletionConditions(namespace.status?.conditions, remaining, now);
    if (semanticallyEqual(conditions, namespace.status?.conditions)) return;
    const patch = { status: { phase: "Terminating", conditions } };
    await this.#context.client.patch(NAMESPACES, namespace.metadata.name, "merge", patch, {
      subresource: "status",
    });
  }
}
