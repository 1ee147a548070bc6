// Completion indexes of Indexed Jobs: as texts ("0,2-4") and as the pods carry them. Pure; knows Jobs and Pods.

import type { Pod, Stored } from "../../common/k8s.js";

export const COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index";
/** How often the index has failed before this pod. */
export const INDEX_FAILURES = "batch.kubernetes.io/job-index-failure-count";

/** The indexes below `completions` that a text as "0,2-4" names; a part that cannot be read names none. */
export function parseIndexes(text: string | undefined, completions: number): Set<number> {
  const indexes = new Set<number>();
  for (const part of (text ?? "").split(",")) {
    const [, from, to = from] = /^(\d+)(?:-(\d+))?$/.exec(part) ?? [];
    if (from === undefined) continue;
    const last = Math.min(Number(to), completions - 1);
    for (let index = Number(from); index <= last; index++) indexes.add(index);
  }
  return indexes;
}

/** The shortest such text: runs of three and more as ranges. */
export function formatIndexes(indexes: ReadonlySet<number>): string {
  const parts: string[] = [];
  const sorted = [...indexes].sort((a, b) => a - b);
  for (let i = 0; i < sorted.length; ) {
    let end = i;
    while (sorted[end + 1] === (sorted[end] ?? 0) + 1) end++;
    const [first, last] = [sorted[i], sorted[end]];
    parts.push(end === i ? `${first}` : end === i + 1 ? `${first},${last}` : `${first}-${last}`);
    i = end + 1;
  }
  return parts.join(",");
}

/** The pod's index; undefined when it has none that can be read. */
export function indexOf(pod: Stored<Pod>): number | undefined {
  const text = pod.metadata.annotations?.[COMPLETION_INDEX];
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}

/** How often the pod's index had failed before it. */
export function failuresBefore(pod: Stored<Pod>): number {
  const count = Number(pod.metadata.annotations?.[INDEX_FAILURES] ?? 0);
  return Number.isInteger(count) && count > 0 ? count : 0;
}
