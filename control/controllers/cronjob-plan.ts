// When a CronJob's Job is due, what it is like, and which finished ones may go. The rules are those of the CronJob
// documentation and of kube-controller-manager. Pure; knows CronJobs, Jobs and schedules.

import type { CronJob, Job, Stored } from "../../common/k8s.js";
import type { CronSchedule } from "../resources/cron-schedule.js";
import { jobCondition } from "../resources/job.js";
import { controllerReference } from "./owners.js";
import { parseTime, timestamp } from "./time.js";

const SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp";
const MANY_MISSED = 100;

export interface Due {
  /** The newest time that has come and was not served; undefined when none has. Milliseconds since the epoch. */
  at: number | undefined;
  /** So many were missed that something must be wrong. */
  tooMany: boolean;
}

/**
 * The newest unserved time of a schedule. It is looked for from where a regular schedule would have it, so that
 * years of missed minutes cost no more than a few steps.
 */
export function dueTime(cronJob: Stored<CronJob>, schedule: CronSchedule, now: number): Due {
  const deadline = cronJob.spec?.startingDeadlineSeconds;
  let from =
    parseTime(cronJob.status?.lastScheduleTime) ?? parseTime(cronJob.metadata.creationTimestamp) ?? now;
  if (deadline !== undefined) from = Math.max(from, now - deadline * 1000);
  const first = schedule.next(from);
  if (first === undefined || first > now) return { at: undefined, tooMany: false };
  const second = schedule.next(first);
  if (second === undefined || second > now) return { at: first, tooMany: false };
  const between = Math.max(1000, Math.round((second - first) / 1000) * 1000);
  const missed = Math.floor((now - first) / between) + 1;
  let at: number | undefined;
  // Of an irregular schedule the guess may fall into a gap: then further back.
  for (let back = 1; at === undefined; back *= 2) {
    const guess = Math.max(first, first + (missed - 1 - back) * between);
    for (let t = schedule.next(guess); t !== undefined && t <= now; t = schedule.next(t)) at = t;
  }
  return { at, tooMany: missed > MANY_MISSED };
}

/** Milliseconds from now until the schedule's next time. */
export function untilNext(schedule: CronSchedule, now: number): number | undefined {
  const next = schedule.next(now);
  return next === undefined ? undefined : next - now;
}

/** NAME-MINUTES: one name a scheduled time, so that no time is served twice. */
export function jobName(cronJob: Stored<CronJob>, at: number): string {
  return `${cronJob.metadata.name}-${Math.floor(at / 60_000)}`;
}

export function jobOfCronJob(cronJob: Stored<CronJob>, at: number): Job {
  const { metadata: { labels, annotations } = {}, spec } = cronJob.spec?.jobTemplate ?? {};
  return {
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: {
      name: jobName(cronJob, at),
      namespace: cronJob.metadata.namespace ?? "",
      ...(labels ? { labels } : {}),
      annotations: { ...annotations, [SCHEDULED_AT]: inZone(at, cronJob.spec?.timeZone) },
      ownerReferences: [controllerReference(cronJob)],
    },
    ...(spec ? { spec } : {}),
  };
}

/** RFC 3339, in the CronJob's own zone when it names one. */
function inZone(at: number, timeZone: string | undefined): string {
  if (timeZone === undefined) return timestamp(at);
  const zone = new Intl.DateTimeFormat("en", { timeZone, timeZoneName: "longOffset" });
  const name = zone.formatToParts(at).find(({ type }) => type === "timeZoneName")?.value ?? "GMT";
  const [, sign, hours, minutes] = /^GMT([+-])(\d\d):(\d\d)/.exec(name) ?? [];
  if (sign === undefined) return timestamp(at);
  const offset = (Number(hours) * 60 + Number(minutes)) * (sign === "-" ? -60_000 : 60_000);
  return timestamp(at + offset).replace("Z", `${sign}${hours}:${minutes}`);
}

/** Finished Jobs beyond the history limits, the oldest first. */
export function surplusHistory(cronJob: Stored<CronJob>, jobs: readonly Stored<Job>[]): Stored<Job>[] {
  const { successfulJobsHistoryLimit, failedJobsHistoryLimit } = cronJob.spec ?? {};
  const beyond = (type: string, limit: number | undefined) => {
    const ended = jobs.filter((job) => jobCondition(job, type)).sort(byStart);
    return limit === undefined ? [] : ended.slice(0, Math.max(0, ended.length - limit));
  };
  return [...beyond("Complete", successfulJobsHistoryLimit), ...beyond("Failed", failedJobsHistoryLimit)];
}

function byStart(a: Stored<Job>, b: Stored<Job>): number {
  const start = (job: Stored<Job>) => parseTime(job.status?.startTime) ?? 0;
  return start(a) - start(b) || (a.metadata.name < b.metadata.name ? -1 : 1);
}
