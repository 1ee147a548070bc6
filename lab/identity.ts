// Tells a process of ours from a stranger that got its number. Knows /proc, nothing of what the processes do.

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { hasCode } from "./errors.js";

/** A process for as long as it lives: a number alone is given out again. */
export interface ProcessId {
  pid: number;
  /** Field 22 of /proc/PID/stat (proc_pid_stat(5)), clock ticks after boot. */
  startTime: string;
  /** /proc/sys/kernel/random/boot_id: start times begin anew with each boot. */
  bootId: string;
}

let bootId: string | undefined;

export function currentBootId(): string {
  bootId ??= readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  return bootId;
}

/** The file's text, undefined when the process is gone (or hidden from us). */
function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (hasCode(error, "ENOENT", "ESRCH", "EACCES", "EPERM")) return undefined;
    throw error;
  }
}

/** State letter and start time; a zombie counts as gone, for nothing of it runs. */
function statOf(pid: number): { state: string; startTime: string; parent: number } | undefined {
  const text = readProc(`/proc/${pid}/stat`);
  if (!text) return undefined;
  // The command name, in parentheses, may contain anything: fields are counted after the last ")".
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0] ?? "", parent: Number(fields[1]), startTime: fields[19] ?? "" };
}

/** Identity of a living process, undefined when there is none of that number. */
export function identify(pid: number): ProcessId | undefined {
  const stat = statOf(pid);
  if (!stat || stat.state === "Z" || stat.state === "X") return undefined;
  return { pid, startTime: stat.startTime, bootId: currentBootId() };
}

/** Whether that very process still runs. */
export function isAlive(id: ProcessId | undefined): boolean {
  if (!id || id.bootId !== currentBootId()) return false;
  return identify(id.pid)?.startTime === id.startTime;
}

/** Parent's process id. */
export function parentOf(pid: number): number | undefined {
  return statOf(pid)?.parent;
}

/** Arguments of a process, [] when it is gone or a kernel thread. */
export function argvOf(pid: number): string[] {
  return readProc(`/proc/${pid}/cmdline`)?.split("\0").slice(0, -1) ?? [];
}

/** Resident memory in bytes (VmRSS of /proc/PID/status). */
export function residentBytes(pid: number | "self"): number | undefined {
  const kib = /^VmRSS:\s+(\d+) kB/m.exec(readProc(`/proc/${pid}/status`) ?? "")?.[1];
  return kib ? Number(kib) * 1024 : undefined;
}

/** Process ids of this machine, as far as our /proc shows them; not our own. */
function processIds(): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid !== process.pid);
}

/** Every process that has `marker` among its arguments, oldest first. */
export function processesWithArgument(marker: string): (ProcessId & { argv: string[] })[] {
  return processIds()
    .map((pid) => ({ pid, argv: argvOf(pid) }))
    .filter(({ argv }) => argv.includes(marker))
    .flatMap(({ pid, argv }) => {
      const id = identify(pid);
      return id ? [{ ...id, argv }] : [];
    })
    .sort((a, b) => Number(a.startTime) - Number(b.startTime) || a.pid - b.pid);
}

/** The user namespace of a process as /proc names it (user:[4026531837]), undefined when we may not know. */
export function userNamespaceOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/user`);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ESRCH", "EACCES", "EPERM")) return undefined;
    throw error;
  }
}

/** Every process in that user namespace, unless it is our own. */
export function processesInUserNamespace(name: string): ProcessId[] {
  if (userNamespaceOf(process.pid) === name) return [];
  return processIds()
    .filter((pid) => userNamespaceOf(pid) === name)
    .flatMap((pid) => identify(pid) ?? []);
}

/** Signals that very process; false when it is gone already. Throws EPERM for somebody else's. */
export function signal(id: ProcessId, name: NodeJS.Signals): boolean {
  if (!isAlive(id)) return false;
  try {
    process.kill(id.pid, name);
    return true;
  } catch (error) {
    if (hasCode(error, "ESRCH")) return false;
    throw error;
  }
}

/** Resolves true when all of them are gone, false after `timeoutMs`. */
export async function waitGone(ids: readonly ProcessId[], timeoutMs: number): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  while (ids.some(isAlive)) {
    if (Date.now() > deadline) return false;
    await sleep(2);
  }
  return true;
}
