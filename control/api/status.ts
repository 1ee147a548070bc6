// Error answers of the API: a maker for each reason, with the texts of the real server (apimachinery's
// pkg/api/errors). Pure.

import { type Resource, StatusError } from "../../common/client.js";
import type { Status } from "../../common/k8s.js";
import type { FieldError } from "../resources/types.js";
import { invalidStatus } from "../resources/validation/field.js";

export { StatusError };

type Named = Pick<Resource, "group" | "plural">;

/** "pods", "deployments.apps": a resource as messages name it. */
export function qualifiedResource(r: Named): string {
  return r.group ? `${r.plural}.${r.group}` : r.plural;
}

interface Parts {
  code: number;
  reason: string;
  message: string;
  details?: Status["details"];
}

export function failure({ code, reason, message, details }: Parts): StatusError {
  return new StatusError({
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Failure",
    message,
    reason,
    ...(details ? { details } : {}),
    code,
  });
}

function detailsOf(r: Named, name: string): NonNullable<Status["details"]> {
  return { ...(name ? { name } : {}), ...(r.group ? { group: r.group } : {}), kind: r.plural };
}

export function notFound(r: Named, name: string): StatusError {
  const message = `${qualifiedResource(r)} "${name}" not found`;
  return failure({ code: 404, reason: "NotFound", message, details: detailsOf(r, name) });
}

/** Of a path that names no resource of the API. */
export function unknownResource(): StatusError {
  const message = "the server could not find the requested resource";
  return failure({ code: 404, reason: "NotFound", message, details: {} });
}

export function alreadyExists(r: Named, name: string): StatusError {
  const message = `${qualifiedResource(r)} "${name}" already exists`;
  return failure({ code: 409, reason: "AlreadyExists", message, details: detailsOf(r, name) });
}

export function conflict(r: Named, name: string, why: string): StatusError {
  const message = `Operation cannot be fulfilled on ${qualifiedResource(r)} "${name}": ${why}`;
  return failure({ code: 409, reason: "Conflict", message, details: detailsOf(r, name) });
}

/** The 409 of optimistic concurrency. */
export function modified(r: Named, name: string): StatusError {
  return conflict(
    r,
    name,
    "the object has been modified; please apply your changes to the latest version and try again",
  );
}

export function forbidden(
  r: Named,
  name: string,
  why: string,
  causes?: NonNullable<Status["details"]>["causes"],
): StatusError {
  const what = name ? `${qualifiedResource(r)} "${name}"` : qualifiedResource(r);
  const message = `${what} is forbidden: ${why}`;
  const details = { ...detailsOf(r, name), ...(causes ? { causes } : {}) };
  return failure({ code: 403, reason: "Forbidden", message, details });
}

export function badRequest(message: string): StatusError {
  return failure({ code: 400, reason: "BadRequest", message });
}

export function unauthorized(): StatusError {
  return failure({ code: 401, reason: "Unauthorized", message: "Unauthorized" });
}

export function methodNotAllowed(): StatusError {
  const message = "the server does not allow this method on the requested resource";
  return failure({ code: 405, reason: "MethodNotAllowed", message, details: {} });
}

export function notAcceptable(supported: readonly string[]): StatusError {
  const message = `only the following media types are accepted: ${supported.join(", ")}`;
  return failure({ code: 406, reason: "NotAcceptable", message });
}

export function unsupportedMediaType(supported: readonly string[], got: string): StatusError {
  const message = `the body of the request was in an unknown format (${got}) - accepted media types include: ${supported.join(", ")}`;
  return failure({ code: 415, reason: "UnsupportedMediaType", message });
}

export function tooLarge(limit: number): StatusError {
  const message = `Request entity too large: limit is ${limit}`;
  return failure({ code: 413, reason: "RequestEntityTooLarge", message, details: {} });
}

export function expired(message: string): StatusError {
  return failure({ code: 410, reason: "Expired", message });
}

/** Asked for a resourceVersion that does not exist yet. */
export function futureResourceVersion(wanted: number, current: number): StatusError {
  const message = `Too large resource version: ${wanted}, current: ${current}`;
  return failure({
    code: 504,
    reason: "Timeout",
    message: `Timeout: ${message}`,
    details: {
      retryAfterSeconds: 1,
      causes: [{ reason: "ResourceVersionTooLarge", message: "Too large resource version" }],
    },
  });
}

export function internalError(message: string): StatusError {
  return failure({
    code: 500,
    reason: "InternalError",
    message: `Internal error occurred: ${message}`,
    details: { causes: [{ message }] },
  });
}

/** What the real server finds wrong without having a reason for it; a 500 that kubectl prints bare. */
export function unknown(message: string): StatusError {
  return failure({ code: 500, reason: "", message });
}

export function serviceUnavailable(message: string): StatusError {
  return failure({ code: 503, reason: "ServiceUnavailable", message });
}

/** A patch that is well formed but cannot be applied to this object. */
export function patchRejected(why: string): StatusError {
  return failure({
    code: 422,
    reason: "Invalid",
    message: `the server rejected our request due to an error in our request: ${why}`,
    details: { causes: [{ reason: "FieldValueInvalid", field: "patch", message: why }] },
  });
}

/** The parameters of a request are wrong; `kind` is how the real server names them: CreateOptions, ListOptions. */
export function invalidOptions(kind: string, errors: readonly FieldError[]): StatusError {
  return invalidStatus({ group: "meta.k8s.io", kind }, "", errors);
}

/** The answer to a delete that is done. */
export function deleted(r: Named, name: string, uid: string): Status {
  return {
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Success",
    details: { ...detailsOf(r, name), uid },
    code: 200,
  };
}
