// The index of pods by the node they are bound to, shared by all that ask for it. Knows Pods.

import type { Informer } from "../../common/informer.js";
import type { Pod, Stored } from "../../common/k8s.js";

const BY_NODE = "kubeplumb:node";

export function indexByNode(pods: Informer<Pod>): void {
  pods.addIndex(BY_NODE, (pod) => (pod.spec?.nodeName ? [pod.spec.nodeName] : []));
}

/** Needs {@link indexByNode}. */
export function podsOnNode(pods: Informer<Pod>, name: string): Stored<Pod>[] {
  return pods.byIndex(BY_NODE, name);
}
