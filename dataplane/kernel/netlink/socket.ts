// One netlink socket (rtnetlink, nfnetlink) in one network namespace: a request goes out and its answer is there when
// send returns, because both work in the caller's context. Hence synchronous: no event-loop turn an operation, no
// interleaving. Knows acknowledgements, dumps and errors; the messages themselves are made next door.
//
// npm `netlink` was tried first and stood in the way: 110 µs an operation against 15 here and one event-loop turn
// each, no extended error text, interrupted dumps pass unnoticed, a reply lost to ENOBUFS waits for ever, and its
// addon aborts the process when a receive buffer overflows (ENOBUFS, as a burst of new pods brings about).

import { close, closeSync } from "node:fs";
import * as libc from "../libc.js";
import type { NetNs } from "../netns.js";
import { MessageWriter, type NetlinkMessage, parseAttributes, parseMessages, readString } from "./codec.js";

export const NETLINK_ROUTE = 0;
export const NETLINK_NETFILTER = 12;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const NETLINK_GET_STRICT_CHK = 12;

const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLM_F_REQUEST = 0x1;
const NLM_F_ACK = 0x4;
const NLM_F_DUMP_INTR = 0x10;
const NLM_F_CAPPED = 0x100;
const NLM_F_ACK_TLVS = 0x200;
const NLM_F_DUMP = 0x300;
const NLMSGERR_ATTR_MSG = 1;

export const NLM_F_REPLACE = 0x100;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;

/** A table that changes faster than we can read it, this many times in a row, is a fault. */
const DUMP_ATTEMPTS = 32;

/** A refused netlink request: `code` is the errno name; the message says what was asked and what the kernel said. */
export class NetlinkError extends Error {
  override readonly name = "NetlinkError";
  /** EEXIST, ENODEV, EPERM, … */
  readonly code: string;
  /** What was asked: "addVeth". */
  readonly operation: string;
  /** With which arguments, for people. */
  readonly detail: string;
  /** The name of the network namespace. */
  readonly where: string;

  constructor(facts: { code: string; operation: string; detail: string; where: string; said?: string }) {
    const { code, operation, detail, where, said } = facts;
    super(`${code}: ${operation} ${detail} (in ${where})${said ? `: ${said}` : ""}`);
    this.code = code;
    this.operation = operation;
    this.detail = detail;
    this.where = where;
  }
}

/** What a request is called in errors. */
export interface Label {
  operation: string;
  detail: string;
}

/** Requests on their way together. */
interface Batch {
  parts: Buffer[];
  bytes: number;
  labels: Map<number, Label>;
  failures: NetlinkError[];
}

/** nlmsg_flags in a message. */
const FLAGS_AT = 6;
// So that neither the request nor the refusals of all its messages outgrow a socket's default buffers (208 KiB).
const BATCH_MESSAGES = 128;
const BATCH_BYTES = 32 * 1024;
/** A request of this size keeps the kernel busy for some milliseconds. */
const SLOW_BYTES = 128 * 1024;

// Shared by all sockets: a request is over when request() returns, and results are decoded before that.
const writer = new MessageWriter();
const inbox = Buffer.alloc(256 * 1024);

export class NetlinkSocket {
  readonly #ns: Pick<NetNs, "run" | "name">;
  #fd: number;
  #seq = 0;
  #batch: Batch | undefined;

  private constructor(ns: Pick<NetNs, "run" | "name">, fd: number) {
    this.#ns = ns;
    this.#fd = fd;
  }

  /** A socket that belongs to `ns` for good. Throws SyscallError. */
  static open(ns: Pick<NetNs, "run" | "name">, protocol: number = NETLINK_ROUTE): NetlinkSocket {
    const fd = ns.run(() => libc.netlinkSocket(protocol));
    for (const option of [NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK]) {
      libc.enableNetlinkOption(fd, option);
    }
    return new NetlinkSocket(ns, fd);
  }

  /** Asks for a change. Throws {@link NetlinkError} when the kernel refuses. */
  change(label: Label, type: number, flags: number, build: (w: MessageWriter) => void): void {
    if (this.#batch) {
      this.#addToBatch(this.#batch, label, this.#compose(type, flags, build));
      return;
    }
    this.#exchange(label, type, flags | NLM_F_ACK, build, () => {});
  }

