// StatefulSets, DaemonSets and their pods as the API holds them, for tests of controllers; what became of them.

import { EVENTS, type KubeClient, PODS, type Resource } from "../../../common/client.js";
import type { DaemonSet, KubeObject, Pod, StatefulSet, Stored } from "../../../common/k8s.js";
import { timestamp } from "../../../control/controllers/time.js";
import { stored as anyStored, DEFAULT, NOW } from "./controller-objects.js";

export const LABELS = { app: "web" };
export const CONTAINERS = [{ name: "c", image: "v1" }];
export const TEMPLATE = { metadata: { labels: LABELS }, spec: { containers: CONTAINERS } };

let count = 0;
/** As the API holds it, of apps/v1 and the first generation; each is a second younger than the one before. */
export function stored<T extends object>(
  kind: string,
  object: T & { metadata: { name: string } },
): T & Stored {
  count += 1;
  const creationTimestamp = timestamp(NOW - 1000 * (1000 - count));
  const metadata = { generation: 1, creationTimestamp, ...object.metadata };
  return anyStored(kind, { apiVersion: "apps/v1", ...object, metadata }) as T & Stored;
}

/** DaemonSet agent, whose pods are those of app=web. */
export const DAEMONS = stored("DaemonSet", {
  metadata: { name: "agent" },
  spec: { selector: { matchLabels: LABELS }, template: TEMPLATE },
}) as unknown as Stored<DaemonSet>;

export type PodState = "ready" | "starting" | "leaving" | "failed";

/** A pod of app=web in the given state, since NOW unless told. */
export function pod(
  name: string,
  state: PodState,
  more: { labels?: object; spec?: object; since?: number } = {},
) {
  const phase = { ready: "Running", starting: "Pending", leaving: "Running", failed: "Failed" }[state];
  const ready = state === "ready" || state === "leaving";
  return stored("Pod", {
    metadata: {
      name,
      labels: { ...LABELS, "statefulset.kubernetes.io/pod-name": name, ...more.labels },
      ...(state === "leaving" ? { deletionTimestamp: timestamp(NOW) } : {}),
    },
    spec: { containers: CONTAINERS, ...more.spec },
    status: {
      phase,
      conditions: [
        { type: "Ready", status: ready ? "True" : "False", lastTransitionTime: timestamp(more.since ?? NOW) },
      ],
    },
  }) as unknown as Stored<Pod>;
}

/** StatefulSet default/web as somebody sends it: three pods. */
export function statefulSet(spec: object = {}): StatefulSet {
  return {
    metadata: { name: "web", ...DEFAULT },
    spec: { replicas: 3, serviceName: "web", selector: { matchLabels: LABELS }, template: TEMPLATE, ...spec },
  };
}

/** DaemonSet default/agent as somebody sends it. */
export function daemonSet(spec: object = {}): DaemonSet {
  return {
    metadata: { name: "agent", ...DEFAULT },
    spec: { selector: { matchLabels: LABELS }, template: TEMPLATE, ...spec },
  };
}

/** The pods of app=web that are not on their way out. */
export async function livingPods(client: KubeClient): Promise<Stored<Pod>[]> {
  const { items } = await client.list(PODS, { ...DEFAULT, labelSelector: "app=web" });
  return items.filter(({ metadata }) => !metadata.deletionTimestamp);
}

/** What the Events about objects of a kind say. */
export async function reasons(client: KubeClient, kind: string): Promise<string[]> {
  const { items } = await client.list(EVENTS, DEFAULT);
  return items.filter((e) => e.involvedObject.kind === kind).map((e) => `${e.reason}: ${e.message}`);
}

/** Patches an object of the namespace default; the object then. */
export async function changed<T extends KubeObject>(
  client: KubeClient,
  resource: Resource<T>,
  name: string,
  patch: object,
): Promise<Stored<T>> {
  return await client.patch(resource, name, "strategic", patch, DEFAULT);
}
