// metadata.managedFields: who owns which fields, between the form of the API and the one that is worked with. Pure.

import type { ManagedFieldsEntry } from "kubernetes-types/meta/v1.js";
import {
  difference,
  type FieldSet,
  isEmptySet,
  isFieldSet,
  pathTexts,
  sharedSet,
  union,
} from "./field-set.js";

/** Who writes, and how. */
export interface Writer {
  readonly manager: string;
  readonly operation: "Apply" | "Update";
  readonly apiVersion: string;
  /** "status", "scale", …; "" for the object itself. */
  readonly subresource: string;
}

/** A writer with what it owns. */
export interface Manager extends Writer {
  /** RFC 3339 of the last write that changed what it owns. */
  readonly time: string | undefined;
  readonly fields: FieldSet;
}

/** Owner of what an object had before somebody applied to it for the first time, when nothing was tracked. */
export const BEFORE_FIRST_APPLY = "before-first-apply";
const ANCIENT = "ancient-changes";
/** Entries of updates beyond this many are put together, the oldest first. */
const MAX_UPDATERS = 10;

/** What only the server sets is nobody's. */
const SERVER_FIELDS: FieldSet = {
  "f:apiVersion": {},
  "f:kind": {},
  "f:metadata": {
    ".": {},
    "f:creationTimestamp": {},
    "f:generation": {},
    "f:managedFields": {},
    "f:name": {},
    "f:namespace": {},
    "f:resourceVersion": {},
    "f:selfLink": {},
    "f:uid": {},
  },
};

export function withoutServerFields(fields: FieldSet): FieldSet {
  return difference(fields, SERVER_FIELDS);
}

/** Whether two writers share an entry: the version of an applier does not count, it moves with the manifest. */
export function sameWriter(a: Writer, b: Writer): boolean {
  return (
    a.manager === b.manager &&
    a.operation === b.operation &&
    a.subresource === b.subresource &&
    (a.operation === "Apply" || a.apiVersion === b.apiVersion)
  );
}

/** The managers of stored entries. */
export function readManagers(entries: readonly ManagedFieldsEntry[] | undefined): Manager[] {
  return (entries ?? []).flatMap((entry) => {
    const { manager = "", operation, apiVersion = "", subresource = "", time, fieldsV1 } = entry;
    if (operation !== "Apply" && operation !== "Update") return [];
    return [{ manager, operation, apiVersion, subresource, time, fields: (fieldsV1 ?? {}) as FieldSet }];
  });
}

/** Whether entries that a client sent can be read. */
export function areReadable(entries: readonly ManagedFieldsEntry[]): boolean {
  return entries.every(
    ({ operation, fieldsType, fieldsV1, apiVersion }) =>
      (operation === "Apply" || operation === "Update") &&
      fieldsType === "FieldsV1" &&
      Boolean(apiVersion) &&
      isFieldSet(fieldsV1 ?? {}),
  );
}

/** managedFields: [{}] asks that nothing be tracked any more; an empty list is from those who do not know them. */
export function asksForReset(entries: readonly ManagedFieldsEntry[]): boolean {
  return entries.length === 1 && Object.keys(entries[0] ?? {}).length === 0;
}

/** In the order of the real server: by operation, time, manager, version, subresource. */
export function writeManagers(managers: readonly Manager[]): ManagedFieldsEntry[] {
  const order = ({ operation, time = "", manager, apiVersion, subresource }: Manager): string[] => [
    operation,
    time,
    manager,
    apiVersion,
    subresource,
  ];
  return [...managers].sort((a, b) => compareLists(order(a), order(b))).map(entryOf);
}

function compareLists(a: readonly string[], b: readonly string[]): number {
  const at = a.findIndex((text, i) => text !== b[i]);
  return at < 0 ? 0 : (a[at] as string) < (b[at] as string) ? -1 : 1;
}

/** Assigned one by one: spreading what may be absent costs more than the rest of a write's bookkeeping. */
function entryOf({ manager, operation, apiVersion, time, fields, subresource }: Manager): ManagedFieldsEntry {
  const fieldsV1 = sharedSet(fields);
  const entry: ManagedFieldsEntry = { operation, apiVersion, fieldsType: "FieldsV1", fieldsV1 };
  if (manager) entry.manager = manager;
  if (time) entry.time = time;
  if (subresource) entry.subresource = subresource;
  return entry;
}

/** Puts together the oldest updates of one version when there are too many; appliers always stay. */
export function capUpdaters(managers: readonly Manager[]): Manager[] {
  const updaters = managers.filter(({ operation }) => operation === "Update");
  const oldest = updaters.sort((a, b) => compareLists([a.time ?? "", a.manager], [b.time ?? "", b.manager]));
  let kept = [...managers];
  let tooMany = updaters.length - MAX_UPDATERS;
  const first = new Map<string, Manager>();
  for (const updater of oldest) {
    if (tooMany <= 0) break;
    const bucket = first.get(updater.apiVersion);
    if (!bucket) {
      first.set(updater.apiVersion, updater);
      continue;
    }
    const merged: Manager = {
      ...updater,
      manager: ANCIENT,
      subresource: "",
      fields: union(bucket.fields, updater.fields),
    };
    kept = [...kept.filter((one) => one !== bucket && one !== updater), merged];
    first.set(updater.apiVersion, merged);
    tooMany--;
  }
  return kept;
}

/** Fields of a manager that an apply would change. */
export interface Conflict {
  readonly manager: Manager;
  readonly fields: FieldSet;
}

/** Conflicts for a Status: the message, and a cause for each field. */
export function conflictTexts(conflicts: readonly Conflict[]): {
  message: string;
  causes: { reason: string; message: string; field: string }[];
} {
  const byOwner = conflicts
    .map(({ manager, fields }) => ({ owner: ownerText(manager), paths: pathTexts(fields) }))
    .sort((a, b) => (a.owner < b.owner ? -1 : 1));
  const causes = byOwner.flatMap(({ owner, paths }) =>
    paths.map((field) => ({ reason: "FieldManagerConflict", message: `conflict with ${owner}`, field })),
  );
  const [only] = byOwner;
  if (causes.length === 1)
    return {
      message: `Apply failed with 1 conflict: conflict with ${only?.owner}: ${only?.paths[0]}`,
      causes,
    };
  const lines = byOwner.flatMap(({ owner, paths }) => [
    `conflicts with ${owner}:`,
    ...paths.map((path) => `- ${path}`),
  ]);
  return { message: `Apply failed with ${causes.length} conflicts: ${lines.join("\n")}`, causes };
}

function ownerText({ manager, operation, apiVersion, subresource }: Manager): string {
  const name = JSON.stringify(manager);
  const part = subresource ? ` with subresource ${JSON.stringify(subresource)}` : "";
  return operation === "Update" ? `${name}${part} using ${apiVersion}` : name + part;
}

/** Managers that own nothing any more are gone. */
export function dropEmpty(managers: readonly Manager[]): Manager[] {
  return managers.filter(({ fields }) => !isEmptySet(fields));
}
