// Small things all controllers need: request options of an object's namespace, an error's text, Conflict handling.
// Knows metadata and errors only.

import { isNotFound, StatusError } from "../../common/client.js";
import type { Stored } from "../../common/k8s.js";

/** The namespace option of a request about this object; none for a cluster-scoped one. */
export function namespaceOf(object: Stored): { namespace?: string } {
  const { namespace } = object.metadata;
  return namespace ? { namespace } : {};
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Whether the API refused a create because the namespace is being deleted: no fault, and no use in trying again. */
export function isNamespaceTerminating(error: unknown): boolean {
  if (!(error instanceof StatusError)) return false;
  return error.status.details?.causes?.some((cause) => cause.reason === "NamespaceTerminating") ?? false;
}

/** For the end of a sync: what it wanted to write to is gone, and the event of that comes or has come. */
export function ignoreNotFound(error: unknown): void {
  if (!isNotFound(error)) throw error;
}

/**
 * How long to gather further changes before a controller's object with so many pods is looked at again, in
 * milliseconds. Each look costs time in proportion to their number; a small one is never made to wait.
 */
export function gatherTime(pods: number): number {
  return pods < 50 ? 0 : Math.min(100, pods / 10);
}
