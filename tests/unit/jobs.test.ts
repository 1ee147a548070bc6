// The kinds Job and CronJob without a cluster: defaults, validation texts, columns, and schedules.

import t from "tap";
import type { CronJob, JobSpec } from "../../common/k8s.js";
import { isTimeZone, parseSchedule } from "../../control/resources/cron-schedule.js";
import { jobSpec, newJob, template } from "./helpers/job-objects.js";
import { cells, created, NOW, problems, updated } from "./helpers/kinds.js";

t.test("Job: what the server fills in", async (t) => {
  const { spec, metadata } = created<{ spec: JobSpec }>("Job", {
    ...jobSpec(),
    metadata: { name: "pi", namespace: "ns", uid: "u1" },
  } as never);
  t.match(spec, {
    completions: 1,
    parallelism: 1,
    backoffLimit: 6,
    completionMode: "NonIndexed",
    suspend: false,
    manualSelector: false,
    podReplacementPolicy: "TerminatingOrFailed",
  });
  t.same(spec.selector, { matchLabels: { "batch.kubernetes.io/controller-uid": "u1" } });
  const labels = {
    "batch.kubernetes.io/controller-uid": "u1",
    "batch.kubernetes.io/job-name": "pi",
    "controller-uid": "u1",
    "job-name": "pi",
  };
  t.same(spec.template.metadata?.labels, labels);
  t.same(metadata.labels, labels);
  t.equal(metadata.generation, 1);
  t.equal(newJob({ completions: 3 }).spec.parallelism, 1);
  t.equal(newJob({ parallelism: 3 }).spec.completions, undefined, "a work queue");
  t.equal(newJob({ backoffLimitPerIndex: 1 }).spec.backoffLimit, 2 ** 31 - 1);
  const rules = [{ action: "Ignore", onPodConditions: [{ type: "DisruptionTarget" }] }];
  const withPolicy = newJob({ podFailurePolicy: { rules } });
  t.equal(withPolicy.spec.podReplacementPolicy, "Failed");
  t.match(withPolicy.spec.podFailurePolicy?.rules[0]?.onPodConditions, [{ status: "True" }]);
});

t.test("Job: what is refused, in the real server's words", async (t) => {
  const wrong = (more: object) => problems("Job", jobSpec(more));
  t.same(wrong({}), []);
  t.same(problems("Job", { spec: { template: template({ restartPolicy: undefined }) } }), [
    'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"',
  ]);
  t.same(wrong({ parallelism: -1, backoffLimit: -2, ttlSecondsAfterFinished: -3 }), [
    "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
    "spec.backoffLimit: Invalid value: -2: must be greater than or equal to 0",
    "spec.ttlSecondsAfterFinished: Invalid value: -3: must be greater than or equal to 0",
  ]);
  t.same(wrong({ completionMode: "Odd" }), [
    'spec.completionMode: Unsupported value: "Odd": supported values: "Indexed", "NonIndexed"',
  ]);
  t.same(wrong({ completionMode: "Indexed", parallelism: 2 }), [
    "spec.completions: Required value: when completion mode is Indexed",
  ]);
  t.same(wrong({ backoffLimitPerIndex: 1 }), [
    "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
  ]);
  t.same(wrong({ manualSelector: true }), ["spec.selector: Required value"]);
  const uid = wrong({ selector: { matchLabels: { app: "x" } } });
  t.match(uid[0], /^spec.selector: Invalid value: .*: `selector` not auto-generated$/);
  t.same(
    wrong({
      podFailurePolicy: {
        rules: [
          { action: "Stop", onExitCodes: { operator: "In", values: [3, 0, 3], containerName: "d" } },
          { action: "FailIndex" },
        ],
      },
    }),
    [
      'spec.podFailurePolicy.rules[0].action: Unsupported value: "Stop": supported values: "Count", "FailIndex", "FailJob", "Ignore"',
      'spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: "d": must be one of the container or initContainer names in the pod template',
      "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
      "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 3",
      "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,0,3]: must be ordered",
      'spec.podFailurePolicy.rules[1].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set',
      'spec.podFailurePolicy.rules[1]: Invalid value: "": specifying one of OnExitCodes and OnPodConditions is required',
    ],
  );
  t.match(wrong({ successPolicy: { rules: [{ succeededCount: 1 }] } }), [
    /requires indexed completion mode$/,
  ]);
  const indexed = { completionMode: "Indexed", completions: 3 };
  t.same(wrong({ ...indexed, successPolicy: { rules: [{ succeededIndexes: "2-3" }] } }), [
    'spec.successPolicy.rules[0].succeededIndexes: Invalid value: "2-3": error parsing succeededIndexes: too large index: "2-3"',
  ]);
  t.same(wrong({ ...indexed, successPolicy: { rules: [{ succeededIndexes: "0,1", succeededCount: 3 }] } }), [
    "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
  ]);
});

