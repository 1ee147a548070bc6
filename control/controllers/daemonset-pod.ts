// The pods of a DaemonSet: which node one is for, whether a node should have one, what one is made of. Pure; knows
// Pods, Nodes and DaemonSets.

import type { DaemonSet, Node, Pod, PodSpec, Stored, Taint, Toleration } from "../../common/k8s.js";
import { TEMPLATE_GENERATION } from "../resources/daemon-set.js";
import { CONTROLLER_REVISION_HASH } from "./controller-revision-plan.js";
import { controllerReference } from "./owners.js";
import { podFromTemplate } from "./replicaset-plan.js";
import { matchesNodeAffinity } from "./scheduler-filter.js";
import { isTolerated, NOT_READY, UNREACHABLE, UNSCHEDULABLE } from "./taints.js";

const POD_TEMPLATE_GENERATION = "pod-template-generation";
const NAME_FIELD = "metadata.name";

/** What keeps other pods away does not keep daemons away. Source: the DaemonSet documentation, "taints and tolerations". */
const TOLERATIONS: readonly Toleration[] = [
  { key: NOT_READY, operator: "Exists", effect: "NoExecute" },
  { key: UNREACHABLE, operator: "Exists", effect: "NoExecute" },
  { key: "node.kubernetes.io/disk-pressure", operator: "Exists", effect: "NoSchedule" },
  { key: "node.kubernetes.io/memory-pressure", operator: "Exists", effect: "NoSchedule" },
  { key: "node.kubernetes.io/pid-pressure", operator: "Exists", effect: "NoSchedule" },
  { key: UNSCHEDULABLE, operator: "Exists", effect: "NoSchedule" },
];
const HOST_NETWORK_TOLERATION: Toleration = {
  key: "node.kubernetes.io/network-unavailable",
  operator: "Exists",
  effect: "NoSchedule",
};

function tolerationsOf(spec: PodSpec | undefined): Toleration[] {
  const own = spec?.tolerations ?? [];
  const standard = spec?.hostNetwork ? [...TOLERATIONS, HOST_NETWORK_TOLERATION] : TOLERATIONS;
  const isStandard = (toleration: Toleration) =>
    standard.some(({ key, effect }) => key === toleration.key && effect === toleration.effect);
  return [...own.filter((toleration) => !isStandard(toleration)), ...standard];
}

/** Whether a node should get a pod, and whether one that is there may stay. */
export interface Place {
  run: boolean;
  stay: boolean;
}

const NOWHERE: Place = { run: false, stay: false };

export function placeOn(ds: Stored<DaemonSet>, node: Stored<Node>): Place {
  const spec = ds.spec?.template.spec;
  if (spec?.nodeName && spec.nodeName !== node.metadata.name) return NOWHERE;
  if (!matchesNodeAffinity(spec ? { spec } : {}, { node })) return NOWHERE;
  const tolerations = tolerationsOf(spec);
  const keepsAway =
    (effects: readonly string[]) =>
    ({ effect, key, value }: Taint) =>
      effects.includes(effect) && !isTolerated({ effect, key, ...(value ? { value } : {}) }, tolerations);
  const taints = node.spec?.taints ?? [];
  if (!taints.some(keepsAway(["NoSchedule", "NoExecute"]))) return { run: true, stay: true };
  return { run: false, stay: !taints.some(keepsAway(["NoExecute"])) };
}

/** The node a pod is on, or is to be on. */
export function targetNode(pod: Stored<Pod>): string | undefined {
  if (pod.spec?.nodeName) return pod.spec.nodeName;
  const required = pod.spec?.affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution;
  for (const { matchFields = [] } of required?.nodeSelectorTerms ?? []) {
    for (const { key, operator, values = [] } of matchFields) {
      if (key === NAME_FIELD && operator === "In" && values.length === 1) return values[0];
    }
  }
  return undefined;
}

export function isUpdated(pod: Stored<Pod>, hash: string): boolean {
  return pod.metadata.labels?.[CONTROLLER_REVISION_HASH] === hash;
}

/** The pod for one node: the scheduler binds it, and can bind it nowhere else. */
export function daemonPod(ds: Stored<DaemonSet>, hash: string, nodeName: string): Pod {
  const pod = podFromTemplate(ds, ds.spec?.template, [controllerReference(ds)]);
  const generation = ds.metadata.annotations?.[TEMPLATE_GENERATION];
  const { affinity } = pod.spec ?? {};
  const only = [{ matchFields: [{ key: NAME_FIELD, operator: "In", values: [nodeName] }] }];
  return {
    ...pod,
    metadata: {
      ...pod.metadata,
      labels: {
        ...pod.metadata?.labels,
        ...(generation ? { [POD_TEMPLATE_GENERATION]: generation } : {}),
        [CONTROLLER_REVISION_HASH]: hash,
      },
    },
    spec: {
      containers: [],
      ...pod.spec,
      tolerations: tolerationsOf(pod.spec),
      affinity: {
        ...affinity,
        nodeAffinity: {
          ...affinity?.nodeAffinity,
          requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: only },
        },
      },
    },
  };
}
