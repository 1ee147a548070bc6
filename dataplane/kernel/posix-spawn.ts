// posix_spawn(3): starts a program without copying this process first. Node's spawn forks, and a fork of a process
// with a hundred megabytes costs 3 to 10 ms during which nothing else runs; this costs a tenth of it. For commands
// whose input is known and whose output is small (iptables-save, iptables-restore); knows nothing of them.

import { closeSync } from "node:fs";
import { Socket } from "node:net";
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import koffi from "koffi";
import { SyscallError } from "./libc.js";

const libc = koffi.load("libc.so.6");

const cSpawn = libc.func(
  "int posix_spawnp(_Out_ int *pid, const char *file, void *actions, void *attributes, const char **argv, const char **envp)",
);
const cActionsInit = libc.func("int posix_spawn_file_actions_init(void *actions)");
const cActionsDup2 = libc.func("int posix_spawn_file_actions_adddup2(void *actions, int fd, int newfd)");
const cActionsDestroy = libc.func("int posix_spawn_file_actions_destroy(void *actions)");
const cAttrInit = libc.func("int posix_spawnattr_init(void *attributes)");
const cAttrSetFlags = libc.func("int posix_spawnattr_setflags(void *attributes, short flags)");
const cAttrSetSigDefault = libc.func("int posix_spawnattr_setsigdefault(void *attributes, void *set)");
const cSigFillSet = libc.func("int sigfillset(void *set)");
const cPipe2 = libc.func("int pipe2(_Out_ int *fds, int flags)");
const cMemfd = libc.func("int memfd_create(const char *name, unsigned int flags)");
const cWrite = libc.func("int64_t write(int fd, const uint8_t *data, size_t length)");
const cLseek = libc.func("int64_t lseek(int fd, int64_t offset, int whence)");
const cWaitpid = libc.func("int waitpid(int pid, _Out_ int *status, int options)");

const O_CLOEXEC = 0o2000000;
const MFD_CLOEXEC = 1;
const WNOHANG = 1;
const POSIX_SPAWN_SETSIGDEF = 0x04;
const ECHILD = constants.errno.ECHILD;
/** More than any libc needs for posix_spawn_file_actions_t, posix_spawnattr_t and sigset_t (80, 336 and 128). */
const OPAQUE = 512;

// Signals that this process ignores (SIGPIPE) would stay ignored in the program.
const attributes = Buffer.alloc(OPAQUE);
cAttrInit(attributes);
const allSignals = Buffer.alloc(OPAQUE);
cSigFillSet(allSignals);
cAttrSetSigDefault(attributes, allSignals);
cAttrSetFlags(attributes, POSIX_SPAWN_SETSIGDEF);

/** How a program ended: an exit code, or the signal's name. */
export interface Ended {
  exitCode: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** A running program. */
export interface Spawned {
  pid: number;
  /** Resolves when both output streams are at their end and the program has been waited for. */
  ended: Promise<Ended>;
}

function fail(syscall: string, detail: string, errno: number): never {
  throw new SyscallError(syscall, detail, errno);
}

/** A file in memory with `text`, at its beginning: a standard input that needs no writer. */
function inputFile(text: string): number {
  const fd: number = cMemfd("stdin", MFD_CLOEXEC);
  if (fd < 0) fail("memfd_create", "stdin", koffi.errno());
  const data = Buffer.from(text);
  for (let done = 0; done < data.length; ) {
    const written = Number(cWrite(fd, data.subarray(done), data.length - done));
    if (written < 0) {
      const errno = koffi.errno();
      closeSync(fd);
      fail("write", "memfd", errno);
    }
    done += written;
  }
  cLseek(fd, 0, 0);
  return fd;
}

/** pipe2(2), closed in what is executed: the end to read and the end to write. @throws SyscallError */
export function pipe(): [number, number] {
  const fds = [0, 0];
  if (cPipe2(fds, O_CLOEXEC) < 0) fail("pipe2", "", koffi.errno());
  return [fds[0] as number, fds[1] as number];
}

function readAll(fd: number): Promise<string> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const socket = new Socket({ fd, readable: true, writable: false });
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    // What was read until an error is all there is; the exit code tells the story.
    socket.on("error", () => socket.destroy());
    socket.on("close", () => resolve(Buffer.concat(chunks).toString()));
  });
}

/** waitpid(2), not blocking: a program may close its output long before it ends. */
async function wait(pid: number): Promise<Pick<Ended, "exitCode" | "signal">> {
  const status = [0];
  let result: number = cWaitpid(pid, status, WNOHANG);
  for (let pause = 0; result === 0; pause = Math.min(pause + 1, 20)) {
    await sleep(pause);
    result = cWaitpid(pid, status, WNOHANG);
  }
  if (result < 0) {
    const errno = koffi.errno();
    // PID 1 of a namespace may have reaped it before us; then nobody knows how it ended.
    if (errno === ECHILD) return { exitCode: null, signal: null };
    fail("waitpid", String(pid), errno);
  }
  const raw = status[0] as number;
  const number = raw & 0x7f;
  if (number === 0) return { exitCode: (raw >> 8) & 0xff, signal: null };
  const name = Object.entries(constants.signals).find(([, value]) => value === number)?.[0];
  return { exitCode: null, signal: (name ?? `SIG${number}`) as NodeJS.Signals };
}

/**
 * Starts `command` (looked up in this process's PATH) in the calling thread's namespaces.
 * @throws SyscallError ENOENT, EACCES, … when it cannot be started.
 */
export function posixSpawn(
  command: string,
  args: readonly string[],
  options: { input?: string; env?: NodeJS.ProcessEnv } = {},
): Spawned {
  const environment = Object.entries(options.env ?? process.env).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${value}`],
  );
  const stdin = inputFile(options.input ?? "");
  const [outRead, outWrite] = pipe();
  const [errRead, errWrite] = pipe();
  const actions = Buffer.alloc(OPAQUE);
  cActionsInit(actions);
  for (const [from, to] of [stdin, outWrite, errWrite].entries()) cActionsDup2(actions, to, from);
  const pid = [0];
  const errno: number = cSpawn(
    pid,
    command,
    actions,
    attributes,
    [command, ...args, null],
    [...environment, null],
  );
  cActionsDestroy(actions);
  for (const fd of [stdin, outWrite, errWrite]) closeSync(fd);
  if (errno !== 0) {
    closeSync(outRead);
    closeSync(errRead);
    fail("posix_spawn", command, errno);
  }
  const child = pid[0] as number;
  const ended = Promise.all([readAll(outRead), readAll(errRead)]).then(async ([stdout, stderr]) => ({
    stdout,
    stderr,
    ...(await wait(child)),
  }));
  return { pid: child, ended };
}
