// Which fields an object has, and which differ between two of them, as sets of paths. Pure: knows shapes and values.
// Semantics: structured-merge-diff's ToFieldSet and Compare.

import { type FieldSet, fieldElement, nodeOf } from "./field-set.js";
import { jsonEqual } from "./json-patch.js";
import {
  elementOrIndex,
  type ItemList,
  isLeaf,
  isObject,
  itemsByElement,
  memberOf,
  Repeated,
  type Shape,
  shapeOfField,
} from "./shape.js";

const LEAF: FieldSet = Object.freeze({});
const SELF = ".";
type Draft = { [element: string]: FieldSet };

/** The fields that a configuration sets: what its applier owns. */
export function fieldsOf(config: unknown, shape: Shape): FieldSet {
  return appliedChildren(config, shape);
}

function appliedChildren(value: unknown, shape: Shape): FieldSet {
  const out: Draft = {};
  if (shape.kind === "scalar") return out;
  if (shape.kind === "struct" || shape.kind === "map") {
    if (!isObject(value)) return out;
    for (const [name, item] of Object.entries(value)) {
      const inner = shapeOfField(shape, name);
      if (item === undefined || inner === undefined) continue;
      const empty = item === null || (isObject(item) && Object.keys(item).length === 0);
      const member = isLeaf(inner) || empty || shape.kind === "map";
      const node = nodeOf(isLeaf(inner) ? LEAF : appliedChildren(item, inner), member);
      if (node) out[fieldElement(name)] = node;
    }
    return out;
  }
  for (const [element, item] of itemsByElement(shape, value)) {
    const whole = item instanceof Repeated || isLeaf(shape.items);
    out[element] = nodeOf(whole ? LEAF : appliedChildren(item, shape.items), true) ?? LEAF;
  }
  return out;
}

export interface Comparison {
  readonly added: FieldSet;
  readonly modified: FieldSet;
  readonly removed: FieldSet;
}

/** Of one node: the children that differ; what is empty is absent. */
interface Difference {
  added?: Draft;
  modified?: Draft;
  removed?: Draft;
}

/** What is different in `next` against `live`. The order of items of sets and keyed lists does not count. */
export function compare(live: unknown, next: unknown, shape: Shape): Comparison {
  const out: Difference = {};
  compareChildren(live, next, shape, out);
  return { added: out.added ?? LEAF, modified: out.modified ?? LEAF, removed: out.removed ?? LEAF };
}

export function isSame({ added, modified, removed }: Comparison): boolean {
  return [added, modified, removed].every((set) => Object.keys(set).length === 0);
}

function compareChildren(live: unknown, next: unknown, shape: Shape, out: Difference): void {
  if (live === next || shape.kind === "scalar") return;
  if (shape.kind === "struct" || shape.kind === "map") {
    const before = isObject(live) ? live : {};
    const after = isObject(next) ? next : {};
    for (const name in before) compareMember(shape, name, before[name], after[name], out);
    for (const name in after)
      if (before[name] === undefined) compareMember(shape, name, undefined, after[name], out);
    return;
  }
  const before = itemsByElement(shape, live);
  const after = itemsByElement(shape, next);
  for (const [element, item] of before)
    compareNode(element, item, after.get(element), shape.items, false, out);
  for (const [element, item] of after)
    if (!before.has(element)) compareNode(element, undefined, item, shape.items, false, out);
}

function compareMember(
  parent: Shape & { kind: "struct" | "map" },
  name: string,
  before: unknown,
  after: unknown,
  out: Difference,
): void {
  if (before === after) return;
  const member = memberOf(parent, name);
  if (member) compareNode(member.element, before, after, member.shape, member.always, out);
}

function compareNode(
  element: string,
  before: unknown,
  after: unknown,
  shape: Shape,
  always: boolean,
  out: Difference,
): void {
  if (before === after) return;
  if (before === undefined) put(out, "added", element, wholeOf(after, shape, always));
  else if (after === undefined) put(out, "removed", element, wholeOf(before, shape, always));
  else if (isLeaf(shape) || before instanceof Repeated || after instanceof Repeated) {
    if (jsonEqual(plain(before), plain(after))) return;
    put(out, "modified", element, LEAF);
  } else {
    const inner: Difference = {};
    compareChildren(before, after, shape, inner);
    for (const part of ["added", "modified", "removed"] as const) put(out, part, element, inner[part]);
  }
}

function plain(value: unknown): unknown {
  return value instanceof Repeated ? value.items : value;
}

function put(out: Difference, part: keyof Difference, element: string, node: FieldSet | undefined): void {
  if (!node) return;
  out[part] ??= {};
  (out[part] as Draft)[element] = node;
}

/**
 * A value that is there on one side only: its node with everything inside. `always`: the other side has it, too, as
 * Go's zero value, and so on down to the first thing that it does not have.
 */
function wholeOf(value: unknown, shape: Shape, always: boolean): FieldSet | undefined {
  if (isLeaf(shape) || value instanceof Repeated) return LEAF;
  const children: Draft = always ? {} : { [SELF]: LEAF };
  if (addWhole(children, value, shape, always)) return children;
  return always ? undefined : LEAF;
}

/** Adds what is inside; false when there is nothing. */
function addWhole(out: Draft, value: unknown, shape: Shape, always: boolean): boolean {
  if (shape.kind === "scalar") return false;
  if (shape.kind !== "struct" && shape.kind !== "map")
    return Array.isArray(value) && addWholeItems(out, value, shape);
  if (!isObject(value)) return false;
  let any = false;
  for (const name in value) {
    const item = value[name];
    const member = item === undefined ? undefined : memberOf(shape, name);
    const node = member && wholeOf(item, member.shape, always && member.always);
    if (!node) continue;
    out[member.element] = node;
    any = true;
  }
  return any;
}

function addWholeItems(out: Draft, value: readonly unknown[], shape: ItemList): boolean {
  value.forEach((item, index) => {
    const element = elementOrIndex(shape, item, index);
    out[element] = element in out ? LEAF : (wholeOf(item, shape.items, false) ?? LEAF);
  });
  return value.length > 0;
}
