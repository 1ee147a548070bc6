// The two policies of a Job: what a failed pod means (podFailurePolicy), and which indexes are enough
// (successPolicy). Pure; knows Jobs and Pods.

import type { PodFailurePolicyRule } from "kubernetes-types/batch/v1.js";
import type { ContainerStatus, Job, Pod, Stored } from "../../common/k8s.js";
import { parseIndexes } from "./job-indexes.js";
import { podCondition } from "./pod-state.js";

export type FailureAction = "Count" | "FailIndex" | "FailJob" | "Ignore";

/** What a failed pod means, and, where it ends the Job, the message of the condition. */
export interface Failure {
  action: FailureAction;
  message?: string;
}

/** The first rule that matches decides; without one the failure counts. Source: the Job documentation. */
export function failureOf(job: Stored<Job>, pod: Stored<Pod>): Failure {
  // A pod that is only being deleted has no exit codes yet.
  if (pod.status?.phase !== "Failed") return { action: "Count" };
  for (const [i, rule] of (job.spec?.podFailurePolicy?.rules ?? []).entries()) {
    const why = rule.onExitCodes ? byExitCode(rule.onExitCodes, pod) : byCondition(rule, pod);
    if (why === undefined) continue;
    const action = rule.action as FailureAction;
    return { action, message: `${why} matching ${action} rule at index ${i}` };
  }
  return { action: "Count" };
}

function byExitCode(wanted: NonNullable<PodFailurePolicyRule["onExitCodes"]>, pod: Stored<Pod>) {
  const statuses = [...(pod.status?.containerStatuses ?? []), ...(pod.status?.initContainerStatuses ?? [])];
  const found = statuses.find((status) => matches(wanted, status));
  if (!found) return undefined;
  const { namespace, name } = pod.metadata;
  return `Container ${found.name} for pod ${namespace}/${name} failed with exit code ${found.state?.terminated?.exitCode}`;
}

/** An exit code of 0 is no failure, whatever a rule says. */
function matches(wanted: NonNullable<PodFailurePolicyRule["onExitCodes"]>, status: ContainerStatus): boolean {
  const code = status.state?.terminated?.exitCode;
  if (!code || (wanted.containerName !== undefined && wanted.containerName !== status.name)) return false;
  return wanted.values.includes(code) === (wanted.operator === "In");
}

function byCondition(rule: PodFailurePolicyRule, pod: Stored<Pod>): string | undefined {
  const found = (rule.onPodConditions ?? []).find(
    ({ type, status }) => podCondition(pod, type)?.status === status,
  );
  const { namespace, name } = pod.metadata;
  return found && `Pod ${namespace}/${name} has condition ${found.type}`;
}

/** The number of the rule that these succeeded indexes satisfy; undefined when none does. */
export function matchedSuccessRule(job: Stored<Job>, succeeded: ReadonlySet<number>): number | undefined {
  const rules = job.spec?.successPolicy?.rules ?? [];
  const found = rules.findIndex(({ succeededCount, succeededIndexes }) => {
    if (succeededIndexes === undefined) return succeeded.size >= (succeededCount ?? Number.POSITIVE_INFINITY);
    const wanted = parseIndexes(succeededIndexes, job.spec?.completions ?? 0);
    const reached = [...wanted].filter((index) => succeeded.has(index)).length;
    return reached >= (succeededCount ?? wanted.size);
  });
  return found < 0 ? undefined : found;
}
