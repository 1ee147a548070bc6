// Makes the Jobs of CronJobs when they are due, keeps account of those that run, and clears away old ones. What is due
// is decided in cronjob-plan.ts; here are the effects.

import { CRON_JOBS, isAlreadyExists, isNotFound, JOBS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type CronJob, type Job, keyOf, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { type CronSchedule, isTimeZone, namesTimeZone, parseSchedule } from "../resources/cron-schedule.js";
import { jobCondition } from "../resources/job.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import { dueTime, jobName, jobOfCronJob, surplusHistory, untilNext } from "./cronjob-plan.js";
import type { EventRecorder, EventType } from "./events.js";
import { Freshness, STALE_RETRY_MS } from "./freshness.js";
import { isFinished } from "./job-plan.js";
import { deleteIfPresent, isNamespaceTerminating, messageOf, namespaceOf } from "./objects.js";
import { controlledBy, controllerOf, indexByController } from "./owners.js";
import { onChange, type Reconciler } from "./reconcile.js";
import { parseTime, timestamp } from "./time.js";

/** A timer may fire a little early; the real controller adds the same. */
const SLACK_MS = 100;

type Status = NonNullable<CronJob["status"]>;

export class CronJobController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #cronJobs: Informer<CronJob>;
  readonly #jobs: Informer<Job>;
  readonly #jobWrites: Freshness<Job>;
  readonly #ownWrites: Freshness<CronJob>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#recorder = context.events.recorder("cronjob-controller");
    this.#cronJobs = context.informers.get(CRON_JOBS);
    this.#jobs = context.informers.get(JOBS);
    indexByController(this.#jobs);
    this.#jobWrites = new Freshness(this.#jobs, context.now);
    this.#ownWrites = new Freshness(this.#cronJobs, context.now);
    this.#queue = queue;
  }

  watch(): void {
    this.#cronJobs.subscribe(onChange((cronJob) => this.#queue.add(keyOf(cronJob))));
    this.#jobs.subscribe(
      onChange((job) => {
        const owner = controllerOf(job);
        if (owner?.kind === "CronJob") this.#queue.add(`${job.metadata.namespace}/${owner.name}`);
      }),
    );
  }

  async reconcile(key: string): Promise<void> {
    const cronJob = this.#cronJobs.get(key);
    if (!cronJob) {
      this.#jobWrites.forget(key);
      this.#ownWrites.forget(key);
      return;
    }
    if (!this.#jobWrites.isFresh(key) || !this.#ownWrites.isFresh(key)) {
      this.#queue.addAfter(key, STALE_RETRY_MS);
      return;
    }
    const jobs = controlledBy(this.#jobs, cronJob.metadata.uid);
    const status = this.#account(cronJob, jobs);
    await this.#clear(key, cronJob, jobs, status);
    try {
      await this.#start(key, cronJob, status);
    } finally {
      await this.#write(key, cronJob, status);
    }
  }

  #tell(cronJob: Stored<CronJob>, type: EventType, reason: string, message: string): void {
    this.#recorder.event(cronJob, type, reason, message);
  }

  /** The status as the Jobs are now: which ones run, and when one last came to a good end. */
  #account(cronJob: Stored<CronJob>, jobs: readonly Stored<Job>[]): Status {
    const status: Status = { ...cronJob.status };
    let active = [...(status.active ?? [])];
    const byUid = new Map(jobs.map((job) => [job.metadata.uid, job]));
    for (const job of jobs) {
      const { uid, name } = job.metadata;
      const known = active.some((reference) => reference.uid === uid);
      if (!known && !isFinished(job) && job.metadata.deletionTimestamp === undefined) {
        const text = `Saw a job that the controller did not create or forgot: ${name}`;
        this.#tell(cronJob, "Warning", "UnexpectedJob", text);
      } else if (known && isFinished(job)) {
        const how = jobCondition(job, "Complete") ? "Complete" : "Failed";
        this.#tell(cronJob, "Normal", "SawCompletedJob", `Saw completed job: ${name}, condition: ${how}`);
        active = active.filter((reference) => reference.uid !== uid);
      }
      const end = jobCondition(job, "Complete") ? job.status?.completionTime : undefined;
      if (end && (parseTime(end) ?? 0) > (parseTime(status.lastSuccessfulTime) ?? 0))
        status.lastSuccessfulTime = end;
    }
    for (const { uid = "", name } of active)
      if (!byUid.has(uid)) this.#tell(cronJob, "Normal", "MissingJob", `Active job went missing: ${name}`);
    status.active = active.filter(({ uid = "" }) => byUid.has(uid));
    return status;
  }

  /** Removes finished Jobs that the history limits do not keep. */
  async #clear(key: string, cronJob: Stored<CronJob>, jobs: readonly Stored<Job>[], status: Status) {
    for (const job of surplusHistory(cronJob, jobs)) await this.#delete(key, cronJob, job, status);
  }

  async #delete(key: string, cronJob: Stored<CronJob>, job: Stored<Job>, status: Status): Promise<void> {
    const { name, uid } = job.metadata;
    if (job.metadata.deletionTimestamp) return;
    try {
      await deleteIfPresent(this.#context.client, JOBS, job, { propagationPolicy: "Background" });
    } catch (error) {
      this.#tell(cronJob, "Warning", "FailedDelete", `Deleted job: ${messageOf(error)}`);
      throw error;
    }
    this.#jobWrites.deleted(key, job);
    status.active = (status.active ?? []).filter((reference) => reference.uid !== uid);
    this.#tell(cronJob, "Normal", "SuccessfulDelete", `Deleted job ${name}`);
  }

  /** Makes the Job that is due, if one is, and comes back for the next. */
  async #start(key: string, cronJob: Stored<CronJob>, status: Status): Promise<void> {
    if (cronJob.metadata.deletionTimestamp) return;
    const schedule = this.#schedule(cronJob);
    if (!schedule || cronJob.spec?.suspend) return;
    const now = this.#context.now();
    const wait = untilNext(schedule, now);
    if (wait !== undefined) this.#queue.addAfter(key, wait + SLACK_MS);
    const due = dueTime(cronJob, schedule, now);
    if (due.tooMany)
      this.#tell(
        cronJob,
        "Warning",
        "TooManyMissedTimes",
        "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew",
      );
    if (due.at === undefined) return;
    const { startingDeadlineSeconds: deadline, concurrencyPolicy } = cronJob.spec ?? {};
    if (deadline !== undefined && due.at + deadline * 1000 < now) {
      const when = new Date(due.at).toUTCString().replace("GMT", "+0000");
      this.#tell(cronJob, "Warning", "MissSchedule", `Missed scheduled time to start a job: ${when}`);
      return;
    }
    if (parseTime(status.lastScheduleTime) === due.at) return;
    const active = status.active ?? [];
    if (active.some(({ name }) => name === jobName(cronJob, due.at ?? 0))) return;
    if (concurrencyPolicy === "Forbid" && active.length > 0) {
      const text = "Not starting job because prior execution is running and concurrency policy is Forbid";
      this.#tell(cronJob, "Normal", "JobAlreadyActive", text);
      return;
    }
    if (concurrencyPolicy === "Replace") {
      for (const { name } of active) {
        const job = this.#jobs.get(`${cronJob.metadata.namespace}/${name}`);
        if (job) await this.#delete(key, cronJob, job, status);
      }
    }
    await this.#create(key, cronJob, due.at, status);
  }

  /** Undefined when it cannot be followed; then that is told. */
  #schedule(cronJob: Stored<CronJob>): CronSchedule | undefined {
    const { schedule = "", timeZone } = cronJob.spec ?? {};
    if (timeZone !== undefined && !isTimeZone(timeZone)) {
      const text = `invalid timeZone: ${JSON.stringify(timeZone)}: unknown time zone ${timeZone}`;
      this.#tell(cronJob, "Warning", "UnknownTimeZone", text);
      return undefined;
    }
    if (namesTimeZone(schedule)) {
      const text = `CRON_TZ or TZ used in schedule ${JSON.stringify(schedule)} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details`;
      this.#tell(cronJob, "Warning", "UnsupportedSchedule", text);
    }
    try {
      return parseSchedule(schedule, timeZone);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      const text = `unparseable schedule: ${JSON.stringify(schedule)} : ${error.message}`;
      this.#tell(cronJob, "Warning", "UnparseableSchedule", text);
      return undefined;
    }
  }

  async #create(key: string, cronJob: Stored<CronJob>, at: number, status: Status): Promise<void> {
    const { client } = this.#context;
    let job: Stored<Job>;
    try {
      job = await client.create(JOBS, jobOfCronJob(cronJob, at), namespaceOf(cronJob));
      this.#tell(cronJob, "Normal", "SuccessfulCreate", `Created job ${job.metadata.name}`);
    } catch (error) {
      if (isNamespaceTerminating(error)) return;
      const present = isAlreadyExists(error) ? await this.#existing(cronJob, at) : undefined;
      if (!present) {
        this.#tell(cronJob, "Warning", "FailedCreate", `Error creating job: ${messageOf(error)}`);
        throw error;
      }
      job = present;
    }
    this.#jobWrites.wrote(key, job);
    status.lastScheduleTime = timestamp(at);
    if (isFinished(job)) return;
    const { name, namespace = "", uid, resourceVersion } = job.metadata;
    status.active = [
      ...(status.active ?? []).filter((reference) => reference.uid !== uid),
      { apiVersion: "batch/v1", kind: "Job", name, namespace, uid, resourceVersion },
    ];
  }

  /** The Job of that time, when it is ours: made before a status could be written. */
  async #existing(cronJob: Stored<CronJob>, at: number): Promise<Stored<Job> | undefined> {
    try {
      const { namespace } = cronJob.metadata;
      const job = await this.#context.client.get(JOBS, jobName(cronJob, at), namespace);
      return controllerOf(job)?.uid === cronJob.metadata.uid ? job : undefined;
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  async #write(key: string, cronJob: Stored<CronJob>, status: Status): Promise<void> {
    if (status.active?.length === 0) delete status.active;
    if (semanticallyEqual(status, cronJob.status)) return;
    const draft = { ...cronJob, status } as CronJob;
    const options = { ...namespaceOf(cronJob), subresource: "status" as const };
    this.#ownWrites.wrote(key, await this.#context.client.update(CRON_JOBS, draft, options));
  }
}
