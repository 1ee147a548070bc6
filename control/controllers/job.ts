// Runs the pods of Jobs to their end, and counts each exactly once: a pod keeps a finalizer until the status has it.
// What is to be done is decided in job-plan.ts, what the status says in job-status.ts; here are the effects.

import { isNotFound, JOBS, PODS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type Job, keyOf, type Pod, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import { Freshness, STALE_RETRY_MS } from "./freshness.js";
import { failuresBefore, indexOf } from "./job-indexes.js";
import {
  type Backoff,
  backoffLeft,
  deadlineLeft,
  failRest,
  isFinished,
  isPodFailed,
  isTracked,
  nextBackoff,
  planPods,
  type Survey,
  surveyJob,
  TRACKING,
  type Verdict,
  verdictOf,
} from "./job-plan.js";
import { podOfJob } from "./job-pod.js";
import {
  finishedStatus,
  type Status,
  statusWithCounted,
  statusWithUncounted,
  suspension,
  withCondition,
} from "./job-status.js";
import { deleteIfPresent, gatherTime, isNamespaceTerminating, messageOf, namespaceOf } from "./objects.js";
import { claim, controllerOf, indexByController, indexBySelector, ownersOf } from "./owners.js";
import { isPodReady, isPodTerminal } from "./pod-state.js";
import { onChange, type Reconciler } from "./reconcile.js";
import { timestamp } from "./time.js";

const MANAGER = "kubernetes.io/job-controller";
const BY_JOB = "kubeplumb:tracked-by-job";
const NAME_LABEL = "batch.kubernetes.io/job-name";

/** Pods that still carry the finalizer, by the Job that has made them, whether that is there or not. */
function jobsOfTracked(pod: Stored<Pod>): string[] {
  if (!isTracked(pod)) return [];
  const owner = controllerOf(pod);
  const name = owner ? owner.kind === "Job" && owner.name : pod.metadata.labels?.[NAME_LABEL];
  return name ? [`${pod.metadata.namespace ?? ""}/${name}`] : [];
}

export class JobController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #jobs: Informer<Job>;
  readonly #pods: Informer<Pod>;
  readonly #jobWrites: Freshness<Job>;
  readonly #podWrites: Freshness<Pod>;
  readonly #backoffs = new Map<string, Backoff>();
  readonly #sizes = new Map<string, number>();
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#recorder = context.events.recorder("job-controller");
    this.#jobs = context.informers.get(JOBS);
    this.#pods = context.informers.get(PODS);
    indexByController(this.#pods);
    indexBySelector(this.#jobs, (job) => job.spec?.selector?.matchLabels ?? {});
    this.#pods.addIndex(BY_JOB, jobsOfTracked);
    this.#jobWrites = new Freshness(this.#jobs, context.now);
    this.#podWrites = new Freshness(this.#pods, context.now);
    this.#queue = queue;
  }

  watch(): void {
    this.#jobs.subscribe(onChange((job) => this.#queue.add(keyOf(job))));
    this.#pods.subscribe({
      ...onChange((pod) => this.#podChanged(pod)),
      update: (old, now) => {
        if (controllerOf(old)?.uid !== controllerOf(now)?.uid) this.#podChanged(old);
        this.#podChanged(now);
      },
    });
  }

  #podChanged(pod: Stored<Pod>): void {
    const keys = new Set(jobsOfTracked(pod));
    for (const job of ownersOf(pod, "Job", this.#jobs, (job) => job.spec?.selector)) keys.add(keyOf(job));
    for (const key of keys) this.#queue.addAfter(key, gatherTime(this.#sizes.get(key) ?? 0));
  }

  async reconcile(key: string): Promise<void> {
    const job = this.#jobs.get(key);
    await this.#freeForeign(key, job);
    if (!job || isFinished(job) || (job.spec?.managedBy ?? MANAGER) !== MANAGER) {
      this.#forget(key);
      return;
    }
    // Acting on caches that lack our own last writes would count pods twice, or make them twice.
    if (!this.#jobWrites.isFresh(key) || !this.#podWrites.isFresh(key)) {
      this.#queue.addAfter(key, STALE_RETRY_MS);
      return;
    }
    const pods = await claim({
      client: this.#context.client,
      ownerResource: JOBS,
      owner: job,
      selector: job.spec?.selector,
      resource: PODS,
      informer: this.#pods,
    });
    this.#sizes.set(key, pods.length);
    await this.#sync(key, job, pods);
  }

  #forget(key: string): void {
    this.#backoffs.delete(key);
    this.#sizes.delete(key);
    this.#jobWrites.forget(key);
    this.#podWrites.forget(key);
  }

  /** Pods of a Job that is gone, or was replaced, or that have been orphaned: nobody will count them. */
  async #freeForeign(key: string, job: Stored<Job> | undefined): Promise<void> {
    const foreign = this.#pods.byIndex(BY_JOB, key).filter((pod) => {
      const owner = controllerOf(pod);
      return !job || isFinished(job) || (owner ? owner.uid !== job.metadata.uid : false);
    });
    await Promise.all(foreign.map((pod) => this.#track(key, pod, false)));
  }

  async #sync(key: string, job: Stored<Job>, pods: readonly Stored<Pod>[]): Promise<void> {
    const ms = this.#context.now();
    const now = timestamp(ms);
    const started = this.#begin(job, now);
    const survey = surveyJob(started, pods);
    const backoff = nextBackoff(this.#backoffs.get(key), survey, ms);
    const verdict = verdictOf(started, survey, ms);
    const wanted = !verdict && !job.spec?.suspend && !job.metadata.deletionTimestamp;
    // Adopted ones: from now on they are to be counted.
    const untracked = wanted ? survey.active.filter((pod) => !isTracked(pod)) : [];
    await Promise.all(untracked.map((pod) => this.#track(key, pod, true)));
    const counts = { active: survey.active.length, ready: survey.ready, terminating: survey.terminating };
    let failed: unknown;
    try {
      if (job.metadata.deletionTimestamp) {
        // The garbage collector ends the pods; here they are only let go of.
      } else if (verdict) await this.#deleteAll(key, job, survey.active, counts, false);
      else await this.#manage(key, started, survey, { backoff, counts, pods, ms });
    } catch (error) {
      failed = error;
    }
    const counted = verdict?.type === "FailureTarget" ? failRest(survey, job, pods) : survey;
    await this.#count(key, job, started, { survey: counted, pods, counts, verdict, now });
    // Only now, so that a status that could not be written does not lose failures.
    this.#backoffs.set(key, backoff);
    const left = deadlineLeft(started, ms);
    if (!verdict && left !== undefined) this.#queue.addAfter(key, left + 1);
    if (failed !== undefined) throw failed;
  }

  /** Start time and suspension: what the status says before anything else is looked at. */
  #begin(job: Stored<Job>, now: string): Stored<Job> {
    const change = suspension(job);
    const status: Status = { ...job.status };
    if (status.startTime === undefined && !job.spec?.suspend) status.startTime = now;
    if (change) {
      const { event: _, ...condition } = change;
      status.conditions = withCondition(status.conditions, { type: "Suspended", ...condition }, now);
      if (change.status === "False") status.startTime = now;
    }
    return { ...job, status };
  }

  async #manage(
    key: string,
    job: Stored<Job>,
    survey: Survey,
    state: { backoff: Backoff; counts: Counts; pods: readonly Stored<Pod>[]; ms: number },
  ): Promise<void> {
    const { backoff, counts, pods, ms } = state;
    const plan = planPods(job, survey);
    if (plan.delete.length > 0) return await this.#deleteAll(key, job, plan.delete, counts, true);
    if (plan.create === 0) return;
    const wait = backoffLeft(backoff, ms);
    if (wait > 0) {
      this.#queue.addAfter(key, wait);
      return;
    }
    const failures = failuresByIndex(job, pods);
    const make = Array.from({ length: plan.create }, (_, i) => {
      const index = plan.indexes[i];
      return podOfJob(job, index, index === undefined ? 0 : (failures.get(index) ?? 0));
    });
    // Slow start: one, two, four … at once, so that a template which is refused does not cause a storm.
    for (let batch = 1, at = 0; at < make.length; at += batch, batch *= 2) {
      const results = await Promise.allSettled(
        make.slice(at, at + batch).map((pod) => this.#createOne(key, job, pod)),
      );
      for (const result of results) {
        if (result.status === "rejected") throw result.reason;
        counts.active++;
      }
    }
  }

  async #createOne(key: string, job: Stored<Job>, pod: Pod): Promise<void> {
    try {
      const created = await this.#context.client.create(PODS, pod, namespaceOf(job));
      this.#podWrites.wrote(key, created);
      this.#recorder.event(job, "Normal", "SuccessfulCreate", `Created pod: ${created.metadata.name}`);
    } catch (error) {
      if (!isNamespaceTerminating(error))
        this.#recorder.event(job, "Warning", "FailedCreate", `Error creating: ${messageOf(error)}`);
      throw error;
    }
  }

  /** `freely`: they are not wanted any more, which is no failure of theirs; so they are not counted. */
  async #deleteAll(
    key: string,
    job: Stored<Job>,
    pods: readonly Stored<Pod>[],
    counts: Counts,
    freely: boolean,
  ): Promise<void> {
    const results = await Promise.allSettled(
      pods.map(async (pod) => {
        if (freely) await this.#track(key, pod, false);
        const deleted = await deleteIfPresent(this.#context.client, PODS, pod);
        this.#podWrites.deleted(key, pod);
        counts.active--;
        if (isPodReady(pod)) counts.ready--;
        // One that has no host yet is gone at once.
        if (pod.spec?.nodeName) counts.terminating++;
        if (deleted)
          this.#recorder.event(job, "Normal", "SuccessfulDelete", `Deleted pod: ${pod.metadata.name}`);
      }),
    );
    const refused = results.find((result) => result.status === "rejected");
    if (!refused) return;
    this.#recorder.event(job, "Warning", "FailedDelete", `Error deleting: ${messageOf(refused.reason)}`);
    throw refused.reason;
  }

  /** Notes what has ended, lets go of those pods, moves them into the counters, and ends the Job when it is over. */
  async #count(
    key: string,
    job: Stored<Job>,
    started: Stored<Job>,
    state: {
      survey: Survey;
      pods: readonly Stored<Pod>[];
      counts: Counts;
      verdict: Verdict | undefined;
      now: string;
    },
  ): Promise<void> {
    const { survey, pods, counts, verdict, now } = state;
    let status = statusWithUncounted(started, survey, counts, verdict, now);
    const first = await this.#write(key, job, status);
    const change = suspension(job);
    if (change) this.#recorder.event(job, "Normal", change.event, change.message);
    const noted = new Set(Object.values(status.uncountedTerminatedPods ?? {}).flat());
    const over = verdict !== undefined || job.metadata.deletionTimestamp !== undefined;
    const ignored = new Set(
      survey.newFailed
        .filter(({ failure }) => failure.action === "Ignore")
        .map(({ pod }) => pod.metadata.uid),
    );
    const released = pods.filter((pod) => {
      if (!isTracked(pod)) return false;
      const { uid } = pod.metadata;
      const ended = isPodTerminal(pod) || isPodFailed(job, pod);
      const counted = noted.has(uid) || ignored.has(uid) || pod.status?.phase === "Succeeded";
      return over ? !ended || counted : ended && counted;
    });
    await Promise.all(released.map((pod) => this.#track(key, pod, false)));
    const gone = new Set(released.map((pod) => pod.metadata.uid));
    const held = new Set(
      pods.filter((pod) => isTracked(pod) && !gone.has(pod.metadata.uid)).map((pod) => pod.metadata.uid),
    );
    status = statusWithCounted(status, held);
    const counted = Object.keys(status.uncountedTerminatedPods ?? {}).length === 0;
    const ends = verdict && counted && counts.active === 0 && counts.terminating === 0;
    if (verdict && ends) status = finishedStatus(status, verdict, now);
    await this.#write(key, first, status);
    if (verdict && ends) this.#tellEnd(first, verdict);
  }

  #tellEnd(job: Stored<Job>, { type, reason, message }: Verdict): void {
    if (type === "SuccessCriteriaMet") this.#recorder.event(job, "Normal", "Completed", "Job completed");
    else this.#recorder.event(job, "Warning", reason, message);
  }

  async #write(key: string, job: Stored<Job>, status: Status): Promise<Stored<Job>> {
    if (semanticallyEqual(status, job.status)) return job;
    const draft = { ...job, status } as Job;
    const options = { ...namespaceOf(job), subresource: "status" as const };
    const written = await this.#context.client.update(JOBS, draft, options);
    this.#jobWrites.wrote(key, written);
    return written;
  }

  /** Puts the finalizer on, or takes it off. */
  async #track(key: string, pod: Stored<Pod>, tracked: boolean): Promise<void> {
    const { name, uid } = pod.metadata;
    const field = tracked ? "finalizers" : "$deleteFromPrimitiveList/finalizers";
    const patch = { metadata: { uid, [field]: [TRACKING] } };
    try {
      const written = await this.#context.client.patch(PODS, name, "strategic", patch, namespaceOf(pod));
      this.#podWrites.wrote(key, written);
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }
}

interface Counts {
  active: number;
  ready: number;
  terminating: number;
}

/** How often each index has failed so far: the failed pods carry it. */
function failuresByIndex(job: Stored<Job>, pods: readonly Stored<Pod>[]): Map<number, number> {
  const failures = new Map<number, number>();
  for (const pod of pods) {
    const index = indexOf(pod);
    if (index === undefined || !isPodFailed(job, pod)) continue;
    failures.set(index, Math.max(failures.get(index) ?? 0, failuresBefore(pod) + 1));
  }
  return failures;
}
