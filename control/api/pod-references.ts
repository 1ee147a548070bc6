// Which ConfigMaps, Secrets, claims and accounts a pod refers to: what its node may read. Pure.

import type { Container } from "kubernetes-types/core/v1.js";
import type { Pod } from "../../common/k8s.js";

export type Referenced = "configmaps" | "persistentvolumeclaims" | "secrets" | "serviceaccounts";

export function isReferenced(plural: string): plural is Referenced {
  return ["configmaps", "persistentvolumeclaims", "secrets", "serviceaccounts"].includes(plural);
}

/** Whether the pod needs the object of that name, of its own namespace. */
export function references({ spec }: Pick<Pod, "spec">, kind: Referenced, name: string): boolean {
  if (!spec) return false;
  if (kind === "serviceaccounts") return (spec.serviceAccountName || "default") === name;
  if (kind === "persistentvolumeclaims")
    return (spec.volumes ?? []).some(({ persistentVolumeClaim: claim }) => claim?.claimName === name);
  const containers = [...(spec.initContainers ?? []), ...spec.containers];
  const names = kind === "secrets" ? secrets(spec, containers) : configMaps(spec, containers);
  return names.includes(name);
}

type Names = (string | undefined)[];

function configMaps({ volumes = [] }: NonNullable<Pod["spec"]>, containers: readonly Container[]): Names {
  return [
    ...volumes.flatMap(({ configMap, projected }) => [
      configMap?.name,
      ...(projected?.sources ?? []).map((source) => source.configMap?.name),
    ]),
    ...containers.flatMap(({ env = [], envFrom = [] }) => [
      ...env.map(({ valueFrom }) => valueFrom?.configMapKeyRef?.name),
      ...envFrom.map(({ configMapRef }) => configMapRef?.name),
    ]),
  ];
}

function secrets(
  { volumes = [], imagePullSecrets = [] }: NonNullable<Pod["spec"]>,
  containers: readonly Container[],
): Names {
  return [
    ...imagePullSecrets.map(({ name }) => name),
    ...volumes.flatMap(({ secret, projected }) => [
      secret?.secretName,
      ...(projected?.sources ?? []).map((source) => source.secret?.name),
    ]),
    ...containers.flatMap(({ env = [], envFrom = [] }) => [
      ...env.map(({ valueFrom }) => valueFrom?.secretKeyRef?.name),
      ...envFrom.map(({ secretRef }) => secretRef?.name),
    ]),
  ];
}
