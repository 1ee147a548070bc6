// Turns JSON of a client into an object of a type: drops what the type does not know (and says so), checks types,
// puts times and quantities into canonical form. Compiled once per type to closures. Pure; knows no verbs.

import { copyJson } from "../patch/copy.js";
import { canonicalQuantity, parseQuantity, QUANTITY_FORMAT } from "../resources/validation/quantity.js";
import type { Definition, FieldInfo, Schema, TypeRef } from "./schema.js";

/** A value of the wrong type, in the words of Go's encoding/json. */
export class DecodeError extends Error {
  override readonly name = "DecodeError";
}

export interface Decoded {
  object: Record<string, unknown>;
  /** Paths of fields that the type does not have: spec.containers[0].foo. */
  unknownFields: string[];
}

/** Where we are, for messages; kept as a stack because most values are right and need no text. */
class Position {
  readonly path: (string | number)[] = [];
  readonly unknown: string[] = [];
  /** Go type of the innermost struct. */
  struct = "";

  pathText(): string {
    let text = "";
    for (const part of this.path)
      text += typeof part === "number" ? `[${part}]` : text === "" ? part : `.${part}`;
    return text;
  }

  mismatch(value: unknown, goType: string): DecodeError {
    const names = this.path.filter((part) => typeof part === "string").join(".");
    const where = names === "" ? "Go value" : `Go struct field ${this.struct}.${names}`;
    return new DecodeError(
      `json: cannot unmarshal ${jsonKind(value, goType)} into ${where} of type ${goType}`,
    );
  }

  /** An error of a type's own parser, which Go reports without saying where; we do say. */
  invalid(text: string): DecodeError {
    return new DecodeError(`${this.pathText()}: ${text}`);
  }
}

function jsonKind(value: unknown, goType: string): string {
  if (Array.isArray(value)) return "array";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "number") return goType.startsWith("int") ? `number ${value}` : "number";
  return typeof value;
}

/**
 * `undefined` means: as if the field were absent. `known` is a value of the type that has been decoded before: where
 * `value` is the same, it need not be looked through again.
 */
type Decoder = (value: unknown, at: Position, known?: unknown) => unknown;

const INT64_MAX = 2 ** 63;
const INT32_MAX = 2 ** 31;

function integer(bits: 32 | 64): Decoder {
  const limit = bits === 32 ? INT32_MAX : INT64_MAX;
  return (value, at) => {
    if (!Number.isInteger(value) || (value as number) >= limit || (value as number) < -limit)
      throw at.mismatch(value, `int${bits}`);
    return value;
  };
}

function string(value: unknown, at: Position): string {
  if (typeof value !== "string") throw at.mismatch(value, "string");
  return value;
}

function bytes(value: unknown, at: Position): string {
  const text = string(value, at);
  const bad = /[^A-Za-z0-9+/=\r\n]/.exec(text);
  const clean = text.replace(/[\r\n]/g, "");
  if (bad || clean.length % 4 !== 0 || !/^[^=]*={0,2}$/.test(clean))
    throw at.invalid(`illegal base64 data at input byte ${bad ? bad.index : text.length}`);
  return clean;
}

function boolean(value: unknown, at: Position): boolean {
  if (typeof value !== "boolean") throw at.mismatch(value, "bool");
  return value;
}

const CANONICAL_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;
const RFC3339 = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)$/;

function timestamp(micro: boolean): Decoder {
  const layout = micro ? "2006-01-02T15:04:05.000000Z07:00" : "2006-01-02T15:04:05Z07:00";
  return (value, at) => {
    const text = string(value, at);
    if (text === "") return undefined;
    const match = RFC3339.exec(text);
    const milliseconds = match ? Date.parse(text) : Number.NaN;
    if (!match || Number.isNaN(milliseconds))
      throw at.invalid(`parsing time "${text}" as "${layout}": cannot parse "${text}"`);
    if (!micro && CANONICAL_TIME.test(text)) return text;
    const seconds = new Date(milliseconds).toISOString().slice(0, 19);
    if (!micro) return `${seconds}Z`;
    return `${seconds}.${(match[2] ?? ".").slice(1, 7).padEnd(6, "0")}Z`;
  };
}

function quantity(value: unknown, at: Position): string {
  if (typeof value !== "string" && typeof value !== "number") throw at.mismatch(value, "resource.Quantity");
  if (parseQuantity(value) === undefined) throw at.invalid(QUANTITY_FORMAT);
  return canonicalQuantity(value);
}

function intOrString(value: unknown, at: Position): string | number {
  if (typeof value === "string") return value;
  return integer(32)(value, at) as number;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A key of a user's map may be "__proto__", which a plain assignment would swallow. */
function setKey(target: Record<string, unknown>, key: string, value: unknown): void {
  if (key === "__proto__")
    Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true });
  else target[key] = value;
}

