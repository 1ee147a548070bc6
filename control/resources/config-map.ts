// ConfigMap: the declaration of the kind to the API engine; the key and immutability rules that Secrets share.

import { CONFIG_MAPS } from "../../common/client.js";
import type { ConfigMap } from "../../common/k8s.js";
import { ageColumn, column, nameColumn } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { forbidden, invalid, invalids, same, tooLong } from "./validation/field.js";
import { byteLength } from "./validation/meta.js";
import { configKey } from "./validation/values.js";

/** All the values of one ConfigMap or Secret together. */
export const MAX_DATA_BYTES = 1024 * 1024;
const IMMUTABLE = "field is immutable when `immutable` is set";

export function validateKeys(data: Readonly<Record<string, string>> | undefined, path: string): FieldError[] {
  return Object.keys(data ?? {}).flatMap((key) => invalids(`${path}[${key}]`, key, configKey(key)));
}

/** `immutable: true` cannot be taken back, and freezes the fields named. */
export function validateImmutable<T extends { immutable?: boolean }>(
  object: T,
  old: T | undefined,
  fields: readonly (keyof T & string)[],
): FieldError[] {
  if (!old?.immutable) return [];
  const errors = object.immutable ? [] : [forbidden("immutable", IMMUTABLE)];
  for (const field of fields) {
    if (!same(object[field], old[field])) errors.push(forbidden(field, IMMUTABLE));
  }
  return errors;
}

/** Bytes that a base64 text stands for. */
export function decodedLength(base64: string): number {
  return Buffer.byteLength(base64, "base64");
}

export const configMapDefinition: ResourceDefinition<ConfigMap> = {
  resource: CONFIG_MAPS,
  singular: "configmap",
  shortNames: ["cm"],
  schema: "io.k8s.api.core.v1.ConfigMap",
  hasStatus: false,
  columns: [
    nameColumn(),
    column("Data", (cm) => Object.keys(cm.data ?? {}).length + Object.keys(cm.binaryData ?? {}).length, {
      type: "integer",
    }),
    ageColumn(),
  ],
  validate(cm, old) {
    const errors = validateKeys(cm.data, "data");
    let size = 0;
    for (const [key, value] of Object.entries(cm.data ?? {})) {
      if (cm.binaryData && Object.hasOwn(cm.binaryData, key)) {
        errors.push(invalid(`data[${key}]`, key, "duplicate of key present in binaryData"));
      }
      size += byteLength(value);
    }
    errors.push(...validateKeys(cm.binaryData, "binaryData"));
    for (const value of Object.values(cm.binaryData ?? {})) size += decodedLength(value);
    if (size > MAX_DATA_BYTES) errors.push(tooLong("[]", MAX_DATA_BYTES));
    return [
      ...errors,
      ...validateImmutable<ConfigMap>(cm, old as ConfigMap | undefined, ["data", "binaryData"]),
    ];
  },
};
