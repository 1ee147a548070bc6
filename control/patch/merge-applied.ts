// Merging an applied configuration into an object, and taking fields away from it. Pure: the values given are not
// changed, what stays the same is shared. Semantics: structured-merge-diff's Merge and RemoveItems.

import { below, type FieldSet, fieldElement, hasElement, isEmptySet } from "./field-set.js";
import { elementOrIndex, type ItemList, isLeaf, isObject, type Shape, shapeOfField } from "./shape.js";

/** The live value with everything that the configuration sets; `undefined` is a value that is not there. */
export function mergeApplied(live: unknown, config: unknown, shape: Shape): unknown {
  if (config === undefined || config === live) return live;
  if (live === undefined || live === null || isLeaf(shape)) return config;
  if (shape.kind === "struct" || shape.kind === "map") {
    if (!isObject(live) || !isObject(config)) return config;
    const out: Record<string, unknown> = { ...live };
    for (const [name, value] of Object.entries(config)) {
      const inner = shapeOfField(shape, name);
      if (inner)
        setKey(out, name, mergeApplied(Object.hasOwn(live, name) ? live[name] : undefined, value, inner));
    }
    return out;
  }
  if (!Array.isArray(live) || !Array.isArray(config) || shape.kind === "scalar") return config;
  return mergeItems(live, config, shape);
}

/** A key of a user's map may be "__proto__", which a plain assignment would swallow. */
function setKey(target: Record<string, unknown>, key: string, value: unknown): void {
  if (key === "__proto__")
    Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true });
  else target[key] = value;
}

/**
 * Items of the configuration in its order; items that only the live list has stay where they are among those that
 * both have.
 */
function mergeItems(live: readonly unknown[], config: readonly unknown[], shape: ItemList): unknown[] {
  const liveElements = live.map((item, i) => elementOrIndex(shape, item, i));
  const elements = config.map((item, i) => elementOrIndex(shape, item, i));
  const wanted = new Set(elements);
  const known = new Set(liveElements);
  const shared = elements.filter((element) => known.has(element));
  const merged = config.map((item, i) => {
    const at = liveElements.indexOf(elements[i] as string);
    const isOne = at >= 0 && at === liveElements.lastIndexOf(elements[i] as string);
    return mergeApplied(isOne ? live[at] : undefined, item, shape.items);
  });
  const out: unknown[] = [];
  let next = 0;
  let nextShared = 0;
  for (const [i, element] of liveElements.entries()) {
    if (!wanted.has(element)) out.push(live[i]);
    else if (element === shared[nextShared]) {
      const until = elements.indexOf(element) + 1;
      out.push(...merged.slice(next, until));
      next = until;
      nextShared++;
    }
  }
  return [...out, ...merged.slice(next)];
}

/** The value without the fields of the set; a list or object that has lost everything is gone itself. */
export function removeFields(value: unknown, set: FieldSet, shape: Shape): unknown {
  if (isEmptySet(set) || isLeaf(shape)) return value;
  if (shape.kind === "struct" || shape.kind === "map") {
    if (!isObject(value)) return value;
    const out: Record<string, unknown> = {};
    for (const [name, item] of Object.entries(value)) {
      const inner = shapeOfField(shape, name);
      const kept = inner ? without(item, set, fieldElement(name), inner) : item;
      if (kept !== undefined) setKey(out, name, kept);
    }
    return Object.keys(out).length > 0 || Object.keys(value).length === 0 ? out : undefined;
  }
  if (!Array.isArray(value) || shape.kind === "scalar") return value;
  const items = value.flatMap((item, i) => {
    const kept = without(item, set, elementOrIndex(shape, item, i), shape.items);
    return kept === undefined ? [] : [kept];
  });
  return items.length > 0 || value.length === 0 ? items : undefined;
}

function without(item: unknown, set: FieldSet, element: string, shape: Shape): unknown {
  if (hasElement(set, element)) return undefined;
  return removeFields(item, below(set, element), shape);
}
