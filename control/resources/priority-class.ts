// PriorityClass: the declaration of the kind to the API engine, the two that every cluster has, and which one a pod has.

import { PRIORITY_CLASSES } from "../../common/client.js";
import type { PriorityClass } from "../../common/k8s.js";
import { ageColumn, column, nameColumn } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { forbidden, immutable, oneOf } from "./validation/field.js";

const HIGHEST_OF_USERS = 1_000_000_000;
const SYSTEM_PREFIX = "system-";
const DEFAULT_POLICY = "PreemptLowerPriority";

export const SYSTEM_PRIORITY_CLASSES: readonly PriorityClass[] = [
  systemClass("system-node-critical", 2_000_001_000, "For pods without which their node does not work."),
  systemClass("system-cluster-critical", 2_000_000_000, "For pods without which the cluster does not work."),
];

function systemClass(name: string, value: number, description: string): PriorityClass {
  return {
    apiVersion: "scheduling.k8s.io/v1",
    kind: "PriorityClass",
    metadata: { name },
    value,
    preemptionPolicy: DEFAULT_POLICY,
    description,
  };
}

export function isSystemPriorityClass(name: string): boolean {
  return SYSTEM_PRIORITY_CLASSES.some(({ metadata }) => metadata?.name === name);
}

/** What a class makes of a pod; `name` is "" when there is no class. */
export interface Priority {
  name: string;
  value: number;
  preemptionPolicy: string;
}

type Class = Pick<PriorityClass, "globalDefault" | "metadata" | "preemptionPolicy" | "value">;

/** @param name "" for a pod that names none: then the default class, of several the lowest. Undefined: no such class. */
export function priorityClassOf(name: string, classes: readonly Class[]): Priority | undefined {
  const found =
    name === ""
      ? classes.filter(({ globalDefault }) => globalDefault).sort((a, b) => a.value - b.value)[0]
      : [...classes, ...SYSTEM_PRIORITY_CLASSES].find(({ metadata }) => metadata?.name === name);
  if (!found) return name === "" ? { name, value: 0, preemptionPolicy: DEFAULT_POLICY } : undefined;
  const { metadata, value, preemptionPolicy = DEFAULT_POLICY } = found;
  return { name: metadata?.name ?? "", value, preemptionPolicy };
}

function systemProblem({ metadata, value, globalDefault }: PriorityClass): string | undefined {
  const name = metadata?.name ?? "";
  const known = SYSTEM_PRIORITY_CLASSES.find((one) => one.metadata?.name === name);
  if (!known) return `${name} is not a known system priority class`;
  if (known.value !== value) return `value of ${name} PriorityClass must be ${known.value}`;
  return globalDefault ? `globalDefault of ${name} PriorityClass must be false` : undefined;
}

function validateSystem(draft: PriorityClass): FieldError[] {
  if (draft.metadata?.name?.startsWith(SYSTEM_PREFIX)) {
    const problem = systemProblem(draft);
    const text = `priority class names with '${SYSTEM_PREFIX}' prefix are reserved for system use only. error: ${problem}`;
    return problem ? [forbidden("metadata.name", text)] : [];
  }
  if (draft.value <= HIGHEST_OF_USERS) return [];
  return [forbidden("value", `maximum allowed value of a user defined priority is ${HIGHEST_OF_USERS}`)];
}

export const priorityClassDefinition: ResourceDefinition<PriorityClass> = {
  resource: PRIORITY_CLASSES,
  singular: "priorityclass",
  shortNames: ["pc"],
  schema: "io.k8s.api.scheduling.v1.PriorityClass",
  hasStatus: false,
  columns: [
    nameColumn(),
    column("Value", ({ value }) => value, { type: "integer" }),
    column("Global-Default", ({ globalDefault }) => globalDefault ?? false, { type: "boolean" }),
    ageColumn(),
    column("PreemptionPolicy", ({ preemptionPolicy }) => preemptionPolicy ?? DEFAULT_POLICY),
  ],
  setDefaults(draft) {
    draft.value ??= 0;
    draft.preemptionPolicy ||= DEFAULT_POLICY;
  },
  prepareForCreate(draft) {
    draft.metadata = { ...draft.metadata, generation: 1 };
  },
  prepareForUpdate(draft, old) {
    draft.metadata = { ...draft.metadata, generation: old.metadata.generation };
  },
  validate(draft, old) {
    const { value, preemptionPolicy } = draft;
    return [
      ...validateSystem(draft),
      ...oneOf("preemptionPolicy", preemptionPolicy, ["Never", DEFAULT_POLICY]),
      ...(old && old.value !== value ? [forbidden("value", "may not be changed in an update.")] : []),
      ...(old ? immutable("preemptionPolicy", preemptionPolicy, old.preemptionPolicy) : []),
    ];
  },
};