t.test("Job: what an update may change", async (t) => {
  const old = newJob({ completions: 2 });
  const change = (set: (spec: JobSpec) => void, from = old) =>
    updated("Job", from, (draft) => set(draft.spec)).problems;
  t.same(
    change((spec) => (spec.parallelism = 5)),
    [],
  );
  t.same(
    change((spec) => (spec.suspend = true)),
    [],
  );
  t.same(
    change((spec) => (spec.completions = 5)),
    ["spec.completions: Invalid value: 5: field is immutable"],
  );
  t.match(
    change((spec) => {
      for (const one of spec.template.spec?.containers ?? []) one.image = "other";
    }),
    [/^spec.template: Invalid value: .*: field is immutable$/],
  );
  const moved = (spec: JobSpec) => {
    Object.assign(spec.template.spec ?? {}, { nodeSelector: { disk: "ssd" } });
  };
  t.match(change(moved), [/^spec.template: Invalid value: .*: field is immutable$/]);
  t.same(
    change(moved, newJob({ suspend: true })),
    [],
    "a Job that has not begun may still be directed elsewhere",
  );
  const elastic = newJob({ completionMode: "Indexed", completions: 2, parallelism: 2 });
  t.same(
    change((spec) => {
      spec.completions = spec.parallelism = 4;
    }, elastic),
    [],
  );
  t.same(
    change((spec) => (spec.completions = 4), elastic),
    ["spec.completions: Invalid value: 4: can only be modified in tandem with parallelism"],
  );
});

t.test("columns", async (t) => {
  const at = (seconds: number) => new Date(NOW - seconds * 1000).toISOString();
  const status = { startTime: at(90), completionTime: at(60), succeeded: 1 };
  const complete = { ...status, conditions: [{ type: "Complete", status: "True" }] };
  t.match(cells("Job", { ...jobSpec({ completions: 1 }), status: complete }), {
    Status: "Complete",
    Completions: "1/1",
    Duration: "30s",
  });
  t.match(cells("Job", { ...jobSpec({ parallelism: 3 }), status: { startTime: at(5) } }), {
    Status: "Running",
    Completions: "0/1 of 3",
    Duration: "5s",
  });
  t.match(
    cells("CronJob", {
      spec: { schedule: "@hourly", suspend: true, jobTemplate: jobSpec() },
      status: { active: [{}], lastScheduleTime: at(120) },
    }),
    { Schedule: "@hourly", Timezone: "<none>", Suspend: "True", Active: 1, "Last Schedule": "2m" },
  );
});

