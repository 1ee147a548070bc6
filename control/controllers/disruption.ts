// Marks a pod that is about to be deleted for the cluster's reasons, not for its own (condition DisruptionTarget).
// Knows Pods.

import { isNotFound, type KubeClient, PODS } from "../../common/client.js";
import type { Node, Pod, Stored } from "../../common/k8s.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import { deleteIfPresent, namespaceOf } from "./objects.js";
import { podCondition } from "./pod-state.js";
import { timestamp } from "./time.js";

/** `failed` also sets the phase Failed, for a pod that nobody can run any more. @throws StatusError */
export async function disrupt(
  client: KubeClient,
  pod: Stored<Pod>,
  why: { reason: string; message: string; now: number; failed?: boolean },
): Promise<void> {
  const present = podCondition(pod, "DisruptionTarget");
  const marked = present?.status === "True" && present.reason === why.reason;
  if (marked && (!why.failed || pod.status?.phase === "Failed")) return;
  const condition = {
    type: "DisruptionTarget",
    status: "True",
    reason: why.reason,
    message: why.message,
    lastTransitionTime: timestamp(why.now),
  };
  const patch = {
    metadata: { uid: pod.metadata.uid },
    status: { ...(why.failed ? { phase: "Failed" } : {}), conditions: [condition] },
  };
  await client.patch(PODS, pod.metadata.name, "strategic", patch, {
    ...namespaceOf(pod),
    subresource: "status",
  });
}

/** Ends a pod in favour of a more important one, with what kube-scheduler says of it. @throws StatusError */
export async function preempt(
  { client, now }: ControllerContext,
  recorder: EventRecorder,
  victim: Stored<Pod>,
  pod: Stored<Pod>,
  node: Stored<Node> | undefined,
): Promise<void> {
  if (victim.metadata.deletionTimestamp) return;
  const message = "default-scheduler: preempting to accommodate a higher priority pod";
  try {
    await disrupt(client, victim, { reason: "PreemptionByScheduler", message, now: now() });
    await deleteIfPresent(client, PODS, victim);
  } catch (error) {
    if (!isNotFound(error)) throw error;
  }
  const text = `Preempted by pod ${pod.metadata.uid} on node ${node?.metadata.name}`;
  recorder.event(victim, "Normal", "Preempted", text);
}
