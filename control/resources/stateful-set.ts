// StatefulSet: the declaration of the kind to the API engine.

import { STATEFUL_SETS } from "../../common/client.js";
import type { PodTemplateSpec, StatefulSet, Stored } from "../../common/k8s.js";
import { formatLabelSelector } from "../../common/selector.js";
import { ageColumn, column, containerCells, nameColumn, specAndStatus, wideColumn } from "./object.js";
import { defaultPodSpec } from "./pod-defaults.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { forbidden, invalid, notSupported, required, same } from "./validation/field.js";
import { dns1123Label } from "./validation/meta.js";
import { validatePodTemplate } from "./validation/pod.js";
import { intOrPercent, isNone, label, nonNegative, notMoreThanAll } from "./validation/values.js";
import { validateKeptTemplate, validateReplicaCounts, validateSelection } from "./validation/workload.js";

type Spec = NonNullable<StatefulSet["spec"]>;

function setDefaults(draft: StatefulSet): void {
  draft.spec ??= {} as Spec;
  const { spec } = draft;
  spec.podManagementPolicy ||= "OrderedReady";
  spec.updateStrategy ??= {};
  spec.updateStrategy.type ||= "RollingUpdate";
  if (spec.updateStrategy.type === "RollingUpdate") {
    spec.updateStrategy.rollingUpdate ??= {};
    spec.updateStrategy.rollingUpdate.partition ??= 0;
    spec.updateStrategy.rollingUpdate.maxUnavailable ??= 1;
  }
  spec.persistentVolumeClaimRetentionPolicy ??= {};
  spec.persistentVolumeClaimRetentionPolicy.whenDeleted ||= "Retain";
  spec.persistentVolumeClaimRetentionPolicy.whenScaled ||= "Retain";
  spec.replicas ??= 1;
  spec.revisionHistoryLimit ??= 10;
  spec.template ??= {};
  spec.template.spec ??= { containers: [] };
  defaultPodSpec(spec.template.spec);
  for (const claim of spec.volumeClaimTemplates ?? []) {
    claim.apiVersion = "v1";
    claim.kind = "PersistentVolumeClaim";
    claim.spec ??= {};
    claim.spec.volumeMode ||= "Filesystem";
    Object.assign(claim, { status: { ...claim.status, phase: claim.status?.phase || "Pending" } });
  }
}

