// Indexes of pods, shared by all that ask for them: by the node they are bound to, and by label. Knows Pods.

import type { Informer } from "../../common/informer.js";
import type { LabelSelector, Pod, Stored } from "../../common/k8s.js";
import { selects } from "./owners.js";

const BY_NODE = "kubeplumb:node";

export function indexByNode(pods: Informer<Pod>): void {
  pods.addIndex(BY_NODE, (pod) => (pod.spec?.nodeName ? [pod.spec.nodeName] : []));
}

/** Needs {@link indexByNode}. */
export function podsOnNode(pods: Informer<Pod>, name: string): Stored<Pod>[] {
  return pods.byIndex(BY_NODE, name);
}

const BY_LABEL = "kubeplumb:label";

export function indexByLabel(pods: Informer<Pod>): void {
  pods.addIndex(BY_LABEL, (pod) =>
    Object.entries(pod.metadata.labels ?? {}).map(
      ([key, value]) => `${pod.metadata.namespace}\0${key}=${value}`,
    ),
  );
}

/** The pods with this label. Needs {@link indexByLabel}. */
export function podsWithLabel(
  pods: Informer<Pod>,
  namespace: string,
  [key, value]: readonly [string, string],
): Stored<Pod>[] {
  return pods.byIndex(BY_LABEL, `${namespace}\0${key}=${value}`);
}

/** The pods of a namespace that a selector selects. Needs {@link indexByLabel}. */
export function podsSelected(
  pods: Informer<Pod>,
  namespace: string,
  selector: LabelSelector | undefined,
): Stored<Pod>[] {
  const [first] = Object.entries(selector?.matchLabels ?? {});
  const candidates = first ? podsWithLabel(pods, namespace, first) : pods.list(namespace);
  return candidates.filter((pod) => selects(selector, pod.metadata.labels));
}
