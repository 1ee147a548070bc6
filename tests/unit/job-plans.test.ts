// What controllers of Jobs and CronJobs decide, without a cluster: what a Job's pods mean and which are made, how it
// ends, when a CronJob is due.

import t from "tap";
import type { CronJob, Job, Pod, Stored } from "../../common/k8s.js";
import { dueTime, jobOfCronJob, surplusHistory } from "../../control/controllers/cronjob-plan.js";
import { formatIndexes, parseIndexes } from "../../control/controllers/job-indexes.js";
import {
  backoffLeft,
  deadlineLeft,
  failRest,
  nextBackoff,
  planPods,
  surveyJob,
  TRACKING,
  verdictOf,
} from "../../control/controllers/job-plan.js";
import { podOfJob } from "../../control/controllers/job-pod.js";
import {
  finishedStatus,
  statusWithCounted,
  statusWithUncounted,
} from "../../control/controllers/job-status.js";
import { expiryOf } from "../../control/controllers/ttl-after-finished.js";
import { parseSchedule } from "../../control/resources/cron-schedule.js";
import { jobSpec, newJob, template } from "./helpers/job-objects.js";
import { NOW } from "./helpers/kinds.js";

const stamp = (ms: number) => new Date(ms).toISOString();
let uid = 0;

/** A pod of a Job. */
function pod(
  phase: string,
  more: { index?: number; failures?: number; deleted?: boolean; code?: number; at?: number } = {},
) {
  const { index, failures, deleted, code, at = NOW } = more;
  uid++;
  const state = { terminated: { exitCode: code ?? (phase === "Failed" ? 1 : 0), finishedAt: stamp(at) } };
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: `p${uid}`,
      namespace: "ns",
      uid: `uid-${uid}`,
      resourceVersion: "1",
      creationTimestamp: stamp(NOW),
      finalizers: [TRACKING],
      annotations: {
        ...(index === undefined ? {} : { "batch.kubernetes.io/job-completion-index": String(index) }),
        ...(failures === undefined
          ? {}
          : { "batch.kubernetes.io/job-index-failure-count": String(failures) }),
      },
      ...(deleted ? { deletionTimestamp: stamp(NOW) } : {}),
    },
    status: {
      phase,
      ...(phase === "Failed" || phase === "Succeeded" ? { containerStatuses: [{ name: "c", state }] } : {}),
    },
  } as unknown as Stored<Pod>;
}

const aJob = (more: object = {}, status: object = {}) =>
  ({
    ...newJob(more),
    apiVersion: "batch/v1",
    status: { startTime: stamp(NOW), ...status },
  }) as unknown as Stored<Job>;

t.test("a Job's pods are counted once, through their finalizers", async (t) => {
  const job = aJob(
    { completions: 5, parallelism: 3 },
    { succeeded: 1, uncountedTerminatedPods: { failed: ["x"] } },
  );
  const pods = [pod("Succeeded"), pod("Failed"), pod("Running"), pod("Running", { deleted: true })];
  const survey = surveyJob(job, pods);
  t.equal(survey.succeeded, 2);
  t.equal(survey.failed, 3, "one counted soon, one failed, one that is being deleted");
  t.equal(survey.terminating, 1);
  t.same(planPods(job, survey), { create: 2, indexes: [], delete: [] });
  const status = statusWithUncounted(
    job,
    survey,
    { active: 1, ready: 0, terminating: 1 },
    undefined,
    stamp(NOW),
  );
  t.same(status.uncountedTerminatedPods?.succeeded, [pods[0]?.metadata.uid]);
  t.equal(status.uncountedTerminatedPods?.failed?.length, 3);
  t.equal(status.succeeded, 1, "not before the finalizers are off");
  const held = new Set([pods[1]?.metadata.uid ?? ""]);
  const counted = statusWithCounted(status, held);
  t.match(counted, { succeeded: 2, failed: 2 });
  t.same(counted.uncountedTerminatedPods, { failed: [pods[1]?.metadata.uid] });
  const again = { ...job, status } as Stored<Job>;
  t.equal(surveyJob(again, pods).newFailed.length, 0, "what is noted is not new");
  const patient = aJob({ completions: 5, parallelism: 3, podReplacementPolicy: "Failed" });
  const waiting = surveyJob(patient, pods);
  t.equal(waiting.failed, 1, "podReplacementPolicy Failed waits for the end");
  t.equal(planPods(patient, waiting).create, 1);
});

