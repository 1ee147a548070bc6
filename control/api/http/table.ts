// Objects as rows of a meta.k8s.io/v1 Table, and as PartialObjectMetadata: what kubectl get asks for. Pure.

import type { Scale, Stored } from "../../../common/k8s.js";
import { ageColumn, column, nameColumn } from "../../resources/object.js";
import type { Column } from "../../resources/types.js";
import { badRequest } from "../status.js";

export type IncludeObject = "None" | "Metadata" | "Object";

/** What a table needs to know of a kind. */
export interface Printed {
  readonly definition: { readonly columns: readonly Column<Stored>[] };
}

/** The scale subresource, with kubectl's columns. */
export const PRINTED_SCALE: Printed = {
  definition: {
    columns: [
      nameColumn(),
      column("Desired", (o) => (o as Stored<Scale>).spec?.replicas ?? 0, { type: "integer" }),
      column("Available", (o) => (o as Stored<Scale>).status?.replicas ?? 0, { type: "integer" }),
      ageColumn(),
    ],
  },
};

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

function columnDefinitions(kind: Printed): object[] {
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
  kind: Printed,
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
