// PersistentVolume: the declaration of the kind to the API engine, with what volumes and claims have in common: access
// modes and the class.

import { PERSISTENT_VOLUMES } from "../../common/client.js";
import type { PersistentVolume, PersistentVolumeClaim, Stored } from "../../common/k8s.js";
import { ageColumn, column, draftOf, keepStatus, nameColumn, wideColumn } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { validateQuantity } from "./validation/container.js";
import { forbidden, immutable, invalid, notSupported, oneOf, required, same } from "./validation/field.js";
import { canonicalResourceList, parseQuantity } from "./validation/quantity.js";
import { validateNodeSelector } from "./validation/scheduling.js";
import { subdomain } from "./validation/values.js";

type Spec = NonNullable<PersistentVolume["spec"]>;

const CLASS = "volume.beta.kubernetes.io/storage-class";
const ACCESS_MODES: Readonly<Record<string, string>> = {
  ReadOnlyMany: "ROX",
  ReadWriteMany: "RWX",
  ReadWriteOnce: "RWO",
  ReadWriteOncePod: "RWOP",
};
const ORDER = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];
/** Everything in a spec that is not where the data is. */
const SETTINGS = new Set([
  "accessModes",
  "capacity",
  "claimRef",
  "mountOptions",
  "nodeAffinity",
  "persistentVolumeReclaimPolicy",
  "storageClassName",
  "volumeAttributesClassName",
  "volumeMode",
]);

/** "RWO,ROX", as kubectl shows access modes. */
export function accessModesText(modes: readonly string[] | undefined): string {
  return ORDER.filter((mode) => modes?.includes(mode))
    .map((mode) => ACCESS_MODES[mode])
    .join(",");
}

/** The class of a volume or a claim: the annotation that came before the field, or the field; "" for none. */
export function storageClassOf({
  metadata,
  spec,
}: Pick<PersistentVolume | PersistentVolumeClaim, "metadata" | "spec">): string {
  return metadata?.annotations?.[CLASS] ?? spec?.storageClassName ?? "";
}

/** Whether a claim says which class it wants, if only that it wants none. */
export function namesStorageClass({ metadata, spec }: PersistentVolumeClaim): boolean {
  return metadata?.annotations?.[CLASS] !== undefined || spec?.storageClassName !== undefined;
}

export function validateAccessModes(field: string, modes: readonly string[] | undefined): FieldError[] {
  const supported = Object.keys(ACCESS_MODES);
  return (modes ?? [])
    .filter((mode) => !supported.includes(mode))
    .map((mode) => notSupported(field, mode, supported));
}

/** A quantity above zero. */
export function validatePositive(field: string, text: string): FieldError[] {
  const errors = validateQuantity(field, text);
  if (errors.length > 0 || (parseQuantity(text)?.nanos ?? 0n) > 0n) return errors;
  return [invalid(field, text, "must be greater than zero")];
}

/** The names of a spec's volume sources. */
function sourcesOf(spec: Spec): string[] {
  return Object.entries(spec)
    .filter(([name, value]) => !SETTINGS.has(name) && value !== undefined && value !== null)
    .map(([name]) => name);
}

function validateCapacity({ capacity = {} }: Spec): FieldError[] {
  const names = Object.keys(capacity);
  if (names.length === 0) return [required("spec.capacity")];
  const only = names.length === 1 && names[0] === "storage";
  return [
    ...(only ? [] : [notSupported("spec.capacity", capacity, ["storage"])]),
    ...Object.entries(capacity).flatMap(([name, text]) => validatePositive(`spec.capacity[${name}]`, text)),
  ];
}

function validateSource(spec: Spec): FieldError[] {
  const [first, ...others] = sourcesOf(spec);
  if (first === undefined) return [required("spec", "must specify a volume type")];
  const errors = others.map((name) => forbidden(`spec.${name}`, "may not specify more than 1 volume type"));
  const path = first === "local" ? spec.local?.path : spec.hostPath?.path;
  if (first !== "hostPath" && first !== "local") return errors;
  if (!path) errors.push(required(`spec.${first}.path`));
  else if (path.split("/").includes(".."))
    errors.push(invalid(`spec.${first}.path`, path, "must not contain '..'"));
  if (first === "local" && !spec.nodeAffinity?.required)
    errors.push(required("metadata.annotations", "Local volume requires node affinity"));
  if (first === "hostPath" && path === "/" && spec.persistentVolumeReclaimPolicy === "Recycle")
    errors.push(
      forbidden("spec.persistentVolumeReclaimPolicy", "may not be 'recycle' for a hostPath mount of '/'"),
    );
  return errors;
}

