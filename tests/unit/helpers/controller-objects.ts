// Objects as the API holds them, for tests of what controllers decide. Pure.

import type { Deployment, Pod, ReplicaSet, Stored } from "../../../common/k8s.js";
import { timestamp } from "../../../control/controllers/time.js";

export const NOW = Date.parse("2026-03-01T12:00:00Z");
export const DEFAULT = { namespace: "default" };

let uids = 0;
/** An object as the API holds it: with a uid and, unless it says otherwise, in the namespace default. */
export function stored<T extends object>(
  kind: string,
  object: T & { metadata: { name: string } },
): T & Stored {
  uids += 1;
  return {
    apiVersion: "v1",
    kind,
    ...object,
    metadata: {
      namespace: "default",
      uid: `uid-${uids}`,
      resourceVersion: "1",
      creationTimestamp: timestamp(NOW),
      ...object.metadata,
    },
  } as unknown as T & Stored;
}

export function makeDeployment(spec: Partial<NonNullable<Deployment["spec"]>>): Stored<Deployment> {
  const labels = { app: "web" };
  return stored("Deployment", {
    metadata: { name: "web", generation: 1 },
    spec: {
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { containers: [{ name: "c", image: "v1" }] } },
      ...spec,
    },
  }) as unknown as Stored<Deployment>;
}

export function makeReplicaSet(name: string, image: string, replicas: number, age = 0): Stored<ReplicaSet> {
  return stored("ReplicaSet", {
    metadata: { name, creationTimestamp: timestamp(NOW - age * 1000) },
    spec: {
      replicas,
      selector: {},
      template: { metadata: { labels: { app: "web" } }, spec: { containers: [{ name: "c", image }] } },
    },
    status: { replicas: 0 },
  }) as unknown as Stored<ReplicaSet>;
}

export function makePod(
  name: string,
  fields: { spec?: object; status?: object; metadata?: object } = {},
): Stored<Pod> {
  return stored("Pod", {
    metadata: { name, labels: { app: "web" }, ...fields.metadata },
    spec: { containers: [{ name: "c" }], ...fields.spec },
    status: fields.status ?? {},
  }) as unknown as Stored<Pod>;
}
