// The CPU time of the calling thread, which Node tells of the whole process only. Knows one clock of Linux.

import koffi from "koffi";

const CLOCK_THREAD_CPUTIME_ID = 3;
const clockGettime = koffi.load("libc.so.6").func("int clock_gettime(int, _Out_ int64_t *)");
const time = new BigInt64Array(2);

/** Nanoseconds that this thread has run on a CPU, in user mode and in the kernel. Asking costs about a microsecond. */
export function threadCpuNanoseconds(): number {
  clockGettime(CLOCK_THREAD_CPUTIME_ID, time);
  return Number(time[0]) * 1e9 + Number(time[1]);
}
