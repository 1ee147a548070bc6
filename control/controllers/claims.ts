// Which PersistentVolumeClaims a pod uses. Pure; knows Pods.

import type { Pod } from "../../common/k8s.js";

/** Names of claims, of the pod's own namespace. */
export function claimsOf({ spec }: Pick<Pod, "spec">): string[] {
  return (spec?.volumes ?? []).flatMap(({ persistentVolumeClaim }) => persistentVolumeClaim?.claimName ?? []);
}
