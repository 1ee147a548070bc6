// Validation of a Job's spec, of a Job or of a CronJob's template. Field paths and texts are those of the real server
// (pkg/apis/batch/validation). Knows nothing of what a controller does with it.

import type { PodFailurePolicyRule } from "kubernetes-types/batch/v1.js";
import type { Job, JobSpec, PodSpec, PodTemplateSpec, Stored } from "../../../common/k8s.js";
import { matchLabels, selectorOf } from "../../../common/selector.js";
import type { FieldError } from "../types.js";
import { duplicate, immutable, invalid, notSupported, oneOf, required, same, tooMany } from "./field.js";
import { dns1123Label } from "./meta.js";
import { validatePodTemplate } from "./pod.js";
import { labelSelector, nonNegative, qualified } from "./values.js";

const MAX_INDEXED_PARALLELISM = 100_000;
const MAX_RULES = 20;
const MAX_VALUES = 255;
const ACTIONS = ["Count", "FailIndex", "FailJob", "Ignore"];
const NEEDS_INDEXED = "requires indexed completion mode";
const COUNTS = [
  "parallelism",
  "completions",
  "activeDeadlineSeconds",
  "backoffLimit",
  "ttlSecondsAfterFinished",
  "backoffLimitPerIndex",
  "maxFailedIndexes",
] as const;

/** Everything but the selector, which a template of a CronJob does not have. */
function validateJobSpec(spec: JobSpec | undefined, path: string): FieldError[] {
  const errors = COUNTS.flatMap((name) => nonNegative(`${path}.${name}`, spec?.[name]));
  if (!spec) return [...errors, required(`${path}.template.spec`)];
  errors.push(...validateCompletionMode(spec, path));
  if (spec.managedBy !== undefined) {
    errors.push(...qualified(`${path}.managedBy`, spec.managedBy));
    if (!spec.managedBy.includes("/"))
      errors.push(
        invalid(
          `${path}.managedBy`,
          spec.managedBy,
          'must be a domain-prefixed path (such as "acme.io/foo")',
        ),
      );
  }
  errors.push(
    ...validatePerIndex(spec, path),
    ...validateFailurePolicy(spec, path),
    ...validateSuccessPolicy(spec, path),
  );
  if (spec.podReplacementPolicy !== undefined) {
    const supported = spec.podFailurePolicy ? ["Failed"] : ["Failed", "TerminatingOrFailed"];
    errors.push(...oneOf(`${path}.podReplacementPolicy`, spec.podReplacementPolicy, supported));
  }
  errors.push(...validatePodTemplate(spec.template, `${path}.template`));
  const at = `${path}.template.spec.restartPolicy`;
  const policy = spec.template?.spec?.restartPolicy;
  if (policy === "Always") errors.push(required(at, 'valid values: "OnFailure", "Never"'));
  else if (policy && spec.podFailurePolicy && policy !== "Never")
    errors.push(invalid(at, policy, 'only "Never" is supported when podFailurePolicy is specified'));
  return errors;
}

function validateCompletionMode(spec: JobSpec, path: string): FieldError[] {
  const at = `${path}.completionMode`;
  // The template of a CronJob may leave it to its Jobs.
  const { completionMode } = spec;
  const errors = completionMode === undefined ? [] : oneOf(at, completionMode, ["Indexed", "NonIndexed"]);
  if (spec.completionMode !== "Indexed") return errors;
  if (spec.completions === undefined)
    errors.push(required(`${path}.completions`, `when completion mode is Indexed`));
  if ((spec.parallelism ?? 0) > MAX_INDEXED_PARALLELISM)
    errors.push(
      invalid(
        `${path}.parallelism`,
        spec.parallelism,
        `must be less than or equal to ${MAX_INDEXED_PARALLELISM} when completion mode is Indexed`,
      ),
    );
  return errors;
}

function validatePerIndex(spec: JobSpec, path: string): FieldError[] {
  const errors: FieldError[] = [];
  const { backoffLimitPerIndex, maxFailedIndexes, completionMode, completions = 0 } = spec;
  if (backoffLimitPerIndex !== undefined && completionMode !== "Indexed")
    errors.push(invalid(`${path}.backoffLimitPerIndex`, backoffLimitPerIndex, NEEDS_INDEXED));
  if (maxFailedIndexes === undefined) return errors;
  const at = `${path}.maxFailedIndexes`;
  if (backoffLimitPerIndex === undefined)
    errors.push(required(`${path}.backoffLimitPerIndex`, "when maxFailedIndexes is specified"));
  if (maxFailedIndexes > completions)
    errors.push(invalid(at, maxFailedIndexes, "must be less than or equal to completions"));
  return errors;
}

function validateFailurePolicy(spec: JobSpec, path: string): FieldError[] {
  if (!spec.podFailurePolicy) return [];
  const { rules = [] } = spec.podFailurePolicy;
  const at = `${path}.podFailurePolicy.rules`;
  const errors = rules.length > MAX_RULES ? [tooMany(at, rules.length, MAX_RULES)] : [];
  const { containers = [], initContainers = [] } = spec.template?.spec ?? {};
  const names = new Set([...containers, ...initContainers].map(({ name }) => name));
  for (const [i, rule] of rules.entries()) errors.push(...validateRule(rule, spec, `${at}[${i}]`, names));
  return errors;
}

