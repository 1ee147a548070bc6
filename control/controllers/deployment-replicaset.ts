// The ReplicaSet that a Deployment makes for its present template. Pure; knows Deployments and ReplicaSets.

import type { Deployment, ReplicaSet, Stored } from "../../common/k8s.js";
import { allOf, fenceposts, newSize, type ReplicaSets, sizeOf } from "./deployment-plan.js";
import {
  annotationsForRevision,
  maxRevision,
  POD_TEMPLATE_HASH,
  sizeAnnotations,
  templateHash,
} from "./deployment-revision.js";
import { controllerReference } from "./owners.js";

/** @throws Error when the Deployment has no template: the API does not let such a one in. */
export function newReplicaSet(deployment: Stored<Deployment>, sets: ReplicaSets): ReplicaSet {
  const { spec, metadata } = deployment;
  if (!spec) throw new Error(`Deployment ${metadata.namespace}/${metadata.name} has no spec`);
  const hash = templateHash(spec.template, deployment.status?.collisionCount);
  const labels = { ...spec.template.metadata?.labels, [POD_TEMPLATE_HASH]: hash };
  const desired = sizeOf(deployment);
  return {
    apiVersion: "apps/v1",
    kind: "ReplicaSet",
    metadata: {
      name: `${metadata.name}-${hash}`,
      namespace: metadata.namespace ?? "",
      labels,
      annotations: {
        ...annotationsForRevision(deployment, undefined, maxRevision(sets.old) + 1),
        ...sizeAnnotations(desired, desired + fenceposts(deployment).maxSurge),
      },
      ownerReferences: [controllerReference(deployment)],
    },
    spec: {
      replicas: newSize(deployment, allOf(sets), 0),
      ...(spec.minReadySeconds === undefined ? {} : { minReadySeconds: spec.minReadySeconds }),
      selector: {
        ...spec.selector,
        matchLabels: { ...spec.selector.matchLabels, [POD_TEMPLATE_HASH]: hash },
      },
      template: { ...spec.template, metadata: { ...spec.template.metadata, labels } },
    },
  };
}

/** The ReplicaSets with those replaced that were written just now. */
export function withResized(sets: ReplicaSets, written: readonly Stored<ReplicaSet>[]): ReplicaSets {
  const latest = new Map(written.map((rs) => [rs.metadata.uid, rs]));
  const replace = (rs: Stored<ReplicaSet>) => latest.get(rs.metadata.uid) ?? rs;
  return { current: sets.current && replace(sets.current), old: sets.old.map(replace) };
}