function validateStrategy({ spec }: StatefulSet): FieldError[] {
  const path = "spec.updateStrategy";
  const strategy = spec?.updateStrategy;
  const rolling = strategy?.rollingUpdate;
  const at = `${path}.rollingUpdate`;
  if (strategy?.type === "OnDelete") {
    return rolling ? [invalid(at, rolling, "only allowed for updateStrategy 'RollingUpdate'")] : [];
  }
  if (strategy?.type !== "RollingUpdate") {
    return [invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'")];
  }
  const { partition, maxUnavailable = 1 } = rolling ?? {};
  return [
    ...nonNegative(`${at}.partition`, partition),
    ...intOrPercent(`${at}.maxUnavailable`, maxUnavailable),
    ...(isNone(maxUnavailable) ? [invalid(`${at}.maxUnavailable`, maxUnavailable, "cannot be 0")] : []),
    ...notMoreThanAll(`${at}.maxUnavailable`, maxUnavailable),
  ];
}

function validateRetention({ spec }: StatefulSet): FieldError[] {
  const policy = spec?.persistentVolumeClaimRetentionPolicy;
  return (["whenDeleted", "whenScaled"] as const).flatMap((when) => {
    const value = policy?.[when];
    if (value === undefined || value === "Retain" || value === "Delete") return [];
    return [notSupported(`spec.persistentVolumeClaimRetentionPolicy.${when}`, value, ["Retain", "Delete"])];
  });
}

/** The template as its pods will have it: a claim is a volume of the same name. */
function templateWithClaims(spec: Spec): PodTemplateSpec {
  const claims = (spec.volumeClaimTemplates ?? []).map(({ metadata }) => metadata?.name ?? "");
  const own = (spec.template?.spec?.volumes ?? []).filter(({ name }) => !claims.includes(name));
  const added = claims.filter(Boolean).map((name) => ({ name, emptyDir: {} }));
  return {
    ...spec.template,
    spec: { containers: [], ...spec.template?.spec, volumes: [...own, ...added] },
  };
}

function validateSpec(set: StatefulSet): FieldError[] {
  const spec = set.spec ?? ({} as Spec);
  const { podManagementPolicy: policy, selector, template } = spec;
  const errors: FieldError[] = [];
  if (policy !== "OrderedReady" && policy !== "Parallel") {
    errors.push(invalid("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'"));
  }
  errors.push(
    ...validateStrategy(set),
    ...validateRetention(set),
    ...nonNegative("spec.replicas", spec.replicas),
    ...nonNegative("spec.minReadySeconds", spec.minReadySeconds),
    ...nonNegative("spec.ordinals.start", spec.ordinals?.start),
    ...(selector ? [] : [required("spec.selector")]),
    ...validateSelection(selector, template, "statefulset"),
    ...validatePodTemplate(templateWithClaims(spec), "spec.template"),
    ...validateKeptTemplate(template, "StatefulSet"),
  );
  for (const [i, { metadata }] of (spec.volumeClaimTemplates ?? []).entries())
    errors.push(...label(`spec.volumeClaimTemplates[${i}].metadata.name`, metadata?.name ?? ""));
  return errors;
}

const CHANGEABLE = [
  "replicas",
  "ordinals",
  "template",
  "updateStrategy",
  "revisionHistoryLimit",
  "persistentVolumeClaimRetentionPolicy",
  "minReadySeconds",
] as const;

function validateUpdate(set: StatefulSet, old: Stored<StatefulSet>): FieldError[] {
  const fixed = (spec: StatefulSet["spec"]) =>
    Object.fromEntries(
      Object.entries(spec ?? {}).filter(([key]) => !CHANGEABLE.some((name) => name === key)),
    );
  if (same(fixed(set.spec), fixed(old.spec))) return [];
  return [
    forbidden(
      "spec",
      "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
    ),
  ];
}

function validateStatus({ status }: StatefulSet): FieldError[] {
  const { readyReplicas = 0, availableReplicas = 0 } = status ?? {};
  const errors = validateReplicaCounts(status, {
    readyReplicas,
    currentReplicas: status?.currentReplicas,
    updatedReplicas: status?.updatedReplicas,
    availableReplicas,
  });
  if (availableReplicas > readyReplicas) {
    const text = "cannot be greater than status.readyReplicas";
    errors.push(invalid("status.availableReplicas", availableReplicas, text));
  }
  return errors;
}

const hooks = specAndStatus<StatefulSet>();

export const statefulSetDefinition: ResourceDefinition<StatefulSet> = {
  resource: STATEFUL_SETS,
  singular: "statefulset",
  shortNames: ["sts"],
  categories: ["all"],
  schema: "io.k8s.api.apps.v1.StatefulSet",
  hasStatus: true,
  columns: [
    nameColumn(),
    column("Ready", (set) => `${set.status?.readyReplicas ?? 0}/${set.spec?.replicas ?? 0}`),
    ageColumn(),
    wideColumn("Containers", (set) => containerCells(set.spec?.template.spec?.containers).names),
    wideColumn("Images", (set) => containerCells(set.spec?.template.spec?.containers).images),
  ],
  scale: {
    get: (set) => ({
      specReplicas: set.spec?.replicas ?? 0,
      statusReplicas: set.status?.replicas ?? 0,
      selector: formatLabelSelector(set.spec?.selector),
    }),
    set(draft, replicas) {
      if (draft.spec) draft.spec.replicas = replicas;
    },
  },
  setDefaults,
  prepareForCreate(draft, context) {
    hooks.prepareForCreate(draft, context);
    Object.assign(draft, { status: { replicas: 0, availableReplicas: 0 } });
  },
  prepareForUpdate: hooks.prepareForUpdate,
  // A pod's name is also its hostname.
  validateName: dns1123Label,
  validate(set, old) {
    const { serviceName } = set.spec ?? {};
    return [
      ...validateSpec(set),
      ...validateStatus(set),
      ...(old ? validateUpdate(set, old) : serviceName ? label("spec.serviceName", serviceName) : []),
    ];
  },
};
