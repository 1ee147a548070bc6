// The handful of system calls that Node does not offer, through koffi. Knows numbers and structs of Linux,
// nothing of networking policy. All calls but sendInThread are synchronous and act on the calling (main) thread.

import { isIPv6 } from "node:net";
import { getSystemErrorName } from "node:util";
import koffi from "koffi";

const libc = koffi.load("libc.so.6");

const cSetns = libc.func("int setns(int fd, int nstype)");
const cUnshare = libc.func("int unshare(int flags)");
const cSocket = libc.func("int socket(int domain, int type, int protocol)");
const cBind = libc.func("int bind(int fd, const uint8_t *addr, uint32_t len)");
const cListen = libc.func("int listen(int fd, int backlog)");
const cSetsockopt = libc.func("int setsockopt(int fd, int level, int name, const int *value, uint32_t len)");
const cGetsockopt = libc.func(
  "int getsockopt(int fd, int level, int name, _Out_ int *value, _Inout_ uint32_t *len)",
);
const cSend = libc.func("intptr_t send(int fd, const uint8_t *data, size_t len, int flags)");
const cRecv = libc.func("intptr_t recv(int fd, uint8_t *data, size_t len, int flags)");
const cMount = libc.func(
  "int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)",
);
const cUmount2 = libc.func("int umount2(const char *target, int flags)");
const cSyscall = libc.func("long syscall(long number, ...)");
const cFlock = libc.func("int flock(int fd, int operation)");
const cSethostname = libc.func("int sethostname(const char *name, size_t len)");

export const CLONE_FS = 0x0000_0200;
export const CLONE_NEWNS = 0x0002_0000;
export const CLONE_NEWUTS = 0x0400_0000;
export const CLONE_NEWNET = 0x4000_0000;

export const MS_RDONLY = 1;
export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_NOEXEC = 8;
export const MS_REMOUNT = 32;
export const MS_BIND = 4096;
export const MS_REC = 16384;
export const MS_PRIVATE = 1 << 18;
export const MNT_DETACH = 2;

const AF_INET = 2;
const AF_NETLINK = 16;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_SNDBUF = 7;
const SO_SNDBUFFORCE = 32;
const SOL_NETLINK = 270;
const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;
const IPPROTO_IPV6 = 41;
const IPV6_V6ONLY = 26;

/** Names of Linux that libuv has no error of its own for and that a network can meet (errno(3)). */
const OTHER_ERRORS: Readonly<Record<number, string>> = {
  52: "EBADE",
  53: "EBADR",
  54: "EXFULL",
  76: "ENOTUNIQ",
  85: "ERESTART",
  96: "EPFNOSUPPORT",
  126: "ENOKEY",
};

/** EEXIST for 17: the name of a positive errno. */
export function errorName(errno: number): string {
  return OTHER_ERRORS[errno] ?? getSystemErrorName(-errno);
}

/** A failed system call: `code` is the errno name (EADDRINUSE, EPERM, …), as in Node's own errors. */
export class SyscallError extends Error {
  override readonly name = "SyscallError";
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;

  constructor(syscall: string, detail: string, errno: number) {
    const code = errorName(errno);
    super(`${code}: ${syscall} ${detail}`);
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
  }
}

function check(result: number, syscall: string, detail: string): number {
  if (result < 0) throw new SyscallError(syscall, detail, koffi.errno());
  return result;
}

/** setns(2): moves the calling thread into the namespace behind `fd`. */
export function setns(fd: number, type: number): void {
  check(cSetns(fd, type), "setns", `fd ${fd}`);
}

/** unshare(2): gives the calling thread new namespaces of the kinds in `flags`. */
export function unshare(flags: number): void {
  check(cUnshare(flags), "unshare", `0x${flags.toString(16)}`);
}

/** mount(2). */
export function mount(
  source: string,
  target: string,
  type: string | null,
  flags: number,
  data?: string,
): void {
  check(cMount(source, target, type, flags, data ?? null), "mount", `${source} on ${target}`);
}

