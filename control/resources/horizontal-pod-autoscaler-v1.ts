// HorizontalPodAutoscaler (autoscaling/v1), which kubectl autoscale of older versions writes: the objects of v2 with
// CPU utilization as fields, and what v1 has no field for in annotations. Declaration to the API engine.

import type { HorizontalPodAutoscaler as AutoscalerV1 } from "kubernetes-types/autoscaling/v1.js";
import { HORIZONTAL_POD_AUTOSCALERS, type Resource } from "../../common/client.js";
import type { HorizontalPodAutoscaler, Stored } from "../../common/k8s.js";
import { autoscalerDefinition } from "./horizontal-pod-autoscaler.js";
import { specAndStatus } from "./object.js";
import type { Conversion, ResourceDefinition } from "./types.js";

const AUTOSCALERS_V1 = { ...HORIZONTAL_POD_AUTOSCALERS, version: "v1" } as unknown as Resource<AutoscalerV1>;
const PREFIX = "autoscaling.alpha.kubernetes.io/";
/** Annotation → field of v2 and its part of the object; values are the fields as JSON. */
const KEPT = [
  ["metrics", "spec", "metrics"],
  ["behavior", "spec", "behavior"],
  ["current-metrics", "status", "currentMetrics"],
  ["conditions", "status", "conditions"],
] as const;

type Part = Record<string, unknown>;
type Metric = {
  type: string;
  resource?: {
    name: string;
    target?: { averageUtilization?: number };
    current?: { averageUtilization?: number };
  };
};

const isCpu = ({ type, resource }: Metric): boolean =>
  type === "Resource" &&
  resource?.name === "cpu" &&
  (resource.target ?? resource.current)?.averageUtilization !== undefined;

function fromStored(object: Stored): Stored {
  const { spec = {}, status = {}, metadata } = object as Stored & { spec?: Part; status?: Part };
  const { metrics = [], behavior: _, ...plainSpec } = spec as Part & { metrics?: Metric[] };
  const {
    currentMetrics = [],
    conditions: __,
    ...plainStatus
  } = status as Part & { currentMetrics?: Metric[] };
  const cpu = metrics.find(isCpu);
  const others = metrics.filter((metric) => metric !== cpu);
  const parts: Record<string, Part> = { spec: { ...spec, metrics: others }, status };
  const annotations = { ...metadata.annotations };
  for (const [name, part, field] of KEPT) {
    const value = parts[part]?.[field];
    if (value !== undefined && !(Array.isArray(value) && value.length === 0))
      annotations[PREFIX + name] = JSON.stringify(value);
  }
  const target = cpu?.resource?.target?.averageUtilization;
  const current = currentMetrics.find(isCpu)?.resource?.current?.averageUtilization;
  return {
    ...object,
    apiVersion: "autoscaling/v1",
    metadata: { ...metadata, ...(Object.keys(annotations).length > 0 ? { annotations } : {}) },
    spec: { ...plainSpec, ...(target === undefined ? {} : { targetCPUUtilizationPercentage: target }) },
    status: {
      ...plainStatus,
      ...(current === undefined ? {} : { currentCPUUtilizationPercentage: current }),
    },
  } as Stored;
}

function toStored(object: Stored): Stored {
  const { metadata, spec, status } = object as unknown as Stored<AutoscalerV1>;
  const { targetCPUUtilizationPercentage: target, ...newSpec } = { ...spec };
  // The annotation has it too, with the amount that belongs to it.
  const { currentCPUUtilizationPercentage: _, ...newStatus } = { ...status };
  const parts: Record<string, Part> = { spec: newSpec, status: newStatus };
  const annotations = { ...metadata.annotations };
  for (const [name, part, field] of KEPT) {
    const value = readJson(annotations[PREFIX + name], field !== "behavior");
    delete annotations[PREFIX + name];
    if (value !== undefined) Object.assign(parts[part] ?? {}, { [field]: value });
  }
  if (target !== undefined) {
    const { metrics = [] } = newSpec as Part & { metrics?: Metric[] };
    const resource = { name: "cpu", target: { type: "Utilization", averageUtilization: target } };
    Object.assign(newSpec, { metrics: [...metrics, { type: "Resource", resource }] });
  }
  const { annotations: __, ...otherMeta } = metadata;
  return {
    ...object,
    apiVersion: "autoscaling/v2",
    metadata: { ...otherMeta, ...(Object.keys(annotations).length > 0 ? { annotations } : {}) },
    spec: newSpec,
    status: newStatus,
  } as Stored;
}

/** An annotation that somebody has written by hand, and that is no JSON of that form, says nothing. */
function readJson(text: string | undefined, isList: boolean): unknown {
  if (text === undefined) return undefined;
  const isObject = (value: unknown) => typeof value === "object" && value !== null && !Array.isArray(value);
  try {
    const value = JSON.parse(text) as unknown;
    return (isList ? Array.isArray(value) && value.every(isObject) : isObject(value)) ? value : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

const conversion: Conversion = { toStored, fromStored };
const toV2 = (object: Stored<AutoscalerV1>): Stored<HorizontalPodAutoscaler> =>
  toStored(object as Stored) as Stored<HorizontalPodAutoscaler>;

export const autoscalerV1Definition: ResourceDefinition<AutoscalerV1> = {
  resource: AUTOSCALERS_V1,
  singular: autoscalerDefinition.singular,
  shortNames: ["hpa"],
  categories: ["all"],
  schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
  hasStatus: true,
  conversion,
  columns: autoscalerDefinition.columns.map((c) => ({ ...c, value: (o, now) => c.value(toV2(o), now) })),
  setDefaults(draft) {
    draft.spec ??= {} as NonNullable<AutoscalerV1["spec"]>;
    draft.spec.minReplicas ??= 1;
    if (!draft.metadata?.annotations?.[`${PREFIX}metrics`]) draft.spec.targetCPUUtilizationPercentage ??= 80;
  },
  ...specAndStatus<AutoscalerV1>(),
  validate(object) {
    const { targetCPUUtilizationPercentage: percent } = object.spec ?? {};
    const errors = autoscalerDefinition.validate(
      toV2(object as Stored<AutoscalerV1>) as HorizontalPodAutoscaler,
    );
    // v1 names the target otherwise than v2.
    return errors.map((error) =>
      percent !== undefined && percent < 1 && error.field.endsWith(".target.averageUtilization")
        ? { ...error, field: "spec.targetCPUUtilizationPercentage" }
        : error,
    );
  },
};
