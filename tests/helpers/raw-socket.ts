// Raw IP sockets inside a namespace: packets that no ordinary socket sends (an SCTP INIT on a kernel without SCTP, TCP
// with flags that cannot be), and what arrives of them.

import { closeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import koffi from "koffi";
import { bytesToIp, ipToBytes } from "../../common/ip.js";
import { recv } from "../../dataplane/kernel/libc.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";

const libc = koffi.load("libc.so.6");
const cSocket = libc.func("int socket(int domain, int type, int protocol)");
const cSendto = libc.func(
  "intptr_t sendto(int fd, const uint8_t *data, size_t len, int flags, const uint8_t *to, uint32_t length)",
);

const AF = { 4: 2, 6: 10 } as const;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const IP_SOURCE = 12;

export interface Arrived {
  /** Of an IPv4 packet; "" else: raw IPv6 sockets do not tell. */
  readonly from: string;
  readonly to: string;
  /** What follows the IP header. */
  readonly payload: Buffer;
}

export class RawSocket implements Disposable {
  readonly #fd: number;
  readonly #family: 4 | 6;

  private constructor(fd: number, family: 4 | 6) {
    this.#fd = fd;
    this.#family = family;
  }

  /** @throws Error without CAP_NET_RAW. */
  static open(ns: NetNs, family: 4 | 6, protocol: number): RawSocket {
    const fd = ns.run(() => cSocket(AF[family], SOCK_RAW | SOCK_CLOEXEC, protocol));
    if (fd < 0) throw new Error(`a raw socket in ${ns.name}: errno ${koffi.errno()}`);
    return new RawSocket(fd, family);
  }

  /** The kernel puts the IP header before it. */
  send(to: string, payload: Buffer): void {
    const address = Buffer.alloc(this.#family === 4 ? 16 : 28);
    address.writeUInt16LE(AF[this.#family], 0);
    address.set(ipToBytes(to), this.#family === 4 ? 4 : 8);
    const sent = Number(cSendto(this.#fd, payload, payload.length, 0, address, address.length));
    if (sent !== payload.length) throw new Error(`sendto ${to}: ${sent}, errno ${koffi.errno()}`);
  }

  /** The next packet of the protocol; undefined when none has come in time. */
  async receive(milliseconds = 30_000): Promise<Arrived | undefined> {
    const into = Buffer.alloc(2048);
    for (const end = performance.now() + milliseconds; performance.now() < end; await sleep(5)) {
      const length = recv(this.#fd, into);
      if (length === undefined) continue;
      if (this.#family === 6) return { from: "", to: "", payload: into.subarray(0, length) };
      const header = (into.readUInt8(0) & 15) * 4;
      const ip = (at: number) => bytesToIp(into.subarray(at, at + 4));
      return { from: ip(IP_SOURCE), to: ip(IP_SOURCE + 4), payload: into.subarray(header, length) };
    }
    return undefined;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}
