// Deletes what its owners left behind, and holds up or cuts loose what foreground and orphan deletion ask for.
// Knows metadata only, of all kinds. The verdict on one object is pure: judge().

import { isNotFound, type KubeClient, type Resource } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type KubeObject, keyOf, type OwnerReference, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import { namespaceOf } from "./objects.js";
import { setOwners } from "./owners.js";
import type { Reconciler } from "./reconcile.js";
import { resourceName, resourceOf, SERVED } from "./served.js";

const FOREGROUND = "foregroundDeletion";
const ORPHAN = "orphan";
const BY_OWNER = "kubeplumb:owner";
const REMEMBERED_ABSENT = 10_000;

export type OwnerState = "solid" | "waiting" | "absent";

export type Verdict =
  | { type: "keep" }
  /** Some owners are gone or want to be rid of it, but not all. */
  | { type: "forget-owners"; uids: string[] }
  | { type: "delete"; policy: "Background" | "Foreground" | "Orphan" };

/**
 * What becomes of an object with these owners. It lives as long as one owner is solid: present and not waiting for
 * its dependents to go. (The rules of Kubernetes' garbage collector.)
 */
export function judge(
  object: Stored,
  owners: readonly { uid: string; state: OwnerState }[],
  hasDependents: boolean,
): Verdict {
  if (owners.length === 0 || object.metadata.deletionTimestamp) return { type: "keep" };
  const leaving = owners.filter(({ state }) => state !== "solid").map(({ uid }) => uid);
  if (leaving.length === 0) return { type: "keep" };
  if (leaving.length < owners.length) return { type: "forget-owners", uids: leaving };
  const waiting = owners.some(({ state }) => state === "waiting");
  if (waiting && hasDependents) return { type: "delete", policy: "Foreground" };
  const { finalizers = [] } = object.metadata;
  if (finalizers.includes(ORPHAN)) return { type: "delete", policy: "Orphan" };
  if (finalizers.includes(FOREGROUND)) return { type: "delete", policy: "Foreground" };
  return { type: "delete", policy: "Background" };
}

function isDeletingDependents(object: Stored): boolean {
  return !!object.metadata.deletionTimestamp && (object.metadata.finalizers ?? []).includes(FOREGROUND);
}

function isOrphaning(object: Stored): boolean {
  return !!object.metadata.deletionTimestamp && (object.metadata.finalizers ?? []).includes(ORPHAN);
}

function coordinatesOf(resource: Resource, key: string, uid: string): string {
  return `${resourceName(resource)}|${key}|${uid}`;
}

interface Source {
  resource: Resource;
  informer: Informer<KubeObject>;
}

