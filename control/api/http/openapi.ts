// OpenAPI documents: what kubectl explain, create and apply read. Built from the schema and the kinds when first
// asked for, and kept as text.

import { createHash } from "node:crypto";
import type { Kind } from "../engine.js";
import type { OpenApiSchema, Schema } from "../schema.js";
import { groupVersions, verbsOf } from "./discovery.js";
import { type Swagger, swaggerOf, swaggerProtobuf } from "./openapi-v2.js";

const REF = "#/components/schemas/";
const SCALE = "io.k8s.api.autoscaling.v1.Scale";
const STATUS = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const PATCH_TYPES = [
  "application/json-patch+json",
  "application/merge-patch+json",
  "application/strategic-merge-patch+json",
  "application/apply-patch+yaml",
];

type Parameter = {
  name: string;
  in: "query" | "path";
  required?: true;
  description: string;
  schema: { type: string; uniqueItems: true };
};

function query(name: string, type: string, description: string): Parameter {
  return { name, in: "query", description, schema: { type, uniqueItems: true } };
}

function inPath(name: string, description: string): Parameter {
  return { name, in: "path", required: true, description, schema: { type: "string", uniqueItems: true } };
}

const DRY_RUN = query(
  "dryRun",
  "string",
  "When present, indicates that modifications should not be persisted. The valid value is All.",
);
const FIELD_MANAGER = query(
  "fieldManager",
  "string",
  "A name associated with the actor or entity that is making these changes.",
);
const FIELD_VALIDATION = query(
  "fieldValidation",
  "string",
  "How the server handles objects with unknown or duplicate fields: Ignore, Warn (the default) or Strict.",
);
const WRITE = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const FORCE = query(
  "force",
  "boolean",
  "Of an apply: take over fields that other managers own. Not for other patches.",
);
const SELECT = [
  query("fieldSelector", "string", "A selector to restrict the list of returned objects by their fields."),
  query("labelSelector", "string", "A selector to restrict the list of returned objects by their labels."),
  query("resourceVersion", "string", "The version of the state to start from."),
  query("resourceVersionMatch", "string", "How resourceVersion is applied to a list: Exact or NotOlderThan."),
];
const LIST = [
  query("allowWatchBookmarks", "boolean", "Requests watch events of type BOOKMARK."),
  query("continue", "string", "The token of the previous page."),
  query("limit", "integer", "The maximum number of items of a page."),
  query("sendInitialEvents", "boolean", "Begins a watch with synthetic events for the present state."),
  query("timeoutSeconds", "integer", "Limits the duration of a watch."),
  query("watch", "boolean", "Watch for changes and return them as a stream."),
  ...SELECT,
];
const DELETE = [
  DRY_RUN,
  query("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."),
  query("propagationPolicy", "string", "Whether and how garbage collection will be performed."),
];

const json = (schema: string): object => ({ "application/json": { schema: { $ref: REF + schema } } });

function operation(
  kind: Kind,
  action: string,
  schema: string,
  parameters: readonly Parameter[],
  body?: { types: readonly string[]; schema: string },
): object {
  const { group, version, kind: name, plural } = kind.resource;
  const requestBody = body && {
    content: Object.fromEntries(body.types.map((type) => [type, { schema: { $ref: REF + body.schema } }])),
    required: true,
  };
  return {
    tags: [group ? `${group}_${version}` : `core_${version}`],
    operationId: `${action}${group.replace(/\W/g, "_")}${version}${plural}`,
    ...(parameters.length > 0 ? { parameters } : {}),
    ...(requestBody ? { requestBody } : {}),
    responses: {
      [action === "post" ? "201" : "200"]: { description: "OK", content: json(schema) },
      401: { description: "Unauthorized" },
    },
    "x-kubernetes-action": action,
    "x-kubernetes-group-version-kind": { group, version, kind: name },
  };
}

const JSON_BODY = ["application/json", "application/yaml"];

