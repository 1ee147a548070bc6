// YAML and plain objects as a user hands them in, made ready for the API client. Knows kinds, nothing of transport.

import { parseAllDocuments } from "yaml";
import * as resources from "../common/client.js";
import type { KubeObject } from "../common/k8s.js";

/** What `apply` and `delete` take: YAML text with any number of documents (a List among them), or objects. */
export type Manifest = string | KubeObject | readonly KubeObject[];

const KNOWN: readonly resources.Resource[] = [
  resources.NAMESPACES,
  resources.NODES,
  resources.PODS,
  resources.SERVICES,
  resources.ENDPOINTS,
  resources.EVENTS,
  resources.CONFIG_MAPS,
  resources.SECRETS,
  resources.SERVICE_ACCOUNTS,
  resources.DEPLOYMENTS,
  resources.REPLICA_SETS,
  resources.REPLICATION_CONTROLLERS,
  resources.STATEFUL_SETS,
  resources.DAEMON_SETS,
  resources.CONTROLLER_REVISIONS,
  resources.POD_DISRUPTION_BUDGETS,
  resources.ENDPOINT_SLICES,
  resources.INGRESSES,
  resources.INGRESS_CLASSES,
  resources.SERVICE_CIDRS,
  resources.LEASES,
];

/** An object and where it belongs. */
export interface Item {
  resource: resources.Resource;
  object: KubeObject & { metadata: { name: string } };
  name: string;
  /** Undefined for a cluster-scoped kind. */
  namespace?: string;
}

/**
 * The objects of a manifest, `namespace` filled in where they name none.
 * @throws TypeError for malformed YAML (with the line), an unknown kind, or an object without name.
 */
export function readManifest(manifest: Manifest, namespace = "default"): Item[] {
  return objectsOf(manifest).map((object, index) => toItem(object, index, namespace));
}

function objectsOf(manifest: Manifest): KubeObject[] {
  const objects = typeof manifest === "string" ? parse(manifest) : [manifest].flat();
  return (objects as (KubeObject & { items?: KubeObject[] })[]).flatMap((object) =>
    object.kind === "List" ? (object.items ?? []) : [object],
  );
}

function parse(text: string): KubeObject[] {
  const documents = parseAllDocuments(text);
  const list = Array.isArray(documents) ? documents : [];
  const [error] = list.flatMap((document) => document.errors);
  if (error) throw new TypeError(`malformed YAML: ${error.message}`, { cause: error });
  return list.map((document) => document.toJS() as KubeObject | null).filter((object) => object !== null);
}

function toItem(object: KubeObject, index: number, namespace: string): Item {
  const { apiVersion, kind } = object;
  const resource = KNOWN.find((one) => one.kind === kind && resources.apiVersionOf(one) === apiVersion);
  if (!resource) {
    const known = KNOWN.map((one) => `${resources.apiVersionOf(one)} ${one.kind}`).join(", ");
    throw new TypeError(`object ${index + 1}: ${apiVersion} ${kind} is not served; known are ${known}`);
  }
  const name = object.metadata?.name;
  if (!name) throw new TypeError(`object ${index + 1} (${kind}): metadata.name is required`);
  const metadata = { ...object.metadata, name };
  if (!resource.namespaced) return { resource, object: { ...object, metadata }, name };
  const where = object.metadata?.namespace ?? namespace;
  return {
    resource,
    object: { ...object, metadata: { ...metadata, namespace: where } },
    name,
    namespace: where,
  };
}
