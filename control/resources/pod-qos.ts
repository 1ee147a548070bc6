// The quality-of-service class of a pod from its requests and limits (kubelet's and API server's ComputePodQOS).

import type { PodSpec } from "../../common/k8s.js";
import { parseQuantity } from "./validation/quantity.js";

const COMPUTE = ["cpu", "memory"] as const;

/** Guaranteed: every container has cpu and memory limits equal to its requests. BestEffort: none has any. */
export function qosClass(spec: PodSpec): "Guaranteed" | "Burstable" | "BestEffort" {
  const containers = [...(spec.containers ?? []), ...(spec.initContainers ?? [])];
  let any = false;
  let guaranteed = true;
  for (const { resources } of containers) {
    for (const name of COMPUTE) {
      const request = amount(resources?.requests, name);
      const limit = amount(resources?.limits, name);
      if (request > 0n || limit > 0n) any = true;
      if (limit === 0n || request !== limit) guaranteed = false;
    }
  }
  if (!any) return "BestEffort";
  return guaranteed ? "Guaranteed" : "Burstable";
}

function amount(list: Record<string, string> | undefined, name: string): bigint {
  const text = list?.[name];
  return text === undefined ? 0n : (parseQuantity(text)?.nanos ?? 0n);
}
