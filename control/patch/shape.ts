// What the schema says about the ownership of fields: which values are one whole, which lists are sets or maps and by
// which keys. Compiled once a type. Knows the schema, no objects of any kind.

import type { FieldInfo, Schema, TypeRef } from "../api/schema.js";
import { type FieldSet, fieldElement, indexElement, keyElement, valueElement } from "./field-set.js";

export interface Member {
  readonly shape: Shape;
  /** Of the field, in a set of paths. */
  readonly element: string;
  /**
   * Is always there in the Go type (no pointer, no omitempty): whoever sets what is inside does not own the
   * field itself.
   */
  readonly always: boolean;
}

export type Shape =
  | { readonly kind: "scalar"; readonly type: "string" | "numeric" | "boolean" | "any" }
  | { readonly kind: "struct"; readonly atomic: boolean; readonly members: ReadonlyMap<string, Member> }
  | { readonly kind: "map"; readonly atomic: boolean; readonly values: Shape }
  | { readonly kind: "set"; readonly atomic: false; readonly items: Shape }
  | { readonly kind: "list"; readonly atomic: boolean; readonly items: Shape }
  | {
      readonly kind: "keyed";
      readonly atomic: false;
      readonly items: Shape;
      readonly keys: readonly { readonly name: string; readonly default: unknown }[];
    };

/** Fields that the Go types embed by value; what they are called says it in every kind but ReplicationController. */
const EMBEDDED = new Set([
  "metadata",
  "spec",
  "status",
  "template",
  "strategy",
  "updateStrategy",
  "jobTemplate",
  "resources",
  "loadBalancer",
  "nodeInfo",
  "daemonEndpoints",
  "kubeletEndpoint",
  "involvedObject",
  "regarding",
  "source",
  "scaleTargetRef",
  "state",
  "lastState",
]);
const ANY: Shape = { kind: "scalar", type: "any" };

/** The shapes of a schema's definitions. */
export class Shapes {
  readonly #schema: Schema;
  readonly #compiled = new Map<string, Shape>();

  constructor(schema: Schema) {
    this.#schema = schema;
  }

