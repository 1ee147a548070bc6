// The provisioner of the lab's default StorageClass: a volume is a directory of this machine under the cluster's own
// state, which all hosts of the lab see. Knows files, and what a PersistentVolume for a claim looks like.

import { chmodSync, mkdirSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { isAlreadyExists, type KubeClient, STORAGE_CLASSES } from "../../common/client.js";
import type { PersistentVolume, PersistentVolumeClaim, StorageClass, Stored } from "../../common/k8s.js";
import { PROVISIONED_BY } from "./persistent-volume-plan.js";

export const PROVISIONER = "kubeplumb.io/hostpath";

const STANDARD: StorageClass = {
  apiVersion: "storage.k8s.io/v1",
  kind: "StorageClass",
  metadata: {
    name: "standard",
    annotations: { "storageclass.kubernetes.io/is-default-class": "true" },
  },
  provisioner: PROVISIONER,
};

/** Creates the default class when it is missing. @throws StatusError */
export async function ensureStandardClass(client: KubeClient): Promise<void> {
  try {
    await client.create(STORAGE_CLASSES, STANDARD);
  } catch (error) {
    if (!isAlreadyExists(error)) throw error;
  }
}

/** Why the claim cannot be had; undefined when it can. */
export function refusal({ spec }: Pick<PersistentVolumeClaim, "spec">): string | undefined {
  if (spec?.selector) return "claim Selector is not supported";
  if (spec?.volumeMode === "Block") return "block volumes are not supported";
  return spec?.dataSource || spec?.dataSourceRef ? "data sources are not supported" : undefined;
}

/** A new directory under `parent`, as a volume that is kept for the claim. @throws what mkdir(2) says. */
export function makeVolume(
  parent: string,
  claim: Stored<PersistentVolumeClaim>,
  { metadata, reclaimPolicy = "Delete", mountOptions }: Stored<StorageClass>,
): PersistentVolume {
  const { name, namespace = "", uid, resourceVersion } = claim.metadata;
  const path = join(parent, `pvc-${uid}_${namespace}_${name}`);
  mkdirSync(path, { recursive: true });
  // Programs in pods may be anybody.
  chmodSync(path, 0o777);
  const { accessModes = [], resources, volumeMode = "Filesystem" } = claim.spec ?? {};
  return {
    apiVersion: "v1",
    kind: "PersistentVolume",
    metadata: { name: `pvc-${uid}`, annotations: { [PROVISIONED_BY]: PROVISIONER } },
    spec: {
      capacity: { storage: resources?.requests?.storage ?? "0" },
      accessModes,
      persistentVolumeReclaimPolicy: reclaimPolicy,
      storageClassName: metadata.name,
      volumeMode,
      ...(mountOptions ? { mountOptions } : {}),
      hostPath: { path, type: "" },
      claimRef: { apiVersion: "v1", kind: "PersistentVolumeClaim", namespace, name, uid, resourceVersion },
    },
  };
}

/** @throws Error for a directory that is not below `parent`, and what rm(2) says. */
export async function removeVolume(parent: string, { spec }: Stored<PersistentVolume>): Promise<void> {
  const path = spec?.hostPath?.path ?? "";
  if (!path.startsWith(`${parent}/`) || path.split("/").includes(".."))
    throw new Error(`${path} is not a directory of ${PROVISIONER}`);
  await rm(path, { recursive: true, force: true });
}