function validateSpec(spec: Spec): FieldError[] {
  const { accessModes = [], storageClassName, nodeAffinity } = spec;
  return [
    ...(accessModes.length === 0 ? [required("spec.accessModes")] : []),
    ...validateAccessModes("spec.accessModes", accessModes),
    ...validateCapacity(spec),
    ...oneOf("spec.persistentVolumeReclaimPolicy", spec.persistentVolumeReclaimPolicy, [
      "Delete",
      "Recycle",
      "Retain",
    ]),
    ...validateSource(spec),
    ...(storageClassName ? subdomain("spec.storageClassName", storageClassName) : []),
    ...oneOf("spec.volumeMode", spec.volumeMode, ["Block", "Filesystem"]),
    ...(nodeAffinity
      ? nodeAffinity.required
        ? validateNodeSelector(nodeAffinity.required, "spec.nodeAffinity.required")
        : [required("spec.nodeAffinity.required", "must specify required node constraints")]
      : []),
  ];
}

function validateUpdate(now: Spec, old: Spec): FieldError[] {
  const source = (spec: Spec) =>
    Object.fromEntries(Object.entries(spec).filter(([name]) => !SETTINGS.has(name)));
  const field = "spec.persistentvolumesource";
  const text = "spec.persistentvolumesource is immutable after creation";
  return [
    ...(same(source(now), source(old)) ? [] : [forbidden(field, text)]),
    ...immutable("spec.volumeMode", now.volumeMode, old.volumeMode),
    ...(old.nodeAffinity ? immutable("spec.nodeAffinity", now.nodeAffinity, old.nodeAffinity) : []),
  ];
}

function phaseOf({ metadata, status }: Stored<PersistentVolume>): string {
  return metadata.deletionTimestamp ? "Terminating" : (status?.phase ?? "");
}

export const persistentVolumeDefinition: ResourceDefinition<PersistentVolume> = {
  resource: PERSISTENT_VOLUMES,
  singular: "persistentvolume",
  shortNames: ["pv"],
  schema: "io.k8s.api.core.v1.PersistentVolume",
  hasStatus: true,
  returnsDeleted: true,
  columns: [
    nameColumn(),
    column("Capacity", ({ spec }) => spec?.capacity?.storage ?? "0"),
    column("Access Modes", ({ spec }) => accessModesText(spec?.accessModes)),
    column("Reclaim Policy", ({ spec }) => spec?.persistentVolumeReclaimPolicy ?? ""),
    column("Status", phaseOf),
    column("Claim", ({ spec }) =>
      spec?.claimRef ? `${spec.claimRef.namespace ?? ""}/${spec.claimRef.name ?? ""}` : "",
    ),
    column("StorageClass", storageClassOf),
    column("VolumeAttributesClass", ({ spec }) => spec?.volumeAttributesClassName ?? "<unset>"),
    column("Reason", ({ status }) => status?.reason ?? ""),
    ageColumn(),
    wideColumn("VolumeMode", ({ spec }) => spec?.volumeMode ?? "<unset>"),
  ],
  setDefaults(draft) {
    draft.spec ??= {};
    draft.spec.persistentVolumeReclaimPolicy ||= "Retain";
    draft.spec.volumeMode ||= "Filesystem";
    canonicalResourceList(draft.spec.capacity);
    if (draft.spec.hostPath) draft.spec.hostPath.type ??= "";
  },
  prepareForCreate(draft, { now }) {
    draftOf(draft).status = { phase: "Pending", lastPhaseTransitionTime: now };
  },
  prepareForUpdate: keepStatus,
  prepareForStatusUpdate(draft, old) {
    const { status } = draft;
    if (!status || status.phase === old.status?.phase) return;
    status.lastPhaseTransitionTime = `${new Date().toISOString().slice(0, 19)}Z`;
  },
  validate(draft, old) {
    const spec = draft.spec ?? {};
    return [...validateSpec(spec), ...(old ? validateUpdate(spec, old.spec ?? {}) : [])];
  },
};
