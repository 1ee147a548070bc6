// What a write does to the ownership of fields: an update takes what it changes, an apply owns what its configuration
// says, gives up what it left out and may not change what others own. Pure. Semantics: structured-merge-diff's
// merge.Updater and apimachinery's managedfields around it.

import { type Comparison, compare, fieldsOf, isSame } from "./compare.js";
import { difference, type FieldSet, intersection, isEmptySet, union } from "./field-set.js";
import {
  BEFORE_FIRST_APPLY,
  type Conflict,
  capUpdaters,
  dropEmpty,
  type Manager,
  sameWriter,
  type Writer,
  withoutServerFields,
} from "./managers.js";
import { mergeApplied, removeFields } from "./merge-applied.js";
import { type Shape, withNamedFields } from "./shape.js";

/** An object as a version of its kind shows it; managers compare in the version they wrote. */
export interface View {
  readonly shape: Shape;
  /** The object in that version, as far as the write is about it: of a status update, the status. */
  readonly convert: (object: unknown) => unknown;
}

/** The view of an apiVersion; undefined when it is not served (any more). */
export type Views = (apiVersion: string) => View | undefined;

export interface Change {
  readonly live: unknown;
  readonly managers: readonly Manager[];
  readonly writer: Writer;
  readonly views: Views;
  /** RFC 3339, the time of the write. */
  readonly now: string;
}

/** The managers after `writer` has made `next` of `live`. */
export function afterUpdate(change: Change & { next: unknown }): Manager[] {
  const { live, next, managers, writer, now } = change;
  const changed = changes(change, live, next);
  const own = changed(writer.apiVersion);
  if (!own || isSame(own)) return [...managers];
  const taken = union(own.modified, own.added);
  const others = dropEmpty(
    managers.flatMap((manager) => {
      const seen = changed(manager.apiVersion);
      if (!seen) return [];
      const lost = union(union(seen.modified, seen.added), seen.removed);
      const keeps = sameWriter(manager, writer)
        ? union(difference(manager.fields, seen.removed), taken)
        : undefined;
      return [{ ...manager, fields: keeps ?? difference(manager.fields, lost) }];
    }),
  );
  if (isEmptySet(taken)) return others;
  const mine = others.find((manager) => sameWriter(manager, writer));
  const rest = others.filter((manager) => manager !== mine);
  return capUpdaters([...rest, { ...writer, time: now, fields: mine?.fields ?? taken }]);
}

/** Comparisons by version, each made once. */
function changes(
  { views }: Change,
  live: unknown,
  next: unknown,
): (apiVersion: string) => Comparison | undefined {
  const made = new Map<string, Comparison | undefined>();
  return (apiVersion) => {
    if (!made.has(apiVersion)) {
      const view = views(apiVersion);
      made.set(apiVersion, view && compare(view.convert(live), view.convert(next), view.shape));
    }
    return made.get(apiVersion);
  };
}

export type Applied =
  | { readonly conflicts: readonly Conflict[] }
  /** `same`: no field differs; another order of items alone is no change. */
  | { readonly object: unknown; readonly same: boolean; readonly managers: readonly Manager[] };

export interface Apply extends Change {
  readonly config: unknown;
  /** Take what others own. */
  readonly force: boolean;
}

/** The object and its managers after `writer` has applied `config`, or what is in the way. */
export function afterApply(apply: Apply): Applied {
  const { live, config, writer, views, now } = apply;
  const view = views(writer.apiVersion) as View;
  const tracked = apply.managers.length > 0 ? apply.managers : beforeFirstApply(apply, view);
  const last = tracked.find((manager) => sameWriter(manager, writer));
  const mine: Manager = { ...writer, time: now, fields: fieldsOf(config, view.shape) };
  const rest = tracked.filter((manager) => manager !== last && views(manager.apiVersion) !== undefined);
  const merged = mergeApplied(live, config, view.shape);
  const next = last ? prune(merged, last, [...rest, mine], views) : merged;
  const changed = changes(apply, live, next);
  const conflicts: Conflict[] = [];
  const others: Manager[] = [];
  for (const manager of rest) {
    const { modified, added, removed } = changed(manager.apiVersion) as Comparison;
    const lost = union(modified, added);
    const touched = intersection(manager.fields, lost);
    if (!isEmptySet(touched)) conflicts.push({ manager, fields: touched });
    others.push({ ...manager, fields: difference(manager.fields, union(lost, removed)) });
  }
  if (conflicts.length > 0 && !apply.force) return { conflicts };
  return {
    object: next,
    same: isSame(changed(writer.apiVersion) as Comparison),
    managers: dropEmpty([...others, { ...mine, fields: withoutServerFields(mine.fields) }]),
  };
}

/** What an object that was never tracked has belongs to nobody in particular, and is in nobody's way unseen. */
function beforeFirstApply({ live, writer, now }: Apply, { shape, convert }: View): Manager[] {
  const { added } = compare({}, convert(live), shape);
  const fields = withoutServerFields(added);
  const { apiVersion } = writer;
  const before = { manager: BEFORE_FIRST_APPLY, operation: "Update", apiVersion, subresource: "" } as const;
  return dropEmpty([{ ...before, time: now, fields }]);
}

/**
 * Takes away what the applier owned, leaves out now, and nobody else owns. Names of another version do not fit the
 * object: an applier that moves to it leaves what it owned, and nothing goes that is owned under another version.
 */
function prune(merged: unknown, last: Manager, owners: readonly Manager[], views: Views): unknown {
  const version = owners.at(-1)?.apiVersion;
  const view = views(last.apiVersion);
  if (!view || last.apiVersion !== version) return merged;
  const named = (fields: FieldSet): FieldSet => withNamedFields(fields, view.shape);
  const owned = owners
    .filter(({ apiVersion }) => apiVersion === version)
    .reduce<FieldSet>((all, { fields }) => union(all, named(fields)), {});
  const pruned = removeFields(merged, difference(named(last.fields), owned), view.shape) ?? {};
  const isOwnedElsewhere = owners.some(({ apiVersion, fields }) => {
    const other = apiVersion === version ? undefined : views(apiVersion);
    if (!other) return false;
    const { removed } = compare(other.convert(merged), other.convert(pruned), other.shape);
    return !isEmptySet(intersection(fields, removed));
  });
  return isOwnedElsewhere ? merged : pruned;
}

/** Conflicts without the fields of a set: what client-side apply has set itself is no conflict to its successor. */
export function conflictsBeyond(conflicts: readonly Conflict[], allowed: FieldSet): Conflict[] {
  return conflicts.flatMap(({ manager, fields }) => {
    const left = difference(fields, allowed);
    return isEmptySet(left) ? [] : [{ manager, fields: left }];
  });
}
