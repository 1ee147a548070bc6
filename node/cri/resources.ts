// Requests and limits of a container as the runtime's limits, as the kubelet works them out (cm.MilliCPUToShares,
// MilliCPUToQuota, qos.GetContainerOOMScoreAdjust). Pure.

import type { Container, Pod, Stored } from "../../common/k8s.js";
import { quantity } from "../pods/resource-field.js";
import type { Resources } from "./messages.js";

const CPU_PERIOD = 100_000;
const SHARES_PER_CPU = 1024;
const LEAST_SHARES = 2;
const LEAST_QUOTA = 1000;

const value = (text: string | undefined): number => (text === undefined ? 0 : quantity(String(text)));

/** `memoryCapacity`: the node's, in bytes. */
export function resourcesOf(
  pod: Pick<Stored<Pod>, "spec" | "status">,
  { resources }: Pick<Container, "resources">,
  memoryCapacity: number,
): Resources {
  const { limits = {}, requests = {} } = resources ?? {};
  const cpu = value(requests.cpu) || value(limits.cpu);
  const limit = value(limits.cpu);
  const memory = value(limits.memory);
  return {
    cpuShares: Math.max(LEAST_SHARES, Math.floor(cpu * SHARES_PER_CPU + 1e-9)),
    ...(limit > 0
      ? { cpuPeriod: CPU_PERIOD, cpuQuota: Math.max(LEAST_QUOTA, Math.round(limit * CPU_PERIOD)) }
      : {}),
    ...(memory > 0 ? { memoryLimit: Math.ceil(memory) } : {}),
    oomScoreAdj: oomScoreAdj(pod, value(requests.memory), memoryCapacity),
  };
}

/** The less of what it uses was asked for, the sooner it is killed. */
function oomScoreAdj(pod: Pick<Stored<Pod>, "spec" | "status">, request: number, capacity: number): number {
  const { priorityClassName } = pod.spec ?? {};
  const { qosClass } = pod.status ?? {};
  if (priorityClassName === "system-node-critical" || qosClass === "Guaranteed") return -997;
  if (qosClass === "BestEffort") return 1000;
  return Math.min(999, Math.max(3, 1000 - Math.floor((1000 * request) / capacity)));
}
