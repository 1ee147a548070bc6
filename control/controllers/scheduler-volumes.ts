// What the claims of a pod ask of its node (kube-scheduler's VolumeBinding): bound volumes that may be used there, and
// for claims that wait for their first consumer a volume that can be had there. Pure; knows claims, volumes, classes.

import type { PersistentVolume, PersistentVolumeClaim, Pod, StorageClass, Stored } from "../../common/k8s.js";
import { storageClassOf } from "../resources/persistent-volume.js";
import { claimsOf } from "./claims.js";
import { BIND_COMPLETED, canProvision, findVolume, SELECTED_NODE } from "./persistent-volume-plan.js";
import { matchesNodeTerm, type Refusal } from "./scheduler-filter.js";
import type { NodeInfo } from "./scheduler-node.js";

/** Look-ups by key, as informers have them. */
export interface StorageLookup {
  claim(key: string): Stored<PersistentVolumeClaim> | undefined;
  volume(name: string): Stored<PersistentVolume> | undefined;
  volumes(): readonly Stored<PersistentVolume>[];
  storageClass(name: string): Stored<StorageClass> | undefined;
}

export interface VolumeNeeds {
  /** Why no node will do now. */
  problem?: string;
  /** Undefined: the pod's volumes can be had on that node. */
  check(info: NodeInfo): Refusal | undefined;
  /** Claims that get their volume only when the node is chosen. */
  unbound: readonly Stored<PersistentVolumeClaim>[];
}

export const NO_NEEDS: VolumeNeeds = { check: () => undefined, unbound: [] };

const refuse = (reason: string): Refusal => ({ reasons: [reason], fixed: true });

export function volumeNeeds(pod: Stored<Pod>, lookup: StorageLookup): VolumeNeeds {
  const names = claimsOf(pod);
  if (names.length === 0) return NO_NEEDS;
  const bound: Stored<PersistentVolumeClaim>[] = [];
  const unbound: Stored<PersistentVolumeClaim>[] = [];
  const none = (problem: string): VolumeNeeds => ({ ...NO_NEEDS, problem });
  for (const name of names) {
    const claim = lookup.claim(`${pod.metadata.namespace}/${name}`);
    if (!claim) return none(`persistentvolumeclaim "${name}" not found`);
    if (claim.metadata.deletionTimestamp) return none(`persistentvolumeclaim "${name}" is being deleted`);
    const { volumeName } = claim.spec ?? {};
    if (claim.status?.phase === "Lost")
      return none(`persistentvolumeclaim "${name}" bound to non-existent persistentvolume "${volumeName}"`);
    if (volumeName && claim.metadata.annotations?.[BIND_COMPLETED] !== undefined) bound.push(claim);
    else if (volumeName || !isDelayed(claim, lookup))
      return none("pod has unbound immediate PersistentVolumeClaims");
    else unbound.push(claim);
  }
  return { unbound, check: (info) => checkBound(bound, lookup, info) ?? checkUnbound(unbound, lookup, info) };
}

function isDelayed(claim: Stored<PersistentVolumeClaim>, lookup: StorageLookup): boolean {
  return lookup.storageClass(storageClassOf(claim))?.volumeBindingMode === "WaitForFirstConsumer";
}

function checkBound(
  claims: readonly Stored<PersistentVolumeClaim>[],
  lookup: StorageLookup,
  info: NodeInfo,
): Refusal | undefined {
  for (const { spec } of claims) {
    const volume = lookup.volume(spec?.volumeName ?? "");
    if (!volume) return refuse("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
    if (!reaches(volume, info)) return refuse("node(s) didn't match PersistentVolume's node affinity");
  }
  return undefined;
}

function checkUnbound(
  claims: readonly Stored<PersistentVolumeClaim>[],
  lookup: StorageLookup,
  info: NodeInfo,
): Refusal | undefined {
  const { found, missing } = volumesFor(claims, lookup, info);
  const provisionable = missing.every((claim) => {
    const selected = claim.metadata.annotations?.[SELECTED_NODE];
    const storage = lookup.storageClass(storageClassOf(claim));
    if (!storage || !canProvision(storage)) return false;
    return selected === undefined || selected === info.node?.metadata.name;
  });
  if (provisionable || found.size === claims.length) return undefined;
  return refuse("node(s) didn't find available persistent volumes to bind");
}

/** Which of the claims get which volume on that node; each volume once. */
export function volumesFor(
  claims: readonly Stored<PersistentVolumeClaim>[],
  lookup: StorageLookup,
  info: NodeInfo,
): {
  found: Map<Stored<PersistentVolumeClaim>, Stored<PersistentVolume>>;
  missing: Stored<PersistentVolumeClaim>[];
} {
  const found = new Map<Stored<PersistentVolumeClaim>, Stored<PersistentVolume>>();
  const missing: Stored<PersistentVolumeClaim>[] = [];
  for (const claim of claims) {
    const taken = new Set(found.values());
    const volume = findVolume(claim, lookup.volumes(), (one) => !taken.has(one) && reaches(one, info));
    if (volume) found.set(claim, volume);
    else missing.push(claim);
  }
  return { found, missing };
}

function reaches({ spec }: Stored<PersistentVolume>, { node }: NodeInfo): boolean {
  const terms = spec?.nodeAffinity?.required?.nodeSelectorTerms;
  return !terms || (!!node && terms.some((term) => matchesNodeTerm(term, node.metadata)));
}

/** The message for a pod that no node is even asked for. */
export function needsMessage(nodes: number, problem: string): string {
  if (nodes === 0) return "no nodes available to schedule pods";
  const all = `0/${nodes} nodes are available`;
  return `${all}: ${problem}. no new claims to deallocate, preemption: ${all}: ${nodes} Preemption is not helpful for scheduling.`;
}
