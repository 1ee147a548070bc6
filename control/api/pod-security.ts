// The Pod Security Standards: what a namespace's labels ask of its pods, and what of it a pod does not keep. Pure; the
// rules are in pod-security-rules.ts.

import type { PodSpec } from "kubernetes-types/core/v1.js";
import type { ObjectMeta } from "kubernetes-types/meta/v1.js";
import type { FieldError } from "../resources/types.js";
import { invalid } from "../resources/validation/field.js";
import { RULES, type Rule, type Violation } from "./pod-security-rules.js";

const LEVELS = ["privileged", "baseline", "restricted"] as const;
type Level = (typeof LEVELS)[number];

/** A level as of a minor version of Kubernetes; Infinity is the latest. */
export interface Standard {
  level: Level;
  minor: number;
}

/** What is done about a pod that does not keep the standard. */
const MODES = ["enforce", "audit", "warn"] as const;
export type Policy = Readonly<Record<(typeof MODES)[number], Standard>>;

/** A pod, or a template of pods. */
export interface Checked {
  metadata?: ObjectMeta;
  spec?: PodSpec;
}

const ANYTHING: Standard = { level: "privileged", minor: Infinity };
const NO_POLICY: Policy = { enforce: ANYTHING, audit: ANYTHING, warn: ANYTHING };
const LABELS = MODES.map((mode) => {
  const level = `pod-security.kubernetes.io/${mode}`;
  return { mode, level, version: `${level}-version` };
});
const VERSION = /^v1\.(0|[1-9]\d*)$/;

/** What a namespace with these labels asks for; what cannot be read is enforced as restricted and warned of as nothing. */
export function policyOf(labels: Readonly<Record<string, string>> = {}): {
  policy: Policy;
  errors: readonly FieldError[];
} {
  const asked = LABELS.filter(({ level, version }) => level in labels || version in labels);
  if (asked.length === 0) return { policy: NO_POLICY, errors: [] };
  const policy = { ...NO_POLICY };
  const errors: FieldError[] = [];
  for (const { mode, ...label } of asked) {
    const level = labels[label.level] ?? "privileged";
    const version = labels[label.version] ?? "latest";
    const known = LEVELS.find((one) => one === level);
    const minor = VERSION.exec(version)?.[1];
    if (!known)
      errors.push(invalid(`metadata.labels[${label.level}]`, level, `must be one of ${LEVELS.join(", ")}`));
    if (minor === undefined && version !== "latest")
      errors.push(invalid(`metadata.labels[${label.version}]`, version, 'must be "latest" or "v1.x"'));
    policy[mode] = {
      level: known ?? (mode === "enforce" ? "restricted" : "privileged"),
      minor: minor === undefined ? Infinity : Number(minor),
    };
  }
  return { policy, errors };
}

/** "restricted:latest" */
export function standardText({ level, minor }: Standard): string {
  return `${level}:${minor === Infinity ? "latest" : `v1.${minor}`}`;
}

/** Whether pods that keep `before` may not keep `now`. */
export function asksMore(now: Standard, before: Standard): boolean {
  if (now.level === "privileged") return false;
  return now.minor !== before.minor || LEVELS.indexOf(now.level) > LEVELS.indexOf(before.level);
}

/** The rules of a standard, each in its newest form of that version. */
function rulesOf({ level, minor }: Standard): Rule[] {
  const known = RULES.filter((rule) => rule.since <= minor);
  const asked = known.filter((rule) => level === "restricted" || rule.level === "baseline");
  const overridden = new Set(asked.map(({ overrides }) => overrides));
  const newest = new Map(asked.map((rule) => [rule.id, rule]));
  return [...newest.values()].filter(({ id }) => !overridden.has(id));
}

/** What of the standard the pod does not keep; empty when all is well. */
export function violations(
  standard: Standard,
  { metadata, spec = { containers: [] } }: Checked,
): Violation[] {
  if (standard.level === "privileged") return [];
  const isWindows = spec.os?.name === "windows";
  return rulesOf(standard)
    .filter(({ linuxOnlySince = Infinity }) => !isWindows || standard.minor < linuxOnlySince)
    .flatMap((rule) => rule.check(spec, metadata?.annotations ?? {}) ?? []);
}

/** As one line: `privileged (container "a" …), hostPort (…)`. */
export function violationText(found: readonly Violation[]): string {
  return found.map(({ reason, detail }) => `${reason} (${detail})`).join(", ");
}
