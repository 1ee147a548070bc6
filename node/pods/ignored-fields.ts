// Fields of a pod's spec that the API accepts and this node does not honour, though a container could tell. Pure.

import type { PodSpec } from "kubernetes-types/core/v1.js";
import type { Container, Pod, Stored } from "../../common/k8s.js";
import { asksForIpcSysctl } from "./sysctls.js";

/** Where there is one user nobody can become another. */
const USER = ["runAsUser", "runAsGroup"] as const;
const GROUPS = ["fsGroup", "supplementalGroups"] as const;
const POD = ["runtimeClassName"] as const;

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
  return asked(container.securityContext, USER, `spec.${list}{${container.name}}.securityContext`);
}

/**
 * Their paths, in the order of the spec; empty for most pods. `oneUser`: as in a lab without root. Of sysctls those of the
 * network are set; all containers of a machine share one IPC namespace.
 */
export function ignoredFields(pod: Pick<Stored<Pod>, "spec">, oneUser: boolean): string[] {
  const { containers = [], initContainers = [], volumes = [], securityContext } = pod.spec ?? {};
  return [
    ...asked<PodSpec>(pod.spec as PodSpec | undefined, POD, "spec"),
    ...asked(securityContext, oneUser ? [...USER, ...GROUPS] : [], "spec.securityContext"),
    ...(asksForIpcSysctl(pod) ? ["spec.securityContext.sysctls"] : []),
    ...(oneUser ? initContainers.flatMap((one) => ofContainer("initContainers", one)) : []),
    ...(oneUser ? containers.flatMap((one) => ofContainer("containers", one)) : []),
    ...volumes.flatMap(({ name, emptyDir }) =>
      asked(emptyDir, ["medium", "sizeLimit"], `spec.volumes{${name}}.emptyDir`),
    ),
  ];
}
