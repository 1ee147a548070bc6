// Sets of field paths, as metadata.managedFields[].fieldsV1 writes them: a tree of path elements ("f:spec",
// 'k:{"name":"web"}', 'v:"x"', "i:0"), where a node without children, or with ".", is in the set itself. That JSON is
// the set here: nothing is translated, and what is the same in two sets is shared. Pure; sets are never changed.

export interface FieldSet {
  readonly [element: string]: FieldSet;
}

type Draft = { [element: string]: FieldSet };

const SELF = ".";
const LEAF: FieldSet = Object.freeze({});
const ELEMENT = /^[fkvi]:/s;

export function isEmptySet(set: FieldSet): boolean {
  for (const _ in set) return false;
  return true;
}

/** Whether a node is in the set itself, and not only on the way to its children. */
function isMember(node: FieldSet): boolean {
  return SELF in node || isEmptySet(node);
}

/** A node from its children and whether it is in the set; undefined when it is there for nothing. */
export function nodeOf(children: FieldSet, member: boolean): FieldSet | undefined {
  if (isEmptySet(children)) return member ? LEAF : undefined;
  return member ? { [SELF]: LEAF, ...children } : children;
}

const sets = new Map<string, FieldSet>();
const MOST_SHARED = 500;
const LONGEST_SHARED = 4096;

/**
 * One and the same set for all that are equal, as long as they come often: pods of one make own the same fields, and a
 * set is half of what a small object takes of memory. What is stored already is left as it is.
 */
export function sharedSet(set: FieldSet): FieldSet {
  if (Object.isFrozen(set)) return set;
  const text = JSON.stringify(set);
  if (text.length > LONGEST_SHARED) return set;
  const known = sets.get(text);
  if (known) return known;
  if (sets.size >= MOST_SHARED) sets.clear();
  sets.set(text, set);
  return set;
}

/** What is in either set. */
export function union(a: FieldSet, b: FieldSet): FieldSet {
  if (a === b || isEmptySet(b)) return a;
  if (isEmptySet(a)) return b;
  const out: Draft = { ...a };
  for (const element in b) {
    const other = b[element] as FieldSet;
    const own = a[element];
    if (own === undefined) out[element] = other;
    else if (own !== other && element !== SELF) out[element] = unionNode(own, other);
  }
  return out;
}

function unionNode(a: FieldSet, b: FieldSet): FieldSet {
  const children = union(withoutSelf(a), withoutSelf(b));
  return nodeOf(children, isMember(a) || isMember(b)) ?? LEAF;
}

function withoutSelf(node: FieldSet): FieldSet {
  if (!(SELF in node)) return node;
  const { [SELF]: _, ...children } = node;
  return children;
}

/** What is in `a` and not in `b`. */
export function difference(a: FieldSet, b: FieldSet): FieldSet {
  let out: Draft | undefined;
  for (const element in b) {
    const own = a[element];
    if (own === undefined || element === SELF) continue;
    const other = b[element] as FieldSet;
    const children = difference(withoutSelf(own), withoutSelf(other));
    const rest = nodeOf(children, isMember(own) && !isMember(other));
    out ??= { ...a };
    if (rest) out[element] = rest;
    else delete out[element];
  }
  return out ?? a;
}

/** What is in both sets. */
export function intersection(a: FieldSet, b: FieldSet): FieldSet {
  const out: Draft = {};
  for (const element in a) {
    const own = a[element] as FieldSet;
    const other = b[element];
    if (other === undefined || element === SELF) continue;
    const children = intersection(withoutSelf(own), withoutSelf(other));
    const both = nodeOf(children, isMember(own) && isMember(other));
    if (both) out[element] = both;
  }
  return out;
}

/** Whether the element itself is in the set. */
export function hasElement(set: FieldSet, element: string): boolean {
  const node = set[element];
  return node !== undefined && isMember(node);
}

/** The part of the set below an element. */
export function below(set: FieldSet, element: string): FieldSet {
  const node = set[element];
  return node === undefined ? LEAF : withoutSelf(node);
}

/** The elements at the top of the set. */
export function elements(set: FieldSet): string[] {
  return Object.keys(set).filter((element) => element !== SELF);
}

export const fieldElement = (name: string): string => `f:${name}`;
export const valueElement = (value: unknown): string => `v:${JSON.stringify(value)}`;
export const indexElement = (index: number): string => `i:${index}`;

/** The element of an item of a list with keys; the pairs in the order of their names. */
export function keyElement(pairs: readonly (readonly [string, unknown])[]): string {
  return `k:{${pairs.map(([name, value]) => `"${name}":${JSON.stringify(value)}`).join(",")}}`;
}

/** An element as messages show it: .spec, [name="web"], [="x"], [0]. */
export function elementText(element: string): string {
  const text = element.slice(2);
  if (element.startsWith("f:")) return `.${text}`;
  if (element.startsWith("v:")) return `[=${text}]`;
  if (element.startsWith("i:")) return `[${text}]`;
  const pairs = Object.entries(JSON.parse(text) as Record<string, unknown>);
  return `[${pairs.map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(",")}]`;
}

/** All paths of the set as messages show them, parents before children. */
export function pathTexts(set: FieldSet, prefix = ""): string[] {
  return elements(set)
    .sort()
    .flatMap((element) => {
      const path = prefix + elementText(element);
      const own = hasElement(set, element) ? [path] : [];
      return [...own, ...pathTexts(below(set, element), path)];
    });
}

/** Whether a value that somebody sent is a set in this form. */
export function isFieldSet(value: unknown): value is FieldSet {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  return Object.entries(value).every(
    ([element, node]) => (element === SELF || isElement(element)) && isFieldSet(node),
  );
}

function isElement(element: string): boolean {
  if (!ELEMENT.test(element)) return false;
  if (element.startsWith("f:")) return true;
  if (element.startsWith("i:")) return /^i:-?\d+$/.test(element);
  try {
    const value: unknown = JSON.parse(element.slice(2));
    return element.startsWith("v:") || (typeof value === "object" && value !== null && !Array.isArray(value));
  } catch {
    return false;
  }
}
