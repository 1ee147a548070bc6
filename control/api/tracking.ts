// metadata.managedFields of every write: which writes are tracked, as whom, and which part of the object they are
// about. Joins the pure rules of control/patch to kinds and versions. Knows no HTTP.

import type { ManagedFieldsEntry } from "kubernetes-types/meta/v1.js";
import type { KubeObject, ObjectMeta, Stored } from "../../common/k8s.js";
import { jsonEqual } from "../patch/json-patch.js";
import {
  areReadable,
  asksForReset,
  type Writer as FieldWriter,
  readManagers,
  writeManagers,
} from "../patch/managers.js";
import { afterUpdate, type View, type Views } from "../patch/ownership.js";
import { type Shape, Shapes } from "../patch/shape.js";
import { type Engine, type Kind, timestamp } from "./engine.js";

/** As whom a request writes. */
export interface FieldManager {
  name: string;
  /**
   * Whether what it creates is tracked from the start. Objects of machines (Leases, Events, pods of a ReplicaSet)
   * are not, for their cost; like any untracked object they are from the first apply on.
   */
  tracksNew: boolean;
}

/** The parts of the cluster that write for themselves. */
const MACHINES = new Set(["kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet"]);

export function fieldManager(name: string): FieldManager {
  return { name, tracksNew: !MACHINES.has(name) };
}

/** The part of the object that a write is about; what it says of others is dropped. */
export type Part = "main" | "status" | "scale" | "finalize" | "ephemeralcontainers";

/** Metadata that users write. */
const USER_METADATA = ["annotations", "finalizers", "generateName", "labels", "ownerReferences"] as const;

function userMetadata(metadata: ObjectMeta | undefined): ObjectMeta {
  const out: Record<string, unknown> = {};
  for (const field of USER_METADATA) if (metadata?.[field] !== undefined) out[field] = metadata[field];
  return out;
}

function partOf(kind: Kind, part: Part, object: KubeObject & { status?: unknown }): object {
  const { apiVersion: _, kind: __, metadata, status, ...rest } = object;
  if (part === "status") {
    const { annotations } = metadata ?? {};
    const carried = kind.definition.statusCarriesAnnotations && annotations;
    return carried ? { metadata: { annotations }, status } : { status };
  }
  const own = { ...rest, metadata: userMetadata(metadata) };
  return kind.definition.hasStatus || status === undefined ? own : { ...own, status };
}

/** Shapes of the types, compiled once an engine. */
const shapes = new WeakMap<Engine, Shapes>();

/** The shape of a type of the schema. */
export function shapeOf(engine: Engine, definition: string): Shape {
  let found = shapes.get(engine);
  if (!found) {
    found = new Shapes(engine.schema);
    shapes.set(engine, found);
  }
  return found.of(definition);
}

/** The versions in which the kind's objects are served. */
export function viewsOf(engine: Engine, kind: Kind, part: Part): Views {
  return (apiVersion): View | undefined => {
    const other =
      apiVersion === kind.apiVersion
        ? kind
        : engine.kinds.find(
            ({ apiVersion: served, prefix, definition }) =>
              served === apiVersion && prefix === kind.prefix && !definition.answers,
          );
    if (!other) return undefined;
    return {
      shape: shapeOf(engine, other.definition.schema),
      convert: (object) => partOf(other, part, convert(object as Stored, kind, other)),
    };
  };
}

function convert(object: Stored, from: Kind, to: Kind): Stored {
  if (from === to) return object;
  const stored = from.definition.conversion?.toStored(object) ?? object;
  return to.definition.conversion?.fromStored(stored) ?? stored;
}

export function writerOf(
  kind: Kind,
  part: Part,
  operation: FieldWriter["operation"],
  manager: FieldManager,
): FieldWriter {
  const subresource = part === "main" ? "" : part;
  return { manager: manager.name, operation, apiVersion: kind.apiVersion, subresource };
}

/** managedFields of a new object: what its creator has said, with defaults, before admission adds to it. */
export function trackCreate(
  engine: Engine,
  kind: Kind,
  manager: FieldManager,
  object: KubeObject,
): ManagedFieldsEntry[] | undefined {
  const sent = object.metadata?.managedFields;
  const taken = sent && areReadable(sent) ? readManagers(sent) : [];
  if (!manager.tracksNew && taken.length === 0) return undefined;
  return track(engine, kind, "main", manager, { metadata: {} }, object, taken);
}

/**
 * managedFields after an update from `old` to `draft`, where the request has sent `sent`: a client may rewrite them,
 * or reset them with [{}].
 */
export function trackUpdate(
  engine: Engine,
  kind: Kind,
  part: Part,
  manager: FieldManager,
  { old, draft, sent }: { old: Stored; draft: KubeObject; sent?: readonly ManagedFieldsEntry[] | undefined },
): ManagedFieldsEntry[] | undefined {
  const live = old.metadata.managedFields;
  if (sent && asksForReset(sent)) return undefined;
  const isRewritten = sent && sent !== live && !jsonEqual(sent, live);
  const own = isRewritten && areReadable(sent) ? sent : live;
  if (!own || own.length === 0) return undefined;
  return track(engine, kind, part, manager, old, draft, readManagers(own));
}

function track(
  engine: Engine,
  kind: Kind,
  part: Part,
  manager: FieldManager,
  live: KubeObject,
  next: KubeObject,
  managers: ReturnType<typeof readManagers>,
): ManagedFieldsEntry[] {
  const writer = writerOf(kind, part, "Update", manager);
  const views = viewsOf(engine, kind, part);
  return writeManagers(afterUpdate({ live, next, managers, writer, views, now: timestamp() }));
}

/** Sets metadata.managedFields, or leaves none. */
export function setManagedFields(
  draft: KubeObject,
  entries: readonly ManagedFieldsEntry[] | undefined,
): void {
  const { managedFields: _, ...metadata } = draft.metadata ?? {};
  draft.metadata = entries?.length
    ? { ...metadata, managedFields: entries as ManagedFieldsEntry[] }
    : metadata;
}

/** Whether a write would change nothing; times of managers alone are nothing. */
export function isUnchanged(draft: KubeObject, old: Stored): boolean {
  const { managedFields: after = [], ...metadata } = draft.metadata ?? {};
  const { managedFields: before = [], ...oldMetadata } = old.metadata;
  if (!jsonEqual({ ...draft, metadata }, { ...old, metadata: oldMetadata })) return false;
  return after === before || jsonEqual(after.map(untimed), before.map(untimed));
}

function untimed({ time: _, ...entry }: ManagedFieldsEntry): ManagedFieldsEntry {
  return entry;
}
