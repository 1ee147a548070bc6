// The pods of a StatefulSet: names by ordinal, what one of them is made of, and whether one still has its identity.
// Pure; knows Pods and StatefulSets.

import type { Pod, PodTemplateSpec, StatefulSet, Stored } from "../../common/k8s.js";
import { CONTROLLER_REVISION_HASH } from "./controller-revision-plan.js";
import { controllerReference } from "./owners.js";
import { podFromTemplate } from "./replicaset-plan.js";
import { claimNames } from "./statefulset-claims.js";

const POD_NAME = "statefulset.kubernetes.io/pod-name";
const POD_INDEX = "apps.kubernetes.io/pod-index";

/** The number at the end of a pod's name; undefined for one whose name is not of this set. */
export function ordinalOf(set: Stored<StatefulSet>, pod: Stored<Pod>): number | undefined {
  const prefix = `${set.metadata.name}-`;
  const { name } = pod.metadata;
  if (!name.startsWith(prefix)) return undefined;
  const digits = name.slice(prefix.length);
  return /^\d{1,10}$/.test(digits) ? Number(digits) : undefined;
}

/** The name of the ControllerRevision that made it. */
export function revisionOf(pod: Stored<Pod>): string {
  return pod.metadata.labels?.[CONTROLLER_REVISION_HASH] ?? "";
}

export function hasIdentity(pod: Stored<Pod>): boolean {
  return pod.metadata.labels?.[POD_NAME] === pod.metadata.name;
}

/** The labels that are the identity. */
export function identityLabels(name: string, ordinal: number): Record<string, string> {
  return { [POD_NAME]: name, [POD_INDEX]: String(ordinal) };
}

/** @param revision Of this template: its ControllerRevision's name. */
export function statefulPod(
  set: Stored<StatefulSet>,
  template: PodTemplateSpec | undefined,
  revision: string,
  ordinal: number,
): Pod {
  const name = `${set.metadata.name}-${ordinal}`;
  const pod = podFromTemplate(set, template, [controllerReference(set)]);
  const { generateName: _, ...metadata } = pod.metadata ?? {};
  const { serviceName } = set.spec ?? {};
  return {
    ...pod,
    metadata: {
      ...metadata,
      name,
      labels: {
        ...metadata.labels,
        ...identityLabels(name, ordinal),
        [CONTROLLER_REVISION_HASH]: revision,
      },
    },
    spec: {
      containers: [],
      ...pod.spec,
      hostname: name,
      ...(serviceName ? { subdomain: serviceName } : {}),
      ...volumesOf(set, template, ordinal),
    },
  };
}

/** A claim of the set is a volume of the same name, whatever the template says of that name. */
function volumesOf(set: Stored<StatefulSet>, template: PodTemplateSpec | undefined, ordinal: number) {
  const names = claimNames(set, ordinal);
  if (names.size === 0) return {};
  const others = (template?.spec?.volumes ?? []).filter(({ name }) => !names.has(name));
  const own = [...names].map(([name, claimName]) => ({ name, persistentVolumeClaim: { claimName } }));
  return { volumes: [...own, ...others] };
}