  /** @throws Error for a definition that the schema lacks. */
  of(definition: string): Shape {
    const found = this.#compiled.get(definition);
    if (found) return found;
    const { atomic, fields, special } = this.#schema.definition(definition);
    // Free objects (fieldsV1) are one value, whatever is in them.
    if (special) {
      this.#compiled.set(definition, ANY);
      return ANY;
    }
    const members = new Map<string, Member>();
    const shape: Shape = { kind: "struct", atomic, members };
    // Types may contain themselves: the name is known before its members are.
    this.#compiled.set(definition, shape);
    const isPointer = definition.endsWith(".ReplicationControllerSpec");
    for (const field of fields.values()) {
      const always = (EMBEDDED.has(field.name) && !isPointer) || isRequiredList(field);
      members.set(field.name, { shape: this.#ofField(field), element: fieldElement(field.name), always });
    }
    return shape;
  }

  #ofField({ type, atomic, listType, listMapKeys }: FieldInfo): Shape {
    if (type.kind === "map") return { kind: "map", atomic, values: this.#ofType(type.values) };
    if (type.kind !== "array") return this.#ofType(type);
    const items = this.#ofType(type.items);
    if (listType === "set") return { kind: "set", atomic: false, items };
    if (listType === "atomic") return { kind: "list", atomic: true, items };
    const fields = type.items.kind === "ref" ? this.#schema.definition(type.items.name).fields : undefined;
    const keys = [...listMapKeys].sort().map((name) => ({ name, default: fields?.get(name)?.default }));
    return { kind: "keyed", atomic: false, items, keys };
  }

  #ofType(type: TypeRef): Shape {
    switch (type.kind) {
      case "ref":
        return this.of(type.name);
      case "map":
        return { kind: "map", atomic: false, values: this.#ofType(type.values) };
      case "array":
        return { kind: "list", atomic: true, items: this.#ofType(type.items) };
      case "integer":
        return { kind: "scalar", type: "numeric" };
      case "string":
      case "boolean":
        return { kind: "scalar", type: type.kind };
    }
  }
}

function isRequiredList({ type, required }: FieldInfo): boolean {
  return required && type.kind === "array";
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether a value of the shape is owned as a whole. */
export function isLeaf(shape: Shape): boolean {
  return shape.kind === "scalar" || shape.atomic;
}

/** A field of an object; undefined for one that the type does not have. */
export function memberOf(shape: Shape, name: string): Member | undefined {
  if (shape.kind === "map") return { shape: shape.values, element: fieldElement(name), always: false };
  return shape.kind === "struct" ? shape.members.get(name) : undefined;
}

/** Its shape. */
export function shapeOfField(shape: Shape, name: string): Shape | undefined {
  return shape.kind === "map" ? shape.values : memberOf(shape, name)?.shape;
}

export type ItemList = Extract<Shape, { kind: "set" | "keyed" | "list" }>;

/** Why an item of a list has no path element. */
export class ItemError extends Error {
  override readonly name = "ItemError";
}

/**
 * The path element of an item: its keys, or its value.
 * @throws ItemError in the words of structured-merge-diff.
 */
export function elementOf(list: ItemList, item: unknown, index: number): string {
  if (list.kind === "list") return indexElement(index);
  if (list.kind === "set") {
    if (isObject(item)) throw new ItemError("associative list without keys has an element that's a map type");
    if (Array.isArray(item)) throw new ItemError("not supported: associative list with lists as elements");
    if (item === null)
      throw new ItemError("associative list without keys has an element that's an explicit null");
    return valueElement(item);
  }
  if (item === null) throw new ItemError("associative list with keys may not have a null element");
  if (!isObject(item)) throw new ItemError("associative list with keys may not have non-map elements");
  return keyElement(
    list.keys.map(({ name, default: whenAbsent }) => {
      const value = item[name] ?? whenAbsent;
      if (value === undefined)
        throw new ItemError(
          `associative list with keys has an element that omits key field ${JSON.stringify(name)} (and doesn't have default value)`,
        );
      return [name, value] as const;
    }),
  );
}

/** Items of a list that share one path element, which only a stored list may have: they are one value then. */
export class Repeated {
  readonly items: unknown[];

  constructor(first: unknown, second: unknown) {
    this.items = [first, second];
  }
}

/** The items of a stored list by path element. */
export function itemsByElement(list: ItemList, value: unknown): Map<string, unknown> {
  const found = new Map<string, unknown>();
  if (!Array.isArray(value)) return found;
  for (const [index, item] of value.entries()) {
    const element = elementOrIndex(list, item, index);
    const before = found.get(element);
    if (before instanceof Repeated) before.items.push(item);
    else found.set(element, found.has(element) ? new Repeated(before, item) : item);
  }
  return found;
}

/** For stored lists, which were valid when they came: an item without its key is known by its place. */
export function elementOrIndex(list: ItemList, item: unknown, index: number): string {
  try {
    return elementOf(list, item, index);
  } catch (error) {
    if (error instanceof ItemError) return indexElement(index);
    throw error;
  }
}

/**
 * The set with every field that has something of it inside, where the type names the field: an applier that owns
 * spec.strategy.type owns spec and spec.strategy as far as taking away goes.
 */
export function withNamedFields(set: FieldSet, shape: Shape): FieldSet {
  if (isLeaf(shape)) return set;
  const out: Record<string, FieldSet> = {};
  for (const element in set) {
    const node = set[element] as FieldSet;
    if (element === ".") {
      out[element] = node;
      continue;
    }
    const inner = element.startsWith("f:") ? shapeOfField(shape, element.slice(2)) : itemShape(shape);
    const deep = inner ? withNamedFields(node, inner) : node;
    const named = shape.kind === "struct" && inner !== undefined && !isEmpty(deep);
    out[element] = named ? { ".": {}, ...deep } : deep;
  }
  return out;
}

function itemShape(shape: Shape): Shape | undefined {
  return "items" in shape ? shape.items : undefined;
}

function isEmpty(node: FieldSet): boolean {
  for (const _ in node) return false;
  return true;
}
