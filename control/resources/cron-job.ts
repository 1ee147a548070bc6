// CronJob: the declaration of the kind to the API engine.

import { CRON_JOBS } from "../../common/client.js";
import type { CronJob, Stored } from "../../common/k8s.js";
import { formatLabelSelector } from "../../common/selector.js";
import { isTimeZone, namesTimeZone, parseSchedule } from "./cron-schedule.js";
import { age } from "./duration.js";
import { defaultJobParts } from "./job.js";
import { ageColumn, column, containerCells, nameColumn, specAndStatus, wideColumn } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { invalid, oneOf, required, same } from "./validation/field.js";
import { validateJobTemplate } from "./validation/job.js";
import { dns1123Subdomain } from "./validation/meta.js";
import { nonNegative } from "./validation/values.js";

/** The Jobs' names add a hyphen and ten digits, and a pod's name, which is a label too, five letters more. */
const MAX_NAME = 52;

function setDefaults(draft: CronJob): void {
  draft.spec ??= {} as NonNullable<CronJob["spec"]>;
  const { spec } = draft;
  spec.concurrencyPolicy ||= "Allow";
  spec.suspend ??= false;
  spec.successfulJobsHistoryLimit ??= 3;
  spec.failedJobsHistoryLimit ??= 1;
  spec.jobTemplate ??= {};
  spec.jobTemplate.spec ??= {} as NonNullable<typeof spec.jobTemplate.spec>;
  // A Job gets its own defaults when it is made of the template.
  defaultJobParts(spec.jobTemplate.spec);
}

function validateSchedule(cronJob: CronJob, old?: Stored<CronJob>): FieldError[] {
  const { schedule = "", timeZone } = cronJob.spec ?? {};
  if (schedule === "") return [required("spec.schedule")];
  const errors: FieldError[] = [];
  try {
    parseSchedule(schedule);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    errors.push(invalid("spec.schedule", schedule, error.message));
  }
  if (namesTimeZone(schedule) && timeZone !== undefined)
    errors.push(
      invalid("spec.schedule", schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"),
    );
  else if (namesTimeZone(schedule) && schedule !== old?.spec?.schedule)
    errors.push(
      invalid("spec.schedule", schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
    );
  return errors;
}

function validateTimeZone(timeZone: string | undefined): FieldError[] {
  if (timeZone === undefined) return [];
  const wrong = (detail: string) => [invalid("spec.timeZone", timeZone, detail)];
  if (timeZone === "") return wrong("timeZone must be nil or non-empty string");
  if (timeZone.toLowerCase() === "local")
    return wrong("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
  return isTimeZone(timeZone) ? [] : wrong(`unknown time zone ${timeZone}`);
}

function validate(cronJob: CronJob, old?: Stored<CronJob>): FieldError[] {
  const { spec } = cronJob;
  const errors = [
    ...validateSchedule(cronJob, old),
    ...nonNegative("spec.startingDeadlineSeconds", spec?.startingDeadlineSeconds),
  ];
  if (!old || !same(spec?.timeZone, old.spec?.timeZone)) errors.push(...validateTimeZone(spec?.timeZone));
  return [
    ...errors,
    ...oneOf("spec.concurrencyPolicy", spec?.concurrencyPolicy, ["Allow", "Forbid", "Replace"]),
    ...validateJobTemplate(spec?.jobTemplate?.spec, "spec.jobTemplate.spec"),
    ...nonNegative("spec.successfulJobsHistoryLimit", spec?.successfulJobsHistoryLimit),
    ...nonNegative("spec.failedJobsHistoryLimit", spec?.failedJobsHistoryLimit),
  ];
}

const containers = (c: Stored<CronJob>) =>
  containerCells(c.spec?.jobTemplate.spec?.template.spec?.containers);

export const cronJobDefinition: ResourceDefinition<CronJob> = {
  resource: CRON_JOBS,
  singular: "cronjob",
  shortNames: ["cj"],
  categories: ["all"],
  schema: "io.k8s.api.batch.v1.CronJob",
  hasStatus: true,
  columns: [
    nameColumn(),
    column("Schedule", (c) => c.spec?.schedule ?? ""),
    column("Timezone", (c) => c.spec?.timeZone ?? "<none>"),
    column("Suspend", (c) => (c.spec?.suspend ? "True" : "False")),
    column("Active", (c) => c.status?.active?.length ?? 0, { type: "integer" }),
    column("Last Schedule", (c, now) =>
      c.status?.lastScheduleTime ? age(c.status.lastScheduleTime, now) : "<none>",
    ),
    ageColumn(),
    wideColumn("Containers", (c) => containers(c).names),
    wideColumn("Images", (c) => containers(c).images),
    wideColumn("Selector", (c) => formatLabelSelector(c.spec?.jobTemplate.spec?.selector)),
  ],
  setDefaults,
  ...specAndStatus<CronJob>(),
  validate,
  validateName: (name) =>
    name.length > MAX_NAME ? [`must be no more than ${MAX_NAME} characters`] : dns1123Subdomain(name),
};
