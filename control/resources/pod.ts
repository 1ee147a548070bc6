// Pod: the declaration of the kind to the API engine.

import { PODS } from "../../common/client.js";
import type { Pod, Stored } from "../../common/k8s.js";
import { draftOf, firstGeneration, keepStatus, nextGeneration } from "./object.js";
import { podColumns } from "./pod-columns.js";
import { admitPod, defaultPod, tolerateLostNode } from "./pod-defaults.js";
import { qosClass } from "./pod-qos.js";
import type { ResourceDefinition } from "./types.js";
import { same } from "./validation/field.js";
import {
  validateOnlyAddedEphemeral,
  validatePodCreate,
  validatePodSpec,
  validatePodStatus,
  validatePodUpdate,
} from "./validation/pod.js";

/** podStrategy.CheckGracefulDelete: nobody has to stop what never ran or has ended. */
function gracePeriod(pod: Stored<Pod>, requested: number | undefined): number {
  if (!pod.spec?.nodeName) return 0;
  if (pod.status?.phase === "Failed" || pod.status?.phase === "Succeeded") return 0;
  const seconds = requested ?? pod.spec.terminationGracePeriodSeconds ?? 0;
  // Negative once meant "as short as possible", which is not the same as "without waiting for the kubelet".
  return seconds < 0 ? 1 : seconds;
}

/** podIP and podIPs say the same, hostIP and hostIPs too; the single one wins, as in the real conversion. */
function syncPodIPs(pod: Pod): void {
  const { status } = pod;
  if (!status) return;
  if (status.podIP && status.podIPs?.[0]?.ip !== status.podIP) status.podIPs = [{ ip: status.podIP }];
  else if (!status.podIP && status.podIPs?.[0]?.ip) status.podIP = status.podIPs[0].ip;
  if (status.hostIP && status.hostIPs?.[0]?.ip !== status.hostIP) status.hostIPs = [{ ip: status.hostIP }];
}

export function podDefinition(options: { defaultTolerationSeconds: number }): ResourceDefinition<Pod> {
  return {
    resource: PODS,
    singular: "pod",
    shortNames: ["po"],
    categories: ["all"],
    schema: "io.k8s.api.core.v1.Pod",
    hasStatus: true,
    returnsDeleted: true,
    columns: podColumns,
    selectableFields: (pod) => ({
      "spec.nodeName": pod.spec?.nodeName ?? "",
      "spec.restartPolicy": pod.spec?.restartPolicy ?? "",
      "spec.schedulerName": pod.spec?.schedulerName ?? "",
      "spec.serviceAccountName": pod.spec?.serviceAccountName ?? "",
      "spec.hostNetwork": String(pod.spec?.hostNetwork ?? false),
      "status.phase": pod.status?.phase ?? "",
      "status.podIP": pod.status?.podIPs?.[0]?.ip ?? pod.status?.podIP ?? "",
      "status.nominatedNodeName": pod.status?.nominatedNodeName ?? "",
    }),
    setDefaults(draft) {
      draft.spec ??= { containers: [] };
      defaultPod(draft);
      syncPodIPs(draft);
    },
    prepareForCreate(draft) {
      firstGeneration(draft);
      if (!draft.spec) return;
      admitPod(draft.spec);
      tolerateLostNode(draft.spec, options.defaultTolerationSeconds);
      const gated = (draft.spec.schedulingGates ?? []).length > 0;
      draftOf(draft).status = {
        phase: "Pending",
        qosClass: qosClass(draft.spec),
        ...(gated ? { conditions: [GATED] } : {}),
      };
    },
    prepareForUpdate(draft, old) {
      keepStatus(draft, old);
      if (draft.spec) tolerateLostNode(draft.spec, options.defaultTolerationSeconds);
      nextGeneration(draft, old, !same(draft.spec, old.spec));
    },
    prepareForStatusUpdate(draft, old) {
      const qos = old.status?.qosClass;
      if (draft.status && qos) draft.status.qosClass ||= qos;
    },
    validate(pod, old, subresource) {
      // ValidatePodStatusUpdate: the spec is the stored one.
      if (old && subresource === "status") return validatePodStatus(pod, old);
      const errors = validatePodSpec(pod.spec, "spec", true);
      if (!old) return [...errors, ...validatePodCreate(pod)];
      if (subresource === "ephemeralcontainers") return [...errors, ...validateOnlyAddedEphemeral(pod, old)];
      return [...errors, ...validatePodUpdate(pod, old), ...validatePodStatus(pod, old)];
    },
    gracePeriod,
  };
}

const GATED = {
  type: "PodScheduled",
  status: "False",
  reason: "SchedulingGated",
  message: "Scheduling is blocked due to non-empty scheduling gates",
};
