// What a Job needs: how its pods stand, whether it is over and why, which pods are to be made and which are to go.
// The rules are those of the Job documentation and of kube-controller-manager. Pure; knows Jobs and Pods.

import type { Job, Pod, Stored } from "../../common/k8s.js";
import { jobCondition } from "../resources/job.js";
import { failuresBefore, indexOf, parseIndexes } from "./job-indexes.js";
import { type Failure, failureOf, matchedSuccessRule } from "./job-policy.js";
import { isPodActive, isPodReady, isPodTerminal } from "./pod-state.js";
import { parseTime } from "./time.js";

/** Held by every pod of a Job until it has been counted. */
export const TRACKING = "batch.kubernetes.io/job-tracking";
/** No more pods than this are made, deleted or counted in one go. */
export const BURST = 500;
const BACKOFF_MS = 10_000;
const MAX_BACKOFF_MS = 600_000;

/** How a Job and its pods stand. */
export interface Survey {
  active: Stored<Pod>[];
  ready: number;
  /** Pods that are being deleted and have not ended yet. */
  terminating: number;
  /** Ended and not counted yet, neither in the status nor among its uncounted pods. */
  newSucceeded: Stored<Pod>[];
  newFailed: { pod: Stored<Pod>; failure: Failure }[];
  /** All of them, those not yet in the status included. */
  succeeded: number;
  failed: number;
  /** Of an Indexed Job. */
  succeededIndexes: Set<number>;
  failedIndexes: Set<number>;
}

export const isIndexed = (job: Pick<Job, "spec">): boolean => job.spec?.completionMode === "Indexed";

export const isTracked = (pod: Stored<Pod>): boolean => pod.metadata.finalizers?.includes(TRACKING) ?? false;

export const isFinished = (job: Pick<Job, "status">): boolean =>
  jobCondition(job, "Complete") !== undefined || jobCondition(job, "Failed") !== undefined;

/** Whether a pod is replaced only when it has failed, not already when it begins to end. */
const replacesOnlyFailed = (job: Stored<Job>): boolean => job.spec?.podReplacementPolicy === "Failed";

/** A pod that is being deleted counts as failed at once, since it may never get to say how it ended. */
export function isPodFailed(job: Stored<Job>, pod: Stored<Pod>): boolean {
  if (pod.status?.phase === "Failed") return true;
  if (replacesOnlyFailed(job) || pod.status?.phase === "Succeeded") return false;
  return pod.metadata.deletionTimestamp !== undefined;
}

export function surveyJob(job: Stored<Job>, pods: readonly Stored<Pod>[]): Survey {
  const { spec, status } = job;
  const uncounted = status?.uncountedTerminatedPods ?? {};
  const seen = new Set([...(uncounted.succeeded ?? []), ...(uncounted.failed ?? [])]);
  const completions = spec?.completions ?? 0;
  const succeededIndexes = parseIndexes(status?.completedIndexes, completions);
  const failedIndexes = parseIndexes(status?.failedIndexes, completions);
  const active = pods.filter(isPodActive);
  const survey: Survey = {
    active,
    ready: active.filter(isPodReady).length,
    terminating: pods.filter((pod) => pod.metadata.deletionTimestamp && !isPodTerminal(pod)).length,
    newSucceeded: [],
    newFailed: [],
    succeeded: (status?.succeeded ?? 0) + (uncounted.succeeded?.length ?? 0),
    failed: (status?.failed ?? 0) + (uncounted.failed?.length ?? 0),
    succeededIndexes,
    failedIndexes,
  };
  for (const pod of pods) {
    if (!isTracked(pod) || seen.has(pod.metadata.uid)) continue;
    if (pod.status?.phase === "Succeeded") survey.newSucceeded.push(pod);
    else if (isPodFailed(job, pod)) survey.newFailed.push({ pod, failure: failureOf(job, pod) });
  }
  for (const pod of survey.newSucceeded) {
    const index = indexOf(pod);
    if (index !== undefined && index < completions) succeededIndexes.add(index);
  }
  survey.failed += countedFailures(survey).length;
  if (!isIndexed(job)) survey.succeeded += survey.newSucceeded.length;
  else {
    for (const failed of survey.newFailed)
      if (endsIndex(job, failed)) failedIndexes.add(indexOf(failed.pod) ?? -1);
    for (const index of [...succeededIndexes, -1]) failedIndexes.delete(index);
    survey.succeeded = succeededIndexes.size;
  }
  return survey;
}

/** Failures that the status counts: all but those that a rule of the policy ignores. */
export function countedFailures({ newFailed }: Survey): Stored<Pod>[] {
  return newFailed.filter(({ failure }) => failure.action !== "Ignore").map(({ pod }) => pod);
}

