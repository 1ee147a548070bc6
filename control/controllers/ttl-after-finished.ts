// Deletes Jobs ttlSecondsAfterFinished after their end. Knows Jobs.

import { JOBS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type Job, keyOf, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { jobCondition } from "../resources/job.js";
import type { ControllerContext } from "./context.js";
import { deleteIfPresent } from "./objects.js";
import { onSight, type Reconciler } from "./reconcile.js";
import { parseTime } from "./time.js";

/** When the Job's time is over, in milliseconds since the epoch; undefined when it has not ended or may stay. */
export function expiryOf(job: Stored<Job>): number | undefined {
  const seconds = job.spec?.ttlSecondsAfterFinished;
  const end = jobCondition(job, "Complete") ?? jobCondition(job, "Failed");
  const at = parseTime(end?.lastTransitionTime);
  return seconds === undefined || at === undefined ? undefined : at + seconds * 1000;
}

export class TtlAfterFinishedController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #jobs: Informer<Job>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#jobs = context.informers.get(JOBS);
    this.#queue = queue;
  }

  watch(): void {
    this.#jobs.subscribe(onSight((job) => expiryOf(job) !== undefined && this.#queue.add(keyOf(job))));
  }

  async reconcile(key: string): Promise<void> {
    const job = this.#jobs.get(key);
    const at = job && expiryOf(job);
    if (!job || at === undefined || job.metadata.deletionTimestamp) return;
    const left = at - this.#context.now();
    if (left > 0) this.#queue.addAfter(key, left);
    else await deleteIfPresent(this.#context.client, JOBS, job, { propagationPolicy: "Foreground" });
  }
}
