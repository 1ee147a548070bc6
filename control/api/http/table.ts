// Objects as rows of a meta.k8s.io/v1 Table, and as PartialObjectMetadata: what kubectl get asks for. Pure.

import type { Stored } from "../../../common/k8s.js";
import type { Kind } from "../engine.js";
import { badRequest } from "../status.js";

export type IncludeObject = "None" | "Metadata" | "Object";

export interface Table {
  kind: "Table";
  apiVersion: "meta.k8s.io/v1";
  metadata: Record<string, unknown>;
  columnDefinitions: object[];
  rows: { cells: (string | number | boolean)[]; object?: object }[];
}

/** @throws StatusError BadRequest */
export function parseIncludeObject(text: string | null): IncludeObject {
  if (text === null || text === "") return "Metadata";
  if (text === "None" || text === "Metadata" || text === "Object") return text;
  throw badRequest(
    `includeObject: Unsupported value: ${JSON.stringify(text)}: supported values: "Metadata", "None", "Object"`,
  );
}

export function partialMetadata(object: Stored): object {
  return { kind: "PartialObjectMetadata", apiVersion: "meta.k8s.io/v1", metadata: object.metadata };
}

function columnDefinitions(kind: Kind): object[] {
  return kind.definition.columns.map(({ name, type, format = "", description = "", priority }) => ({
    name,
    type,
    format,
    description,
    priority,
  }));
}

/** `headers` false leaves the column definitions out, as in all but the first event of a watch. */
export function tableOf(
  kind: Kind,
  objects: readonly Stored[],
  metadata: Record<string, unknown>,
  include: IncludeObject,
  headers = true,
): Table {
  const now = Date.now();
  return {
    kind: "Table",
    apiVersion: "meta.k8s.io/v1",
    metadata,
    columnDefinitions: headers ? columnDefinitions(kind) : [],
    rows: objects.map((object) => ({
      cells: kind.definition.columns.map((column) => column.value(object, now)),
      ...(include === "None" ? {} : { object: include === "Object" ? object : partialMetadata(object) }),
    })),
  };
}