t.test("how a Job ends", async (t) => {
  const verdict = (job: Stored<Job>, pods: Stored<Pod>[], now = NOW) =>
    verdictOf(job, surveyJob(job, pods), now);
  const done = aJob({ completions: 1 });
  t.match(verdict(done, [pod("Succeeded")]), { type: "SuccessCriteriaMet", reason: "CompletionsReached" });
  t.equal(verdict(done, [pod("Succeeded"), pod("Running")]), undefined, "not while a pod runs");
  const queue = aJob({ parallelism: 2 });
  t.match(verdict(queue, [pod("Succeeded"), pod("Succeeded")]), { reason: "CompletionsReached" });
  t.equal(planPods(queue, surveyJob(queue, [pod("Succeeded"), pod("Running")])).create, 0);
  const strict = aJob({ backoffLimit: 0 });
  t.match(verdict(strict, [pod("Failed")]), {
    type: "FailureTarget",
    reason: "BackoffLimitExceeded",
    message: "Job has reached the specified backoff limit",
  });
  t.equal(verdict(aJob({ backoffLimit: 1 }), [pod("Failed")]), undefined);
  const restarting = {
    ...pod("Running"),
    status: { phase: "Running", containerStatuses: [{ restartCount: 2 }] },
  };
  const inPlace = aJob({ backoffLimit: 2, template: template({ restartPolicy: "OnFailure" }) });
  t.match(verdict(inPlace, [restarting as unknown as Stored<Pod>]), { reason: "BackoffLimitExceeded" });
  const late = aJob({ activeDeadlineSeconds: 10 });
  t.equal(deadlineLeft(late, NOW + 4000), 6000);
  t.equal(verdict(late, [pod("Running")], NOW + 9000), undefined);
  t.match(verdict(late, [pod("Running")], NOW + 10_000), { reason: "DeadlineExceeded" });
  const running = pod("Running");
  t.equal(
    failRest(surveyJob(late, [running]), late, [running]).newFailed.length,
    1,
    "what runs fails with it",
  );
  const ended = finishedStatus({}, { type: "FailureTarget", reason: "R", message: "m" }, stamp(NOW));
  t.match(ended.conditions, [{ type: "Failed", status: "True", reason: "R", message: "m" }]);
  t.equal(ended.completionTime, undefined);
});

t.test("policies for failures and for success", async (t) => {
  const rules = [
    { action: "Ignore", onPodConditions: [{ type: "DisruptionTarget", status: "True" }] },
    { action: "FailJob", onExitCodes: { operator: "In", values: [42] } },
  ];
  const job = aJob({ podFailurePolicy: { rules }, backoffLimit: 0 });
  const disrupted = pod("Failed");
  Object.assign(disrupted.status ?? {}, { conditions: [{ type: "DisruptionTarget", status: "True" }] });
  const ignored = surveyJob(job, [disrupted]);
  t.equal(ignored.failed, 0);
  t.equal(verdictOf(job, ignored, NOW), undefined);
  const fatal = pod("Failed", { code: 42 });
  t.match(verdictOf(job, surveyJob(job, [fatal]), NOW), {
    reason: "PodFailurePolicy",
    message: `Container c for pod ns/${fatal.metadata.name} failed with exit code 42 matching FailJob rule at index 1`,
  });
  const indexed = { completionMode: "Indexed", completions: 4, parallelism: 4 };
  const enough = aJob({
    ...indexed,
    successPolicy: { rules: [{ succeededIndexes: "1-3", succeededCount: 2 }] },
  });
  const pods = [pod("Succeeded", { index: 0 }), pod("Succeeded", { index: 2 }), pod("Running", { index: 1 })];
  t.equal(verdictOf(enough, surveyJob(enough, pods), NOW), undefined);
  pods.push(pod("Succeeded", { index: 3 }));
  t.match(verdictOf(enough, surveyJob(enough, pods), NOW), {
    type: "SuccessCriteriaMet",
    reason: "SuccessPolicy",
    message: "Matched rules at index 0",
  });
});

t.test("Indexed Jobs", async (t) => {
  t.equal(formatIndexes(new Set([7, 3, 0, 1, 4, 5])), "0,1,3-5,7");
  t.same([...parseIndexes("0,3-5,9", 5)], [0, 3, 4]);
  const job = aJob({ completionMode: "Indexed", completions: 5, parallelism: 3 }, { completedIndexes: "0" });
  const survey = surveyJob(job, [pod("Running", { index: 1 }), pod("Succeeded", { index: 3 })]);
  t.equal(survey.succeeded, 2);
  t.same(planPods(job, survey).indexes, [2, 4]);
  const twice = [pod("Running", { index: 1 }), pod("Running", { index: 1 }), pod("Running", { index: 9 })];
  t.equal(planPods(job, surveyJob(job, twice)).delete.length, 2, "one too many, and one out of range");
  const made = podOfJob(job, 2);
  t.match(made, {
    metadata: {
      generateName: "x-2-",
      finalizers: [TRACKING],
      annotations: { "batch.kubernetes.io/job-completion-index": "2" },
      labels: { "batch.kubernetes.io/job-completion-index": "2" },
    },
    spec: { hostname: "x-2", containers: [{ env: [{ name: "JOB_COMPLETION_INDEX" }] }] },
  });
  const each = { completionMode: "Indexed", completions: 2, parallelism: 2, backoffLimitPerIndex: 1 };
  const limited = aJob(each);
  t.equal(surveyJob(limited, [pod("Failed", { index: 0, failures: 0 })]).failedIndexes.size, 0);
  const pods = [pod("Failed", { index: 0, failures: 1 }), pod("Succeeded", { index: 1 })];
  t.match(verdictOf(limited, surveyJob(limited, pods), NOW), { reason: "FailedIndexes" });
});

