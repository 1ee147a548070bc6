// The volume behind a pod's PersistentVolumeClaim, as a directory of this machine. Reads the claim and its volume; of
// the kinds of volumes it knows those that are paths: hostPath and local.

import { mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { PersistentVolumeClaimVolumeSource, PersistentVolumeSpec } from "kubernetes-types/core/v1.js";
import { type KubeClient, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES } from "../../common/client.js";
import type { Pod, Stored } from "../../common/k8s.js";

/** What is asked, and where a hostPath that the machine does not have is made. */
export interface ClaimSources {
  client: KubeClient;
  /** The host's own directory. */
  rootDir: string;
}

/** @throws Error when the claim is not bound, or its volume is none that can be had here. */
export async function claimedVolume(
  { metadata }: Stored<Pod>,
  { claimName, readOnly = false }: PersistentVolumeClaimVolumeSource,
  { client, rootDir }: ClaimSources,
): Promise<{ path: string; file: boolean; readOnly: boolean }> {
  const { namespace = "" } = metadata;
  const processing = `error processing PVC ${namespace}/${claimName}`;
  const claim = await client.get(PERSISTENT_VOLUME_CLAIMS, claimName, namespace);
  if (claim.metadata.deletionTimestamp) throw new Error(`${processing}: PVC is being deleted`);
  const { volumeName, volumeMode } = claim.spec ?? {};
  if (claim.status?.phase !== "Bound" || !volumeName) throw new Error(`${processing}: PVC is not bound`);
  if (volumeMode === "Block") throw new Error(`${processing}: kubeplumb has no block volumes`);
  const { spec = {} } = await client.get(PERSISTENT_VOLUMES, volumeName);
  if (spec.claimRef?.uid !== claim.metadata.uid)
    throw new Error(`${processing}: PV ${volumeName} is bound to another claim`);
  const path = directoryOf(spec, rootDir);
  const facts = statSync(path);
  return { path, file: !facts.isDirectory(), readOnly };
}

function directoryOf(spec: PersistentVolumeSpec, rootDir: string): string {
  if (spec.local) return spec.local.path;
  if (!spec.hostPath)
    throw new Error("kubeplumb mounts PersistentVolumes of kind hostPath and local, and no others");
  const { path, type = "" } = spec.hostPath;
  if (statSync(path, { throwIfNoEntry: false })) return path;
  if (type !== "" && type !== "DirectoryOrCreate")
    throw new Error(`hostPath type check failed: ${path} does not exist on this machine`);
  // A container runtime would make it. Nothing is made on the machine outside of the cluster's own state.
  const own = join(rootDir, "host-path", path);
  mkdirSync(own, { recursive: true, mode: 0o777 });
  return own;
}
