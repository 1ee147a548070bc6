// Pseudo-terminals: the master end in this process, the slave end for a child (pty(7)). Through koffi, since Node
// can open /dev/ptmx but not ask it anything. Knows terminals, nothing of who uses them.

import { closeSync, constants, openSync } from "node:fs";
import { PassThrough, type Readable, type Writable } from "node:stream";
import { ReadStream } from "node:tty";
import { getSystemErrorName } from "node:util";
import koffi from "koffi";

const libc = koffi.load("libc.so.6");
const ioctlPointer = libc.func("int ioctl(int fd, unsigned long request, const void *argument)");
const ioctlNumber = libc.func("int ioctl(int fd, unsigned long request, unsigned long argument)");

// asm-generic/ioctls.h
const TIOCSPTLCK = 0x4004_5431;
const TIOCGPTPEER = 0x5441;
const TIOCSWINSZ = 0x5414;

function checked(result: number, what: string): number {
  if (result < 0) throw new Error(`${getSystemErrorName(-koffi.errno())}: ${what} on a pseudo-terminal`);
  return result;
}

export interface Pty {
  /** Descriptor for a child's stdin, stdout and stderr; close with {@link closeSlave} after the spawn. */
  readonly slave: number;
  /** What the child writes. Ends when the last process has closed the terminal. */
  readonly stdout: Readable;
  /** What is typed. Ending it types end-of-file (Ctrl-D). */
  readonly stdin: Writable;
  resize(columns: number, rows: number): void;
  closeSlave(): void;
  /** Resolves when everything that the child wrote has been read. */
  drained(): Promise<void>;
  /** Hangs up: the session's leader gets SIGHUP. */
  close(): void;
}

/**
 * A new pseudo-terminal, 80×24, of the devpts that `ptmx` belongs to.
 * @throws Error naming the errno when it cannot be used.
 */
export function openPty(ptmx = "/dev/ptmx"): Pty {
  const master = openSync(ptmx, constants.O_RDWR | constants.O_NOCTTY);
  let slave = -1;
  try {
    checked(ioctlPointer(master, TIOCSPTLCK, Buffer.alloc(4)), "TIOCSPTLCK");
    // By descriptor, not by /dev/pts/N: works whatever is mounted there.
    slave = checked(ioctlNumber(master, TIOCGPTPEER, constants.O_RDWR | constants.O_NOCTTY), "TIOCGPTPEER");
    setSize(slave, 80, 24);
    return new MasterEnd(master, slave);
  } catch (error) {
    if (slave >= 0) closeSync(slave);
    closeSync(master);
    throw error;
  }
}

function setSize(fd: number, columns: number, rows: number): void {
  // struct winsize: rows, columns, x and y pixels.
  const size = new Uint16Array([rows, columns, 0, 0]);
  checked(ioctlPointer(fd, TIOCSWINSZ, Buffer.from(size.buffer)), "TIOCSWINSZ");
}

const END_OF_FILE = "\x04";

class MasterEnd implements Pty {
  readonly slave: number;
  readonly stdout: PassThrough;
  readonly stdin: PassThrough;
  readonly #master: number;
  readonly #socket: ReadStream;
  readonly #drained: Promise<void>;
  #slaveOpen = true;
  #open = true;

  constructor(master: number, slave: number) {
    this.#master = master;
    this.slave = slave;
    this.#socket = new ReadStream(master);
    this.stdout = new PassThrough();
    this.stdin = new PassThrough();
    this.#drained = new Promise((resolve) => this.#socket.once("close", () => resolve()));
    // EIO is how a master learns that nobody holds the slave any more: end of output, not a fault.
    this.#socket.on("error", () => this.#socket.destroy());
    this.#socket.once("close", () => {
      this.#open = false;
      this.stdout.end();
      this.stdin.destroy();
    });
    this.#socket.pipe(this.stdout, { end: false });
    this.stdin.on("error", () => {});
    this.stdin.on("data", (chunk: Buffer) => {
      if (this.#open && !this.#socket.write(chunk)) {
        this.stdin.pause();
        this.#socket.once("drain", () => this.stdin.resume());
      }
    });
    this.stdin.once("end", () => {
      if (this.#open) this.#socket.write(END_OF_FILE);
    });
  }

  resize(columns: number, rows: number): void {
    // Between the end and its "close" event the descriptor is closed already, and may be another file's.
    if (this.#open && !this.#socket.destroyed) setSize(this.#master, columns, rows);
  }

  closeSlave(): void {
    if (this.#slaveOpen) closeSync(this.slave);
    this.#slaveOpen = false;
  }

  drained(): Promise<void> {
    return this.#drained;
  }

  close(): void {
    this.#socket.destroy();
  }
}
