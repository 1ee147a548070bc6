// ReplicaSet: the declaration of the kind to the API engine.

import { REPLICA_SETS } from "../../common/client.js";
import type { ReplicaSet } from "../../common/k8s.js";
import { formatLabelSelector } from "../../common/selector.js";
import { ageColumn, column, containerCells, nameColumn, specAndStatus, wideColumn } from "./object.js";
import { defaultPodSpec } from "./pod-defaults.js";
import type { ResourceDefinition } from "./types.js";
import { validateReplicaCounts, validateWorkload } from "./validation/workload.js";

export const replicaSetDefinition: ResourceDefinition<ReplicaSet> = {
  resource: REPLICA_SETS,
  singular: "replicaset",
  shortNames: ["rs"],
  categories: ["all"],
  schema: "io.k8s.api.apps.v1.ReplicaSet",
  hasStatus: true,
  columns: [
    nameColumn(),
    column("Desired", (rs) => rs.spec?.replicas ?? 0, { type: "integer" }),
    column("Current", (rs) => rs.status?.replicas ?? 0, { type: "integer" }),
    column("Ready", (rs) => rs.status?.readyReplicas ?? 0, { type: "integer" }),
    ageColumn(),
    wideColumn("Containers", (rs) => containerCells(rs.spec?.template?.spec?.containers).names),
    wideColumn("Images", (rs) => containerCells(rs.spec?.template?.spec?.containers).images),
    wideColumn("Selector", (rs) => formatLabelSelector(rs.spec?.selector)),
  ],
  selectableFields: (rs) => ({ "status.replicas": String(rs.status?.replicas ?? 0) }),
  scale: {
    get: (rs) => ({
      specReplicas: rs.spec?.replicas ?? 0,
      statusReplicas: rs.status?.replicas ?? 0,
      selector: formatLabelSelector(rs.spec?.selector),
    }),
    set(draft, replicas) {
      if (draft.spec) draft.spec.replicas = replicas;
    },
  },
  setDefaults(draft) {
    draft.spec ??= {} as NonNullable<ReplicaSet["spec"]>;
    draft.spec.replicas ??= 1;
    draft.spec.template ??= {};
    draft.spec.template.spec ??= { containers: [] };
    defaultPodSpec(draft.spec.template.spec);
  },
  ...specAndStatus<ReplicaSet>(),
  validate(rs, old) {
    const { status } = rs;
    return [
      ...validateWorkload(rs.spec, old?.spec),
      ...validateReplicaCounts(status, {
        fullyLabeledReplicas: status?.fullyLabeledReplicas,
        readyReplicas: status?.readyReplicas,
        availableReplicas: status?.availableReplicas,
      }),
    ];
  },
};
