// Deployment: the declaration of the kind to the API engine.

import { DEPLOYMENTS } from "../../common/client.js";
import type { Deployment, Stored } from "../../common/k8s.js";
import { formatLabelSelector } from "../../common/selector.js";
import {
  ageColumn,
  column,
  containerCells,
  nameColumn,
  nextGeneration,
  specAndStatus,
  wideColumn,
} from "./object.js";
import { defaultPodSpec } from "./pod-defaults.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { forbidden, invalid, oneOf, required, same } from "./validation/field.js";
import { intOrPercent, isNone, nonNegative, notMoreThanAll } from "./validation/values.js";
import { validateReplicaCounts, validateWorkload } from "./validation/workload.js";

function setDefaults(draft: Deployment): void {
  draft.spec ??= {} as NonNullable<Deployment["spec"]>;
  const { spec } = draft;
  spec.replicas ??= 1;
  spec.strategy ??= {};
  spec.strategy.type ||= "RollingUpdate";
  if (spec.strategy.type === "RollingUpdate") {
    spec.strategy.rollingUpdate ??= {};
    spec.strategy.rollingUpdate.maxUnavailable ??= "25%";
    spec.strategy.rollingUpdate.maxSurge ??= "25%";
  }
  spec.revisionHistoryLimit ??= 10;
  spec.progressDeadlineSeconds ??= 600;
  spec.template ??= {};
  spec.template.spec ??= { containers: [] };
  defaultPodSpec(spec.template.spec);
}

function validateStrategy({ spec }: Deployment): FieldError[] {
  const path = "spec.strategy";
  const strategy = spec?.strategy;
  const errors = oneOf(`${path}.type`, strategy?.type, ["Recreate", "RollingUpdate"]);
  if (strategy?.type === "Recreate" && strategy.rollingUpdate) {
    const text = "may not be specified when strategy `type` is 'Recreate'";
    errors.push(forbidden(`${path}.rollingUpdate`, text));
  }
  if (strategy?.type !== "RollingUpdate") return errors;
  const rolling = strategy.rollingUpdate;
  if (!rolling)
    return [...errors, required(`${path}.rollingUpdate`, "this should be defaulted and never be nil")];
  const { maxUnavailable = 0, maxSurge = 0 } = rolling;
  const at = `${path}.rollingUpdate`;
  errors.push(
    ...intOrPercent(`${at}.maxUnavailable`, maxUnavailable),
    ...intOrPercent(`${at}.maxSurge`, maxSurge),
  );
  if (isNone(maxUnavailable) && isNone(maxSurge)) {
    errors.push(invalid(`${at}.maxUnavailable`, maxUnavailable, "may not be 0 when `maxSurge` is 0"));
  }
  return [...errors, ...notMoreThanAll(`${at}.maxUnavailable`, maxUnavailable)];
}

function validate(deployment: Deployment, old?: Stored<Deployment>): FieldError[] {
  const { spec, status } = deployment;
  const errors = [
    ...validateWorkload(spec, old?.spec),
    ...validateStrategy(deployment),
    ...nonNegative("spec.revisionHistoryLimit", spec?.revisionHistoryLimit),
    ...nonNegative("spec.progressDeadlineSeconds", spec?.progressDeadlineSeconds),
    ...validateReplicaCounts(status, {
      updatedReplicas: status?.updatedReplicas,
      readyReplicas: status?.readyReplicas,
      availableReplicas: status?.availableReplicas,
    }),
  ];
  const deadline = spec?.progressDeadlineSeconds;
  if (deadline !== undefined && deadline <= (spec?.minReadySeconds ?? 0)) {
    errors.push(invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds"));
  }
  return errors;
}

const hooks = specAndStatus<Deployment>();

export const deploymentDefinition: ResourceDefinition<Deployment> = {
  resource: DEPLOYMENTS,
  singular: "deployment",
  shortNames: ["deploy"],
  categories: ["all"],
  schema: "io.k8s.api.apps.v1.Deployment",
  hasStatus: true,
  statusCarriesAnnotations: true,
  columns: [
    nameColumn(),
    column("Ready", (d) => `${d.status?.readyReplicas ?? 0}/${d.spec?.replicas ?? 0}`),
    column("Up-to-date", (d) => d.status?.updatedReplicas ?? 0, { type: "integer" }),
    column("Available", (d) => d.status?.availableReplicas ?? 0, { type: "integer" }),
    ageColumn(),
    wideColumn("Containers", (d) => containerCells(d.spec?.template.spec?.containers).names),
    wideColumn("Images", (d) => containerCells(d.spec?.template.spec?.containers).images),
    wideColumn("Selector", (d) => formatLabelSelector(d.spec?.selector)),
  ],
  scale: {
    get: (d) => ({
      specReplicas: d.spec?.replicas ?? 0,
      statusReplicas: d.status?.replicas ?? 0,
      selector: formatLabelSelector(d.spec?.selector),
    }),
    set(draft, replicas) {
      if (draft.spec) draft.spec.replicas = replicas;
    },
  },
  setDefaults,
  prepareForCreate: hooks.prepareForCreate,
  prepareForUpdate(draft, old, context) {
    hooks.prepareForUpdate(draft, old, context);
    // Annotations too: the controller copies them to its ReplicaSets and must be seen to have done so.
    const changed =
      !same(draft.spec, old.spec) || !same(draft.metadata?.annotations, old.metadata.annotations);
    nextGeneration(draft, old, changed);
  },
  validate,
};
