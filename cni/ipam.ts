// Which address of the host's blocks is whose: one file an address, named by it, holding container id and interface
// (the layout of the reference plugin host-local, so its tools can read it). Survives crashes and parallel
// processes: a file appears whole or not at all, and only for one of them.

import {
  closeSync,
  constants,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { type Cidr, ipFamily } from "../common/ip.js";
import type { Range } from "./config.js";
import { type Attachment, CniError, CODE } from "./types.js";

const LAST_RESERVED = "last_reserved_ip.";
const NEW_PREFIX = ".new-";
const MAX_TRIES = 1 << 20;

/**
 * Addresses for pods in the order of trying: the one after `last` first, around to `last` itself, without network
 * address, gateway and broadcast. Pure.
 */
export function* candidates(block: Cidr, gateway: string, last?: string): Generator<string, void, undefined> {
  const { size } = block;
  const from = last !== undefined && ipFamily(last) === block.family ? block.indexOf(last) : 0n;
  const start = from < 0n ? 0n : from;
  for (let step = 1n; step <= size && step <= MAX_TRIES; step++) {
    const offset = (start + step) % size;
    if (offset === 0n || offset === size - 1n) continue;
    const ip = block.at(offset);
    if (ip !== gateway) yield ip;
  }
}

let counter = 0;

export class AddressStore {
  readonly #dir: string;

  /** @param dataDir e.g. /var/lib/cni: files go to its networks/<network>. */
  constructor(dataDir: string, network: string) {
    this.#dir = join(dataDir, "networks", network);
  }

  get directory(): string {
    return this.#dir;
  }

  /** Reserves the next free address of the n-th range. Throws CniError 11 when all are taken. */
  allocate({ block, gateway }: Range, n: number, owner: Attachment): string {
    mkdirSync(this.#dir, { recursive: true });
    // link(2) fails when the name exists: that is the lock, between threads, processes and crashes alike.
    const fresh = join(this.#dir, `${NEW_PREFIX}${process.pid}-${counter++}`);
    writeFileSync(fresh, `${owner.containerID}\r\n${owner.ifname}`, { mode: 0o644 });
    try {
      let taken: ReadonlySet<string> = new Set();
      const last = join(this.#dir, `${LAST_RESERVED}${n}`);
      for (const ip of candidates(block, gateway, readIfThere(last)?.trim())) {
        if (taken.has(ip)) continue;
        if (tryLink(fresh, join(this.#dir, ip))) {
          overwrite(last, ip);
          return ip;
        }
        // The next one is nearly always free; only when it is not, it pays to know all that are taken.
        if (taken.size === 0) taken = new Set(this.#names());
      }
    } finally {
      unlinkSync(fresh);
    }
    throw new CniError(CODE.tryAgain, `no address is free in ${block}`, {
      details: `all are listed in ${this.#dir}`,
    });
  }

  /** Frees what the owner holds. `hint` is where to look first; without a hit there, everywhere. */
  release(owner: Attachment, hint: readonly string[] = []): string[] {
    const hinted = hint.filter((ip) => this.isOwner(ip, owner));
    const freed = hinted.length > 0 ? hinted : this.addressesOf(owner);
    for (const ip of freed) this.remove(ip);
    return freed;
  }

  addressesOf(owner: Attachment): string[] {
    return this.list()
      .filter((entry) => entry.containerID === owner.containerID && entry.ifname === owner.ifname)
      .map(({ ip }) => ip);
  }

  isOwner(ip: string, owner: Attachment): boolean {
    const found = ipFamily(ip) === 0 ? undefined : this.#read(ip);
    return found?.containerID === owner.containerID && found.ifname === owner.ifname;
  }

  remove(ip: string): void {
    rmSync(join(this.#dir, ip), { force: true });
  }

  list(): (Attachment & { ip: string })[] {
    return this.#names()
      .filter((name) => ipFamily(name) !== 0)
      .flatMap((ip) => {
        const owner = this.#read(ip);
        return owner ? [{ ip, ...owner }] : [];
      });
  }

  /** Removes what a process that was killed while reserving has left. For GC: nothing else may run then. */
  sweep(): void {
    for (const name of this.#names()) {
      if (name.startsWith(NEW_PREFIX)) rmSync(join(this.#dir, name), { force: true });
    }
  }

  #read(ip: string): Attachment | undefined {
    const text = readIfThere(join(this.#dir, ip));
    if (text === undefined) return undefined;
    const [containerID = "", ifname = ""] = text.split(/\r?\n/);
    return { containerID: containerID.trim(), ifname: ifname.trim() };
  }

  #names(): string[] {
    try {
      return readdirSync(this.#dir);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw error;
    }
  }
}

/** Replaces a short text in place: truncating to nothing first makes ext4 write to the disk at once (3 ms). */
function overwrite(path: string, text: string): void {
  const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT, 0o644);
  try {
    writeSync(fd, text, 0);
    ftruncateSync(fd, text.length);
  } finally {
    closeSync(fd);
  }
}

function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
