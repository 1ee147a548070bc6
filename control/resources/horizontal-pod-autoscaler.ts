// HorizontalPodAutoscaler (autoscaling/v2): the declaration of the kind to the API engine.

import type {
  MetricSpec,
  MetricStatus,
  MetricTarget,
  MetricValueStatus,
} from "kubernetes-types/autoscaling/v2.js";
import { HORIZONTAL_POD_AUTOSCALERS } from "../../common/client.js";
import type { HorizontalPodAutoscaler, Stored } from "../../common/k8s.js";
import { ageColumn, column, nameColumn, specAndStatus } from "./object.js";
import type { ResourceDefinition } from "./types.js";
import { type ScalingRules, validateAutoscaler } from "./validation/autoscaler.js";
import { canonicalQuantity } from "./validation/quantity.js";

const UNKNOWN = "<unknown>";
const SHOWN_METRICS = 2;

/** What the real server fills in for a direction when `behavior` is given at all. */
const SCALE_UP: ScalingRules = {
  stabilizationWindowSeconds: 0,
  selectPolicy: "Max",
  policies: [
    { type: "Pods", value: 4, periodSeconds: 15 },
    { type: "Percent", value: 100, periodSeconds: 15 },
  ],
};
const SCALE_DOWN: ScalingRules = {
  selectPolicy: "Max",
  policies: [{ type: "Percent", value: 100, periodSeconds: 15 }],
};

function setDefaults(draft: HorizontalPodAutoscaler): void {
  draft.spec ??= {} as NonNullable<HorizontalPodAutoscaler["spec"]>;
  const { spec } = draft;
  spec.minReplicas ??= 1;
  if ((spec.metrics ?? []).length === 0)
    spec.metrics = [
      {
        type: "Resource",
        resource: { name: "cpu", target: { type: "Utilization", averageUtilization: 80 } },
      },
    ];
  for (const metric of spec.metrics ?? []) canonicalTarget(metric);
  if (!spec.behavior) return;
  spec.behavior.scaleUp = { ...structuredClone(SCALE_UP), ...spec.behavior.scaleUp };
  spec.behavior.scaleDown = { ...structuredClone(SCALE_DOWN), ...spec.behavior.scaleDown };
}

function canonicalTarget({ resource, containerResource, pods, object, external }: MetricSpec): void {
  for (const source of [resource, containerResource, pods, object, external]) {
    if (source?.target?.value !== undefined) source.target.value = canonicalQuantity(source.target.value);
    if (source?.target?.averageValue !== undefined)
      source.target.averageValue = canonicalQuantity(source.target.averageValue);
  }
}

function usageText(name: string, target: MetricTarget, current: MetricValueStatus | undefined): string {
  if (target.averageValue !== undefined)
    return `${name}: ${current?.averageValue ?? UNKNOWN}/${target.averageValue}`;
  const measured = current?.averageUtilization;
  const wanted = target.averageUtilization;
  const percent = (value: number | undefined, otherwise: string) =>
    value === undefined ? otherwise : `${value}%`;
  return `${name}: ${percent(measured, UNKNOWN)}/${percent(wanted, "<auto>")}`;
}

function metricText(metric: MetricSpec, status: MetricStatus | undefined): string {
  const { resource, containerResource } = metric;
  if (resource) return usageText(resource.name, resource.target, status?.resource?.current);
  if (containerResource)
    return usageText(containerResource.name, containerResource.target, status?.containerResource?.current);
  const target = (metric.pods ?? metric.object ?? metric.external)?.target;
  const current = (status?.pods ?? status?.object ?? status?.external)?.current;
  if (metric.pods) return `${current?.averageValue ?? UNKNOWN}/${target?.averageValue}`;
  if (target?.averageValue !== undefined)
    return `${current?.averageValue ?? UNKNOWN}/${target.averageValue} (avg)`;
  return `${current?.value ?? UNKNOWN}/${target?.value}`;
}

/** kubectl's TARGETS: the first two metrics, "cpu: 3%/50%". */
function targetsText({ spec, status }: Stored<HorizontalPodAutoscaler>): string {
  const metrics = spec?.metrics ?? [];
  if (metrics.length === 0) return "<none>";
  const shown = metrics.slice(0, SHOWN_METRICS).map((m, i) => metricText(m, status?.currentMetrics?.[i]));
  const more = metrics.length > SHOWN_METRICS ? ` + ${metrics.length - SHOWN_METRICS} more...` : "";
  return shown.join(", ") + more;
}

export const autoscalerDefinition: ResourceDefinition<HorizontalPodAutoscaler> = {
  resource: HORIZONTAL_POD_AUTOSCALERS,
  singular: "horizontalpodautoscaler",
  shortNames: ["hpa"],
  categories: ["all"],
  schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
  hasStatus: true,
  columns: [
    nameColumn(),
    column("Reference", (h) => `${h.spec?.scaleTargetRef.kind}/${h.spec?.scaleTargetRef.name}`),
    column("Targets", targetsText),
    column("MinPods", (h) => String(h.spec?.minReplicas ?? "<unset>")),
    column("MaxPods", (h) => h.spec?.maxReplicas ?? 0, { type: "integer" }),
    column("Replicas", (h) => h.status?.currentReplicas ?? 0, { type: "integer" }),
    ageColumn(),
  ],
  setDefaults,
  ...specAndStatus<HorizontalPodAutoscaler>(),
  validate: validateAutoscaler,
};
