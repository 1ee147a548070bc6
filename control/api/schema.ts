// The schema of the API's types, loaded once: OpenAPI v3 components made by scripts/generate-schema.mjs from the
// published types. Knows types and their strategic-merge keys, no verbs.

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** An OpenAPI v3 schema, as far as the generator uses the language. */
export interface OpenApiSchema {
  description?: string;
  type?: "object" | "array" | "string" | "integer" | "boolean";
  format?: string;
  $ref?: string;
  allOf?: OpenApiSchema[];
  oneOf?: OpenApiSchema[];
  items?: OpenApiSchema;
  properties?: Record<string, OpenApiSchema>;
  additionalProperties?: OpenApiSchema;
  required?: string[];
  default?: unknown;
  "x-kubernetes-patch-strategy"?: string;
  "x-kubernetes-patch-merge-key"?: string;
  "x-kubernetes-list-type"?: "atomic" | "set" | "map";
  "x-kubernetes-list-map-keys"?: string[];
  "x-kubernetes-map-type"?: "atomic";
  "x-kubernetes-group-version-kind"?: { group: string; version: string; kind: string }[];
}

const REF = "#/components/schemas/";

/** What a value is, with references resolved to the name of a definition. */
export type TypeRef =
  | { kind: "string"; bytes: boolean }
  | { kind: "boolean" }
  | { kind: "integer"; bits: 32 | 64 }
  | { kind: "array"; items: TypeRef }
  | { kind: "map"; values: TypeRef }
  | { kind: "ref"; name: string };

export interface FieldInfo {
  readonly name: string;
  readonly type: TypeRef;
  readonly required: boolean;
  readonly patchStrategies: readonly string[];
  readonly patchMergeKey: string | undefined;
  /** Of a list: whether its items have owners of their own (set, map) or it is one value. */
  readonly listType: "atomic" | "set" | "map";
  readonly listMapKeys: readonly string[];
  /** Of a map: it is one value. */
  readonly atomic: boolean;
  readonly default: unknown;
}

/** What a definition is when it is no plain object with fields. */
export type Special = "time" | "micro-time" | "quantity" | "int-or-string" | "any-object";

export interface Definition {
  readonly name: string;
  /** The Go type's name: the last part of the definition's. */
  readonly goName: string;
  readonly special: Special | undefined;
  /** Its objects are one value to server-side apply. */
  readonly atomic: boolean;
  readonly fields: ReadonlyMap<string, FieldInfo>;
}

function typeRef(schema: OpenApiSchema): TypeRef {
  const ref = schema.$ref ?? schema.allOf?.[0]?.$ref;
  if (ref) return { kind: "ref", name: ref.slice(REF.length) };
  switch (schema.type) {
    case "array":
      return { kind: "array", items: typeRef(schema.items ?? {}) };
    case "object":
      return { kind: "map", values: typeRef(schema.additionalProperties ?? {}) };
    case "integer":
      return { kind: "integer", bits: schema.format === "int64" ? 64 : 32 };
    case "boolean":
      return { kind: "boolean" };
    case "string":
      return { kind: "string", bytes: schema.format === "byte" };
    default:
      throw new Error(`schema: cannot use ${JSON.stringify(schema).slice(0, 200)}`);
  }
}

function specialOf(name: string, schema: OpenApiSchema): Special | undefined {
  if (name.endsWith(".MicroTime")) return "micro-time";
  if (schema.format === "date-time") return "time";
  if (name.endsWith(".Quantity")) return "quantity";
  if (schema.format === "int-or-string") return "int-or-string";
  return schema.properties ? undefined : "any-object";
}

/** Where the generated file is: beside this module in dist, else in the source tree of the package above it. */
function schemaPath(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  const beside = join(here, "schema.generated.json");
  if (existsSync(beside)) return beside;
  for (let dir = here; dir !== dirname(dir); dir = dirname(dir)) {
    const source = join(dir, "control/api/schema.generated.json");
    if (existsSync(source)) return source;
  }
  throw new Error("control/api/schema.generated.json is missing: run npm run build");
}

/** Facts about the protobuf form of the types. */
export interface ProtobufFacts {
  /** By definition: "name=1 httpGet=1.2", where 1.2 is field 2 of a message that JSON inlines. */
  fields: Readonly<Record<string, string>>;
  /** "Type.field": optional scalars whose zero means something else than their absence. */
  explicitZero: readonly string[];
}

interface GeneratedFile {
  definitions: Record<string, OpenApiSchema>;
  protobuf: ProtobufFacts;
}

export class Schema {
  readonly #raw: Readonly<Record<string, OpenApiSchema>>;
  readonly #definitions = new Map<string, Definition>();
  readonly protobuf: ProtobufFacts;

  private constructor({ definitions, protobuf }: GeneratedFile) {
    this.#raw = definitions;
    this.protobuf = protobuf;
  }

  /** @throws Error when the generated file is missing or damaged. */
  static load(): Schema {
    return new Schema(JSON.parse(readFileSync(schemaPath(), "utf8")) as GeneratedFile);
  }

  /** All definitions by name, for the OpenAPI documents. */
  get raw(): Readonly<Record<string, OpenApiSchema>> {
    return this.#raw;
  }

  /** @throws Error for a name that the schema lacks. */
  definition(name: string): Definition {
    let found = this.#definitions.get(name);
    if (!found) {
      const schema = this.#raw[name];
      if (!schema) throw new Error(`schema: no definition ${name}`);
      found = this.#define(name, schema);
      this.#definitions.set(name, found);
    }
    return found;
  }

  #define(name: string, schema: OpenApiSchema): Definition {
    const required = new Set(schema.required);
    const fields = new Map<string, FieldInfo>();
    for (const [field, s] of Object.entries(schema.properties ?? {}))
      fields.set(field, {
        name: field,
        type: typeRef(s),
        required: required.has(field),
        patchStrategies: s["x-kubernetes-patch-strategy"]?.split(",") ?? [],
        patchMergeKey: s["x-kubernetes-patch-merge-key"],
        listType: s["x-kubernetes-list-type"] ?? "atomic",
        listMapKeys: s["x-kubernetes-list-map-keys"] ?? [],
        atomic: s["x-kubernetes-map-type"] === "atomic",
        default: s.default,
      });
    const atomic = schema["x-kubernetes-map-type"] === "atomic";
    const goName = name.slice(name.lastIndexOf(".") + 1);
    return { name, goName, special: specialOf(name, schema), atomic, fields };
  }
}
