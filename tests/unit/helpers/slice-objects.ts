// A Service and shares of zones, for tests of EndpointSlices. Pure.

import type { Service, Stored } from "../../../common/k8s.js";
import type { CpuRatios } from "../../../control/controllers/topology-hints.js";

/** The annotation that asks for hints in proportion to CPU. */
export const AUTO = { "service.kubernetes.io/topology-mode": "Auto" };

/** The same share for each zone. */
export const even = (...zones: string[]): CpuRatios => new Map(zones.map((zone) => [zone, 1 / zones.length]));

/** Service default/web. */
export function service(spec: object = {}, annotations: Record<string, string> = {}): Stored<Service> {
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: {
      name: "web",
      namespace: "default",
      uid: "s",
      resourceVersion: "1",
      creationTimestamp: "",
      annotations,
    },
    spec: {
      clusterIP: "10.96.0.9",
      ipFamilies: ["IPv4"],
      selector: { app: "web" },
      ports: [{ port: 80, targetPort: 8080 }],
      ...spec,
    },
  };
}
