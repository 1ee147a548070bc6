// Kubernetes strategic merge patch: lists of objects merge by a key that the schema names, and directives
// ($patch, $retainKeys, $setElementOrder, $deleteFromPrimitiveList) say what a merge cannot. Pure: the document
// given is not changed. Semantics: apimachinery's pkg/util/strategicpatch.

import type { FieldInfo, Schema, TypeRef } from "../api/schema.js";
import { copyJson } from "./copy.js";
import { jsonEqual, PatchSyntaxError } from "./json-patch.js";

type Json = Record<string, unknown>;

const DIRECTIVE = "$patch";
const RETAIN_KEYS = "$retainKeys";
const SET_ORDER = "$setElementOrder/";
const DELETE_PRIMITIVES = "$deleteFromPrimitiveList/";

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What the schema says of a map's key: the field of a struct, or the value type of a free map. */
interface Context {
  schema: Schema;
  /** Absent: nothing is known, objects merge and lists are replaced. */
  type: TypeRef | undefined;
}

function fieldOf({ schema, type }: Context, key: string): FieldInfo | undefined {
  if (type?.kind === "ref") return schema.definition(type.name).fields.get(key);
  return undefined;
}

function typeOfKey(context: Context, key: string): TypeRef | undefined {
  if (context.type?.kind === "map") return context.type.values;
  return fieldOf(context, key)?.type;
}

/** Parts of a patch object: its values, and its directives about lists beside them. */
function split(patch: Json): {
  values: Json;
  orders: Map<string, unknown[]>;
  deletions: Map<string, unknown[]>;
} {
  const values: Json = {};
  const orders = new Map<string, unknown[]>();
  const deletions = new Map<string, unknown[]>();
  for (const [key, value] of Object.entries(patch)) {
    const target = key.startsWith(SET_ORDER)
      ? orders
      : key.startsWith(DELETE_PRIMITIVES)
        ? deletions
        : undefined;
    if (!target) {
      if (key !== DIRECTIVE && key !== RETAIN_KEYS) values[key] = value;
      continue;
    }
    if (!Array.isArray(value)) throw new PatchSyntaxError(`${key} must be a list`);
    target.set(key.slice(key.indexOf("/") + 1), value);
  }
  return { values, orders, deletions };
}

function retainKeys(original: Json, patch: Json): Json {
  const keep = patch[RETAIN_KEYS];
  if (keep === undefined) return original;
  if (!Array.isArray(keep)) throw new PatchSyntaxError(`${RETAIN_KEYS} must be a list`);
  for (const key of Object.keys(patch))
    if (!key.startsWith("$") && patch[key] !== null && !keep.includes(key))
      throw new PatchSyntaxError(`${RETAIN_KEYS} lacks "${key}", which the patch sets`);
  return Object.fromEntries(Object.entries(original).filter(([key]) => keep.includes(key)));
}

function mergeObject(original: Json, patch: Json, context: Context): Json {
  const directive = patch[DIRECTIVE];
  if (directive === "delete") return {};
  if (directive === "replace") return mergeObject({}, { ...patch, [DIRECTIVE]: undefined }, context);
  if (directive !== undefined && directive !== "merge")
    throw new PatchSyntaxError(`unknown patch type found in map: ${JSON.stringify(directive)}`);
  const { values, orders, deletions } = split(patch);
  const result: Json = { ...retainKeys(original, patch) };
  const keys = new Set([...Object.keys(values), ...orders.keys(), ...deletions.keys()]);
  for (const key of keys) {
    const value = values[key];
    if (value === null) {
      delete result[key];
      continue;
    }
    const merged = mergeValue(result[key], value, key, context, orders.get(key), deletions.get(key));
    if (merged !== undefined) result[key] = merged;
  }
  return result;
}

function mergeValue(
  original: unknown,
  patch: unknown,
  key: string,
  context: Context,
  order: unknown[] | undefined,
  deletions: unknown[] | undefined,
): unknown {
  const field = fieldOf(context, key);
  const type = typeOfKey(context, key);
  const strategies = field?.patchStrategies ?? [];
  if (isObject(patch)) {
    const base = isObject(original) && !strategies.includes("replace") ? original : {};
    return mergeObject(base, patch, { schema: context.schema, type });
  }
  const isList = Array.isArray(patch) || (patch === undefined && (order || deletions));
  if (!isList) return patch;
  const patchList = Array.isArray(patch) ? patch : [];
  const originalList = Array.isArray(original) ? original : [];
  if (patch === undefined && !Array.isArray(original)) return undefined;
  const items = type?.kind === "array" ? type.items : undefined;
  if (!strategies.includes("merge")) return patch === undefined ? original : plain(patchList, context, items);
  const mergeKey = field?.patchMergeKey;
  if (mergeKey === undefined) return mergePrimitives(originalList, patchList, order, deletions);
  return mergeObjects(originalList, patchList, mergeKey, { schema: context.schema, type: items }, order);
}

