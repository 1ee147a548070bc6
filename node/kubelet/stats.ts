// The kubelet's two documents of what is used: /metrics/resource (Prometheus text) and /stats/summary (JSON), with
// the kubelet's names. Pure; knows samples.

import type { Usage } from "../images/meter.js";
import type { NodeSample, PodSample } from "../stats/node-stats.js";

interface Family {
  name: string;
  help: string;
  type: "counter" | "gauge";
  lines: string[];
}

function family(name: string, help: string, type: Family["type"]): Family {
  return { name, help, type, lines: [] };
}

const podLabels = ({ namespace, name }: PodSample): string => `namespace="${namespace}",pod="${name}"`;

/** /metrics/resource: each value with the time at which it was measured. */
export function resourceMetrics({ at, pods, ...node }: NodeSample): string {
  const cpu = (seconds: string) => `Cumulative cpu time consumed by the ${seconds} in core-seconds`;
  const memory = (whose: string) => `Current working set of the ${whose} in bytes`;
  const start = (whose: string) => `Start time of the ${whose} since unix epoch in seconds`;
  const families = {
    containerCpu: family("container_cpu_usage_seconds_total", cpu("container"), "counter"),
    containerMemory: family("container_memory_working_set_bytes", memory("container"), "gauge"),
    containerStart: family("container_start_time_seconds", start("container"), "gauge"),
    nodeCpu: family("node_cpu_usage_seconds_total", cpu("node"), "counter"),
    nodeMemory: family("node_memory_working_set_bytes", memory("node"), "gauge"),
    podCpu: family("pod_cpu_usage_seconds_total", cpu("pod"), "counter"),
    podMemory: family("pod_memory_working_set_bytes", memory("pod"), "gauge"),
    error: family(
      "resource_scrape_error",
      "1 if there was an error while getting container metrics, 0 otherwise",
      "gauge",
    ),
  };
  const put = (to: Family, labels: string, value: number, time = ` ${at}`) =>
    to.lines.push(`${to.name}${labels && `{${labels}}`} ${value}${time}`);
  put(families.nodeCpu, "", node.cpuNanoseconds / 1e9);
  put(families.nodeMemory, "", Math.round(node.memoryBytes));
  put(families.error, "", 0, "");
  for (const pod of pods) {
    const sum = total(pod.containers);
    put(families.podCpu, podLabels(pod), sum.cpuNanoseconds / 1e9);
    put(families.podMemory, podLabels(pod), sum.memoryBytes);
    for (const one of pod.containers) {
      const labels = `container="${one.name}",${podLabels(pod)}`;
      put(families.containerCpu, labels, one.cpuNanoseconds / 1e9);
      put(families.containerMemory, labels, one.memoryBytes);
      put(families.containerStart, labels, one.startedAt / 1000, "");
    }
  }
  return Object.values(families)
    .filter(({ lines }) => lines.length > 0)
    .flatMap(({ name, help, type, lines }) => [
      `# HELP ${name} [STABLE] ${help}`,
      `# TYPE ${name} ${type}`,
      ...lines,
    ])
    .concat("")
    .join("\n");
}

function total(usages: readonly Usage[]): Usage {
  return {
    cpuNanoseconds: usages.reduce((sum, one) => sum + one.cpuNanoseconds, 0),
    memoryBytes: usages.reduce((sum, one) => sum + one.memoryBytes, 0),
  };
}

/** CPU per second between two samples, by what was measured. */
function nanoCores(now: Usage, before: Usage | undefined, milliseconds: number): { usageNanoCores?: number } {
  if (!before || milliseconds <= 0) return {};
  const used = Math.max(0, now.cpuNanoseconds - before.cpuNanoseconds);
  return { usageNanoCores: Math.round((used / milliseconds) * 1000) };
}

/** /stats/summary. `before` is an older sample, for the rates; what is not measured here is left out. */
export function statsSummary(nodeName: string, sample: NodeSample, before: NodeSample | undefined): object {
  const time = rfc3339(sample.at);
  const span = before ? sample.at - before.at : 0;
  const usage = (now: Usage, old: Usage | undefined) => ({
    cpu: {
      time,
      ...nanoCores(now, old, span),
      usageCoreNanoSeconds: Math.round(now.cpuNanoseconds),
    },
    memory: { time, workingSetBytes: Math.round(now.memoryBytes), usageBytes: Math.round(now.memoryBytes) },
  });
  const system = {
    name: "kubelet",
    startTime: rfc3339(sample.startedAt),
    ...usage(sample.system, before?.system),
  };
  return {
    node: {
      nodeName,
      systemContainers: [system],
      startTime: rfc3339(sample.startedAt),
      ...usage(sample, before),
    },
    pods: sample.pods.map((pod) => {
      const old = before?.pods.find(({ uid }) => uid === pod.uid);
      return {
        podRef: { name: pod.name, namespace: pod.namespace, uid: pod.uid },
        startTime: rfc3339(pod.startedAt),
        containers: pod.containers.map((one) => ({
          name: one.name,
          startTime: rfc3339(one.startedAt),
          ...usage(
            one,
            old?.containers.find((other) => other.name === one.name && other.startedAt === one.startedAt),
          ),
        })),
        ...usage(total(pod.containers), old && total(old.containers)),
      };
    }),
  };
}

const rfc3339 = (ms: number): string => `${new Date(ms).toISOString().slice(0, 19)}Z`;
