// Makes field errors with apimachinery's types and detail texts (pkg/util/validation/field), and the
// Invalid status around them. Knows no kind.

import { StatusError } from "../../../common/client.js";
import type { FieldError } from "../types.js";

export function required(field: string, detail = ""): FieldError {
  return { type: "FieldValueRequired", field, ...(detail ? { detail } : {}) };
}

export function invalid(field: string, value: unknown, detail: string): FieldError {
  return { type: "FieldValueInvalid", field, value, detail };
}

/** One Invalid for each text of what is wrong. */
export function invalids(field: string, value: unknown, details: readonly string[]): FieldError[] {
  return details.map((detail) => invalid(field, value, detail));
}

export function notSupported(field: string, value: unknown, supported: readonly string[]): FieldError {
  const detail = `supported values: ${supported.map((v) => JSON.stringify(v)).join(", ")}`;
  return { type: "FieldValueNotSupported", field, value, detail };
}

export function duplicate(field: string, value: unknown, detail?: string): FieldError {
  return { type: "FieldValueDuplicate", field, value, ...(detail ? { detail } : {}) };
}

export function forbidden(field: string, detail: string): FieldError {
  return { type: "FieldValueForbidden", field, detail };
}

export function notFound(field: string, value: unknown): FieldError {
  return { type: "FieldValueNotFound", field, value };
}

export function tooLong(field: string, maxBytes: number): FieldError {
  return { type: "FieldValueTooLong", field, detail: `may not be more than ${maxBytes} bytes` };
}

export function tooMany(field: string, actual: number, max: number): FieldError {
  return { type: "FieldValueTooMany", field, value: actual, detail: `must have at most ${max} items` };
}

/** apimachinery's ValidateImmutableField. */
export function immutable(field: string, value: unknown, old: unknown): FieldError[] {
  return same(value, old) ? [] : [invalid(field, value, "field is immutable")];
}

/** NotSupported unless `value` is in `supported`; Required when it is missing. */
export function oneOf(field: string, value: string | undefined, supported: readonly string[]): FieldError[] {
  if (!value) return [required(field)];
  return supported.includes(value) ? [] : [notSupported(field, value, supported)];
}

/** Fields that Kubernetes keeps behind a pointer: not set is not the same as false or 0. */
const POINTERS: ReadonlySet<string> = new Set([
  "activeDeadlineSeconds",
  "allowPrivilegeEscalation",
  "automountServiceAccountToken",
  "backoffLimitPerIndex",
  "completions",
  "enableServiceLinks",
  "failedJobsHistoryLimit",
  "fsGroup",
  "hostUsers",
  "immutable",
  "maxFailedIndexes",
  "minReplicas",
  "optional",
  "port",
  "priority",
  "privileged",
  "readOnlyRootFilesystem",
  "ready",
  "replicas",
  "runAsGroup",
  "runAsNonRoot",
  "runAsUser",
  "serving",
  "shareProcessNamespace",
  "stabilizationWindowSeconds",
  "startingDeadlineSeconds",
  "successfulJobsHistoryLimit",
  "terminating",
  "terminationGracePeriodSeconds",
  "tolerationSeconds",
  "ttlSecondsAfterFinished",
]);

/**
 * Semantic equality as apiequality.Semantic.DeepEqual: a missing field, null, an empty list and an empty
 * object are the same, for an optional field says nothing by being empty; so are a missing field and false or
 * 0, but for {@link POINTERS}. An empty string is a value: as that of a label it counts.
 */
export function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (isEmpty(a) && isEmpty(b)) return true;
  if (Array.isArray(a) || Array.isArray(b)) {
    if (!Array.isArray(a) || !Array.isArray(b) || a.length !== b.length) return false;
    return a.every((item, i) => same(item, b[i]));
  }
  if (!isRecord(a) || !isRecord(b)) return false;
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  for (const key of keys) {
    if (same(a[key], b[key])) continue;
    if (POINTERS.has(key) || !isZero(a[key]) || !isZero(b[key])) return false;
  }
  return true;
}

function isZero(value: unknown): boolean {
  return value === undefined || value === null || value === false || value === 0;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null) return true;
  return isRecord(value) && Object.keys(value).length === 0;
}

const TYPE_TEXT: Record<FieldError["type"], string> = {
  FieldValueRequired: "Required value",
  FieldValueInvalid: "Invalid value",
  FieldValueNotSupported: "Unsupported value",
  FieldValueDuplicate: "Duplicate value",
  FieldValueForbidden: "Forbidden",
  FieldValueNotFound: "Not found",
  FieldValueTooLong: "Too long",
  FieldValueTooMany: "Too many",
  FieldValueTypeInvalid: "Invalid value",
  InternalError: "Internal error",
};

const VALUELESS: ReadonlySet<FieldError["type"]> = new Set([
  "FieldValueRequired",
  "FieldValueForbidden",
  "FieldValueTooLong",
  "InternalError",
]);

/** field.Error.ErrorBody: 'Invalid value: "x": must be …', the value in JSON. */
function errorBody(error: FieldError): string {
  let text = TYPE_TEXT[error.type];
  if (!VALUELESS.has(error.type)) text += `: ${JSON.stringify(error.value ?? null)}`;
  return error.detail ? `${text}: ${error.detail}` : text;
}

/** field.Error.Error: "spec.ports[0].nodePort: Invalid value: 1: …". */
export function errorText(error: FieldError): string {
  return `${error.field}: ${errorBody(error)}`;
}

/** The 422 that says what is wrong with an object, a cause for each error. */
export function invalidStatus(
  kind: { group: string; kind: string },
  name: string,
  errors: readonly FieldError[],
): StatusError {
  const qualified = kind.group ? `${kind.kind}.${kind.group}` : kind.kind;
  const texts = [...new Set(errors.map(errorText))];
  const all = texts.length === 1 ? texts[0] : `[${texts.join(", ")}]`;
  return new StatusError({
    apiVersion: "v1",
    kind: "Status",
    metadata: {},
    status: "Failure",
    message: `${qualified} ${JSON.stringify(name)} is invalid: ${all}`,
    reason: "Invalid",
    details: {
      ...(name ? { name } : {}),
      ...(kind.group ? { group: kind.group } : {}),
      kind: kind.kind,
      causes: errors.map((e) => ({ reason: e.type, message: errorBody(e), field: e.field })),
    },
    code: 422,
  });
}

/** The 500 for what is not the request's fault: an address range used up. */
export function internalStatus(message: string): StatusError {
  return new StatusError({
    apiVersion: "v1",
    kind: "Status",
    metadata: {},
    status: "Failure",
    message: `Internal error occurred: ${message}`,
    reason: "InternalError",
    details: { causes: [{ message }] },
    code: 500,
  });
}
