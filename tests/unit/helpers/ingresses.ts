// Ingresses with as few words as a test can have. Pure.

import type { IngressSpec } from "kubernetes-types/networking/v1.js";
import type { Ingress, Stored } from "../../../common/k8s.js";

export type PathType = "Exact" | "Prefix" | "ImplementationSpecific";

/** A backend by a port's number or name. */
export const backend = (name: string, port: string | number = 80) => ({
  service: { name, port: typeof port === "number" ? { number: port } : { name: port } },
});

/** A rule of a host: [path, backend, path type]. */
export const rule = (
  host: string | undefined,
  ...paths: [path: string, service: string, type?: PathType][]
) => ({
  ...(host === undefined ? {} : { host }),
  http: {
    paths: paths.map(([path, service, pathType = "Prefix"]) => ({
      path,
      pathType,
      backend: backend(service),
    })),
  },
});

let count = 0;
/** Each a second younger than the one before. */
export function ingress(spec: IngressSpec, annotations: Record<string, string> = {}): Stored<Ingress> {
  count += 1;
  return {
    apiVersion: "networking.k8s.io/v1",
    kind: "Ingress",
    metadata: {
      name: `i${count}`,
      namespace: "ns",
      uid: String(count),
      resourceVersion: "1",
      creationTimestamp: `2026-01-01T00:00:${String(count % 60).padStart(2, "0")}Z`,
      annotations,
    },
    spec,
  };
}
