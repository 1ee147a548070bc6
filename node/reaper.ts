// When this process is the first of a PID namespace, orphans become its children and stay zombies until somebody
// waits for them. libuv waits for the processes it has started, by their ids; this waits for all others.

import { readdirSync, readFileSync } from "node:fs";
import koffi from "koffi";

const libc = koffi.load("libc.so.6");
const waitpid = libc.func("int waitpid(int pid, int *status, int options)");
const WNOHANG = 1;

interface Zombie {
  pid: number;
  /** Clock ticks since boot (proc_pid_stat(5), field 22): tells two bearers of one pid apart. */
  startTime: string;
}

/** Pid, state, parent and start time of a /proc/PID/stat line; undefined when it is no such line. Pure. */
export function parseStat(
  line: string,
): { pid: number; state: string; ppid: number; startTime: string } | undefined {
  // The command name may hold spaces and brackets: everything counts from its last bracket.
  const close = line.lastIndexOf(")");
  const pid = Number.parseInt(line, 10);
  const fields = line.slice(close + 2).split(" ");
  const [state = "", ppid = ""] = fields;
  const startTime = fields[19];
  if (close < 0 || Number.isNaN(pid) || startTime === undefined) return undefined;
  return { pid, state, ppid: Number(ppid), startTime };
}

function zombieChildren(): Zombie[] {
  return readdirSync("/proc").flatMap((name): Zombie[] => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const stat = parseStat(readFileSync(`/proc/${name}/stat`, "utf8"));
      return stat?.state === "Z" && stat.ppid === process.pid
        ? [{ pid: stat.pid, startTime: stat.startTime }]
        : [];
    } catch {
      // Ended and reaped between the listing and the look.
      return [];
    }
  });
}

/**
 * Reaps adopted orphans every `intervalMs` (default 5,000) until the returned function is called. A zombie is taken
 * for an orphan when it was there at the previous look already: libuv reaps its own as soon as the event loop
 * turns, which it does between two looks.
 */
export function startReaper(options: { intervalMs?: number } = {}): () => void {
  let seen = new Set<string>();
  const look = () => {
    const now = new Set<string>();
    for (const { pid, startTime } of zombieChildren()) {
      const key = `${pid}/${startTime}`;
      if (seen.has(key)) waitpid(pid, [0], WNOHANG);
      else now.add(key);
    }
    seen = now;
  };
  const timer = setInterval(look, options.intervalMs ?? 5000);
  timer.unref();
  return () => clearInterval(timer);
}