function goTypeOf(type: TypeRef): string {
  switch (type.kind) {
    case "integer":
      return `int${type.bits}`;
    case "boolean":
      return "bool";
    case "string":
      return type.bytes ? "[]uint8" : "string";
    case "array":
      return `[]${goTypeOf(type.items)}`;
    case "map":
      return `map[string]${goTypeOf(type.values)}`;
    case "ref": {
      const parts = type.name.split(".");
      return parts.slice(-2).join(".");
    }
  }
}

function zeroOf(type: TypeRef): unknown {
  if (type.kind === "string") return "";
  if (type.kind === "integer") return 0;
  if (type.kind === "boolean") return false;
  return type.kind === "array" ? [] : {};
}

/** Checkers for the types of a schema, compiled when first asked for. */
export class Decoders {
  readonly #schema: Schema;
  readonly #compiled = new Map<string, Decoder>();

  constructor(schema: Schema) {
    this.#schema = schema;
  }

  /**
   * Decodes `value` as an object of the definition. The result shares nothing with `value`. Parts of `known`, an
   * object that has been decoded before, are only copied where `value` has them in the same place.
   * @throws DecodeError for a value of the wrong type.
   */
  decode(definition: string, value: unknown, known?: object): Decoded {
    const at = new Position();
    const goType = goTypeOf({ kind: "ref", name: definition });
    if (!isObject(value)) throw at.mismatch(value, goType);
    const object = this.#ref(definition)(value, at, known) as Record<string, unknown>;
    return { object, unknownFields: at.unknown };
  }

  #of(type: TypeRef): Decoder {
    switch (type.kind) {
      case "string":
        return type.bytes ? bytes : string;
      case "boolean":
        return boolean;
      case "integer":
        return integer(type.bits);
      case "array":
        return this.#array(type);
      case "map":
        return this.#map(type);
      case "ref":
        return this.#ref(type.name);
    }
  }

  #array(type: TypeRef & { kind: "array" }): Decoder {
    const items = this.#of(type.items);
    const goType = goTypeOf(type);
    return (value, at, known) => {
      if (!Array.isArray(value)) throw at.mismatch(value, goType);
      if (value === known) return copyJson(value);
      const before = Array.isArray(known) ? known : [];
      const depth = at.path.length;
      const out = value.map((item, i) => {
        at.path[depth] = i;
        return item === null || item === undefined ? zeroOf(type.items) : items(item, at, before[i]);
      });
      at.path.length = depth;
      return out;
    };
  }

  #map(type: TypeRef & { kind: "map" }): Decoder {
    const values = this.#of(type.values);
    const goType = goTypeOf(type);
    return (value, at, known) => {
      if (!isObject(value)) throw at.mismatch(value, goType);
      if (value === known) return copyJson(value);
      const before = isObject(known) ? known : {};
      const out: Record<string, unknown> = {};
      for (const key of Object.keys(value)) {
        const item = value[key];
        if (item === undefined) continue;
        at.path.push(key);
        setKey(out, key, item === null ? zeroOf(type.values) : values(item, at, before[key]));
        at.path.pop();
      }
      return out;
    };
  }

  #ref(name: string): Decoder {
    const found = this.#compiled.get(name);
    if (found) return found;
    // Types may contain themselves: the name is known before its decoder is.
    let compiled: Decoder | undefined;
    const forward: Decoder = (value, at, known) => (compiled as Decoder)(value, at, known);
    this.#compiled.set(name, forward);
    compiled = this.#compile(this.#schema.definition(name));
    this.#compiled.set(name, compiled);
    return compiled;
  }

  #compile(definition: Definition): Decoder {
    switch (definition.special) {
      case "time":
        return timestamp(false);
      case "micro-time":
        return timestamp(true);
      case "quantity":
        return quantity;
      case "int-or-string":
        return intOrString;
      case "any-object":
        return copyJson;
      default:
        return this.#struct(definition);
    }
  }

  #struct(definition: Definition): Decoder {
    const goType = goTypeOf({ kind: "ref", name: definition.name });
    const fields = new Map<string, { decode: Decoder; info: FieldInfo }>();
    for (const info of definition.fields.values())
      fields.set(info.name, { decode: this.#of(info.type), info });
    return (value, at, known) => {
      if (!isObject(value)) throw at.mismatch(value, goType);
      if (value === known) return copyJson(value);
      const before = isObject(known) ? known : {};
      const outer = at.struct;
      const out: Record<string, unknown> = {};
      for (const key of Object.keys(value)) {
        const item = value[key];
        if (item === undefined) continue;
        at.path.push(key);
        const field = fields.get(key);
        if (!field) at.unknown.push(at.pathText());
        else if (item !== null) {
          at.struct = definition.goName;
          const decoded = field.decode(item, at, before[key]);
          if (decoded !== undefined && !omitted(field.info, decoded)) out[key] = decoded;
        }
        at.path.pop();
      }
      at.struct = outer;
      return out;
    };
  }
}

/** Go's omitempty for lists and maps: an empty optional one says nothing and is not stored. */
function omitted(info: FieldInfo, value: unknown): boolean {
  if (info.required) return false;
  if (info.type.kind === "array") return (value as unknown[]).length === 0;
  return info.type.kind === "map" && Object.keys(value as object).length === 0;
}
