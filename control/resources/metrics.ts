// NodeMetrics and PodMetrics (metrics.k8s.io/v1beta1): the declarations of the kinds to the API engine. They are
// answered from measurements and not stored.

import { NODE_METRICS, POD_METRICS } from "../../common/client.js";
import type { NodeMetrics, PodMetrics, Stored } from "../../common/k8s.js";
import { notFound } from "../api/status.js";
import { column, nameColumn } from "./object.js";
import type { Asked, ResourceDefinition } from "./types.js";
import { canonicalQuantity, parseQuantity } from "./validation/quantity.js";

/** What is measured now. */
export interface Measurements {
  nodeMetrics(): Stored<NodeMetrics>[];
  podMetrics(namespace: string | undefined): Stored<PodMetrics>[];
}

/** The amount of a resource in all containers, as metrics-server's table shows it. */
function sum(usages: readonly Record<string, string>[], resource: "cpu" | "memory"): string {
  const unit = resource === "cpu" ? 1e9 : 1 / 1024;
  const total = usages.reduce((all, usage) => all + (parseQuantity(usage[resource] ?? "0")?.value ?? 0), 0);
  return canonicalQuantity(`${Math.ceil(total * unit)}${resource === "cpu" ? "n" : "Ki"}`);
}

function columns<T extends NodeMetrics | PodMetrics>(
  usages: (object: Stored<T>) => Record<string, string>[],
) {
  return [
    nameColumn<T>(),
    column<T>("cpu", (object) => sum(usages(object), "cpu")),
    column<T>("memory", (object) => sum(usages(object), "memory")),
    column<T>("Window", (object) => object.window),
  ];
}

const UNSTORED = { hasStatus: false, validate: () => [] };

export function metricsDefinitions(measured: Measurements): ResourceDefinition[] {
  const nodes: ResourceDefinition<NodeMetrics> = {
    ...UNSTORED,
    resource: NODE_METRICS,
    singular: "",
    schema: "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics",
    columns: columns<NodeMetrics>(({ usage }) => [usage]),
    answers: {
      list: () => measured.nodeMetrics(),
      get(name) {
        const found = measured.nodeMetrics().find((one) => one.metadata.name === name);
        if (!found) throw notFound({ group: "metrics.k8s.io", plural: "nodemetrics" }, name);
        return found;
      },
    },
  };
  const pods: ResourceDefinition<PodMetrics> = {
    ...UNSTORED,
    resource: POD_METRICS,
    singular: "",
    schema: "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics",
    columns: columns<PodMetrics>(({ containers }) => containers.map(({ usage }) => usage)),
    answers: {
      list: ({ namespace }: Asked) => measured.podMetrics(namespace),
      get(name, { namespace }) {
        const found = measured.podMetrics(namespace).find((one) => one.metadata.name === name);
        if (!found) throw notFound({ group: "metrics.k8s.io", plural: "podmetrics" }, `${namespace}/${name}`);
        return found;
      },
    },
  };
  return [nodes, pods] as unknown as ResourceDefinition[];
}
