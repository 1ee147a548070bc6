// What the hooks of all kinds share: changing a draft, the generation, and cells of tables. Knows no kind.

import type { KubeObject, Stored } from "../../common/k8s.js";
import { age } from "./duration.js";
import type { Column, RequestContext } from "./types.js";
import { same } from "./validation/field.js";

/** An object that a hook may change: the published types mark status read-only, for clients. */
export type Draft<T> = { -readonly [K in keyof T]: T[K] };

/** The same object, seen as changeable. */
export function draftOf<T extends object>(object: T): Draft<T> {
  return object as Draft<T>;
}

/** metadata.generation = 1, as at creation. */
export function firstGeneration(object: KubeObject): void {
  object.metadata = { ...object.metadata, generation: 1 };
}

/** Keeps metadata.generation, or raises it by one when what the user wants has changed. */
export function nextGeneration(object: KubeObject, old: Stored, changed: boolean): void {
  const before = old.metadata.generation ?? 0;
  object.metadata = { ...object.metadata, generation: changed ? before + 1 : before };
}

/** Hooks of a kind with spec, status and generation: status belongs to the status subresource alone. */
export function specAndStatus<T extends KubeObject & { spec?: unknown; readonly status?: unknown }>(): {
  prepareForCreate(draft: T, context: RequestContext): void;
  prepareForUpdate(draft: T, old: Stored<T>, context: RequestContext): void;
} {
  return {
    prepareForCreate(draft) {
      firstGeneration(draft);
      Object.assign(draft, { status: {} });
    },
    prepareForUpdate(draft, old) {
      keepStatus(draft, old);
      nextGeneration(draft, old, !same(draft.spec, (old as T).spec));
    },
  };
}

/** A plain update leaves status as it is stored. */
export function keepStatus(draft: KubeObject, old: Stored): void {
  const { status } = old as { status?: unknown };
  if (status === undefined) Reflect.deleteProperty(draft, "status");
  else Object.assign(draft, { status });
}

export function nameColumn<T extends KubeObject>(): Column<Stored<T>> {
  return {
    name: "Name",
    type: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
    value: (o) => o.metadata.name,
  };
}

export function ageColumn<T extends KubeObject>(): Column<Stored<T>> {
  return column("Age", (o, now) => age(o.metadata.creationTimestamp, now));
}

/** A column of text that is always shown. */
export function column<T extends KubeObject>(
  name: string,
  value: Column<Stored<T>>["value"],
  more: Partial<Pick<Column<Stored<T>>, "type" | "priority" | "description">> = {},
): Column<Stored<T>> {
  return { name, type: "string", priority: 0, value, ...more };
}

/** A column that only -o wide shows. */
export function wideColumn<T extends KubeObject>(
  name: string,
  value: Column<Stored<T>>["value"],
  type: Column<Stored<T>>["type"] = "string",
): Column<Stored<T>> {
  return { name, type, priority: 1, value };
}

/** A list cut to three with the number of the rest: "a,b,c + 2 more...". */
export function firstThree(list: readonly string[]): string {
  const shown = list.slice(0, 3).join(",");
  return list.length > 3 ? `${shown} + ${list.length - 3} more...` : shown;
}

/** Comma-joined names and images of containers: two cells of -o wide. */
export function containerCells(containers: readonly { name: string; image?: string }[] | undefined): {
  names: string;
  images: string;
} {
  const list = containers ?? [];
  return { names: list.map((c) => c.name).join(","), images: list.map((c) => c.image ?? "").join(",") };
}
