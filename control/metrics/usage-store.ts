// The last two points of every node and container, and the usage between them, as metrics-server keeps and tells
// them. Pure; knows points and time, no API.

import type { Point, Scrape } from "./resource-metrics.js";

/** What was used in the `windowMs` before `at`. */
export interface Usage {
  /** Milliseconds since the epoch. */
  at: number;
  windowMs: number;
  cpuCores: number;
  memoryBytes: number;
}

interface Pair {
  last: Point;
  before?: Point;
}

/** A container so young needs one point only: its beginning is the other. */
const FRESH_MS = 10_000;

export class UsageStore {
  /** --metric-resolution in milliseconds. */
  readonly #resolutionMs: number;
  readonly #nodes = new Map<string, Pair>();
  /** Node → pod → container. */
  readonly #pods = new Map<string, Map<string, Map<string, Pair>>>();

  constructor(resolutionMs: number) {
    this.#resolutionMs = resolutionMs;
  }

  /** The points of one node; what is not among them is forgotten. */
  add(node: string, { node: point, pods }: Scrape): void {
    if (point) this.#nodes.set(node, next(this.#nodes.get(node), point));
    else this.#nodes.delete(node);
    const known = this.#pods.get(node);
    const now = new Map<string, Map<string, Pair>>();
    for (const [pod, containers] of pods) {
      const former = known?.get(pod);
      now.set(pod, new Map([...containers].map(([name, p]) => [name, next(former?.get(name), p)])));
    }
    this.#pods.set(node, now);
  }

  /** Forgets nodes that are not among these. */
  keepNodes(names: ReadonlySet<string>): void {
    for (const name of this.#nodes.keys()) if (!names.has(name)) this.#nodes.delete(name);
    for (const name of this.#pods.keys()) if (!names.has(name)) this.#pods.delete(name);
  }

  node(name: string): Usage | undefined {
    const pair = this.#nodes.get(name);
    return pair?.before && usageBetween(pair.before, pair.last);
  }

  /** By container; undefined while one of them has not been measured long enough. */
  pod(node: string, key: string): Map<string, Usage> | undefined {
    const pairs = this.#pods.get(node)?.get(key);
    if (!pairs) return undefined;
    const usages = new Map<string, Usage>();
    for (const [name, pair] of pairs) {
      const before = pair.before ?? this.#beginning(pair.last);
      if (!before) return undefined;
      usages.set(name, usageBetween(before, pair.last));
    }
    return usages;
  }

  #beginning({ at, startedAt }: Point): Point | undefined {
    if (startedAt === undefined) return undefined;
    const age = at - startedAt;
    return age >= FRESH_MS && age < this.#resolutionMs
      ? { at: startedAt, cpuSeconds: 0, memoryBytes: 0 }
      : undefined;
  }
}

/** A point of another life (a restarted container, a counter that fell) begins anew; the same point again is none. */
function next(pair: Pair | undefined, point: Point): Pair {
  if (!pair || point.startedAt !== pair.last.startedAt || point.cpuSeconds < pair.last.cpuSeconds)
    return { last: point };
  return point.at <= pair.last.at ? pair : { before: pair.last, last: point };
}

function usageBetween(before: Point, last: Point): Usage {
  const windowMs = last.at - before.at;
  return {
    at: last.at,
    windowMs,
    cpuCores: (last.cpuSeconds - before.cpuSeconds) / (windowMs / 1000),
    memoryBytes: last.memoryBytes,
  };
}
