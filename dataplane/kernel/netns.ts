// A host or a pod is a handle on a network namespace: sockets, processes and sysctls are made inside it by this
// one process (setns(2) is per thread and costs microseconds). Knows namespaces, nothing of Kubernetes.

import type { ChildProcess, SpawnOptions } from "node:child_process";
import { spawn } from "node:child_process";
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { closeSync, mkdirSync, openSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, isIPv6, type Server, Socket } from "node:net";
import { dirname } from "node:path";
import { type CommandResult, type RunOptions, runCommand } from "./command.js";
import * as libc from "./libc.js";

let origin: number | undefined;

/** The namespace this process started in; opened once, before the first switch. */
function originFd(): number {
  if (origin === undefined) {
    origin = openSync("/proc/thread-self/ns/net", "r");
    process.on("SIGUSR1", () => void debugAtHome());
  }
  return origin;
}

/**
 * What Node does at SIGUSR1, but in a tick of its own. Node itself starts the debugger's thread between any two lines:
 * from inside another namespace it would listen there, and this thread could not leave a mount namespace any more, whose
 * root it would share.
 */
async function debugAtHome(): Promise<void> {
  const inspector = await import("node:inspector");
  if (inspector.url() === undefined) inspector.open();
}

export interface ListenOptions {
  /** Literal address; default 0.0.0.0. */
  host?: string;
  port: number;
  backlog?: number;
}

export interface ConnectOptions {
  /** Literal address: names are resolved by nobody in a namespace. */
  host: string;
  port: number;
  localAddress?: string;
  /** Milliseconds until the attempt is given up with ETIMEDOUT; default none but the kernel's. */
  timeout?: number;
}

/** One network namespace, kept alive by an open descriptor until {@link close}. */
export class NetNs implements Disposable {
  /** For people and logs: node-1, default/web-abc. */
  readonly name: string;
  #fd: number;
  #bound: string | undefined;
  readonly #borrowed: boolean;

  private constructor(name: string, fd: number, borrowed: boolean) {
    this.name = name;
    this.#fd = fd;
    this.#borrowed = borrowed;
  }

  /** The namespace of this process itself: what a host is on a VM. */
  static current(name = "host"): NetNs {
    return new NetNs(name, originFd(), true);
  }

  /**
   * A new, empty namespace (unshare(2), CLONE_NEWNET).
   * @throws SyscallError EPERM without CAP_SYS_ADMIN in the user namespace.
   */
  static create(name: string): NetNs {
    const home = originFd();
    libc.unshare(libc.CLONE_NEWNET);
    try {
      return new NetNs(name, openSync("/proc/thread-self/ns/net", "r"), false);
    } finally {
      goHome(home);
    }
  }

  /** An existing namespace by path (/run/netns/x, /proc/PID/ns/net, a CNI_NETNS). Throws ENOENT. */
  static open(path: string, name = path): NetNs {
    originFd();
    return new NetNs(name, openSync(path, "r"), false);
  }

  /** Descriptor of the namespace, for IFLA_NET_NS_FD. Throws when closed. */
  get fd(): number {
    if (this.#fd < 0) throw new Error(`network namespace ${this.name} is closed`);
    return this.#fd;
  }

  /** A path that other processes of the same user can open while this handle is open: a CNI_NETNS. */
  get path(): string {
    return this.#bound ?? `/proc/${process.pid}/fd/${this.fd}`;
  }

  /** Inode of the namespace: equal for two handles on the same one. */
  get inode(): number {
    const link = this.run(() => readlinkNs());
    return Number(/\[(\d+)\]/.exec(link)?.[1]);
  }

  /**
   * Runs `fn` with the calling thread inside the namespace and comes back even when it throws. Synchronous only:
   * what happens in a later tick happens outside (`server.listen` is such a thing; use {@link listen}).
   * @throws TypeError when fn returns a promise.
   */
  run<T>(fn: () => T): T {
    const home = originFd();
    if (this.fd === home && depth === 0) return fn();
    const back = depth === 0 ? home : openSync("/proc/thread-self/ns/net", "r");
    libc.setns(this.fd, libc.CLONE_NEWNET);
    depth++;
    try {
      const result = fn();
      if (result instanceof Promise) throw new TypeError("NetNs.run takes synchronous functions only");
      return result;
    } finally {
      depth--;
      goHome(back);
      if (back !== home) closeSync(back);
    }
  }

  /** Listens inside the namespace; resolves with the bound address. Rejects with EADDRINUSE and the like. */
  listen(server: Server, options: ListenOptions): Promise<AddressInfo> {
    const { host = "0.0.0.0", port, backlog = 511 } = options;
    const fd = this.#boundSocket("tcp", host, port);
    try {
      libc.listen(fd, backlog);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen({ fd }, () => {
        server.off("error", reject);
        resolve(server.address() as AddressInfo);
      });
    });
  }

