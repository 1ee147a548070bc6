// Validation of the volumes of a pod: a name, exactly one source, and the fields of the sources that hosts of
// kubeplumb can mount. Texts are those of the real server. Knows volumes only.

import type {
  DownwardAPIVolumeFile,
  HostPathVolumeSource,
  KeyToPath,
  ProjectedVolumeSource,
  Volume,
} from "kubernetes-types/core/v1.js";
import type { FieldError } from "../types.js";
import { localDescendingPath, validateQuantity } from "./container.js";
import { duplicate, forbidden, invalid, notSupported, required } from "./field.js";
import { label } from "./values.js";

const MODE_TEXT = "must be a number between 0 and 0777 (octal), both inclusive";
const MIN_TOKEN_SECONDS = 600;
const HOST_PATH_TYPES = [
  "",
  "BlockDevice",
  "CharDevice",
  "Directory",
  "DirectoryOrCreate",
  "File",
  "FileOrCreate",
  "Socket",
];

/** spec.volumes, and the names that mounts may refer to. */
export function validateVolumes(
  volumes: readonly Volume[] | undefined,
  path: string,
): { errors: FieldError[]; names: Set<string> } {
  const errors: FieldError[] = [];
  const names = new Set<string>();
  for (const [i, volume] of (volumes ?? []).entries()) {
    const at = `${path}[${i}]`;
    errors.push(...validateSource(volume, at));
    if (!volume.name) {
      errors.push(required(`${at}.name`));
      continue;
    }
    const wrong = label(`${at}.name`, volume.name);
    errors.push(...wrong);
    if (names.has(volume.name)) errors.push(duplicate(`${at}.name`, volume.name));
    else if (wrong.length === 0) names.add(volume.name);
  }
  return { errors, names };
}

function validateSource(volume: Volume, at: string): FieldError[] {
  const { name: _, ...rest } = volume;
  const types = Object.entries(rest).filter(([, source]) => source !== undefined && source !== null);
  if (types.length === 0) return [required(at, "must specify a volume type")];
  const errors: FieldError[] = [];
  for (const [type] of types.slice(1)) {
    errors.push(forbidden(`${at}.${type}`, "may not specify more than 1 volume type"));
  }
  if (volume.hostPath) errors.push(...validateHostPath(volume.hostPath, `${at}.hostPath`));
  if (volume.emptyDir?.sizeLimit !== undefined) {
    errors.push(...validateQuantity(`${at}.emptyDir.sizeLimit`, volume.emptyDir.sizeLimit));
  }
  if (volume.secret) {
    if (!volume.secret.secretName) errors.push(required(`${at}.secret.secretName`));
    errors.push(...validateFiles(volume.secret, `${at}.secret`));
  }
  if (volume.configMap) {
    if (!volume.configMap.name) errors.push(required(`${at}.configMap.name`));
    errors.push(...validateFiles(volume.configMap, `${at}.configMap`));
  }
  if (volume.downwardAPI) {
    errors.push(...validateMode(`${at}.downwardAPI.defaultMode`, volume.downwardAPI.defaultMode));
    errors.push(...validateDownward(volume.downwardAPI.items, `${at}.downwardAPI`));
  }
  if (volume.persistentVolumeClaim && !volume.persistentVolumeClaim.claimName) {
    errors.push(required(`${at}.persistentVolumeClaim.claimName`));
  }
  if (volume.projected) errors.push(...validateProjected(volume.projected, `${at}.projected`));
  return errors;
}

function validateHostPath(source: HostPathVolumeSource, at: string): FieldError[] {
  if (!source.path) return [required(`${at}.path`)];
  const errors: FieldError[] = [];
  if (source.path.split("/").includes("..")) {
    errors.push(invalid(`${at}.path`, source.path, "must not contain '..'"));
  }
  if (!HOST_PATH_TYPES.includes(source.type ?? "")) {
    errors.push(notSupported(`${at}.type`, source.type, HOST_PATH_TYPES));
  }
  return errors;
}