export class GarbageCollector implements Reconciler {
  readonly #client: KubeClient;
  readonly #recorder: EventRecorder;
  readonly #sources = new Map<string, Source>();
  /** uid → where the object is in the caches. */
  readonly #present = new Map<string, { source: Source; key: string }>();
  /** Owners (see coordinatesOf) that do not exist; a uid never comes back. */
  readonly #absent = new Set<string>();
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#client = context.client;
    this.#recorder = context.events.recorder("garbage-collector-controller");
    for (const resource of SERVED) {
      const informer = context.informers.get(resource);
      informer.addIndex(BY_OWNER, (object) => (object.metadata.ownerReferences ?? []).map(({ uid }) => uid));
      this.#sources.set(resourceName(resource), { resource, informer });
    }
    this.#queue = queue;
  }

  watch(): void {
    for (const source of this.#sources.values()) {
      source.informer.subscribe({
        add: (object) => this.#seen(source, undefined, object),
        update: (old, now) => this.#seen(source, old, now),
        delete: (object) => this.#gone(source, object),
      });
    }
  }

  #enqueue({ resource }: Source, object: Stored): void {
    this.#queue.add(`${resourceName(resource)}|${keyOf(object)}`);
  }

  #seen(source: Source, old: Stored | undefined, now: Stored): void {
    const { uid, ownerReferences = [] } = now.metadata;
    if (!old) this.#present.set(uid, { source, key: keyOf(now) });
    const ownersChanged = !old || !semanticallyEqual(old.metadata.ownerReferences, ownerReferences);
    if (ownerReferences.length > 0 && ownersChanged) this.#enqueue(source, now);
    // What a waiting owner was held up by may hold it up no longer.
    if (old && ownersChanged)
      for (const reference of old.metadata.ownerReferences ?? []) this.#ownerMayGo(reference.uid);
    const marked = isDeletingDependents(now) || isOrphaning(now);
    if (marked && (!old || (!isDeletingDependents(old) && !isOrphaning(old)))) this.#enqueue(source, now);
  }

  #gone({ resource }: Source, object: Stored): void {
    const { uid, ownerReferences = [] } = object.metadata;
    this.#present.delete(uid);
    this.#rememberAbsent(coordinatesOf(resource, keyOf(object), uid));
    for (const { source, dependent } of this.#dependents(uid)) this.#enqueue(source, dependent);
    for (const reference of ownerReferences) this.#ownerMayGo(reference.uid);
  }

  #ownerMayGo(uid: string): void {
    const place = this.#present.get(uid);
    const owner = place?.source.informer.get(place.key);
    if (place && owner && isDeletingDependents(owner)) this.#enqueue(place.source, owner);
  }

  #rememberAbsent(owner: string): void {
    this.#absent.add(owner);
    if (this.#absent.size <= REMEMBERED_ABSENT) return;
    for (const oldest of this.#absent) {
      this.#absent.delete(oldest);
      return;
    }
  }

  #dependents(uid: string): { source: Source; dependent: Stored }[] {
    const found: { source: Source; dependent: Stored }[] = [];
    for (const source of this.#sources.values()) {
      for (const dependent of source.informer.byIndex(BY_OWNER, uid)) found.push({ source, dependent });
    }
    return found;
  }

  async reconcile(queueKey: string): Promise<void> {
    const bar = queueKey.indexOf("|");
    const source = this.#sources.get(queueKey.slice(0, bar));
    const object = source?.informer.get(queueKey.slice(bar + 1));
    if (!source || !object) return;
    if (isOrphaning(object)) await this.#orphanDependents(source, object);
    else if (isDeletingDependents(object)) await this.#deleteDependents(source, object);
    else await this.#judgeAndAct(source, object);
  }

  async #judgeAndAct({ resource }: Source, object: Stored): Promise<void> {
    const { name, uid, resourceVersion, ownerReferences = [] } = object.metadata;
    if (object.metadata.deletionTimestamp) return;
    const owners = await Promise.all(
      ownerReferences.map(async (reference) => ({
        uid: reference.uid,
        state: await this.#stateOf(reference, object),
      })),
    );
    const verdict = judge(object, owners, this.#dependents(uid).length > 0);
    if (verdict.type === "keep") return;
    if (verdict.type === "forget-owners") {
      const kept = ownerReferences.filter((reference) => !verdict.uids.includes(reference.uid));
      await setOwners(this.#client, resource, object, kept);
      return;
    }
    // In a circle of owners each would wait for the next.
    const inCircle =
      verdict.policy === "Foreground" &&
      this.#dependents(uid).some(({ dependent }) => isDeletingDependents(dependent));
    const last = inCircle ? await this.#unblockOwners(resource, object) : object;
    // Only as we saw it: somebody may have given it another owner in this moment.
    await this.#client.delete(resource, name, {
      ...namespaceOf(object),
      propagationPolicy: verdict.policy,
      preconditions: { uid, resourceVersion: last?.metadata.resourceVersion ?? resourceVersion },
    });
  }

  /** The object no longer holds up the foreground deletion of its owners. */
  async #unblockOwners(resource: Resource, object: Stored): Promise<Stored | undefined> {
    const references = object.metadata.ownerReferences ?? [];
    const free = references.map((reference) => ({ ...reference, blockOwnerDeletion: false }));
    return await setOwners(this.#client, resource, object, free);
  }

  /** Tells of an owner that exists, but in another namespace, where it cannot own this. */
  #tellMisplaced({ apiVersion, kind, name, uid }: OwnerReference, dependent: Stored): void {
    const place = this.#present.get(uid);
    if (!place?.source.resource.namespaced) return;
    const { namespace = "" } = dependent.metadata;
    if (place.key.startsWith(`${namespace}/`)) return;
    const owner = `[${apiVersion}/${kind}, namespace: ${namespace}, name: ${name}, uid: ${uid}]`;
    const text = `ownerRef ${owner} does not exist in namespace "${namespace}"`;
    this.#recorder.event(dependent, "Warning", "OwnerRefInvalidNamespace", text);
  }

  /** An owner is the object of this kind, name and uid in the dependent's own namespace; elsewhere it is none. */
  async #stateOf(reference: OwnerReference, dependent: Stored): Promise<OwnerState> {
    const { apiVersion, kind, name, uid } = reference;
    this.#tellMisplaced(reference, dependent);
    const resource = resourceOf({ apiVersion, kind });
    // Of a kind we do not know, or out of reach for a cluster-scoped dependent: not ours to judge.
    if (!resource || (resource.namespaced && !dependent.metadata.namespace)) return "solid";
    const namespace = resource.namespaced ? dependent.metadata.namespace : undefined;
    const key = namespace ? `${namespace}/${name}` : name;
    const cached = this.#sources.get(resourceName(resource))?.informer.get(key);
    if (cached?.metadata.uid === uid) return isDeletingDependents(cached) ? "waiting" : "solid";
    const coordinates = coordinatesOf(resource, key, uid);
    if (this.#absent.has(coordinates)) return "absent";
    try {
      const owner = await this.#client.get(resource, name, namespace);
      if (owner.metadata.uid === uid) return isDeletingDependents(owner) ? "waiting" : "solid";
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
    this.#rememberAbsent(coordinates);
    return "absent";
  }

  /** Foreground: dependents that block go first, then the object itself may. */
  async #deleteDependents(source: Source, object: Stored): Promise<void> {
    const { uid } = object.metadata;
    const dependents = this.#dependents(uid);
    // Those that wait for dependents of their own are on their way; in a circle they would call each other for ever.
    for (const { source: of, dependent } of dependents)
      if (!isDeletingDependents(dependent)) this.#enqueue(of, dependent);
    const blocking = dependents.some(({ dependent }) =>
      dependent.metadata.ownerReferences?.some(
        (reference) => reference.uid === uid && reference.blockOwnerDeletion,
      ),
    );
    if (!blocking) await this.#removeFinalizer(source, object, FOREGROUND);
  }

  async #orphanDependents(source: Source, object: Stored): Promise<void> {
    const { uid } = object.metadata;
    for (const { source: of, dependent } of this.#dependents(uid)) {
      const kept = (dependent.metadata.ownerReferences ?? []).filter((reference) => reference.uid !== uid);
      await setOwners(this.#client, of.resource, dependent, kept);
    }
    await this.#removeFinalizer(source, object, ORPHAN);
  }

  async #removeFinalizer({ resource }: Source, object: Stored, finalizer: string): Promise<void> {
    const { name, uid, resourceVersion, finalizers = [] } = object.metadata;
    const kept = finalizers.filter((other) => other !== finalizer);
    const patch = { metadata: { uid, resourceVersion, finalizers: kept } };
    await this.#client.patch(resource, name, "merge", patch, namespaceOf(object));
  }
}
