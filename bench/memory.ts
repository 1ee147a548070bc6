// Memory of a process as the kernel counts it (proc(5), smaps_rollup).

import { readFileSync } from "node:fs";

function field(pid: number, name: string): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const kb = new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text)?.[1];
  if (kb === undefined) throw new Error(`/proc/${pid}/smaps_rollup has no ${name}`);
  return Number(kb) / 1024;
}

/** Resident set in MB. */
export const rssOf = (pid: number): number => field(pid, "Rss");

/** What would be free if the process ended, in MB. */
export const privateOf = (pid: number): number => field(pid, "Private_Clean") + field(pid, "Private_Dirty");