  /** A UDP socket bound inside the namespace. */
  udp(options: { host?: string; port?: number } = {}): Promise<UdpSocket> {
    const { host = "0.0.0.0", port = 0 } = options;
    const fd = this.#boundSocket("udp", host, port);
    const socket = createSocket(isIPv6(host) ? "udp6" : "udp4");
    return new Promise((resolve, reject) => {
      socket.once("error", reject);
      socket.bind({ fd }, () => {
        socket.off("error", reject);
        resolve(socket);
      });
    });
  }

  /** A TCP connection from inside the namespace; errors and "connect" come as events, as from net.connect. */
  connect(options: ConnectOptions): Socket {
    const { host, port, localAddress, timeout } = options;
    const fd = localAddress
      ? this.#boundSocket("tcp", localAddress, 0)
      : this.run(() => libc.socket("tcp", isIPv6(host) ? 6 : 4));
    const socket = new Socket({ fd, readable: true, writable: true });
    if (timeout) {
      const timer = setTimeout(() => {
        const error = new Error(`connect ETIMEDOUT ${host}:${port}`);
        socket.destroy(Object.assign(error, { code: "ETIMEDOUT", syscall: "connect" }));
      }, timeout);
      socket.once("connect", () => clearTimeout(timer));
      socket.once("close", () => clearTimeout(timer));
    }
    socket.connect({ host, port });
    return socket;
  }

  #boundSocket(kind: libc.SocketKind, host: string, port: number): number {
    return this.run(() => {
      const fd = libc.socket(kind, isIPv6(host) ? 6 : 4);
      try {
        libc.bind(fd, kind, host, port);
        return fd;
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    });
  }

  /** child_process.spawn with the child inside the namespace. */
  spawn(command: string, args: readonly string[], options: SpawnOptions = {}): ChildProcess {
    return this.run(() => spawn(command, args, options));
  }

  /** Runs a command inside to its end. Rejects with CommandError (argv, namespace, stderr, exit code). */
  exec(command: string, args: readonly string[], options: RunOptions = {}): Promise<CommandResult> {
    return runCommand(command, args, { ...options, where: this.name, inside: this.run.bind(this) });
  }

  /** Reads /proc/sys/<key> (slashes or dots) as seen from inside. */
  sysctl(key: string): string;
  /** Writes it. Throws EACCES or ENOENT as the kernel says. */
  sysctl(key: string, value: string | number): void;
  sysctl(key: string, value?: string | number): string | undefined {
    const path = `/proc/sys/${key.includes("/") ? key : key.replaceAll(".", "/")}`;
    return this.run(() => {
      if (value === undefined) return readFileSync(path, "utf8").trim();
      writeFileSync(path, String(value));
      return undefined;
    });
  }

  /** Gives the namespace a name in the file system (a bind mount, as `ip netns` does). */
  bindTo(path: string): void {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, "", { flag: "wx" });
    try {
      this.run(() => libc.mount("/proc/thread-self/ns/net", path, null, libc.MS_BIND));
    } catch (error) {
      rmSync(path, { force: true });
      throw error;
    }
    this.#bound = path;
  }

  /** Lets go of the namespace; the kernel removes it when nothing else (process, socket, mount) holds it. */
  close(): void {
    if (this.#borrowed || this.#fd < 0) return;
    if (this.#bound) {
      libc.umount(this.#bound, libc.MNT_DETACH);
      rmSync(this.#bound, { force: true });
      this.#bound = undefined;
    }
    closeSync(this.#fd);
    this.#fd = -1;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

let depth = 0;

function goHome(fd: number): void {
  try {
    libc.setns(fd, libc.CLONE_NEWNET);
  } catch (error) {
    // A thread that is lost in a foreign namespace would send packets and rules to the wrong host.
    process.stderr.write(`kubeplumb: cannot return to the own network namespace: ${error}\n`);
    process.abort();
  }
}

function readlinkNs(): string {
  return readlinkSync("/proc/thread-self/ns/net");
}
