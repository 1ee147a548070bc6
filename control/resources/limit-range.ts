// LimitRange: the declaration of the kind to the API engine, and what one limit means for another. What it does to pods
// is in control/api/limit-ranger.ts.

import type { LimitRangeItem } from "kubernetes-types/core/v1.js";
import { LIMIT_RANGES } from "../../common/client.js";
import type { LimitRange } from "../../common/k8s.js";
import { column, nameColumn } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { validateQuantity } from "./validation/container.js";
import { duplicate, forbidden, invalid, required } from "./validation/field.js";
import { canonicalResourceList, parseQuantity } from "./validation/quantity.js";
import { qualified } from "./validation/values.js";

const LISTS = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] as const;
/** Which may not be above which; the field and the value that are named then, and how the two are called. */
const ORDER = [
  ["min", "max", "min", "min", "min value", "max value"],
  ["min", "defaultRequest", "defaultRequest", "defaultRequest", "min value", "default request value"],
  ["defaultRequest", "max", "defaultRequest", "defaultRequest", "default request value", "max value"],
  [
    "defaultRequest",
    "default",
    "defaultRequest",
    "defaultRequest",
    "default request value",
    "default limit value",
  ],
  ["min", "default", "default", "min", "min value", "default value"],
  ["default", "max", "default", "max", "default value", "max value"],
] as const;

/** SetDefaults_LimitRangeItem: of a container, a limit that is not given is the maximum, a request the limit or the minimum. */
function setDefaults({ spec }: LimitRange): void {
  for (const item of spec?.limits ?? []) {
    for (const list of LISTS) canonicalResourceList(item[list]);
    if (item.type !== "Container") continue;
    const limits = { ...item.max, ...item.default };
    const requests = { ...item.min, ...limits, ...item.defaultRequest };
    if (Object.keys(limits).length > 0) item.default = limits;
    if (Object.keys(requests).length > 0) item.defaultRequest = requests;
  }
}

function validateItem(item: LimitRangeItem, at: string): FieldError[] {
  const errors: FieldError[] = [];
  if (item.type === "Pod") {
    for (const list of ["default", "defaultRequest"] as const)
      if (Object.keys(item[list] ?? {}).length > 0)
        errors.push(forbidden(`${at}.${list}`, "may not be specified when `type` is 'Pod'"));
  }
  if (item.type === "PersistentVolumeClaim" && !item.min?.storage && !item.max?.storage)
    errors.push(
      required(
        `${at}.limits`,
        "either minimum or maximum storage value is required, but neither was provided",
      ),
    );
  for (const list of LISTS)
    for (const [name, text] of Object.entries(item[list] ?? {})) {
      const field = `${at}.${list}[${name}]`;
      errors.push(...qualified(field, name), ...validateQuantity(field, text));
    }
  if (errors.length > 0) return errors;
  const names = new Set(LISTS.flatMap((list) => Object.keys(item[list] ?? {})));
  return [...names].sort().flatMap((name) => validateOrder(item, name, at));
}

function validateOrder(item: LimitRangeItem, name: string, at: string): FieldError[] {
  const nanos = (text: string): bigint => parseQuantity(text)?.nanos ?? 0n;
  const errors: FieldError[] = [];
  for (const [low, high, field, shown, lowName, highName] of ORDER) {
    const [a, b] = [item[low]?.[name], item[high]?.[name]];
    if (a === undefined || b === undefined || nanos(a) <= nanos(b)) continue;
    const text = `${lowName} ${a} is greater than ${highName} ${b}`;
    errors.push(invalid(`${at}.${field}[${name}]`, item[shown]?.[name], text));
  }
  const ratio = item.maxLimitRequestRatio?.[name];
  if (ratio === undefined) return errors;
  const field = `${at}.maxLimitRequestRatio[${name}]`;
  if (nanos(ratio) < 1_000_000_000n) errors.push(invalid(field, ratio, `ratio ${ratio} is less than 1`));
  const [min, max] = [item.min?.[name], item.max?.[name]];
  if (min !== undefined && max !== undefined && nanos(min) > 0n) {
    const most = Number(nanos(max)) / Number(nanos(min));
    if (Number(nanos(ratio)) / 1e9 > most)
      errors.push(invalid(field, ratio, `ratio ${ratio} is greater than max/min = ${most.toFixed(6)}`));
  }
  return errors;
}

function validate({ spec }: LimitRange): FieldError[] {
  const types = new Set<string>();
  return (spec?.limits ?? []).flatMap((item, i) => {
    const at = `spec.limits[${i}]`;
    const errors: FieldError[] = [];
    if (!item.type) errors.push(required(`${at}.type`));
    else if (types.has(item.type)) errors.push(duplicate(`${at}.type`, item.type));
    types.add(item.type);
    return [...errors, ...validateItem(item, at)];
  });
}

export const limitRangeDefinition: ResourceDefinition<LimitRange> = {
  resource: LIMIT_RANGES,
  singular: "limitrange",
  shortNames: ["limits"],
  schema: "io.k8s.api.core.v1.LimitRange",
  hasStatus: false,
  columns: [nameColumn(), column("Created At", ({ metadata }) => metadata.creationTimestamp)],
  setDefaults,
  validate,
};
