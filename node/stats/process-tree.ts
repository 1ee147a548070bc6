// What the processes of a container use, from /proc: no cgroup is needed, so it is the same with and without root.
// Knows process ids and files of /proc.

import { readdirSync, readFileSync } from "node:fs";
import type { Usage } from "../images/meter.js";

/** USER_HZ, which is 100 on every Linux. */
const TICK_NS = 10_000_000;
const PAGE = 4096;

/** A file of /proc; empty when its process has just gone. */
function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH" || code === "EACCES") return "";
    throw error;
  }
}

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return [];
    throw error;
  }
}

/** A process with all its descendants: in a PID namespace of its own, all of the container. */
function treeOf(root: number): number[] {
  const found = [root];
  for (const pid of found)
    for (const thread of threadsOf(pid))
      found.push(...read(`/proc/${pid}/task/${thread}/children`).split(" ").filter(Boolean).map(Number));
  return found;
}

/**
 * CPU time of a process with that of the children it has waited for, and its resident pages. Pure; undefined for a
 * text that is no /proc/PID/stat.
 */
export function parseStat(text: string): { cpuNanoseconds: number; rssBytes: number } | undefined {
  // The name in parentheses may hold spaces and parentheses.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  if (fields.length < 22) return undefined;
  const ticks = [11, 12, 13, 14].reduce((sum, i) => sum + Number(fields[i]), 0);
  return { cpuNanoseconds: ticks * TICK_NS, rssBytes: Number(fields[21]) * PAGE };
}

/** Bytes from the "Pss:" line of smaps_rollup, in which a shared page counts in parts. Pure. */
export function parsePss(text: string): number | undefined {
  const kibibytes = /^Pss:\s+(\d+) kB$/m.exec(text)?.[1];
  return kibibytes === undefined ? undefined : Number(kibibytes) * 1024;
}

/**
 * What the tree of a process uses now. A process that ended was waited for by its parent, or by the tree's first
 * process, and its CPU time counts there; where nobody waits for children their time is lost.
 */
export function treeUsage(root: number): Usage {
  const usage: Usage = { cpuNanoseconds: 0, memoryBytes: 0 };
  for (const pid of treeOf(root)) {
    const stat = parseStat(read(`/proc/${pid}/stat`));
    if (!stat) continue;
    usage.cpuNanoseconds += stat.cpuNanoseconds;
    usage.memoryBytes += parsePss(read(`/proc/${pid}/smaps_rollup`)) ?? stat.rssBytes;
  }
  return usage;
}

/** Resident bytes of all processes of the tree, shared ones counted as often as they are shared: cheap, and too much. */
export function treeResident(root: number): number {
  return treeOf(root).reduce((sum, pid) => sum + (parseStat(read(`/proc/${pid}/stat`))?.rssBytes ?? 0), 0);
}
