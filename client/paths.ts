// Where a resource lives under the API server's root, and what its options are called in a query. Pure.
// Source: Kubernetes API conventions, "Resource URIs"; meta/v1 ListOptions, CreateOptions, DeleteOptions.

import type { ListOptions, Resource, WatchOptions, WriteOptions } from "../common/client.js";

export type Query = Record<string, string | number | boolean | readonly string[] | undefined>;

/** "/path?a=b&c=d": undefined is left out, an array is repeated. */
export function withQuery(path: string, query: Query): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined) continue;
    if (Array.isArray(value)) for (const one of value) parameters.append(name, one);
    else parameters.append(name, String(value));
  }
  const text = parameters.toString();
  if (!text) return path;
  return `${path}${path.includes("?") ? "&" : "?"}${text}`;
}

/** All objects of a kind, in one namespace or (namespace undefined) in all. */
export function collectionPath(r: Resource, namespace?: string): string {
  const root = r.group ? `/apis/${r.group}/${r.version}` : `/api/${r.version}`;
  if (!r.namespaced || namespace === undefined) return `${root}/${r.plural}`;
  return `${root}/namespaces/${encodeURIComponent(namespace)}/${r.plural}`;
}

/** One object. @throws TypeError when its name, or the namespace of a namespaced kind, is missing. */
export function objectPath(
  r: Resource,
  name: string | undefined,
  namespace: string | undefined,
  subresource?: string,
): string {
  if (!name) throw new TypeError(`a name is needed to address one of ${r.plural}`);
  const path = `${namespacedCollectionPath(r, namespace)}/${encodeURIComponent(name)}`;
  return subresource ? `${path}/${subresource}` : path;
}

/** Where objects are created. @throws TypeError when a namespaced kind comes without namespace. */
export function namespacedCollectionPath(r: Resource, namespace: string | undefined): string {
  if (r.namespaced && !namespace) throw new TypeError(`a namespace is needed: ${r.plural} are namespaced`);
  return collectionPath(r, r.namespaced ? namespace : undefined);
}

export function listQuery(options: ListOptions): Query {
  const { labelSelector, fieldSelector, limit, resourceVersion, resourceVersionMatch } = options;
  return {
    labelSelector: labelSelector || undefined,
    fieldSelector: fieldSelector || undefined,
    limit,
    continue: options.continue,
    resourceVersion,
    resourceVersionMatch,
  };
}

export function watchQuery(options: WatchOptions): Query {
  const { labelSelector, fieldSelector, resourceVersion, allowWatchBookmarks, timeoutSeconds } = options;
  return {
    watch: true,
    labelSelector: labelSelector || undefined,
    fieldSelector: fieldSelector || undefined,
    resourceVersion,
    allowWatchBookmarks,
    timeoutSeconds,
  };
}

export function writeQuery(options: WriteOptions): Query {
  return {
    dryRun: options.dryRun ? "All" : undefined,
    fieldManager: options.fieldManager,
    fieldValidation: options.fieldValidation,
  };
}