/** A list that replaces: directives inside its objects are still not data. */
function plain(list: readonly unknown[], context: Context, items: TypeRef | undefined): unknown[] {
  return list.map((item) =>
    isObject(item) ? mergeObject({}, item, { schema: context.schema, type: items }) : copyJson(item),
  );
}

function mergePrimitives(
  original: readonly unknown[],
  patch: readonly unknown[],
  order: readonly unknown[] | undefined,
  deletions: readonly unknown[] | undefined,
): unknown[] {
  const merged: unknown[] = [];
  for (const item of [...original, ...patch])
    if (!merged.includes(item) && !(deletions?.includes(item) && !patch.includes(item))) merged.push(item);
  return reorder(merged, original, order ?? patch, jsonEqual);
}

function keyOf(item: unknown, mergeKey: string): unknown {
  if (!isObject(item)) throw new PatchSyntaxError(`expected an object with the merge key ${mergeKey}`);
  const key = item[mergeKey];
  if (key === undefined || key === null)
    throw new PatchSyntaxError(
      `map: ${JSON.stringify(item)} does not contain declared merge key: ${mergeKey}`,
    );
  return key;
}

function mergeObjects(
  original: readonly unknown[],
  patch: readonly unknown[],
  mergeKey: string,
  context: Context,
  order: readonly unknown[] | undefined,
): unknown[] {
  let merged = [...original];
  const changes: Json[] = [];
  for (const item of patch) {
    if (!isObject(item)) throw new PatchSyntaxError(`expected an object with the merge key ${mergeKey}`);
    const directive = item[DIRECTIVE];
    if (directive === "replace") merged = [];
    else if (directive === "delete") {
      const key = keyOf(item, mergeKey);
      merged = merged.filter((o) => !(isObject(o) && o[mergeKey] === key));
    } else changes.push(item);
  }
  for (const change of changes) {
    const key = keyOf(change, mergeKey);
    const at = merged.findIndex((o) => isObject(o) && o[mergeKey] === key);
    if (at < 0) merged.push(mergeObject({}, change, context));
    else merged[at] = mergeObject(merged[at] as Json, change, context);
  }
  const sameKey = (a: unknown, b: unknown): boolean =>
    isObject(a) && isObject(b) && a[mergeKey] === b[mergeKey];
  return reorder(merged, original, order ?? changes, sameKey);
}

/**
 * Items named in `order` (the patch itself when it gives none) take that order; the others stay where they stood
 * relative to those of the original that they share the list with. What the patch adds comes first.
 */
function reorder(
  merged: readonly unknown[],
  original: readonly unknown[],
  order: readonly unknown[],
  same: (a: unknown, b: unknown) => boolean,
): unknown[] {
  const find = (list: readonly unknown[], item: unknown): number => list.findIndex((o) => same(o, item));
  const ordered = merged
    .filter((item) => find(order, item) >= 0)
    .sort((a, b) => find(order, a) - find(order, b));
  const rest = merged.filter((item) => find(order, item) < 0);
  const result: unknown[] = [];
  let i = 0;
  let j = 0;
  while (i < ordered.length || j < rest.length) {
    const left = i < ordered.length ? find(original, ordered[i]) : -1;
    const right = j < rest.length ? find(original, rest[j]) : -1;
    const isBefore = left < 0 || right < 0 || left < right;
    if (i < ordered.length && (j >= rest.length || isBefore)) result.push(ordered[i++]);
    else result.push(rest[j++]);
  }
  return result;
}

/**
 * Applies a strategic merge patch to an object of the definition.
 * @throws PatchSyntaxError when the patch is no object or a directive makes no sense.
 */
export function applyStrategicPatch(
  document: unknown,
  patch: unknown,
  schema: Schema,
  definition: string,
): unknown {
  if (!isObject(patch)) throw new PatchSyntaxError("a strategic merge patch must be an object");
  const base = isObject(document) ? document : {};
  return mergeObject(base, patch, { schema, type: { kind: "ref", name: definition } });
}
