// Job: the declaration of the kind to the API engine.

import { JOBS } from "../../common/client.js";
import type { Job, JobSpec, Stored } from "../../common/k8s.js";
import { formatLabelSelector } from "../../common/selector.js";
import { humanDuration } from "./duration.js";
import { ageColumn, column, containerCells, nameColumn, specAndStatus, wideColumn } from "./object.js";
import { defaultPodSpec } from "./pod-defaults.js";
import type { ResourceDefinition } from "./types.js";
import { validateJob } from "./validation/job.js";

const INT32_MAX = 2 ** 31 - 1;

/** Defaults of a Job's spec, and of a CronJob's template. */
function defaultJobSpec(spec: JobSpec): void {
  if (spec.completions === undefined && spec.parallelism === undefined) spec.completions = 1;
  spec.parallelism ??= 1;
  spec.backoffLimit ??= spec.backoffLimitPerIndex === undefined ? 6 : INT32_MAX;
  spec.completionMode ||= "NonIndexed";
  spec.suspend ??= false;
  spec.manualSelector ??= false;
  spec.podReplacementPolicy ||= spec.podFailurePolicy ? "Failed" : "TerminatingOrFailed";
  defaultJobParts(spec);
}

/** Defaults of what a Job's spec holds, whether of a Job or of a template. */
export function defaultJobParts(spec: JobSpec): void {
  for (const rule of spec.podFailurePolicy?.rules ?? [])
    for (const pattern of rule.onPodConditions ?? []) pattern.status ||= "True";
  spec.template ??= {};
  spec.template.spec ??= { containers: [] };
  defaultPodSpec(spec.template.spec);
}

/** The selector and the labels of the pods, from the Job's own uid and name; a value that is there stays. */
function generateSelector({ spec, metadata }: Job): void {
  if (!spec || spec.manualSelector) return;
  const [uid = "", name = ""] = [metadata?.uid, metadata?.name];
  spec.template.metadata ??= {};
  spec.template.metadata.labels = {
    "batch.kubernetes.io/controller-uid": uid,
    "batch.kubernetes.io/job-name": name,
    "controller-uid": uid,
    "job-name": name,
    ...spec.template.metadata.labels,
  };
  spec.selector ??= {};
  spec.selector.matchLabels = {
    "batch.kubernetes.io/controller-uid": uid,
    ...spec.selector.matchLabels,
  };
}

/** The condition of that type, when it is true. */
export function jobCondition(job: Pick<Job, "status">, type: string) {
  return job.status?.conditions?.find((one) => one.type === type && one.status === "True");
}

function statusText(job: Stored<Job>): string {
  for (const type of ["Complete", "Failed"]) if (jobCondition(job, type)) return type;
  if (job.metadata.deletionTimestamp) return "Terminating";
  for (const type of ["Suspended", "FailureTarget", "SuccessCriteriaMet"])
    if (jobCondition(job, type)) return type;
  return "Running";
}

function completionsText({ spec, status }: Stored<Job>): string {
  const succeeded = status?.succeeded ?? 0;
  if (spec?.completions !== undefined) return `${succeeded}/${spec.completions}`;
  const parallelism = spec?.parallelism ?? 0;
  return parallelism > 1 ? `${succeeded}/1 of ${parallelism}` : `${succeeded}/1`;
}

function durationText({ status }: Stored<Job>, now: number): string {
  if (!status?.startTime) return "";
  const end = status.completionTime ? Date.parse(status.completionTime) : now;
  return humanDuration(end - Date.parse(status.startTime));
}

const hooks = specAndStatus<Job>();

export const jobDefinition: ResourceDefinition<Job> = {
  resource: JOBS,
  singular: "job",
  categories: ["all"],
  schema: "io.k8s.api.batch.v1.Job",
  hasStatus: true,
  columns: [
    nameColumn(),
    column("Status", statusText),
    column("Completions", completionsText),
    column("Duration", durationText),
    ageColumn(),
    wideColumn("Containers", (job) => containerCells(job.spec?.template.spec?.containers).names),
    wideColumn("Images", (job) => containerCells(job.spec?.template.spec?.containers).images),
    wideColumn("Selector", (job) => formatLabelSelector(job.spec?.selector)),
  ],
  selectableFields: (job) => ({ "status.successful": String(job.status?.succeeded ?? 0) }),
  setDefaults(draft) {
    draft.spec ??= {} as JobSpec;
    defaultJobSpec(draft.spec);
  },
  prepareForCreate(draft, context) {
    hooks.prepareForCreate(draft, context);
    generateSelector(draft);
    // The real server does this when it next reads the object.
    const labels = draft.spec?.template.metadata?.labels;
    if (labels && Object.keys(draft.metadata?.labels ?? {}).length === 0)
      draft.metadata = { ...draft.metadata, labels: { ...labels } };
  },
  prepareForUpdate: hooks.prepareForUpdate,
  validate: validateJob,
};