  /**
   * Many changes in few system calls: everything that `make` asks for with {@link change} is sent together, in order.
   * Returns what was refused; the others are done. Inside nothing else may be asked of this socket.
   */
  batch(make: () => void): NetlinkError[] {
    const batch: Batch = { parts: [], bytes: 0, labels: new Map(), failures: [] };
    this.#batch = batch;
    try {
      make();
      this.#sendBatch(batch);
    } finally {
      this.#batch = undefined;
    }
    return batch.failures;
  }

  /** Only the last message asks for an acknowledgement: the kernel works in order and tells refusals anyway. */
  #sendBatch(batch: Batch): void {
    const last = batch.parts.at(-1);
    if (!last) return;
    last.writeUInt16LE(last.readUInt16LE(FLAGS_AT) | NLM_F_ACK, FLAGS_AT);
    const request = Buffer.concat(batch.parts);
    libc.send(this.#fd, request, request.length);
    const final = this.#seq;
    for (let over = false; !over; ) {
      for (const message of parseMessages(this.#receive({ operation: "batch", detail: "" }))) {
        const label = batch.labels.get(message.seq);
        if (message.type !== NLMSG_ERROR || !label) continue;
        try {
          this.#finish(label, message);
        } catch (error) {
          batch.failures.push(error as NetlinkError);
        }
        if (message.seq === final) over = true;
      }
    }
    batch.parts = [];
    batch.bytes = 0;
    batch.labels.clear();
  }

  #addToBatch(batch: Batch, label: Label, request: Buffer): void {
    const padded = Buffer.alloc((request.length + 3) & ~3);
    request.copy(padded);
    batch.parts.push(padded);
    batch.bytes += padded.length;
    batch.labels.set(this.#seq, label);
    if (batch.parts.length >= BATCH_MESSAGES || batch.bytes >= BATCH_BYTES) this.#sendBatch(batch);
  }

  /**
   * {@link change} for what makes the kernel wait long: sent by another thread, so that this process goes on
   * meanwhile. The socket must not be used for anything else before the promise settles.
   */
  async changeSlowly(label: Label, type: number, build: (w: MessageWriter) => void): Promise<void> {
    if (this.#fd < 0) throw this.#error(label, "EBADF", "this socket is closed");
    const request = Buffer.from(this.#compose(type, NLM_F_ACK, build));
    await libc.sendInThread(this.#fd, request);
    this.#answer(label, this.#seq, () => {});
  }

  /** Makes room for requests of `bytes`; returns the largest that the socket takes now. */
  growSendBuffer(bytes: number): number {
    return libc.growSendBuffer(this.#fd, bytes);
  }

  /**
   * Sends messages that were made elsewhere and go together; hands over the answers that they brought, as many as the
   * receive buffer holds. Large ones, and `slow` ones, are sent by another thread, as in {@link changeSlowly}. Throws
   * NetlinkError or SyscallError when they could not be sent.
   */
  async exchangeRaw(
    label: Label,
    request: Buffer,
    answers: {
      refused: (error: NetlinkError, seq: number) => void;
      acknowledged: (seq: number) => void;
      told: (message: NetlinkMessage) => void;
    },
    slow = false,
  ): Promise<void> {
    if (this.#fd < 0) throw this.#error(label, "EBADF", "this socket is closed");
    if (request.length <= SLOW_BYTES && !slow) libc.send(this.#fd, request, request.length);
    else {
      await libc.sendInThread(this.#fd, request).catch((error: Error) => {
        throw this.#error(label, "EIO", error.message);
      });
    }
    for (let length = this.#receiveSome(label); length > 0; length = this.#receiveSome(label)) {
      for (const message of parseMessages(inbox.subarray(0, length))) {
        if (message.type !== NLMSG_ERROR) {
          answers.told(message);
          continue;
        }
        try {
          this.#finish(label, message);
        } catch (error) {
          answers.refused(error as NetlinkError, message.seq);
          continue;
        }
        answers.acknowledged(message.seq);
      }
    }
  }

  /** Asks for one object. Throws {@link NetlinkError} (ENODEV and the like). */
  get<T>(label: Label, type: number, build: (w: MessageWriter) => void, decode: (m: NetlinkMessage) => T): T {
    let found: T | undefined;
    this.#exchange(label, type, NLM_F_ACK, build, (message) => {
      found ??= decode(message);
    });
    if (found === undefined) throw this.#error(label, "ENODATA", "the kernel answered without an object");
    return found;
  }

  /**
   * Lists a table; `decode` returns undefined for what is not wanted. A dump that the kernel marks as interrupted
   * by a change is done again, so the result is one consistent state.
   */
  dump<T>(
    label: Label,
    type: number,
    build: (w: MessageWriter) => void,
    decode: (m: NetlinkMessage) => T | undefined,
  ): T[] {
    for (let attempt = 0; attempt < DUMP_ATTEMPTS; attempt++) {
      const out: T[] = [];
      const whole = this.#exchange(label, type, NLM_F_DUMP, build, (message) => {
        const item = decode(message);
        if (item !== undefined) out.push(item);
      });
      if (whole) return out;
    }
    throw this.#error(label, "EINTR", `the table changed during each of ${DUMP_ATTEMPTS} dumps`);
  }

  close(): void {
    if (this.#fd < 0) return;
    closeSync(this.#fd);
    this.#fd = -1;
  }

  /** {@link close} by another thread: behind a transaction of nf_tables the kernel waits till it has cleaned up. */
  closeSlowly(): void {
    if (this.#fd < 0) return;
    close(this.#fd, () => {});
    this.#fd = -1;
  }

  /** One request and its answer; false when it is a dump that was interrupted. */
  #exchange(
    label: Label,
    type: number,
    flags: number,
    build: (w: MessageWriter) => void,
    each: (message: NetlinkMessage) => void,
  ): boolean {
    if (this.#fd < 0) throw this.#error(label, "EBADF", "this socket is closed");
    const request = this.#compose(type, flags, build);
    libc.send(this.#fd, request, request.length);
    return this.#answer(label, this.#seq, each);
  }

  #compose(type: number, flags: number, build: (w: MessageWriter) => void): Buffer {
    this.#seq = (this.#seq + 1) >>> 0;
    writer.begin(type, flags | NLM_F_REQUEST, this.#seq);
    build(writer);
    return writer.end();
  }

  /** Reads up to the acknowledgement or the end of the dump. */
  #answer(label: Label, seq: number, each: (message: NetlinkMessage) => void): boolean {
    let whole = true;
    // Read to the end even when a message makes no sense: a dump left half-way would make the next one fail.
    let undecoded: { error: unknown } | undefined;
    for (;;) {
      for (const message of parseMessages(this.#receive(label))) {
        if (message.seq !== seq) continue;
        if (message.flags & NLM_F_DUMP_INTR) whole = false;
        if (message.type === NLMSG_ERROR || message.type === NLMSG_DONE) {
          this.#finish(label, message);
          if (undecoded) throw undecoded.error;
          return whole;
        }
        try {
          each(message);
        } catch (error) {
          undecoded ??= { error };
        }
      }
    }
  }

  #receive(label: Label): Buffer {
    const length = this.#receiveAny(label);
    if (length === 0) throw this.#error(label, "EAGAIN", "no answer to the request");
    return inbox.subarray(0, length);
  }

  /** {@link #receiveAny} without the complaint that there were more answers than the buffer holds. */
  #receiveSome(label: Label): number {
    try {
      return this.#receiveAny(label);
    } catch (error) {
      if (error instanceof NetlinkError && error.code === "ENOBUFS") return this.#receiveAny(label);
      throw error;
    }
  }

  /** 0 when nothing is there. */
  #receiveAny(label: Label): number {
    let length: number | undefined;
    try {
      length = libc.recv(this.#fd, inbox) ?? 0;
    } catch (error) {
      if (!(error instanceof libc.SyscallError)) throw error;
      throw this.#error(label, error.code, "no answer to the request");
    }
    if (length > inbox.length) throw this.#error(label, "EMSGSIZE", `an answer of ${length} bytes`);
    return length;
  }

  /** NLMSG_ERROR and NLMSG_DONE both begin with the negative errno; 0 is success. */
  #finish(label: Label, message: NetlinkMessage): void {
    const errno = message.body.length >= 4 ? message.body.readInt32LE(0) : 0;
    if (errno === 0) return;
    let said: string | undefined;
    if (message.flags & NLM_F_ACK_TLVS) {
      const quoted = message.type === NLMSG_DONE ? 0 : message.flags & NLM_F_CAPPED ? 16 : undefined;
      const offset = 4 + (quoted ?? message.body.readUInt32LE(4));
      const text = parseAttributes(message.body, offset).get(NLMSGERR_ATTR_MSG);
      if (text) said = readString(text);
    }
    throw this.#error(label, libc.errorName(-errno), said);
  }

  #error(label: Label, code: string, said?: string): NetlinkError {
    return new NetlinkError({ code, ...label, where: this.#ns.name, said });
  }
}
