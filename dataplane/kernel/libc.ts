// The handful of system calls that Node does not offer, through koffi. Knows numbers and structs of Linux,
// nothing of networking policy. All calls are synchronous and act on the calling (main) thread.

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
const cMount = libc.func(
  "int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)",
);
const cUmount2 = libc.func("int umount2(const char *target, int flags)");

export const CLONE_NEWNS = 0x0002_0000;
export const CLONE_NEWUTS = 0x0400_0000;
export const CLONE_NEWNET = 0x4000_0000;

export const MS_BIND = 4096;
export const MS_REC = 16384;
export const MS_PRIVATE = 1 << 18;
export const MNT_DETACH = 2;

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const IPPROTO_IPV6 = 41;
const IPV6_V6ONLY = 26;

/** A failed system call: `code` is the errno name (EADDRINUSE, EPERM, …), as in Node's own errors. */
export class SyscallError extends Error {
  override readonly name = "SyscallError";
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;

  constructor(syscall: string, detail: string, errno: number) {
    const code = getSystemErrorName(-errno);
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

function setOption(fd: number, level: number, name: number, value: number): void {
  check(cSetsockopt(fd, level, name, [value], 4), "setsockopt", `${level}/${name}`);
}