function validateRule(
  rule: PodFailurePolicyRule,
  spec: JobSpec,
  at: string,
  containers: ReadonlySet<string>,
): FieldError[] {
  const errors = oneOf(`${at}.action`, rule.action, ACTIONS);
  if (rule.action === "FailIndex" && spec.backoffLimitPerIndex === undefined)
    errors.push(invalid(`${at}.action`, rule.action, "requires the backoffLimitPerIndex to be set"));
  const { onExitCodes, onPodConditions = [] } = rule;
  if (onExitCodes && onPodConditions.length > 0)
    errors.push(invalid(at, "", "specifying both OnExitCodes and OnPodConditions is not supported"));
  if (!onExitCodes && onPodConditions.length === 0)
    errors.push(invalid(at, "", "specifying one of OnExitCodes and OnPodConditions is required"));
  if (onExitCodes) errors.push(...validateExitCodes(onExitCodes, `${at}.onExitCodes`, containers));
  if (onPodConditions.length > MAX_RULES)
    errors.push(tooMany(`${at}.onPodConditions`, onPodConditions.length, MAX_RULES));
  for (const [i, { type, status }] of onPodConditions.entries()) {
    const where = `${at}.onPodConditions[${i}]`;
    errors.push(...qualified(`${where}.type`, type ?? ""));
    errors.push(...oneOf(`${where}.status`, status, ["False", "True", "Unknown"]));
  }
  return errors;
}

function validateExitCodes(
  { operator, values = [], containerName }: NonNullable<PodFailurePolicyRule["onExitCodes"]>,
  at: string,
  containers: ReadonlySet<string>,
): FieldError[] {
  const errors = oneOf(`${at}.operator`, operator, ["In", "NotIn"]);
  if (containerName !== undefined && !containers.has(containerName))
    errors.push(
      invalid(
        `${at}.containerName`,
        containerName,
        "must be one of the container or initContainer names in the pod template",
      ),
    );
  if (values.length === 0) errors.push(invalid(`${at}.values`, values, "at least one value is required"));
  else if (values.length > MAX_VALUES) errors.push(tooMany(`${at}.values`, values.length, MAX_VALUES));
  const seen = new Set<number>();
  for (const [i, value] of values.entries()) {
    if (operator === "In" && value === 0)
      errors.push(invalid(`${at}.values[${i}]`, value, "must not be 0 for the In operator"));
    if (seen.has(value)) errors.push(duplicate(`${at}.values[${i}]`, value));
    seen.add(value);
  }
  if (values.some((value, i) => i > 0 && value < (values[i - 1] ?? value)))
    errors.push(invalid(`${at}.values`, values, "must be ordered"));
  return errors;
}

function validateSuccessPolicy(spec: JobSpec, path: string): FieldError[] {
  const { successPolicy, completionMode, completions = 0 } = spec;
  if (!successPolicy) return [];
  const at = `${path}.successPolicy`;
  if (completionMode !== "Indexed") return [invalid(at, successPolicy, NEEDS_INDEXED)];
  const { rules = [] } = successPolicy;
  const errors: FieldError[] = [];
  if (rules.length === 0)
    errors.push(
      required(`${at}.rules`, "at least one rules must be specified when the successPolicy is specified"),
    );
  if (rules.length > MAX_RULES) errors.push(tooMany(`${at}.rules`, rules.length, MAX_RULES));
  for (const [i, { succeededCount, succeededIndexes }] of rules.entries()) {
    const where = `${at}.rules[${i}]`;
    if (succeededCount === undefined && succeededIndexes === undefined)
      errors.push(required(where, "at least one of succeededCount or succeededIndexes must be specified"));
    let total = completions;
    if (succeededIndexes !== undefined) {
      const counted = countIndexes(succeededIndexes, completions);
      if (typeof counted === "string")
        errors.push(
          invalid(
            `${where}.succeededIndexes`,
            succeededIndexes,
            `error parsing succeededIndexes: ${counted}`,
          ),
        );
      else total = counted;
    }
    errors.push(...nonNegative(`${where}.succeededCount`, succeededCount));
    if ((succeededCount ?? 0) > total)
      errors.push(
        invalid(
          `${where}.succeededCount`,
          succeededCount,
          succeededIndexes === undefined
            ? `must be less than or equal to ${completions} (the number of specified completions)`
            : `must be less than or equal to ${total} (the number of indexes in the specified succeededIndexes field)`,
        ),
      );
  }
  return errors;
}

/** How many indexes "1,3-5" names; else what is wrong with it. */
function countIndexes(text: string, completions: number): number | string {
  let total = 0;
  let last = -1;
  for (const part of text.split(",")) {
    const [, from, to = from] = /^(\d+)(?:-(\d+))?$/.exec(part) ?? [];
    if (from === undefined) return `cannot convert string to integer for index: ${JSON.stringify(part)}`;
    const [x, y] = [Number(from), Number(to)];
    if (Math.max(x, y) >= completions) return `too large index: ${JSON.stringify(part)}`;
    if (x <= last || y < x) return `non-increasing order, previous: ${last}, current: ${x}`;
    total += y - x + 1;
    last = y;
  }
  return total;
}

