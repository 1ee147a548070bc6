// PersistentVolumeClaim: the declaration of the kind to the API engine.

import { PERSISTENT_VOLUME_CLAIMS } from "../../common/client.js";
import type { PersistentVolumeClaim, Stored } from "../../common/k8s.js";
import { ageColumn, column, draftOf, keepStatus, nameColumn, wideColumn } from "./object.js";
import {
  accessModesText,
  storageClassOf,
  validateAccessModes,
  validatePositive,
} from "./persistent-volume.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { forbidden, oneOf, required, same } from "./validation/field.js";
import { canonicalResourceList } from "./validation/quantity.js";
import { labelSelector, subdomain } from "./validation/values.js";

type Spec = NonNullable<PersistentVolumeClaim["spec"]>;

function validateSpec(spec: Spec): FieldError[] {
  const { accessModes = [], resources, storageClassName } = spec;
  const storage = resources?.requests?.storage;
  const errors =
    accessModes.length === 0 ? [required("spec.accessModes", "at least 1 access mode is required")] : [];
  errors.push(...labelSelector("spec.selector", spec.selector));
  errors.push(...validateAccessModes("spec.accessModes", accessModes));
  if (accessModes.includes("ReadWriteOncePod") && accessModes.length > 1)
    errors.push(forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes"));
  if (storage === undefined) errors.push(required("spec.resources[storage]"));
  else errors.push(...validatePositive("spec.resources[storage]", storage));
  if (storageClassName) errors.push(...subdomain("spec.storageClassName", storageClassName));
  return [...errors, ...oneOf("spec.volumeMode", spec.volumeMode, ["Block", "Filesystem"])];
}

/** What may be set once may be set now; everything else is as it was. Volumes are never resized here. */
function validateUpdate(now: Spec, old: Stored<PersistentVolumeClaim>): FieldError[] {
  const before = old.spec ?? {};
  const allowed: Spec = {
    ...before,
    ...(before.volumeName ? {} : { volumeName: now.volumeName }),
    ...(before.storageClassName === undefined ? { storageClassName: now.storageClassName } : {}),
  };
  const { requests = {}, ...rest } = now.resources ?? {};
  const resized = { ...now, resources: { ...rest, requests: before.resources?.requests ?? {} } };
  if (same(now, allowed)) return [];
  if (same(resized, allowed) && old.status?.phase === "Bound" && requests.storage !== undefined)
    return [
      forbidden(
        "spec.resources.requests.storage",
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
      ),
    ];
  return [
    forbidden(
      "spec",
      "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
    ),
  ];
}

function phaseOf({ metadata, status }: Stored<PersistentVolumeClaim>): string {
  return metadata.deletionTimestamp ? "Terminating" : (status?.phase ?? "");
}

export const persistentVolumeClaimDefinition: ResourceDefinition<PersistentVolumeClaim> = {
  resource: PERSISTENT_VOLUME_CLAIMS,
  singular: "persistentvolumeclaim",
  shortNames: ["pvc"],
  schema: "io.k8s.api.core.v1.PersistentVolumeClaim",
  hasStatus: true,
  returnsDeleted: true,
  columns: [
    nameColumn(),
    column("Status", phaseOf),
    column("Volume", ({ spec }) => spec?.volumeName ?? ""),
    column("Capacity", ({ spec, status }) => (spec?.volumeName ? (status?.capacity?.storage ?? "0") : "")),
    column("Access Modes", ({ spec, status }) =>
      spec?.volumeName ? accessModesText(status?.accessModes) : "",
    ),
    column("StorageClass", storageClassOf),
    column("VolumeAttributesClass", ({ spec }) => spec?.volumeAttributesClassName ?? "<unset>"),
    ageColumn(),
    wideColumn("VolumeMode", ({ spec }) => spec?.volumeMode ?? "<unset>"),
  ],
  setDefaults(draft) {
    draft.spec ??= {};
    draft.spec.volumeMode ||= "Filesystem";
    canonicalResourceList(draft.spec.resources?.requests);
  },
  prepareForCreate(draft) {
    draftOf(draft).status = { phase: "Pending" };
  },
  prepareForUpdate: keepStatus,
  validate(draft, old) {
    const spec = draft.spec ?? {};
    return [...validateSpec(spec), ...(old ? validateUpdate(spec, old) : [])];
  },
};
