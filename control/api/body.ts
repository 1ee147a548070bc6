// From the JSON of a request to an object of the expected kind: apiVersion and kind checked, unknown and repeated
// fields refused, warned of or dropped as fieldValidation says. Knows no HTTP.

import type { ManagedFieldsEntry } from "kubernetes-types/meta/v1.js";
import type { KubeObject } from "../../common/k8s.js";
import { DecodeError } from "./decode.js";
import type { Engine } from "./engine.js";
import { yamlError } from "./json.js";
import { badRequest, failure } from "./status.js";

export type FieldValidation = "Ignore" | "Warn" | "Strict";

export interface Expected {
  apiVersion: string;
  kind: string;
  /** Definition in the schema. */
  schema: string;
}

export interface DecodedBody {
  object: KubeObject;
  warnings: string[];
}

const version = (apiVersion: string): string => apiVersion.slice(apiVersion.indexOf("/") + 1);

/** What a request brought: its value, and keys that stood twice (see Parsed). */
export interface Body {
  value: unknown;
  duplicates: readonly string[];
  yaml?: boolean;
}

/** Decodes the body of a create or update. @throws StatusError BadRequest */
export function decodeBody(
  engine: Engine,
  body: Body,
  expected: Expected,
  mode: FieldValidation,
): DecodedBody {
  const { value } = body;
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw badRequest(
      `the object provided is unrecognized (must be of type ${expected.kind}): couldn't get version/kind; json parse error: not an object`,
    );
  const { apiVersion = expected.apiVersion, kind = expected.kind } = value as KubeObject;
  const what = `${kind} in version "${version(String(apiVersion))}" cannot be handled as a ${expected.kind}`;
  if (apiVersion !== expected.apiVersion)
    throw badRequest(
      `the API version in the data (${apiVersion}) does not match the expected API version (${expected.apiVersion})`,
    );
  if (kind !== expected.kind)
    throw badRequest(
      `${what}: the kind in the data (${kind}) does not match the expected kind (${expected.kind})`,
    );
  try {
    const { object, unknownFields } = engine.decoders.decode(expected.schema, value);
    const problems = fieldProblems(unknownFields, body, mode);
    if (problems.length > 0 && mode === "Strict")
      throw badRequest(`${what}: strict decoding error: ${problems.join(", ")}`);
    return {
      object: { ...object, apiVersion: expected.apiVersion, kind: expected.kind },
      warnings: mode === "Warn" ? problems : [],
    };
  } catch (error) {
    if (error instanceof DecodeError) throw badRequest(`${what}: ${error.message}`);
    throw error;
  }
}

/**
 * Decodes what a patch has made of an object, `old`, with which it may share parts; the result shares only managedFields
 * that are the same. @throws StatusError Invalid, as the real server answers it.
 */
export function decodePatched(
  engine: Engine,
  old: KubeObject,
  patched: unknown,
  patch: Body,
  expected: Expected,
  mode: FieldValidation,
): DecodedBody {
  const refuse = (why: string): Error => {
    const value = JSON.stringify(JSON.stringify(patch.value));
    const cause = `Invalid value: ${value}: ${why}`;
    return failure({
      code: 422,
      reason: "Invalid",
      message: ` "" is invalid: patch: ${cause}`,
      details: { causes: [{ reason: "FieldValueInvalid", message: cause, field: "patch" }] },
    });
  };
  try {
    const { managedFields } = old.metadata ?? {};
    const isKept = managedFields !== undefined && managersOf(patched) === managedFields;
    const { object, unknownFields } = engine.decoders.decode(
      expected.schema,
      isKept ? withManagers(patched as KubeObject, undefined) : patched,
      old,
    );
    const { apiVersion, kind } = expected;
    if ((object.apiVersion ?? apiVersion) !== apiVersion || (object.kind ?? kind) !== kind)
      throw refuse(`${object.apiVersion}, Kind=${object.kind} is not ${apiVersion}, Kind=${kind}`);
    const problems = fieldProblems(unknownFields, patch, mode);
    if (problems.length > 0 && mode === "Strict")
      throw refuse(`strict decoding error: ${problems.join(", ")}`);
    const whole: KubeObject = { ...object, apiVersion, kind };
    return {
      object: isKept ? withManagers(whole, managedFields) : whole,
      warnings: mode === "Warn" ? problems : [],
    };
  } catch (error) {
    if (error instanceof DecodeError) throw refuse(error.message);
    throw error;
  }
}

function managersOf(object: unknown): unknown {
  return (object as KubeObject | null | undefined)?.metadata?.managedFields;
}

function withManagers(
  object: KubeObject,
  managedFields: readonly ManagedFieldsEntry[] | undefined,
): KubeObject {
  const metadata = { ...object.metadata, managedFields: managedFields as ManagedFieldsEntry[] | undefined };
  return { ...object, metadata } as KubeObject;
}

function fieldProblems(
  unknownFields: readonly string[],
  { duplicates, yaml }: Body,
  mode: FieldValidation,
): string[] {
  const unknown = unknownFields.map((field) => `unknown field "${field}"`);
  if (!yaml) return [...unknown, ...duplicates.map((field) => `duplicate field "${field}"`)];
  const isOneError = mode === "Strict" && duplicates.length > 0;
  return [...(isOneError ? [yamlError(duplicates)] : duplicates), ...unknown];
}
