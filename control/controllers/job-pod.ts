// The pod that a Job makes. Pure; knows Jobs and Pods.

import type { Container, Job, Pod, Stored } from "../../common/k8s.js";
import { COMPLETION_INDEX, INDEX_FAILURES } from "./job-indexes.js";
import { isIndexed, TRACKING } from "./job-plan.js";
import { controllerReference } from "./owners.js";

const INDEX_VARIABLE = "JOB_COMPLETION_INDEX";

/** `index` of an Indexed Job, and how often it has failed before. */
export function podOfJob(job: Stored<Job>, index?: number, failures = 0): Pod {
  const template = job.spec?.template;
  const { labels, annotations, finalizers = [] } = template?.metadata ?? {};
  const indexed = isIndexed(job) && index !== undefined;
  const own: Record<string, string> = indexed ? { [COMPLETION_INDEX]: String(index) } : {};
  const counted = indexed && job.spec?.backoffLimitPerIndex !== undefined;
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      generateName: `${job.metadata.name}-${indexed ? `${index}-` : ""}`,
      namespace: job.metadata.namespace ?? "",
      labels: { ...labels, ...own },
      annotations: { ...annotations, ...own, ...(counted ? { [INDEX_FAILURES]: String(failures) } : {}) },
      finalizers: [...finalizers, TRACKING],
      ownerReferences: [controllerReference(job)],
    },
    ...(template?.spec
      ? { spec: indexed ? indexedSpec(template.spec, job.metadata.name, index) : template.spec }
      : {}),
  };
}

/** With the host name NAME-INDEX, and the index in the environment of every container that does not set it itself. */
function indexedSpec(spec: NonNullable<Pod["spec"]>, name: string, index: number): NonNullable<Pod["spec"]> {
  const withIndex = (one: Container): Container =>
    one.env?.some((variable) => variable.name === INDEX_VARIABLE)
      ? one
      : {
          ...one,
          env: [
            ...(one.env ?? []),
            {
              name: INDEX_VARIABLE,
              valueFrom: { fieldRef: { fieldPath: `metadata.labels['${COMPLETION_INDEX}']` } },
            },
          ],
        };
  return {
    ...spec,
    hostname: `${name}-${index}`,
    containers: spec.containers.map(withIndex),
    ...(spec.initContainers ? { initContainers: spec.initContainers.map(withIndex) } : {}),
  };
}
