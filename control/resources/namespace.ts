// Namespace: the declaration of the kind to the API engine.

import { NAMESPACES } from "../../common/client.js";
import type { Namespace } from "../../common/k8s.js";
import { ageColumn, column, draftOf, keepStatus, nameColumn } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { invalid } from "./validation/field.js";
import { dns1123Label } from "./validation/meta.js";
import { qualified } from "./validation/values.js";

const NAME_LABEL = "kubernetes.io/metadata.name";
const FINALIZER = "kubernetes";
const STANDARD_FINALIZERS = new Set([FINALIZER, "orphan", "foregroundDeletion"]);

/** The label by which selectors name a namespace. */
function labelByName(draft: Namespace): void {
  const { name } = draft.metadata ?? {};
  if (!name) return;
  draft.metadata = { ...draft.metadata, labels: { ...draft.metadata?.labels, [NAME_LABEL]: name } };
}

export const namespaceDefinition: ResourceDefinition<Namespace> = {
  resource: NAMESPACES,
  singular: "namespace",
  shortNames: ["ns"],
  schema: "io.k8s.api.core.v1.Namespace",
  hasStatus: true,
  returnsDeleted: true,
  columns: [nameColumn(), column("Status", (ns) => ns.status?.phase ?? ""), ageColumn()],
  selectableFields: (ns) => ({ name: ns.metadata.name, "status.phase": ns.status?.phase ?? "" }),
  setDefaults: labelByName,
  prepareForCreate(draft) {
    const finalizers = draft.spec?.finalizers ?? [];
    draft.spec = { finalizers: finalizers.includes(FINALIZER) ? finalizers : [...finalizers, FINALIZER] };
    draftOf(draft).status = { phase: "Active" };
    // A generated name is known only now.
    labelByName(draft);
  },
  prepareForUpdate(draft, old) {
    // Finalizers are the finalize subresource's.
    draft.spec = { ...draft.spec, finalizers: old.spec?.finalizers };
    keepStatus(draft, old);
  },
  prepareForDelete(draft) {
    // The real server marks namespaces by a way of their own, which knows no grace.
    const { deletionGracePeriodSeconds: _, ...metadata } = draft.metadata ?? {};
    draft.metadata = metadata;
    draftOf(draft).status = { ...draft.status, phase: "Terminating" };
  },
  validate(ns) {
    const errors: FieldError[] = [];
    for (const f of ns.spec?.finalizers ?? []) {
      errors.push(...qualified("spec.finalizers", f));
      if (f.includes("/") || STANDARD_FINALIZERS.has(f)) continue;
      const text = "name is neither a standard finalizer name nor is it fully qualified";
      errors.push(invalid("spec.finalizers", f, text));
    }
    const isDeleted = ns.metadata?.deletionTimestamp !== undefined;
    const phase = ns.status?.phase ?? "";
    if (phase !== (isDeleted ? "Terminating" : "Active")) {
      const text = isDeleted
        ? "may only be 'Terminating' if `deletionTimestamp` is not empty"
        : "may only be 'Active' if `deletionTimestamp` is empty";
      errors.push(invalid("status.Phase", phase, text));
    }
    return errors;
  },
  validateName: dns1123Label,
};
