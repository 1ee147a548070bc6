// delete and deletecollection: preconditions, grace periods, finalizers, and how dependents are to be treated.
// Source of the rules: the real server's rest.BeforeDelete and registry store.

import type { DeleteOptions, ListOptions } from "../../common/client.js";
import type { Status, Stored, StoredMeta } from "../../common/k8s.js";
import { isSystemPriorityClass } from "../resources/priority-class.js";
import type { FieldError } from "../resources/types.js";
import { invalid, notSupported } from "../resources/validation/field.js";
import { type Entry, RevisionMismatch } from "../store/store.js";
import { draftOf, type Kind, timestamp, type User } from "./engine.js";
import { isHeld } from "./metadata.js";
import type { Reader } from "./read.js";
import * as status from "./status.js";

export interface DeleteRequest {
  kind: Kind;
  namespace: string | undefined;
  name: string;
  user: User;
  options: DeleteOptions;
}

/** What came of a delete: the object is gone, or marked and waiting. */
export type Deleted = { gone: true; status: Status; object: Stored } | { gone: false; object: Stored };

const FOREGROUND = "foregroundDeletion";
const ORPHAN = "orphan";
const POLICIES = ["Foreground", "Background", "Orphan"];
const MAX_ATTEMPTS = 20;
const IMMORTAL_NAMESPACES = new Set(["default", "kube-system", "kube-public"]);

function checkPreconditions(kind: Kind, object: Stored, options: DeleteOptions): void {
  const { uid, resourceVersion } = options.preconditions ?? {};
  const { name, uid: ownUid, resourceVersion: ownVersion } = object.metadata;
  if (uid !== undefined && uid !== ownUid)
    throw status.conflict(
      kind.resource,
      name,
      `the UID in the precondition (${uid}) does not match the UID in record (${ownUid}). The object might have been deleted and then recreated`,
    );
  if (resourceVersion !== undefined && resourceVersion !== ownVersion)
    throw status.conflict(
      kind.resource,
      name,
      `the ResourceVersion in the precondition (${resourceVersion}) does not match the ResourceVersion in record (${ownVersion}). The object might have been modified`,
    );
}

function checkOptions({ propagationPolicy, gracePeriodSeconds }: DeleteOptions): void {
  const errors: FieldError[] = [];
  if (propagationPolicy !== undefined && !POLICIES.includes(propagationPolicy))
    errors.push(notSupported("propagationPolicy", propagationPolicy, [...POLICIES, "nil"]));
  if (gracePeriodSeconds !== undefined && !Number.isInteger(gracePeriodSeconds))
    errors.push(invalid("gracePeriodSeconds", gracePeriodSeconds, "must be an integer"));
  if (errors.length > 0) throw status.invalidOptions("DeleteOptions", errors);
}

/** Finalizers after a delete with that policy: the garbage collector works from them. */
function finalizersFor(object: Stored, policy: DeleteOptions["propagationPolicy"]): string[] | undefined {
  const present = object.metadata.finalizers ?? [];
  if (policy === undefined) return object.metadata.finalizers;
  const others = present.filter((f) => f !== FOREGROUND && f !== ORPHAN);
  if (policy === "Foreground") return [...others, FOREGROUND];
  if (policy === "Orphan") return [...others, ORPHAN];
  return others.length > 0 ? others : undefined;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** What a delete makes of an object, now. */
type Plan = { action: "delete" } | { action: "mark"; draft: Stored } | { action: "nothing" };

function plan(kind: Kind, object: Stored, options: DeleteOptions, now: number): Plan {
  const { definition } = kind;
  const { deletionTimestamp, deletionGracePeriodSeconds: granted = 0 } = object.metadata;
  const requested = options.gracePeriodSeconds;
  let grace = definition.gracePeriod?.(object, requested) ?? 0;
  const draft = draftOf(object) as Stored;
  const meta = draft.metadata as Mutable<StoredMeta>;
  const finalizers = finalizersFor(object, options.propagationPolicy);
  if (finalizers) meta.finalizers = finalizers;
  else delete meta.finalizers;
  let began = now;
  if (deletionTimestamp !== undefined) {
    began = Date.parse(deletionTimestamp) - granted * 1000;
    // A later delete may shorten the time, never lengthen it.
    if (requested === undefined || grace >= granted) grace = granted;
  }
  if (grace === 0 && !isHeld(draft)) return { action: "delete" };
  meta.deletionGracePeriodSeconds = grace;
  meta.deletionTimestamp = timestamp(began + grace * 1000);
  if (deletionTimestamp !== undefined && grace === granted) {
    meta.deletionTimestamp = deletionTimestamp;
    const same = JSON.stringify(finalizers ?? []) === JSON.stringify(object.metadata.finalizers ?? []);
    if (same) return { action: "nothing" };
  }
  if (meta.generation !== undefined && deletionTimestamp === undefined) meta.generation += 1;
  definition.prepareForDelete?.(draft);
  return { action: "mark", draft };
}

export class Remover {
  readonly #reader: Reader;

  constructor(reader: Reader) {
    this.#reader = reader;
  }

  /** @throws StatusError NotFound, Conflict (preconditions), Forbidden, Invalid (options). */
  async delete({ kind, namespace, name, options }: DeleteRequest): Promise<Deleted> {
    checkOptions(options);
    if (kind.prefix === "/registry/namespaces/" && IMMORTAL_NAMESPACES.has(name))
      throw status.forbidden(kind.resource, name, "this namespace may not be deleted");
    if (kind.prefix === "/registry/priorityclasses/" && isSystemPriorityClass(name))
      throw status.forbidden(kind.resource, name, "this is a system priority class and cannot be deleted");
    const key = kind.key(namespace, name);
    for (let attempt = 1; ; attempt++) {
      const entry = await kind.store.get(key);
      if (!entry) throw status.notFound(kind.resource, name);
      checkPreconditions(kind, entry.value, options);
      try {
        return await this.#execute(kind, key, entry, options);
      } catch (error) {
        if (!(error instanceof RevisionMismatch) || attempt >= MAX_ATTEMPTS) throw error;
      }
    }
  }

  async #execute(kind: Kind, key: string, entry: Entry<Stored>, options: DeleteOptions): Promise<Deleted> {
    const { store } = kind;
    const { name, uid } = entry.value.metadata;
    const planned = plan(kind, entry.value, options, Date.now());
    if (planned.action === "nothing") return { gone: false, object: entry.value };
    if (planned.action === "mark") {
      if (options.dryRun) return { gone: false, object: planned.draft };
      return { gone: false, object: (await store.put(key, planned.draft, entry.revision)).value };
    }
    const success = status.deleted(kind.resource, name, uid);
    if (options.dryRun) return { gone: true, status: success, object: entry.value };
    const { value } = await store.delete(key, entry.revision);
    kind.definition.released?.(value);
    return { gone: true, status: success, object: value };
  }

  /** Deletes every object that the selectors choose; one that somebody else deleted meanwhile is no error. */
  async deleteCollection(
    kind: Kind,
    user: User,
    selection: ListOptions,
    options: DeleteOptions,
  ): Promise<{ items: Stored[]; resourceVersion: string }> {
    const { items, resourceVersion } = await this.#reader.list(kind, selection);
    const deleted: Stored[] = [];
    for (const { metadata } of items) {
      const { name, namespace } = metadata;
      try {
        deleted.push((await this.delete({ kind, namespace, name, user, options })).object);
      } catch (error) {
        if (!(error instanceof status.StatusError) || error.reason !== "NotFound") throw error;
      }
    }
    return { items: deleted, resourceVersion };
  }
}
