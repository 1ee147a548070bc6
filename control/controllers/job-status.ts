// A Job's status: the counters, the pods that are being counted, the conditions. Pure; knows Jobs.

import type { Job, JobCondition, JobStatus, Stored } from "../../common/k8s.js";
import { jobCondition } from "../resources/job.js";
import { formatIndexes } from "./job-indexes.js";
import { BURST, countedFailures, isIndexed, type Survey, type Verdict } from "./job-plan.js";

/** What of a Job's status changes in the course of one look at it. */
export type Status = { -readonly [K in keyof JobStatus]: JobStatus[K] };

/** A condition set to be true (or what `status` says); one that is so already keeps its times. */
export function withCondition(
  conditions: readonly JobCondition[] | undefined,
  wanted: { type: string; status?: "True" | "False"; reason: string; message: string },
  now: string,
): JobCondition[] {
  const { status = "True", ...text } = wanted;
  const present = (conditions ?? []).find((one) => one.type === wanted.type);
  if (present?.status === status) return [...(conditions ?? [])];
  const others = (conditions ?? []).filter((one) => one.type !== wanted.type);
  return [...others, { ...text, status, lastProbeTime: now, lastTransitionTime: now }];
}

/** Suspended or resumed, and what is told about it; undefined when nothing changes. */
export function suspension(job: Stored<Job>) {
  const suspended = jobCondition(job, "Suspended") !== undefined;
  if (job.spec?.suspend && !suspended)
    return { status: "True", reason: "JobSuspended", message: "Job suspended", event: "Suspended" } as const;
  if (!job.spec?.suspend && suspended)
    return { status: "False", reason: "JobResumed", message: "Job resumed", event: "Resumed" } as const;
  return undefined;
}

/**
 * The status before the finalizers of counted pods are taken away: pods that have ended are noted by their uids, so
 * that none is counted twice or never, whatever happens in between.
 */
export function statusWithUncounted(
  job: Stored<Job>,
  survey: Survey,
  counts: { active: number; ready: number; terminating: number },
  verdict: Verdict | undefined,
  now: string,
): Status {
  const before = job.status ?? {};
  const { succeeded = [], failed = [] } = before.uncountedTerminatedPods ?? {};
  const room = Math.max(0, BURST - succeeded.length - failed.length);
  const newFailed = countedFailures(survey).slice(0, room);
  const newSucceeded = isIndexed(job) ? [] : survey.newSucceeded.slice(0, room - newFailed.length);
  const conditions = verdict ? withCondition(before.conditions, verdict, now) : before.conditions;
  const uids = (pods: readonly { metadata: { uid: string } }[]) => pods.map(({ metadata }) => metadata.uid);
  const status: Status = {
    ...before,
    ...(conditions ? { conditions } : {}),
    ...counts,
    uncountedTerminatedPods: {
      succeeded: [...succeeded, ...uids(newSucceeded)],
      failed: [...failed, ...uids(newFailed)],
    },
  };
  if (!isIndexed(job)) return tidy(status);
  status.succeeded = survey.succeeded;
  status.completedIndexes = formatIndexes(survey.succeededIndexes);
  if (job.spec?.backoffLimitPerIndex !== undefined)
    status.failedIndexes = formatIndexes(survey.failedIndexes);
  return tidy(status);
}

/** Moves those uncounted pods that `held` no longer names into the counters. */
export function statusWithCounted(status: Status, held: ReadonlySet<string>): Status {
  const { succeeded = [], failed = [] } = status.uncountedTerminatedPods ?? {};
  const still = (uids: readonly string[]) => uids.filter((uid) => held.has(uid));
  const kept = { succeeded: still(succeeded), failed: still(failed) };
  return tidy({
    ...status,
    succeeded: (status.succeeded ?? 0) + succeeded.length - kept.succeeded.length,
    failed: (status.failed ?? 0) + failed.length - kept.failed.length,
    uncountedTerminatedPods: kept,
  });
}

/** The last word: Complete or Failed, for the reason that was announced. */
export function finishedStatus(status: Status, verdict: Verdict, now: string): Status {
  const complete = verdict.type === "SuccessCriteriaMet";
  const { reason, message } = verdict;
  const type = complete ? "Complete" : "Failed";
  return {
    ...status,
    conditions: withCondition(status.conditions, { type, reason, message }, now),
    ...(complete ? { completionTime: now } : {}),
  };
}

/** Without what Go leaves out: zeros (but of ready and terminating), empty texts and lists. */
function tidy(status: Status): Status {
  const { uncountedTerminatedPods: { succeeded = [], failed = [] } = {}, ...rest } = status;
  const out: Status = { ...rest };
  for (const name of ["active", "succeeded", "failed"] as const) if (out[name] === 0) delete out[name];
  for (const name of ["completedIndexes", "failedIndexes"] as const) if (out[name] === "") delete out[name];
  out.uncountedTerminatedPods = {
    ...(succeeded.length > 0 ? { succeeded } : {}),
    ...(failed.length > 0 ? { failed } : {}),
  };
  return out;
}
