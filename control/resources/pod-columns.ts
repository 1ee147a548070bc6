// The pod row of `kubectl get pods`: what STATUS, READY and RESTARTS say, after printPod of the real server
// (pkg/printers/internalversion). Pure: a pod and the time in, cells out.

import type { ContainerStatus, Pod, Stored } from "../../common/k8s.js";
import { age } from "./duration.js";
import { ageColumn, column, nameColumn, wideColumn } from "./object.js";
import type { Column } from "./types.js";

/** Cells of a pod that come from the states of its containers. */
export interface PodSummary {
  ready: number;
  total: number;
  /** Running, CrashLoopBackOff, Init:0/1, Terminating, … */
  reason: string;
  restarts: number;
  /** RFC 3339 time of the last restart. */
  lastRestart?: string;
}

/** Reason set by the node lifecycle controller on pods of a node that is gone. */
const NODE_LOST = "NodeLost";

/** What a row says of a pod. */
function summarizePod(pod: Stored<Pod>): PodSummary {
  const { spec, status } = pod;
  const restartable = new Set(
    (spec?.initContainers ?? []).filter((c) => c.restartPolicy === "Always").map((c) => c.name),
  );
  const summary: PodSummary = {
    ready: 0,
    total: (spec?.containers ?? []).length + restartable.size,
    reason: status?.reason || status?.phase || "",
    restarts: 0,
  };
  const conditions = status?.conditions ?? [];
  if (conditions.some((c) => c.type === "PodScheduled" && c.reason === "SchedulingGated")) {
    summary.reason = "SchedulingGated";
  }
  const initializing = summarizeInit(pod, restartable, summary);
  if (!initializing || isTrue(pod, "Initialized")) summarizeContainers(pod, restartable, summary);

  if (pod.metadata.deletionTimestamp) {
    if (status?.reason === NODE_LOST) summary.reason = "Unknown";
    else if (status?.phase !== "Failed" && status?.phase !== "Succeeded") summary.reason = "Terminating";
  }
  return summary;
}

/** Walks the init containers to the first that has not done its part; true when there is one. */
function summarizeInit(pod: Stored<Pod>, restartable: ReadonlySet<string>, summary: PodSummary): boolean {
  const statuses = pod.status?.initContainerStatuses ?? [];
  for (const [i, c] of statuses.entries()) {
    countRestarts(c, summary);
    const { terminated, waiting } = c.state ?? {};
    if (terminated && terminated.exitCode === 0) continue;
    if (restartable.has(c.name) && c.started) {
      if (c.ready) summary.ready++;
      continue;
    }
    if (terminated) summary.reason = `Init:${endReason(terminated)}`;
    else if (waiting?.reason && waiting.reason !== "PodInitializing")
      summary.reason = `Init:${waiting.reason}`;
    else summary.reason = `Init:${i}/${(pod.spec?.initContainers ?? []).length}`;
    return true;
  }
  return false;
}

function summarizeContainers(pod: Stored<Pod>, restartable: ReadonlySet<string>, summary: PodSummary): void {
  // Once running, only restarts of containers that still run count; sidecars among the init containers do.
  summary.restarts = 0;
  summary.lastRestart = undefined;
  for (const c of pod.status?.initContainerStatuses ?? []) {
    if (restartable.has(c.name)) countRestarts(c, summary);
  }
  let running = false;
  for (const c of [...(pod.status?.containerStatuses ?? [])].reverse()) {
    countRestarts(c, summary);
    const { waiting, terminated } = c.state ?? {};
    if (waiting?.reason) summary.reason = waiting.reason;
    else if (terminated) summary.reason = endReason(terminated);
    else if (c.ready && c.state?.running) {
      running = true;
      summary.ready++;
    }
  }
  if (summary.reason === "Completed" && running) {
    summary.reason = isTrue(pod, "Ready") ? "Running" : "NotReady";
  }
}

function endReason(terminated: { reason?: string; signal?: number; exitCode: number }): string {
  if (terminated.reason) return terminated.reason;
  return terminated.signal ? `Signal:${terminated.signal}` : `ExitCode:${terminated.exitCode}`;
}

function countRestarts(c: ContainerStatus, summary: PodSummary): void {
  summary.restarts += c.restartCount ?? 0;
  const finished = c.lastState?.terminated?.finishedAt;
  if (!finished) return;
  if (!summary.lastRestart || Date.parse(summary.lastRestart) < Date.parse(finished)) {
    summary.lastRestart = finished;
  }
}

function isTrue(pod: Stored<Pod>, type: string): boolean {
  return (pod.status?.conditions ?? []).some((c) => c.type === type && c.status === "True");
}

function restartsText({ restarts, lastRestart }: PodSummary, now: number): string {
  return restarts !== 0 && lastRestart ? `${restarts} (${age(lastRestart, now)} ago)` : `${restarts}`;
}

function readinessGates(pod: Stored<Pod>): string {
  const gates = pod.spec?.readinessGates ?? [];
  if (gates.length === 0) return "<none>";
  return `${gates.filter((g) => isTrue(pod, g.conditionType)).length}/${gates.length}`;
}

export const podColumns: readonly Column<Stored<Pod>>[] = [
  nameColumn(),
  column("Ready", (pod) => {
    const { ready, total } = summarizePod(pod);
    return `${ready}/${total}`;
  }),
  column("Status", (pod) => summarizePod(pod).reason),
  column("Restarts", (pod, now) => restartsText(summarizePod(pod), now)),
  ageColumn(),
  wideColumn("IP", (pod) => pod.status?.podIPs?.[0]?.ip || pod.status?.podIP || "<none>"),
  wideColumn("Node", (pod) => pod.spec?.nodeName || "<none>"),
  wideColumn("Nominated Node", (pod) => pod.status?.nominatedNodeName || "<none>"),
  wideColumn("Readiness Gates", readinessGates),
];