function itemPath(kind: Kind, schema: string, deletable: boolean): object {
  return {
    get: operation(kind, "get", schema, []),
    put: operation(kind, "put", schema, WRITE, { types: JSON_BODY, schema }),
    patch: operation(kind, "patch", schema, [...WRITE, FORCE], {
      types: PATCH_TYPES,
      schema: "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    }),
    ...(deletable
      ? { delete: operation(kind, "delete", STATUS, DELETE, { types: JSON_BODY, schema: DELETE_OPTIONS }) }
      : {}),
  };
}

function pathsOf(kind: Kind, base: string): [string, object][] {
  const { plural, namespaced } = kind.resource;
  const { schema, hasStatus, scale } = kind.definition;
  const list = `${schema}List`;
  const scope = namespaced ? "/namespaces/{namespace}" : "";
  const collection = `${base}${scope}/${plural}`;
  const item = `${collection}/{name}`;
  const namespace = namespaced
    ? [inPath("namespace", "object name and auth scope, such as for teams and projects")]
    : [];
  const named = [inPath("name", `name of the ${kind.resource.kind}`), ...namespace];
  if (kind.definition.answers) {
    const verbs = verbsOf(kind);
    const post = operation(kind, "post", schema, WRITE, { types: JSON_BODY, schema });
    const get = operation(kind, "list", list, SELECT);
    const paths: [string, object][] = [];
    if (verbs.includes("create")) paths.push([collection, { post, parameters: namespace }]);
    if (verbs.includes("list")) paths.push([collection, { get, parameters: namespace }]);
    if (verbs.includes("get"))
      paths.push([item, { get: operation(kind, "get", schema, []), parameters: named }]);
    return paths;
  }
  const paths: [string, object][] = [
    [
      collection,
      {
        get: operation(kind, "list", list, LIST),
        post: operation(kind, "post", schema, WRITE, { types: JSON_BODY, schema }),
        delete: operation(kind, "deletecollection", STATUS, [...DELETE, ...SELECT]),
        parameters: namespace,
      },
    ],
    [item, { ...itemPath(kind, schema, true), parameters: named }],
  ];
  if (namespaced) paths.push([`${base}/${plural}`, { get: operation(kind, "list", list, LIST) }]);
  if (hasStatus) paths.push([`${item}/status`, { ...itemPath(kind, schema, false), parameters: named }]);
  if (scale) paths.push([`${item}/scale`, { ...itemPath(kind, SCALE, false), parameters: named }]);
  return paths;
}

function refsOf(value: unknown, found: Set<string>): void {
  if (typeof value !== "object" || value === null) return;
  for (const [key, item] of Object.entries(value))
    if (key === "$ref" && typeof item === "string") found.add(item.slice(REF.length));
    else refsOf(item, found);
}

const PATCH_SCHEMA: OpenApiSchema = {
  description: "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.",
  type: "object",
};

/** What is referenced by `paths`, and by what that references. */
function closure(paths: object, all: Readonly<Record<string, OpenApiSchema>>): Record<string, OpenApiSchema> {
  const wanted = new Set<string>();
  refsOf(paths, wanted);
  const schemas: Record<string, OpenApiSchema> = {};
  for (const name of wanted) {
    const schema = name.endsWith(".Patch") ? PATCH_SCHEMA : all[name];
    if (!schema) throw new Error(`openapi: no definition ${name}`);
    schemas[name] = schema;
    refsOf(schema, wanted);
  }
  return schemas;
}

export class OpenApi {
  readonly #kinds: readonly Kind[];
  readonly #schema: Schema;
  readonly #info: { title: string; version: string };
  readonly #documents = new Map<string, { text: string; hash: string }>();
  #swagger: string | undefined;
  #protobuf: Uint8Array | undefined;

  constructor(kinds: readonly Kind[], schema: Schema, version: string) {
    this.#kinds = kinds;
    this.#schema = schema;
    this.#info = { title: "Kubernetes", version };
  }

  /** /openapi/v3: where the document of each group version is. */
  index(): object {
    const paths = groupVersions(this.#kinds).map(({ group, version }) => {
      const path = group ? `apis/${group}/${version}` : `api/${version}`;
      const hash = this.document(path)?.hash ?? "";
      return [path, { serverRelativeURL: `/openapi/v3/${path}?hash=${hash}` }];
    });
    return { paths: Object.fromEntries(paths) };
  }

  /** The document of "api/v1" or "apis/GROUP/VERSION". */
  document(path: string): { text: string; hash: string } | undefined {
    const kept = this.#documents.get(path);
    if (kept) return kept;
    const found = groupVersions(this.#kinds).find(
      ({ group, version }) => path === (group ? `apis/${group}/${version}` : `api/${version}`),
    );
    if (!found) return undefined;
    const paths = Object.fromEntries(found.kinds.flatMap((kind) => pathsOf(kind, `/${path}`)));
    const schemas = closure(paths, this.#schema.raw);
    const text = JSON.stringify({ openapi: "3.0.0", info: this.#info, paths, components: { schemas } });
    const made = { text, hash: createHash("sha256").update(text).digest("hex").toUpperCase() };
    this.#documents.set(path, made);
    return made;
  }

  /** /openapi/v2, as JSON text. */
  swagger(): string {
    this.#swagger ??= JSON.stringify(this.#v2());
    return this.#swagger;
  }

  /** The same as gnostic's protobuf, the only form of it that Go clients read. */
  swaggerProtobuf(): Uint8Array {
    this.#protobuf ??= swaggerProtobuf(this.#v2());
    return this.#protobuf;
  }

  #v2(): Swagger {
    const paths = groupVersions(this.#kinds).flatMap(({ group, version, kinds }) => {
      const path = group ? `/apis/${group}/${version}` : `/api/${version}`;
      return kinds.flatMap((kind) => pathsOf(kind, path));
    });
    return swaggerOf(this.#info, Object.fromEntries(paths), this.#schema.raw);
  }
}
