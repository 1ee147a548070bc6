// The claims of a StatefulSet's pods: their names, what they are, and whom they go with
// (persistentVolumeClaimRetentionPolicy). Pure; knows StatefulSets, Pods and PersistentVolumeClaims.

import type { OwnerReference, PersistentVolumeClaim, Pod, StatefulSet, Stored } from "../../common/k8s.js";
import { controllerReference } from "./owners.js";

/** The name of the template → the name of the claim of the pod with that ordinal. */
export function claimNames(set: Stored<StatefulSet>, ordinal: number): Map<string, string> {
  const names = (set.spec?.volumeClaimTemplates ?? []).map(({ metadata }) => metadata?.name ?? "");
  return new Map(names.map((name) => [name, `${name}-${set.metadata.name}-${ordinal}`]));
}

/** The claims that the pod with that ordinal needs, as they are made. */
export function claimsFor(set: Stored<StatefulSet>, ordinal: number): PersistentVolumeClaim[] {
  const names = claimNames(set, ordinal);
  return (set.spec?.volumeClaimTemplates ?? []).map(({ metadata, spec = {} }) => ({
    apiVersion: "v1",
    kind: "PersistentVolumeClaim",
    metadata: {
      name: names.get(metadata?.name ?? "") ?? "",
      ...(metadata?.annotations ? { annotations: metadata.annotations } : {}),
      labels: { ...metadata?.labels, ...set.spec?.selector.matchLabels },
    },
    spec: structuredClone(spec),
  }));
}

/**
 * The owners that a claim should have: the set when the claim is to go with it, the pod when the claim is to go with
 * that; what others have written stays. Undefined: it has them.
 * @param pod The one that uses it, when it is one too many.
 */
export function claimOwners(
  set: Stored<StatefulSet>,
  claim: Stored<PersistentVolumeClaim>,
  pod: Stored<Pod> | undefined,
): OwnerReference[] | undefined {
  const { whenDeleted, whenScaled } = set.spec?.persistentVolumeClaimRetentionPolicy ?? {};
  const present = claim.metadata.ownerReferences ?? [];
  const wanted: OwnerReference[] = [];
  if (whenScaled === "Delete" && pod) wanted.push(controllerReference(pod));
  else if (whenDeleted === "Delete") wanted.push(controllerReference(set));
  const ours = ({ kind, name }: OwnerReference) =>
    (kind === "StatefulSet" && name === set.metadata.name) ||
    (kind === "Pod" && claim.metadata.name.endsWith(`-${name}`));
  const owners = [...present.filter((one) => !ours(one)), ...wanted];
  const uids = (list: readonly OwnerReference[]) => String(list.map(({ uid }) => uid).sort());
  return uids(owners) === uids(present) ? undefined : owners;
}
