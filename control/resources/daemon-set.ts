// DaemonSet: the declaration of the kind to the API engine.

import { DAEMON_SETS } from "../../common/client.js";
import type { DaemonSet } from "../../common/k8s.js";
import { formatLabelSelector } from "../../common/selector.js";
import { ageColumn, column, containerCells, nameColumn, specAndStatus, wideColumn } from "./object.js";
import { defaultPodSpec } from "./pod-defaults.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { immutable, invalid, notSupported, required, same } from "./validation/field.js";
import { validatePodTemplate } from "./validation/pod.js";
import { intOrPercent, isNone, nonNegative, notMoreThanAll } from "./validation/values.js";
import { validateKeptTemplate, validateSelection } from "./validation/workload.js";

/** Counts the templates there have been: what apps/v1 keeps of the field templateGeneration of older versions. */
export const TEMPLATE_GENERATION = "deprecated.daemonset.template.generation";

function setDefaults(draft: DaemonSet): void {
  draft.spec ??= {} as NonNullable<DaemonSet["spec"]>;
  const { spec } = draft;
  spec.updateStrategy ??= {};
  spec.updateStrategy.type ||= "RollingUpdate";
  if (spec.updateStrategy.type === "RollingUpdate") {
    spec.updateStrategy.rollingUpdate ??= {};
    spec.updateStrategy.rollingUpdate.maxUnavailable ??= 1;
    spec.updateStrategy.rollingUpdate.maxSurge ??= 0;
  }
  spec.revisionHistoryLimit ??= 10;
  spec.template ??= {};
  spec.template.spec ??= { containers: [] };
  defaultPodSpec(spec.template.spec);
}

function setTemplateGeneration(draft: DaemonSet, generation: number): void {
  const annotations = { ...draft.metadata?.annotations, [TEMPLATE_GENERATION]: String(generation) };
  draft.metadata = { ...draft.metadata, annotations };
}

function templateGeneration({ metadata }: DaemonSet): number {
  return Number.parseInt(metadata?.annotations?.[TEMPLATE_GENERATION] ?? "", 10) || 0;
}

function validateStrategy({ spec }: DaemonSet): FieldError[] {
  const path = "spec.updateStrategy";
  const strategy = spec?.updateStrategy;
  if (strategy?.type === "OnDelete") return [];
  if (strategy?.type !== "RollingUpdate")
    return [notSupported(path, strategy, ["RollingUpdate", "OnDelete"])];
  const at = `${path}.rollingUpdate`;
  if (!strategy.rollingUpdate) return [required(at)];
  const { maxUnavailable = 0, maxSurge = 0 } = strategy.rollingUpdate;
  const errors = [
    ...intOrPercent(`${at}.maxUnavailable`, maxUnavailable),
    ...intOrPercent(`${at}.maxSurge`, maxSurge),
    ...notMoreThanAll(`${at}.maxUnavailable`, maxUnavailable),
    ...notMoreThanAll(`${at}.maxSurge`, maxSurge),
  ];
  if (!isNone(maxUnavailable) && !isNone(maxSurge)) {
    errors.push(invalid(`${at}.maxSurge`, maxSurge, "may not be set when maxUnavailable is non-zero"));
  } else if (isNone(maxUnavailable) && isNone(maxSurge)) {
    errors.push(required(`${at}.maxUnavailable`, "cannot be 0 when maxSurge is 0"));
  }
  return errors;
}

const COUNTERS = [
  "currentNumberScheduled",
  "numberMisscheduled",
  "desiredNumberScheduled",
  "numberReady",
  "observedGeneration",
  "updatedNumberScheduled",
  "numberAvailable",
  "numberUnavailable",
  "collisionCount",
] as const;

const hooks = specAndStatus<DaemonSet>();

export const daemonSetDefinition: ResourceDefinition<DaemonSet> = {
  resource: DAEMON_SETS,
  singular: "daemonset",
  shortNames: ["ds"],
  categories: ["all"],
  schema: "io.k8s.api.apps.v1.DaemonSet",
  hasStatus: true,
  columns: [
    nameColumn(),
    column("Desired", (ds) => ds.status?.desiredNumberScheduled ?? 0, { type: "integer" }),
    column("Current", (ds) => ds.status?.currentNumberScheduled ?? 0, { type: "integer" }),
    column("Ready", (ds) => ds.status?.numberReady ?? 0, { type: "integer" }),
    column("Up-to-date", (ds) => ds.status?.updatedNumberScheduled ?? 0, { type: "integer" }),
    column("Available", (ds) => ds.status?.numberAvailable ?? 0, { type: "integer" }),
    column("Node Selector", (ds) =>
      formatLabelSelector({ matchLabels: ds.spec?.template.spec?.nodeSelector ?? {} }),
    ),
    ageColumn(),
    wideColumn("Containers", (ds) => containerCells(ds.spec?.template.spec?.containers).names),
    wideColumn("Images", (ds) => containerCells(ds.spec?.template.spec?.containers).images),
    wideColumn("Selector", (ds) => formatLabelSelector(ds.spec?.selector)),
  ],
  setDefaults,
  prepareForCreate(draft, context) {
    hooks.prepareForCreate(draft, context);
    setTemplateGeneration(draft, Math.max(1, templateGeneration(draft)));
    const none = {
      currentNumberScheduled: 0,
      desiredNumberScheduled: 0,
      numberMisscheduled: 0,
      numberReady: 0,
    };
    Object.assign(draft, { status: none });
  },
  prepareForUpdate(draft, old, context) {
    hooks.prepareForUpdate(draft, old, context);
    const before = templateGeneration(old as DaemonSet);
    setTemplateGeneration(draft, same(draft.spec?.template, old.spec?.template) ? before : before + 1);
  },
  validate(ds, old) {
    const { spec, status } = ds;
    return [
      ...validateSelection(spec?.selector, spec?.template, "daemonset"),
      ...validatePodTemplate(spec?.template, "spec.template"),
      ...validateKeptTemplate(spec?.template, "DaemonSet"),
      ...nonNegative("spec.minReadySeconds", spec?.minReadySeconds),
      ...validateStrategy(ds),
      ...nonNegative("spec.revisionHistoryLimit", spec?.revisionHistoryLimit),
      ...(old ? immutable("spec.selector", spec?.selector, old.spec?.selector) : []),
      ...COUNTERS.flatMap((name) => nonNegative(`status.${name}`, status?.[name])),
    ];
  },
};