t.test("suspension, back-off, time to live", async (t) => {
  const job = aJob({ suspend: true });
  t.equal(planPods(job, surveyJob(job, [pod("Running")])).delete.length, 1);
  const failing = surveyJob(aJob(), [pod("Failed", { at: NOW - 3000 })]);
  const once = nextBackoff(undefined, failing, NOW);
  t.equal(backoffLeft(once, NOW), 7000);
  t.equal(backoffLeft({ failures: 3, lastFailure: NOW }, NOW), 40_000);
  t.equal(backoffLeft({ failures: 30, lastFailure: NOW }, NOW), 600_000);
  const mixed = surveyJob(aJob({ completions: 3 }), [
    pod("Failed", { at: NOW - 9 }),
    pod("Succeeded", { at: NOW }),
  ]);
  t.equal(nextBackoff(once, mixed, NOW).failures, 0, "a success begins anew");
  const ended = { conditions: [{ type: "Failed", status: "True", lastTransitionTime: stamp(NOW) }] };
  t.equal(expiryOf(aJob({ ttlSecondsAfterFinished: 30 }, ended)), NOW + 30_000);
  t.equal(expiryOf(aJob({ ttlSecondsAfterFinished: 30 })), undefined);
});

t.test("when a CronJob is due", async (t) => {
  const cronJob = (more: object = {}, status: object = {}) =>
    ({
      apiVersion: "batch/v1",
      kind: "CronJob",
      metadata: { name: "tick", namespace: "ns", uid: "u", creationTimestamp: "2026-01-01T00:00:30Z" },
      spec: { schedule: "", jobTemplate: jobSpec(), ...more },
      status,
    }) as unknown as Stored<CronJob>;
  const minutely = parseSchedule("* * * * *", "UTC");
  const at = (text: string) => Date.parse(`2026-01-${text}Z`);
  t.same(dueTime(cronJob(), minutely, at("01T00:00:59")), { at: undefined, tooMany: false });
  t.same(dueTime(cronJob(), minutely, at("01T00:01:00")), { at: at("01T00:01:00"), tooMany: false });
  t.same(dueTime(cronJob(), minutely, at("01T00:07:10")).at, at("01T00:07:00"), "the newest of several");
  t.same(dueTime(cronJob(), minutely, at("03T00:00:10")), { at: at("03T00:00:00"), tooMany: true });
  const served = cronJob({}, { lastScheduleTime: "2026-01-01T00:07:00Z" });
  t.equal(dueTime(served, minutely, at("01T00:07:50")).at, undefined);
  const deadline = cronJob({ startingDeadlineSeconds: 30 });
  t.same(dueTime(deadline, minutely, at("03T00:00:10")), { at: at("03T00:00:00"), tooMany: false });
  t.equal(dueTime(deadline, minutely, at("03T00:00:45")).at, undefined, "too late for that one");
  const office = parseSchedule("*/5 9-17 * * mon-fri", "UTC");
  t.same(dueTime(cronJob(), office, at("04T12:00:00")).at, at("02T17:55:00"), "Sunday noon: Friday's last");
  const job = jobOfCronJob(cronJob({ timeZone: "Asia/Kolkata" }), at("01T00:07:00"));
  t.equal(job.metadata?.name, `tick-${at("01T00:07:00") / 60_000}`);
  t.same(job.metadata?.annotations, {
    "batch.kubernetes.io/cronjob-scheduled-timestamp": "2026-01-01T05:37:00+05:30",
  });
  const finished = (name: string, type: string, start: number) =>
    ({
      metadata: { name },
      status: { startTime: stamp(NOW + start), conditions: [{ type, status: "True" }] },
    }) as unknown as Stored<Job>;
  const jobs = [finished("b", "Complete", 2), finished("a", "Complete", 1), finished("f", "Failed", 0)];
  const surplus = surplusHistory(cronJob({ successfulJobsHistoryLimit: 1, failedJobsHistoryLimit: 1 }), jobs);
  t.same(
    surplus.map(({ metadata }) => metadata.name),
    ["a"],
  );
});