function endsIndex(job: Stored<Job>, { pod, failure }: Survey["newFailed"][number]): boolean {
  const limit = job.spec?.backoffLimitPerIndex;
  if (limit === undefined || failure.action === "Ignore") return false;
  return failure.action === "FailIndex" || failuresBefore(pod) >= limit;
}

/** The pods of a Job that has failed have failed with it, whatever they still do. */
export function failRest(survey: Survey, job: Stored<Job>, pods: readonly Stored<Pod>[]): Survey {
  const uncounted = job.status?.uncountedTerminatedPods ?? {};
  const known = new Set([...(uncounted.succeeded ?? []), ...(uncounted.failed ?? [])]);
  for (const pod of [...survey.newSucceeded, ...survey.newFailed.map((one) => one.pod)])
    known.add(pod.metadata.uid);
  const rest = pods.filter((pod) => isTracked(pod) && !known.has(pod.metadata.uid));
  const newFailed = rest.map((pod) => ({ pod, failure: { action: "Count" } as const }));
  return { ...survey, newFailed: [...survey.newFailed, ...newFailed] };
}

/** How a Job is about to end. */
export interface Verdict {
  type: "FailureTarget" | "SuccessCriteriaMet";
  reason: string;
  message: string;
}

/** Whether the Job is over; once that is said, it stays so. `now` in milliseconds since the epoch. */
export function verdictOf(job: Stored<Job>, survey: Survey, now: number): Verdict | undefined {
  for (const type of ["FailureTarget", "SuccessCriteriaMet"] as const) {
    const known = jobCondition(job, type);
    if (known) return { type, reason: known.reason ?? "", message: known.message ?? "" };
  }
  return failureVerdict(job, survey, now) ?? successVerdict(job, survey);
}

function failureVerdict(job: Stored<Job>, survey: Survey, now: number): Verdict | undefined {
  const { backoffLimit = 6, maxFailedIndexes, completions = 0 } = job.spec ?? {};
  const fail = (reason: string, message: string): Verdict => ({ type: "FailureTarget", reason, message });
  const ending = survey.newFailed.find(({ failure }) => failure.action === "FailJob");
  if (ending) return fail("PodFailurePolicy", ending.failure.message ?? "");
  if (survey.failed > backoffLimit || pastRestartLimit(job, survey.active))
    return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
  const left = deadlineLeft(job, now);
  if (left !== undefined && left <= 0)
    return fail("DeadlineExceeded", "Job was active longer than specified deadline");
  if (!isIndexed(job) || survey.failedIndexes.size === 0) return undefined;
  if (maxFailedIndexes !== undefined && survey.failedIndexes.size > maxFailedIndexes)
    return fail(
      "MaxFailedIndexesExceeded",
      "Job has exceeded the specified maximal number of failed indexes",
    );
  const decided = survey.failedIndexes.size + survey.succeededIndexes.size;
  return decided >= completions ? fail("FailedIndexes", "Job has failed indexes") : undefined;
}

function successVerdict(job: Stored<Job>, survey: Survey): Verdict | undefined {
  const rule = isIndexed(job) ? matchedSuccessRule(job, survey.succeededIndexes) : undefined;
  if (rule !== undefined)
    return {
      type: "SuccessCriteriaMet",
      reason: "SuccessPolicy",
      message: `Matched rules at index ${rule}`,
    };
  const { completions } = job.spec ?? {};
  const enough = completions === undefined ? survey.succeeded > 0 : survey.succeeded >= completions;
  if (!enough || survey.active.length > 0) return undefined;
  return {
    type: "SuccessCriteriaMet",
    reason: "CompletionsReached",
    message: "Reached expected number of succeeded pods",
  };
}

/** restartPolicy OnFailure: the restarts of the pods that still live count, too. */
function pastRestartLimit(job: Stored<Job>, active: readonly Stored<Pod>[]): boolean {
  if (job.spec?.template.spec?.restartPolicy !== "OnFailure") return false;
  const { backoffLimit = 6 } = job.spec;
  let restarts = 0;
  for (const { status } of active)
    for (const one of [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])])
      restarts += one.restartCount;
  return backoffLimit === 0 ? restarts > 0 : restarts >= backoffLimit;
}

/** Milliseconds until activeDeadlineSeconds are over; undefined when there is no such time, or it does not run. */
export function deadlineLeft(job: Stored<Job>, now: number): number | undefined {
  const { activeDeadlineSeconds, suspend } = job.spec ?? {};
  const started = parseTime(job.status?.startTime);
  if (activeDeadlineSeconds === undefined || suspend || started === undefined) return undefined;
  return started + activeDeadlineSeconds * 1000 - now;
}

