// From the JSON of a request to an object of the expected kind: apiVersion and kind checked, unknown and repeated
// fields refused, warned of or dropped as fieldValidation says. Knows no HTTP.

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

/** Decodes what a patch has made of an object. @throws StatusError Invalid, as the real server answers it. */
export function decodePatched(
  engine: Engine,
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
    const { object, unknownFields } = engine.decoders.decode(expected.schema, patched);
    const { apiVersion, kind } = expected;
    if ((object.apiVersion ?? apiVersion) !== apiVersion || (object.kind ?? kind) !== kind)
      throw refuse(`${object.apiVersion}, Kind=${object.kind} is not ${apiVersion}, Kind=${kind}`);
    const problems = fieldProblems(unknownFields, patch, mode);
    if (problems.length > 0 && mode === "Strict")
      throw refuse(`strict decoding error: ${problems.join(", ")}`);
    return { object: { ...object, apiVersion, kind }, warnings: mode === "Warn" ? problems : [] };
  } catch (error) {
    if (error instanceof DecodeError) throw refuse(error.message);
    throw error;
  }
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
