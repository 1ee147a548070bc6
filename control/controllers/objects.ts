// Small things many controllers need: request options of an object's namespace, deleting, an error's text.
// Knows metadata and errors only.

import {
  type DeleteOptions,
  isNotFound,
  type KubeClient,
  type Resource,
  StatusError,
} from "../../common/client.js";
import type { KubeObject, Stored } from "../../common/k8s.js";

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

/** Deletes this very object (its uid is a precondition). False: it was gone already. @throws StatusError */
export async function deleteIfPresent<T extends KubeObject>(
  client: KubeClient,
  resource: Resource<T>,
  object: Stored<T>,
  options: DeleteOptions = {},
): Promise<boolean> {
  const { name, uid } = object.metadata;
  try {
    await client.delete(resource, name, { ...namespaceOf(object), preconditions: { uid }, ...options });
    return true;
  } catch (error) {
    if (!isNotFound(error)) throw error;
    return false;
  }
}

/**
 * How long to gather further changes before a controller's object with so many pods is looked at again, in
 * milliseconds. Each look costs time in proportion to their number; a small one is never made to wait.
 */
export function gatherTime(pods: number): number {
  return pods < 50 ? 0 : Math.min(100, pods / 10);
}
