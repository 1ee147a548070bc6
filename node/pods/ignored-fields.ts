// Fields of a pod's spec that the API accepts and this node does not honour, though a container could tell. Pure.

import type { PodSpec } from "kubernetes-types/core/v1.js";
import type { Container, Pod, Stored } from "../../common/k8s.js";

const POD_SECURITY = [
  "runAsUser",
  "runAsGroup",
  "runAsNonRoot",
  "fsGroup",
  "supplementalGroups",
  "sysctls",
] as const;
const SECURITY = ["runAsUser", "runAsGroup", "runAsNonRoot", "capabilities"] as const;
const POD = ["hostPID", "shareProcessNamespace", "runtimeClassName"] as const;

/** Names of those of `fields` that ask for something. */
function asked<T extends object>(
  object: T | undefined,
  fields: readonly (keyof T & string)[],
  at: string,
): string[] {
  return fields
    .filter((field) => ![undefined, null, false, ""].includes(object?.[field] as never))
    .map((field) => `${at}.${field}`);
}

function ofContainer(list: "containers" | "initContainers", container: Container): string[] {
  return asked(container.securityContext, SECURITY, `spec.${list}{${container.name}}.securityContext`);
}

/** Their paths, in the order of the spec; empty for most pods. */
export function ignoredFields(pod: Pick<Stored<Pod>, "spec">): string[] {
  const { containers = [], initContainers = [], volumes = [], securityContext } = pod.spec ?? {};
  return [
    ...asked<PodSpec>(pod.spec as PodSpec | undefined, POD, "spec"),
    ...asked(securityContext, POD_SECURITY, "spec.securityContext"),
    ...initContainers.flatMap((one) => ofContainer("initContainers", one)),
    ...containers.flatMap((one) => ofContainer("containers", one)),
    ...volumes.flatMap(({ name, emptyDir }) =>
      asked(emptyDir, ["medium", "sizeLimit"], `spec.volumes{${name}}.emptyDir`),
    ),
  ];
}