/** What the server itself puts on a Job's pods: they select them, and whoever sets them must have them right. */
function validateGenerated(job: Job): FieldError[] {
  const { spec, metadata } = job;
  if (spec?.manualSelector || !spec?.selector) return [];
  const labels = spec.template?.metadata?.labels ?? {};
  const [uid = "", name = ""] = [metadata?.uid, metadata?.name];
  const expected: [string, string][] = [
    ["controller-uid", uid],
    ["job-name", name],
    ["batch.kubernetes.io/controller-uid", uid],
    ["batch.kubernetes.io/job-name", name],
  ];
  const errors: FieldError[] = [];
  for (const [key, value] of expected) {
    const at = `spec.template.metadata.labels[${key}]`;
    if (labels[key] === undefined) errors.push(required(at, `must be '${value}'`));
    else if (labels[key] !== value) errors.push(invalid(at, labels, `must be '${value}'`));
  }
  const own = { "batch.kubernetes.io/controller-uid": uid };
  if (!same(spec.selector, { matchLabels: own }))
    errors.push(invalid("spec.selector", spec.selector, "`selector` not auto-generated"));
  return errors;
}

export function validateJob(job: Job, old?: Stored<Job>): FieldError[] {
  const { spec, status } = job;
  const errors = old ? [] : validateGenerated(job);
  for (const count of ["active", "succeeded", "failed"] as const)
    errors.push(...nonNegative(`status.${count}`, status?.[count]));
  errors.push(...validateJobSpec(spec, "spec"));
  if (!spec?.selector) errors.push(required("spec.selector"));
  else {
    const wrong = labelSelector("spec.selector", spec.selector);
    const labels = spec.template?.metadata?.labels ?? {};
    if (wrong.length === 0 && !matchLabels(selectorOf(spec.selector), labels))
      wrong.push(
        invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"),
      );
    errors.push(...wrong);
  }
  if (!old && spec?.completionMode === "Indexed" && (spec.completions ?? 0) > 0) {
    const last = `${job.metadata?.name}-${(spec.completions ?? 0) - 1}`;
    if (dns1123Label(last).length > 0)
      errors.push(
        invalid(
          "metadata.name",
          job.metadata?.name,
          `will not able to create pod with invalid DNS label: ${last}`,
        ),
      );
  }
  return old ? [...errors, ...validateUpdate(spec, old)] : errors;
}

/** What of a template says where its pods may run, and what they are called by. */
function withoutDirectives(template: PodTemplateSpec | undefined): PodTemplateSpec {
  const { labels: _, annotations: __, ...metadata } = template?.metadata ?? {};
  const spec = { ...template?.spec } as PodSpec;
  for (const name of ["affinity", "nodeSelector", "tolerations", "schedulingGates"] as const)
    delete spec[name];
  return { metadata, spec };
}

function validateUpdate(spec: JobSpec | undefined, { spec: old, status }: Stored<Job>): FieldError[] {
  const errors = validateNewCompletions(spec, old);
  // A queue in front of Jobs holds them suspended and may decide where they run.
  const free = old?.suspend && status?.startTime === undefined;
  const shown = free ? withoutDirectives : (template: PodTemplateSpec | undefined) => template;
  if (!same(shown(spec?.template), shown(old?.template)))
    errors.push(invalid("spec.template", spec?.template, "field is immutable"));
  errors.push(...immutable("spec.selector", spec?.selector, old?.selector));
  for (const name of [
    "completionMode",
    "podFailurePolicy",
    "backoffLimitPerIndex",
    "managedBy",
    "successPolicy",
  ] as const)
    errors.push(...immutable(`spec.${name}`, spec?.[name], old?.[name]));
  return errors;
}

/** An Indexed Job may grow and shrink, with its parallelism (elastic Indexed Jobs). */
function validateNewCompletions(spec: JobSpec | undefined, old: JobSpec | undefined): FieldError[] {
  if (spec?.completions === old?.completions) return [];
  if (spec?.completionMode !== "Indexed" || spec.completions === undefined)
    return immutable("spec.completions", spec?.completions, old?.completions);
  if (spec.completions === spec.parallelism) return [];
  return [invalid("spec.completions", spec.completions, "can only be modified in tandem with parallelism")];
}

/** Of a CronJob's template: what the Job itself will be given. */
export function validateJobTemplate(spec: JobSpec | undefined, path: string): FieldError[] {
  const errors = validateJobSpec(spec, path);
  if (spec?.selector)
    errors.push(invalid(`${path}.selector`, spec.selector, "`selector` will be auto-generated"));
  if (spec?.manualSelector)
    errors.push(notSupported(`${path}.manualSelector`, spec.manualSelector, ["nil", "false"]));
  return errors;
}
