// Tells systemd how a service is (sd_notify(3)): one datagram to $NOTIFY_SOCKET. Node.js has no datagram sockets of the
// unix kind. Knows the protocol, nothing of services.

import { closeSync } from "node:fs";
import koffi from "koffi";

const libc = koffi.load("libc.so.6");
const makeSocket = libc.func("int socket(int domain, int type, int protocol)");
const sendTo = libc.func(
  "intptr_t sendto(int fd, const void *data, size_t length, int flags, const void *address, uint32_t addressLength)",
);
const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 0x8_0002;
/** sun_path of unix(7). */
const LONGEST_PATH = 108;

/** sockaddr_un; `@name` is an abstract one. Pure. */
export function unixAddress(path: string): Buffer {
  const name = Buffer.from(path.startsWith("@") ? `\0${path.slice(1)}` : path);
  const family = Buffer.alloc(2);
  new DataView(family.buffer, family.byteOffset).setUint16(0, AF_UNIX, true);
  return Buffer.concat([family, name]);
}

/**
 * Sends a state (`READY=1`, `STOPPING=1`, `STATUS=…`); false when nobody asked to be told, or cannot be.
 * A service does not fail because its manager does not listen.
 */
export function sdNotify(state: string, env: NodeJS.ProcessEnv = process.env): boolean {
  const path = env.NOTIFY_SOCKET;
  if (!path || Buffer.byteLength(path) > LONGEST_PATH) return false;
  const fd = makeSocket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0) as number;
  if (fd < 0) return false;
  try {
    const data = Buffer.from(state);
    const address = unixAddress(path);
    return Number(sendTo(fd, data, data.length, 0, address, address.length)) === data.length;
  } finally {
    closeSync(fd);
  }
}
