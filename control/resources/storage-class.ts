// StorageClass: the declaration of the kind to the API engine, and which class is the default one. Who makes volumes of
// a class is in control/controllers/provisioner.ts.

import { STORAGE_CLASSES } from "../../common/client.js";
import type { StorageClass, Stored } from "../../common/k8s.js";
import { ageColumn, column, nameColumn } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { forbidden, immutable, oneOf, required, same } from "./validation/field.js";
import { qualified } from "./validation/values.js";

const DEFAULT_CLASS = [
  "storageclass.kubernetes.io/is-default-class",
  "storageclass.beta.kubernetes.io/is-default-class",
];
const FIXED = ["parameters", "provisioner", "reclaimPolicy"] as const;

export function isDefaultClass({ metadata }: Pick<StorageClass, "metadata">): boolean {
  return DEFAULT_CLASS.some((name) => metadata?.annotations?.[name] === "true");
}

/** The class of claims that name none: of several the newest, then the first by name (the real admission's choice). */
export function defaultStorageClass(
  classes: readonly Stored<StorageClass>[],
): Stored<StorageClass> | undefined {
  return classes.filter(isDefaultClass).sort(({ metadata: a }, { metadata: b }) => {
    if (a.creationTimestamp !== b.creationTimestamp)
      return a.creationTimestamp < b.creationTimestamp ? 1 : -1;
    return a.name < b.name ? -1 : 1;
  })[0];
}

function validateUpdate(now: StorageClass, old: StorageClass): FieldError[] {
  const errors = FIXED.filter((name) => !same(now[name], old[name])).map((name) =>
    forbidden(name, `updates to ${name} are forbidden.`),
  );
  return [...errors, ...immutable("volumeBindingMode", now.volumeBindingMode, old.volumeBindingMode)];
}

export const storageClassDefinition: ResourceDefinition<StorageClass> = {
  resource: STORAGE_CLASSES,
  singular: "storageclass",
  shortNames: ["sc"],
  schema: "io.k8s.api.storage.v1.StorageClass",
  hasStatus: false,
  returnsDeleted: true,
  columns: [
    {
      ...nameColumn(),
      value: (one) => (isDefaultClass(one) ? `${one.metadata.name} (default)` : one.metadata.name),
    },
    column("Provisioner", ({ provisioner }) => provisioner),
    column("ReclaimPolicy", ({ reclaimPolicy }) => reclaimPolicy ?? "Delete"),
    column("VolumeBindingMode", ({ volumeBindingMode }) => volumeBindingMode ?? "Immediate"),
    column("AllowVolumeExpansion", ({ allowVolumeExpansion }) => allowVolumeExpansion ?? false),
    ageColumn(),
  ],
  setDefaults(draft) {
    draft.reclaimPolicy ||= "Delete";
    draft.volumeBindingMode ||= "Immediate";
  },
  validate(draft, old) {
    const { provisioner, parameters, reclaimPolicy, volumeBindingMode } = draft;
    return [
      ...(provisioner ? qualified("provisioner", provisioner.toLowerCase()) : [required("provisioner")]),
      ...(Object.keys(parameters ?? {}).includes("")
        ? [required("parameters", "field can not be empty.")]
        : []),
      ...oneOf("reclaimPolicy", reclaimPolicy, ["Delete", "Retain"]),
      ...oneOf("volumeBindingMode", volumeBindingMode, ["Immediate", "WaitForFirstConsumer"]),
      ...(old ? validateUpdate(draft, old as StorageClass) : []),
    ];
  },
};
