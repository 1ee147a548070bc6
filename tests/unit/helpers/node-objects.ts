// Objects of the API as a node's tests have them. Pure.

import type { Pod, PodStatus, Stored } from "../../../common/k8s.js";

/** A pod shop/web-1 with the given spec and, in place of the usual, the given metadata. */
export function pod(spec: Partial<Pod["spec"]> = {}, metadata: object = {}, status?: PodStatus): Stored<Pod> {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: "web-1",
      namespace: "shop",
      uid: "u-1",
      resourceVersion: "1",
      creationTimestamp: "2026-11-21T00:00:00Z",
      ...metadata,
    },
    spec: { containers: [], ...spec } as NonNullable<Pod["spec"]>,
    ...(status ? { status } : {}),
  };
}