function validateMode(field: string, mode: number | undefined): FieldError[] {
  return mode !== undefined && (mode < 0 || mode > 0o777) ? [invalid(field, mode, MODE_TEXT)] : [];
}

function validateFiles(source: { defaultMode?: number; items?: KeyToPath[] }, at: string): FieldError[] {
  const errors = validateMode(`${at}.defaultMode`, source.defaultMode);
  for (const [i, item] of (source.items ?? []).entries()) {
    const itemAt = `${at}.items[${i}]`;
    if (!item.key) errors.push(required(`${itemAt}.key`));
    errors.push(...validateItemPath(item.path, itemAt), ...validateMode(`${itemAt}.mode`, item.mode));
  }
  return errors;
}

function validateItemPath(path: string | undefined, at: string): FieldError[] {
  if (!path) return [required(`${at}.path`)];
  const errors = localDescendingPath(`${at}.path`, path);
  if (path.startsWith("..") && errors.length === 0) {
    errors.push(invalid(`${at}.path`, path, "must not start with '..'"));
  }
  return errors;
}

function validateDownward(items: readonly DownwardAPIVolumeFile[] | undefined, at: string): FieldError[] {
  const errors: FieldError[] = [];
  for (const [i, item] of (items ?? []).entries()) {
    errors.push(...validateItemPath(item.path, at));
    if (item.fieldRef) errors.push(...validateFieldPath(item.fieldRef.fieldPath, `${at}.fieldRef`));
    if (item.fieldRef && item.resourceFieldRef) {
      errors.push(
        invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"),
      );
    } else if (!item.fieldRef && !item.resourceFieldRef) {
      errors.push(required(at, "one of fieldRef and resourceFieldRef is required"));
    }
    errors.push(...validateMode(`${at}.items[${i}].mode`, item.mode));
  }
  return errors;
}

const FILE_FIELDS = [
  "metadata.annotations",
  "metadata.labels",
  "metadata.name",
  "metadata.namespace",
  "metadata.uid",
];

const FILE_SUBSCRIPT = /^metadata\.(labels|annotations)\['[^']*'\]$/;

function validateFieldPath(fieldPath: string, at: string): FieldError[] {
  if (!fieldPath) return [required(`${at}.fieldPath`)];
  const isOne = FILE_FIELDS.includes(fieldPath) || FILE_SUBSCRIPT.test(fieldPath);
  return isOne ? [] : [notSupported(`${at}.fieldPath`, fieldPath, FILE_FIELDS)];
}

function validateProjected(source: ProjectedVolumeSource, at: string): FieldError[] {
  const errors = validateMode(`${at}.defaultMode`, source.defaultMode);
  for (const [i, projection] of (source.sources ?? []).entries()) {
    const sourceAt = `${at}.sources[${i}]`;
    const types = Object.keys(projection);
    if (types.length === 0) errors.push(required(sourceAt, "must specify a volume type"));
    for (const type of types.slice(1)) {
      errors.push(forbidden(`${sourceAt}.${type}`, "may not specify more than 1 volume type"));
    }
    for (const type of ["secret", "configMap"] as const) {
      const named = projection[type];
      if (!named) continue;
      if (!named.name) errors.push(required(`${sourceAt}.${type}.name`));
      errors.push(...validateFiles({ items: named.items }, `${sourceAt}.${type}`));
    }
    if (projection.downwardAPI) {
      errors.push(...validateDownward(projection.downwardAPI.items, `${sourceAt}.downwardAPI`));
    }
    const { path, expirationSeconds = MIN_TOKEN_SECONDS } = projection.serviceAccountToken ?? {};
    if (projection.serviceAccountToken && !path) {
      errors.push(required(`${sourceAt}.serviceAccountToken.path`));
    }
    if (expirationSeconds < MIN_TOKEN_SECONDS) {
      const text = "may not specify a duration less than 10 minutes";
      errors.push(invalid(`${sourceAt}.serviceAccountToken.expirationSeconds`, expirationSeconds, text));
    }
  }
  return errors;
}
