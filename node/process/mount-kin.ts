// The processes of a container that has no PID namespace of its own, found by their mount namespace, which it always has.
// Knows /proc.

import { readdirSync, readlinkSync } from "node:fs";

/** As /proc/PID/ns/mnt names it; undefined when the process is gone or not ours to see. */
export function mountNamespace(pid: number | string): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`);
  } catch {
    return undefined;
  }
}

/** SIGKILL to all of them, and to those that they have started meanwhile. */
export function killInMounts(namespace: string): void {
  const killed = new Set<string>();
  for (let before = -1; before < killed.size; ) {
    before = killed.size;
    for (const pid of readdirSync("/proc")) {
      if (!/^\d+$/.test(pid) || killed.has(pid) || mountNamespace(pid) !== namespace) continue;
      killed.add(pid);
      kill(Number(pid));
    }
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