t.test("CronJob: defaults and validation", async (t) => {
  const spec = (more: object = {}) => ({
    spec: { schedule: "*/5 * * * *", jobTemplate: jobSpec(), ...more },
  });
  const { spec: made } = created<{ spec: NonNullable<CronJob["spec"]> }>("CronJob", spec() as never);
  t.match(made, {
    concurrencyPolicy: "Allow",
    suspend: false,
    successfulJobsHistoryLimit: 3,
    failedJobsHistoryLimit: 1,
  });
  const { template: _, ...own } = made.jobTemplate.spec ?? {};
  t.same(own, {}, "a Job's own defaults are not for its template");
  const wrong = (more: object) => problems("CronJob", spec(more));
  t.same(wrong({}), []);
  t.same(wrong({ schedule: "" }), ["spec.schedule: Required value"]);
  t.same(wrong({ schedule: "TZ=UTC 0 * * * *" }), [
    'spec.schedule: Invalid value: "TZ=UTC 0 * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead',
  ]);
  t.same(wrong({ timeZone: "Middle/Earth" }), [
    'spec.timeZone: Invalid value: "Middle/Earth": unknown time zone Middle/Earth',
  ]);
  t.same(wrong({ timeZone: "" }), [
    'spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string',
  ]);
  t.same(wrong({ concurrencyPolicy: "Queue" }), [
    'spec.concurrencyPolicy: Unsupported value: "Queue": supported values: "Allow", "Forbid", "Replace"',
  ]);
  t.same(wrong({ jobTemplate: { spec: { template: template({ restartPolicy: "Always" }) } } }), [
    'spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"',
  ]);
});

t.test("schedules: robfig/cron's notation and no other", async (t) => {
  const utc = (text: string) => Date.parse(`${text}Z`);
  const next = (schedule: string, from: string, zone = "UTC") => {
    const at = parseSchedule(schedule, zone).next(utc(from));
    return at === undefined ? undefined : new Date(at).toISOString().slice(0, 19);
  };
  t.equal(next("*/5 * * * *", "2026-01-01T00:00:00"), "2026-01-01T00:05:00");
  t.equal(next("30 9-17/4 * * mon-fri", "2026-01-02T17:31:00"), "2026-01-05T09:30:00");
  t.equal(next("0 0 13 * FRI", "2026-01-01T00:00:00"), "2026-01-02T00:00:00", "either day will do");
  t.equal(next("0 0 */10 * 1", "2026-01-02T00:00:00"), "2026-01-05T00:00:00", "a step is no star");
  t.equal(next("0 0 ? JAN *", "2026-01-31T00:00:00"), "2027-01-01T00:00:00");
  t.equal(next("@hourly", "2026-01-01T00:10:00"), "2026-01-01T01:00:00");
  t.equal(next("@every 1h30m", "2026-01-01T00:10:00.500"), "2026-01-01T01:40:00");
  t.equal(next("0 9 * * *", "2026-07-01T00:00:00", "Europe/Berlin"), "2026-07-01T07:00:00");
  t.equal(next("0 0 30 2 *", "2026-01-01T00:00:00"), undefined);
  const refused: [string, string][] = [
    ["* * * *", "expected exactly 5 fields, found 4: [* * * *]"],
    ["0 * * * * *", "expected exactly 5 fields, found 6: [0 * * * * *]"],
    ["60 * * * *", "end of range (60) above maximum (59): 60"],
    ["* * 0 * *", "beginning of range (0) below minimum (1): 0"],
    ["* * * * 7", "end of range (7) above maximum (6): 7"],
    ["5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"],
    ["*/0 * * * *", "step of range should be a positive number: */0"],
    ["L * * * *", 'failed to parse int from L: strconv.Atoi: parsing "L": invalid syntax'],
    ["* * * * 1#2", 'failed to parse int from 1#2: strconv.Atoi: parsing "1#2": invalid syntax'],
    ["@reboot", "unrecognized descriptor: @reboot"],
    ["@every soon", 'failed to parse duration @every soon: time: invalid duration "soon"'],
  ];
  for (const [text, message] of refused) t.throws(() => parseSchedule(text), { message }, text);
  t.ok(isTimeZone("Etc/UTC"));
  t.notOk(isTimeZone("+02:00"));
});
