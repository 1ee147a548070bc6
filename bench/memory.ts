// Memory and CPU time of a process as the kernel counts them (proc(5): smaps_rollup, stat).

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** USER_HZ, which is 100 on every architecture that Node runs on. */
const TICKS_A_SECOND = 100;

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

/** CPU time that a process and its ended children have used, in milliseconds (proc(5): utime, stime, cutime, cstime). */
export function cpuOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
  return ticks * (1000 / TICKS_A_SECOND);
}

/** CPU milliseconds that a process takes in a minute, extrapolated from `seconds` of doing nothing. */
export async function idleCpu(pid: number, seconds: number): Promise<number> {
  const before = cpuOf(pid);
  await sleep(seconds * 1000);
  return ((cpuOf(pid) - before) * 60) / seconds;
}
