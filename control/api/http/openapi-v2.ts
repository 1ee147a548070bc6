// OpenAPI v2 (Swagger) from the same paths and schemas as v3, as JSON and as gnostic's protobuf (package openapi.v2):
// older clients and generators read it. Pure.

import type { OpenApiSchema } from "../schema.js";

const REF = "#/components/schemas/";

interface V2Schema {
  $ref?: string;
  description?: string;
  type?: string;
  format?: string;
  items?: V2Schema;
  properties?: Record<string, V2Schema>;
  additionalProperties?: V2Schema;
  required?: string[];
  [extension: `x-${string}`]: unknown;
}

export interface Swagger {
  swagger: "2.0";
  info: { title: string; version: string };
  paths: Record<string, object>;
  definitions: Record<string, V2Schema>;
}

/** An operation or a parameter of v3 as this server writes them. */
interface V3Operation {
  parameters?: { schema: object }[];
  requestBody?: { content: Record<string, { schema: { $ref?: string } }>; required: boolean };
  responses: Record<string, { description: string; content?: Record<string, { schema: { $ref?: string } }> }>;
}

const METHODS = new Set(["get", "put", "post", "patch", "delete"]);

const reference = (ref: string): string => `#/definitions/${ref.slice(REF.length)}`;

function schemaOf(schema: OpenApiSchema): V2Schema {
  const { allOf, oneOf, items, properties, additionalProperties, $ref, default: _, ...plain } = schema;
  const ref = $ref ?? allOf?.[0]?.$ref;
  return {
    ...plain,
    ...(ref ? { $ref: reference(ref) } : {}),
    // v2 has no choice of types: what may be a number too is a string with a format.
    ...(oneOf ? { type: "string" } : {}),
    ...(items ? { items: schemaOf(items) } : {}),
    ...(additionalProperties ? { additionalProperties: schemaOf(additionalProperties) } : {}),
    ...(properties
      ? { properties: Object.fromEntries(Object.entries(properties).map(([k, v]) => [k, schemaOf(v)])) }
      : {}),
  };
}

const parameterOf = ({ schema, ...rest }: { schema: object }): object => ({ ...rest, ...schema });

function operationOf({ parameters = [], requestBody, responses, ...rest }: V3Operation): object {
  const [body] = Object.values(requestBody?.content ?? {});
  const consumes = Object.keys(requestBody?.content ?? {});
  const schema = body && { $ref: reference(body.schema.$ref ?? "") };
  return {
    ...rest,
    consumes: consumes.length > 0 ? consumes : ["*/*"],
    produces: ["application/json", "application/yaml"],
    parameters: [
      ...(schema ? [{ in: "body", name: "body", required: requestBody?.required ?? false, schema }] : []),
      ...parameters.map(parameterOf),
    ],
    responses: Object.fromEntries(
      Object.entries(responses).map(([code, { description, content }]) => {
        const [answer] = Object.values(content ?? {});
        const ref = answer?.schema.$ref;
        return [code, { description, ...(ref ? { schema: { $ref: reference(ref) } } : {}) }];
      }),
    ),
  };
}

/** @param paths As in the v3 documents. */
export function swaggerOf(
  info: { title: string; version: string },
  paths: Readonly<Record<string, object>>,
  schemas: Readonly<Record<string, OpenApiSchema>>,
): Swagger {
  const converted = Object.entries(paths).map(([path, item]) => [
    path,
    Object.fromEntries(
      Object.entries(item).map(([key, value]) => [
        key,
        METHODS.has(key) ? operationOf(value) : value.map(parameterOf),
      ]),
    ),
  ]);
  return {
    swagger: "2.0",
    info,
    paths: Object.fromEntries(converted),
    definitions: {
      ...Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, schemaOf(schema)])),
      "io.k8s.apimachinery.pkg.apis.meta.v1.Patch": {
        description:
          "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.",
        type: "object",
      },
    },
  };
}

/** A length-delimited field. */
function field(number: number, value: string | Uint8Array): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([varint((number << 3) | 2), varint(bytes.length), bytes]);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return Buffer.from([...bytes, rest]);
    bytes.push((rest & 0x7f) | 0x80);
  }
}

/** openapi.v2.Schema. */
function schemaBytes(schema: V2Schema): Buffer {
  const parts: Buffer[] = [];
  const text = (number: number, value: string | undefined): void => {
    if (value !== undefined) parts.push(field(number, value));
  };
  text(1, schema.$ref);
  text(2, schema.format);
  text(4, schema.description);
  for (const name of schema.required ?? []) text(19, name);
  if (schema.additionalProperties) parts.push(field(21, field(1, schemaBytes(schema.additionalProperties))));
  if (schema.type !== undefined) parts.push(field(22, field(1, schema.type)));
  if (schema.items) parts.push(field(23, field(1, schemaBytes(schema.items))));
  if (schema.properties) parts.push(field(25, namedSchemas(schema.properties)));
  // An extension's value is text in YAML, and JSON is YAML.
  for (const [name, value] of Object.entries(schema))
    if (name.startsWith("x-"))
      parts.push(field(31, Buffer.concat([field(1, name), field(2, field(2, JSON.stringify(value)))])));
  return Buffer.concat(parts);
}

function namedSchemas(schemas: Readonly<Record<string, V2Schema>>): Buffer {
  const named = Object.entries(schemas).map(([name, schema]) =>
    field(1, Buffer.concat([field(1, name), field(2, schemaBytes(schema))])),
  );
  return Buffer.concat(named);
}

/** openapi.v2.Document with its definitions; clients of this form look up types and read no paths. */
export function swaggerProtobuf({ swagger, info, definitions }: Swagger): Uint8Array {
  const about = Buffer.concat([field(1, info.title), field(2, info.version)]);
  return Buffer.concat([
    field(1, swagger),
    field(2, about),
    field(8, ""),
    field(9, namedSchemas(definitions)),
  ]);
}