/** umount2(2). */
export function umount(target: string, flags = 0): void {
  check(cUmount2(target, flags), "umount2", target);
}

/** The number of pivot_root(2), which libc has no function for: that of all newer architectures, or an older one's own. */
const SYS_PIVOT_ROOT = { x64: 155, ppc64: 203, s390x: 217 }[process.arch as string] ?? 41;

/** pivot_root(2): `root`, a mount point, becomes the root, and what was the root is found at `old`, below it. */
export function pivotRoot(root: string, old: string): void {
  const result = Number(cSyscall(SYS_PIVOT_ROOT, "const char *", root, "const char *", old));
  check(result, "pivot_root", `${root} ${old}`);
}

const SYS_MOUNT_SETATTR = 442;
const AT_FDCWD = -100;
const AT_RECURSIVE = 0x8000;

/**
 * Adds MS_RDONLY or MS_NODEV to the mount at `target` and to all that is mounted below it (mount_setattr(2), whose
 * numbers for them are the same); before Linux 5.12 to that one mount only, and in a user namespace not even that.
 */
export function restrictMount(target: string, flags: number): void {
  const attributes = Buffer.alloc(32);
  attributes.writeBigUInt64LE(BigInt(flags), 0);
  const result = Number(
    cSyscall(
      SYS_MOUNT_SETATTR,
      ...["int", AT_FDCWD, "const char *", target, "unsigned int", AT_RECURSIVE],
      ...["const uint8_t *", attributes, "size_t", attributes.length],
    ),
  );
  if (result < 0 && errorName(koffi.errno()) === "ENOSYS")
    mount("none", target, null, MS_REMOUNT | MS_BIND | flags);
  else check(result, "mount_setattr", target);
}

/** sethostname(2) in the calling thread's UTS namespace. */
export function sethostname(name: string): void {
  check(cSethostname(name, Buffer.byteLength(name)), "sethostname", name);
}

const LOCK_EX = 2;
const LOCK_NB = 4;