/** Failures since the last success: new pods wait the longer the more there were. */
export interface Backoff {
  failures: number;
  /** Milliseconds since the epoch. */
  lastFailure: number;
}

/** When a pod ended, in milliseconds since the epoch. */
function endedAt(pod: Stored<Pod>, now: number): number {
  const ends = (pod.status?.containerStatuses ?? []).map((one) =>
    parseTime(one.state?.terminated?.finishedAt),
  );
  const last = Math.max(...ends.map((end) => end ?? Number.NEGATIVE_INFINITY));
  return Number.isFinite(last) ? last : (parseTime(pod.metadata.deletionTimestamp) ?? now);
}

export function nextBackoff(before: Backoff | undefined, survey: Survey, now: number): Backoff {
  const ends = [
    ...survey.newSucceeded.map((pod) => ({ at: endedAt(pod, now), success: true })),
    ...countedFailures(survey).map((pod) => ({ at: Math.min(endedAt(pod, now), now), success: false })),
  ].sort((a, b) => a.at - b.at);
  let backoff = before ?? { failures: 0, lastFailure: 0 };
  for (const { at, success } of ends)
    backoff = success
      ? { failures: 0, lastFailure: 0 }
      : { failures: backoff.failures + 1, lastFailure: Math.max(backoff.lastFailure, at) };
  return backoff;
}

/** Milliseconds until the next pod may be made: 10 s after the first failure, doubling to ten minutes. */
export function backoffLeft({ failures, lastFailure }: Backoff, now: number): number {
  if (failures === 0) return 0;
  return Math.max(0, lastFailure + Math.min(BACKOFF_MS * 2 ** (failures - 1), MAX_BACKOFF_MS) - now);
}

/** Pods to be made or to go. `indexes` of an Indexed Job, as many as pods. */
export interface PodPlan {
  create: number;
  indexes: number[];
  delete: Stored<Pod>[];
}

const NOTHING: PodPlan = { create: 0, indexes: [], delete: [] };

export function planPods(job: Stored<Job>, survey: Survey): PodPlan {
  const { spec } = job;
  const { active } = survey;
  if (spec?.suspend) return { ...NOTHING, delete: active.slice(0, BURST) };
  const surplus = isIndexed(job) ? misplaced(job, survey) : [];
  if (surplus.length > 0) return { ...NOTHING, delete: surplus.slice(0, BURST) };
  const { parallelism = 1, completions } = spec ?? {};
  let wanted = parallelism;
  if (completions !== undefined)
    wanted = Math.min(parallelism, completions - survey.succeeded - survey.failedIndexes.size);
  // A work queue: after the first success no new pods, the others come to their end.
  else if (survey.succeeded > 0) wanted = active.length;
  if (active.length > wanted)
    return {
      ...NOTHING,
      delete: active.toSorted(goesFirst).slice(0, Math.min(BURST, active.length - wanted)),
    };
  const leaving = replacesOnlyFailed(job) ? survey.terminating : 0;
  const create = Math.min(BURST, wanted - active.length - leaving);
  if (create <= 0) return NOTHING;
  if (!isIndexed(job)) return { ...NOTHING, create };
  const indexes = pendingIndexes(job, survey, create);
  return { ...NOTHING, create: indexes.length, indexes };
}

/** Not ready before ready, young before old: as a ReplicaSet does, in short. */
function goesFirst(a: Stored<Pod>, b: Stored<Pod>): number {
  return (
    Number(!!a.spec?.nodeName) - Number(!!b.spec?.nodeName) ||
    Number(isPodReady(a)) - Number(isPodReady(b)) ||
    b.metadata.creationTimestamp.localeCompare(a.metadata.creationTimestamp)
  );
}

/** Active pods without an index of use: none, one too high, one that is done, or another pod's. */
function misplaced(job: Stored<Job>, { active, succeededIndexes, failedIndexes }: Survey): Stored<Pod>[] {
  const taken = new Set([...succeededIndexes, ...failedIndexes]);
  return active.filter((pod) => {
    const index = indexOf(pod);
    if (index === undefined || index >= (job.spec?.completions ?? 0) || taken.has(index)) return true;
    taken.add(index);
    return false;
  });
}

function pendingIndexes(job: Stored<Job>, survey: Survey, count: number): number[] {
  const taken = new Set([...survey.succeededIndexes, ...survey.failedIndexes]);
  for (const pod of survey.active) taken.add(indexOf(pod) ?? -1);
  const indexes: number[] = [];
  for (let i = 0; i < (job.spec?.completions ?? 0) && indexes.length < count; i++)
    if (!taken.has(i)) indexes.push(i);
  return indexes;
}
