// ObjectMeta is the engine's: filling it at creation, keeping what an update may not touch, checking it with
// apimachinery's rules and texts (pkg/api/validation/objectmeta.go). Pure.

import { randomBytes, randomUUID } from "node:crypto";
import type { KubeObject, ObjectMeta, Stored } from "../../common/k8s.js";
import type { FieldError, RequestContext } from "../resources/types.js";
import { forbidden, immutable, invalid, required } from "../resources/validation/field.js";
import {
  dns1123Label,
  dns1123Subdomain,
  qualifiedName,
  validateAnnotations,
  validateLabels,
} from "../resources/validation/meta.js";
import type { Kind } from "./engine.js";

/** Without vowels and look-alikes: no words, no misreading. */
const ALPHABET = "bcdfghjklmnpqrstvwxz2456789";
const MAX_GENERATED_PREFIX = 58;
const STANDARD_FINALIZERS = new Set(["kubernetes", "orphan", "foregroundDeletion"]);

export function generatedName(prefix: string): string {
  let name = prefix.slice(0, MAX_GENERATED_PREFIX);
  for (const byte of randomBytes(5)) name += ALPHABET[byte % ALPHABET.length];
  return name;
}

/** Fills the metadata of an object that is to be created; `name` is the final one. */
export function fillForCreate(
  draft: KubeObject,
  name: string,
  namespace: string,
  context: RequestContext,
): void {
  const { labels, annotations, ownerReferences, finalizers, generateName } = draft.metadata ?? {};
  draft.metadata = {
    name,
    ...(generateName ? { generateName } : {}),
    ...(namespace ? { namespace } : {}),
    uid: randomUUID(),
    creationTimestamp: context.now,
    ...(labels ? { labels } : {}),
    ...(annotations ? { annotations } : {}),
    ...(ownerReferences ? { ownerReferences } : {}),
    ...(finalizers ? { finalizers } : {}),
  };
}

const KEPT = [
  "name",
  "namespace",
  "uid",
  "resourceVersion",
  "generation",
  "creationTimestamp",
  "deletionTimestamp",
  "deletionGracePeriodSeconds",
] as const;

/** Gives an updated object what only the server decides, from the stored one; managedFields are the caller's. */
export function keepForUpdate(draft: KubeObject, old: Stored): void {
  const meta: Record<string, unknown> = { ...draft.metadata };
  for (const field of KEPT) {
    if (old.metadata[field] === undefined) delete meta[field];
    else meta[field] = old.metadata[field];
  }
  delete meta.managedFields;
  delete meta.selfLink;
  draft.metadata = meta;
}

/** What a client may leave out of an update, or repeat, but not change. */
export function frozenMetaErrors(sent: ObjectMeta, old: Stored): FieldError[] {
  return (["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] as const).flatMap((field) =>
    sent[field] === undefined || sent[field] === ""
      ? []
      : immutable(`metadata.${field}`, sent[field], old.metadata[field]),
  );
}

/** Finalizers that hold an object back: its own, and a namespace's in spec (core/v1 NamespaceSpec). */
export function isHeld(object: KubeObject): boolean {
  if ((object.metadata?.finalizers?.length ?? 0) > 0) return true;
  const { spec } = object as { spec?: { finalizers?: unknown } };
  return Array.isArray(spec?.finalizers) && spec.finalizers.length > 0;
}

function validateOwners(meta: ObjectMeta): FieldError[] {
  const errors: FieldError[] = [];
  const path = "metadata.ownerReferences";
  let controller: string | undefined;
  for (const [i, owner] of (meta.ownerReferences ?? []).entries()) {
    const at = `${path}[${i}]`;
    if (!owner.apiVersion)
      errors.push(invalid(`${at}.apiVersion`, owner.apiVersion ?? "", "version must not be empty"));
    if (!owner.kind) errors.push(invalid(`${at}.kind`, owner.kind ?? "", "must not be empty"));
    if (!owner.name) errors.push(invalid(`${at}.name`, owner.name ?? "", "must not be empty"));
    if (!owner.uid) errors.push(invalid(`${at}.uid`, owner.uid ?? "", "must not be empty"));
    if (owner.apiVersion === "v1" && owner.kind === "Event")
      errors.push(invalid(at, owner, "/v1, Kind=Event is disallowed from being an owner"));
    if (!owner.controller) continue;
    if (controller !== undefined)
      errors.push(
        invalid(
          path,
          owner,
          `Only one reference can have Controller set to true. Found "true" in references for ${controller} and ${owner.kind}/${owner.name}`,
        ),
      );
    controller = `${owner.kind}/${owner.name}`;
  }
  return errors;
}

function validateFinalizers(meta: ObjectMeta): FieldError[] {
  const errors: FieldError[] = [];
  for (const [i, finalizer] of (meta.finalizers ?? []).entries()) {
    const at = `metadata.finalizers[${i}]`;
    for (const detail of qualifiedName(finalizer)) errors.push(invalid(at, finalizer, detail));
    if (!finalizer.includes("/") && !STANDARD_FINALIZERS.has(finalizer))
      errors.push(
        invalid(at, finalizer, "name is neither a standard finalizer name nor is it fully qualified"),
      );
  }
  const both = meta.finalizers?.includes("orphan") && meta.finalizers.includes("foregroundDeletion");
  if (both)
    errors.push(
      invalid(
        "metadata.finalizers",
        meta.finalizers,
        "finalizer orphan and foregroundDeletion cannot be both set",
      ),
    );
  return errors;
}

/** Everything about metadata that can be wrong at creation or in an update. */
export function validateMeta(kind: Kind, object: KubeObject, old: Stored | undefined): FieldError[] {
  const meta = object.metadata ?? {};
  const name = meta.name ?? "";
  const errors: FieldError[] = [];
  const validateName = kind.definition.validateName ?? dns1123Subdomain;
  if (meta.generateName && !old) {
    // A hyphen at its end is not the end of the name.
    for (const detail of validateName(meta.generateName.replace(/(?<=.)-$/, "a")))
      errors.push(invalid("metadata.generateName", meta.generateName, detail));
  }
  if (name === "") errors.push(required("metadata.name", "name or generateName is required"));
  else if (!old) for (const detail of validateName(name)) errors.push(invalid("metadata.name", name, detail));
  if (kind.resource.namespaced && !old)
    for (const detail of dns1123Label(meta.namespace ?? ""))
      errors.push(invalid("metadata.namespace", meta.namespace ?? "", detail));
  errors.push(...validateLabels(meta.labels, "metadata.labels"));
  errors.push(...validateAnnotations(meta.annotations, "metadata.annotations"));
  errors.push(...validateOwners(meta), ...validateFinalizers(meta));
  if (old?.metadata.deletionTimestamp) {
    const added = (meta.finalizers ?? []).filter((f) => !old.metadata.finalizers?.includes(f));
    if (added.length > 0)
      errors.push(
        forbidden(
          "metadata.finalizers",
          `no new finalizers can be added if the object is being deleted, found new finalizers ${JSON.stringify(added)}`,
        ),
      );
  }
  return errors;
}
