// ReplicationController: the declaration of the kind to the API engine.

import { REPLICATION_CONTROLLERS } from "../../common/client.js";
import type { LabelSelector, ReplicationController } from "../../common/k8s.js";
import { formatLabelSelector } from "../../common/selector.js";
import { ageColumn, column, containerCells, nameColumn, specAndStatus, wideColumn } from "./object.js";
import { defaultPodSpec } from "./pod-defaults.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { required } from "./validation/field.js";
import { validatePodTemplate } from "./validation/pod.js";
import { nonNegative } from "./validation/values.js";
import { validateKeptTemplate, validateReplicaCounts, validateSelection } from "./validation/workload.js";

function selectorOf({ spec }: Pick<ReplicationController, "spec">): LabelSelector {
  return spec?.selector ? { matchLabels: spec.selector } : {};
}

/** The template's labels are the selector, and the object's own labels, where those are missing. */
function setDefaults(draft: ReplicationController): void {
  draft.spec ??= {};
  const { spec } = draft;
  spec.replicas ??= 1;
  if (!spec.template) return;
  spec.template.spec ??= { containers: [] };
  defaultPodSpec(spec.template.spec);
  const { labels } = spec.template.metadata ?? {};
  if (!labels) return;
  if (isEmpty(spec.selector)) spec.selector = { ...labels };
  if (isEmpty(draft.metadata?.labels)) draft.metadata = { ...draft.metadata, labels: { ...labels } };
}

function isEmpty(map: object | undefined): boolean {
  return Object.keys(map ?? {}).length === 0;
}

function validateSpec(rc: ReplicationController): FieldError[] {
  const { minReadySeconds, replicas, selector, template } = rc.spec ?? {};
  return [
    ...nonNegative("spec.minReadySeconds", minReadySeconds),
    ...nonNegative("spec.replicas", replicas),
    ...(isEmpty(selector)
      ? [required("spec.selector")]
      : template
        ? validateSelection(selectorOf(rc), template, "replication controller")
        : []),
    ...(template ? validatePodTemplate(template, "spec.template") : [required("spec.template")]),
    ...validateKeptTemplate(template, "ReplicationController"),
  ];
}

const hooks = specAndStatus<ReplicationController>();

export const replicationControllerDefinition: ResourceDefinition<ReplicationController> = {
  resource: REPLICATION_CONTROLLERS,
  singular: "replicationcontroller",
  shortNames: ["rc"],
  categories: ["all"],
  schema: "io.k8s.api.core.v1.ReplicationController",
  hasStatus: true,
  columns: [
    nameColumn(),
    column("Desired", (rc) => rc.spec?.replicas ?? 0, { type: "integer" }),
    column("Current", (rc) => rc.status?.replicas ?? 0, { type: "integer" }),
    column("Ready", (rc) => rc.status?.readyReplicas ?? 0, { type: "integer" }),
    ageColumn(),
    wideColumn("Containers", (rc) => containerCells(rc.spec?.template?.spec?.containers).names),
    wideColumn("Images", (rc) => containerCells(rc.spec?.template?.spec?.containers).images),
    wideColumn("Selector", (rc) => formatLabelSelector(selectorOf(rc))),
  ],
  selectableFields: (rc) => ({ "status.replicas": String(rc.status?.replicas ?? 0) }),
  scale: {
    get: (rc) => ({
      specReplicas: rc.spec?.replicas ?? 0,
      statusReplicas: rc.status?.replicas ?? 0,
      selector: formatLabelSelector(selectorOf(rc)),
    }),
    set(draft, replicas) {
      if (draft.spec) draft.spec.replicas = replicas;
    },
  },
  setDefaults,
  prepareForCreate(draft, context) {
    hooks.prepareForCreate(draft, context);
    Object.assign(draft, { status: { replicas: 0 } });
  },
  prepareForUpdate: hooks.prepareForUpdate,
  validate(rc) {
    const { status } = rc;
    return [
      ...validateSpec(rc),
      ...validateReplicaCounts(status, {
        fullyLabeledReplicas: status?.fullyLabeledReplicas,
        readyReplicas: status?.readyReplicas,
        availableReplicas: status?.availableReplicas,
      }),
    ];
  },
};
