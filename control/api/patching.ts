// From the body of a patch to the object it makes of the stored one: the kinds of patches, and their errors as the
// real server answers them. Knows no verbs and no HTTP.

import type { PatchType } from "../../common/client.js";
import type { KubeObject, Stored } from "../../common/k8s.js";
import { applyJsonPatch, PatchApplyError, PatchSyntaxError } from "../patch/json-patch.js";
import { applyMergePatch } from "../patch/merge-patch.js";
import { applyStrategicPatch } from "../patch/strategic.js";
import { type Body, decodePatched, type FieldValidation } from "./body.js";
import type { Engine, Kind } from "./engine.js";
import * as status from "./status.js";
import { type Change, expectedOf } from "./write.js";

/**
 * Applies a patch to a JSON object.
 * @throws StatusError BadRequest for a malformed patch, Invalid for one that does not fit.
 */
export function applyPatch(
  engine: Engine,
  type: PatchType,
  document: object,
  patch: unknown,
  schema: string,
): unknown {
  try {
    if (type === "json") return applyJsonPatch(document, patch);
    const isObject = typeof patch === "object" && patch !== null && !Array.isArray(patch);
    if (type === "merge" && isObject) return applyMergePatch(document, patch);
    if (isObject) {
      const patched = applyStrategicPatch(document, patch, engine.schema, schema);
      // Other than the other patches it applies to a typed object: whose type it cannot change.
      const { apiVersion, kind } = document as KubeObject;
      return { ...(patched as KubeObject), apiVersion, kind };
    }
    if (type === "merge") throw new PatchSyntaxError("the patch must be an object");
    if (patch === null) return document;
    // The words of Go's decoder, which the real server gives on.
    const what = Array.isArray(patch) ? "array" : typeof patch === "boolean" ? "bool" : typeof patch;
    throw new PatchSyntaxError(
      `json: cannot unmarshal ${what} into Go value of type map[string]interface {}`,
    );
  } catch (error) {
    if (error instanceof PatchSyntaxError) throw status.badRequest(error.message);
    if (error instanceof PatchApplyError) throw status.patchRejected(error.message);
    throw error;
  }
}

/** A change that patches the stored object and decodes the result. */
export function patchChange(
  engine: Engine,
  kind: Kind,
  type: PatchType,
  patch: Body,
  mode: FieldValidation,
): (old: Stored) => Change {
  const expected = expectedOf(kind);
  return (old) => {
    const patched = applyPatch(engine, type, old, patch.value, expected.schema);
    return { ...decodePatched(engine, old, patched, patch, expected, mode), isPatch: true };
  };
}