/** Exclusive flock(2) without waiting; false when somebody else holds it. The kernel drops it with the last copy of `fd`. */
export function tryLock(fd: number): boolean {
  if (cFlock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const errno = koffi.errno();
  if (getSystemErrorName(-errno) === "EAGAIN") return false;
  throw new SyscallError("flock", `fd ${fd}`, errno);
}

/** struct sockaddr_in / sockaddr_in6 (ip(7), ipv6(7)); `host` is a literal address. */
function sockaddr(host: string, port: number): Uint8Array {
  if (isIPv6(host)) {
    const out = Buffer.alloc(28);
    out.writeUInt16LE(AF_INET6, 0);
    out.writeUInt16BE(port, 2);
    out.set(ipv6Bytes(host), 8);
    return out;
  }
  const out = Buffer.alloc(16);
  out.writeUInt16LE(AF_INET, 0);
  out.writeUInt16BE(port, 2);
  out.set(host.split(".").map(Number), 4);
  return out;
}

function ipv6Bytes(address: string): Uint8Array {
  const out = Buffer.alloc(16);
  let text = address;
  const v4 = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(text);
  if (v4) {
    const [a, b, c, d] = v4.slice(2).map(Number) as [number, number, number, number];
    text = `${v4[1]}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
  }
  const [head = "", tail] = text.split("::");
  const left = head ? head.split(":") : [];
  const right = tail ? tail.split(":") : [];
  left.forEach((group, i) => {
    out.writeUInt16BE(Number.parseInt(group, 16), i * 2);
  });
  right.forEach((group, i) => {
    out.writeUInt16BE(Number.parseInt(group, 16), (8 - right.length + i) * 2);
  });
  return out;
}

export type SocketKind = "tcp" | "udp";

/** A non-blocking, close-on-exec socket in the calling thread's network namespace; returns its descriptor. */
export function socket(kind: SocketKind, family: 4 | 6): number {
  const type = (kind === "tcp" ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC;
  return check(cSocket(family === 6 ? AF_INET6 : AF_INET, type, 0), "socket", `${kind}${family}`);
}

/** bind(2) with SO_REUSEADDR (TCP) and, for IPv6, IPV6_V6ONLY set. */
export function bind(fd: number, kind: SocketKind, host: string, port: number): void {
  if (kind === "tcp") setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (isIPv6(host)) setOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  const address = sockaddr(host, port);
  check(cBind(fd, address, address.length), "bind", `${host}:${port}`);
}

/** listen(2). */
export function listen(fd: number, backlog: number): void {
  check(cListen(fd, backlog), "listen", `fd ${fd}`);
}

/** A netlink(7) socket of `protocol` in the calling thread's network namespace; returns its descriptor. */
export function netlinkSocket(protocol: number): number {
  return check(cSocket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), "socket", `netlink ${protocol}`);
}

/** Turns a SOL_NETLINK option on; a kernel that does not know it (ENOPROTOOPT) is left as it is. */
export function enableNetlinkOption(fd: number, name: number): void {
  try {
    setOption(fd, SOL_NETLINK, name, 1);
  } catch (error) {
    if (!(error instanceof SyscallError && error.code === "ENOPROTOOPT")) throw error;
  }
}

/**
 * Binds a netlink socket to a port of the kernel's choice and to multicast groups, given by number (1 to 32).
 * An unbound one is passed over by the kernel when it tells its groups.
 */
export function bindNetlink(fd: number, groups: readonly number[]): void {
  const address = Buffer.alloc(12);
  address.writeUInt16LE(AF_NETLINK, 0);
  address.writeUInt32LE(groups.reduce((mask, group) => mask | (1 << (group - 1)), 0) >>> 0, 8);
  check(cBind(fd, address, address.length), "bind", `netlink groups ${groups.join(", ")}`);
}

/**
 * Room for requests of `bytes` on a socket. Returns the largest request that it takes: less, where this process may
 * not go beyond the machine's limit (net.core.wmem_max).
 */
export function growSendBuffer(fd: number, bytes: number): number {
  try {
    setOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, bytes);
  } catch {
    setOption(fd, SOL_SOCKET, SO_SNDBUF, bytes);
  }
  const value = [0];
  check(cGetsockopt(fd, SOL_SOCKET, SO_SNDBUF, value, [4]), "getsockopt", "SO_SNDBUF");
  // netlink_sendmsg() keeps 32 bytes for itself.
  return (value[0] ?? 0) - 32;
}

/** send(2) of the first `length` bytes; to a netlink socket's default peer, the kernel. */
export function send(fd: number, data: Uint8Array, length: number): void {
  check(Number(cSend(fd, data, length, 0)), "send", `fd ${fd}, ${length} bytes`);
}

/** {@link send} on a thread of libuv's pool, for requests that make the kernel wait long. */
export function sendInThread(fd: number, data: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    cSend.async(fd, data, data.length, 0, (error: Error | null, sent: number) => {
      if (error) reject(error);
      else if (Number(sent) === data.length) resolve();
      // errno is the other thread's and lost; netlink tells its refusals in the answer, so this is no refusal.
      else reject(new Error(`send fd ${fd}: ${sent} of ${data.length} bytes were taken`));
    });
  });
}

/**
 * recv(2) without waiting. Returns the length of the datagram, which is more than `into.length` when it was cut, or
 * undefined when nothing is there.
 */
export function recv(fd: number, into: Uint8Array): number | undefined {
  const length = Number(cRecv(fd, into, into.length, MSG_DONTWAIT | MSG_TRUNC));
  if (length >= 0) return length;
  const errno = koffi.errno();
  if (errorName(errno) === "EAGAIN") return undefined;
  throw new SyscallError("recv", `fd ${fd}`, errno);
}

function setOption(fd: number, level: number, name: number, value: number): void {
  check(cSetsockopt(fd, level, name, [value], 4), "setsockopt", `${level}/${name}`);
}
