// Which address of the host's blocks is whose: one file an address, named by it, holding container id and interface
// (the layout of the reference plugin host-local, so its tools can read it). Survives crashes and parallel
// processes: a file appears whole or not at all, and only for one of them.

import { randomBytes } from "node:crypto";
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
import { ipFamily } from "../common/ip.js";
import { candidates, gives, type Range } from "./ranges.js";
import { type Attachment, CniError, CODE } from "./types.js";

const LAST_RESERVED = "last_reserved_ip.";
const NEW_PREFIX = ".new-";

export class AddressStore {
  readonly #dir: string;

  /** @param directory e.g. /var/lib/cni/networks/<network>. */
  constructor(directory: string) {
    this.#dir = directory;
  }

  get directory(): string {
    return this.#dir;
  }

  /**
   * Reserves the next free address of the n-th set, or the one that is `wanted`.
   * @throws CniError 11 when it, or all of them, are taken; 7 for a wanted one that no range of the set gives.
   */
  allocate(set: readonly Range[], n: number, owner: Attachment, wanted?: string): string {
    mkdirSync(this.#dir, { recursive: true });
    // Linked into place: link(2) fails when the name exists. That is the lock, between threads, processes and crashes
    // alike. The name is random and must be new: what a killed process left may be the very file of an address.
    const fresh = join(this.#dir, `${NEW_PREFIX}${randomBytes(8).toString("hex")}`);
    writeFileSync(fresh, `${owner.containerID}\r\n${owner.ifname}`, { mode: 0o644, flag: "wx" });
    try {
      return wanted === undefined ? this.#next(set, n, fresh) : this.#wanted(set, wanted, fresh);
    } finally {
      unlinkSync(fresh);
    }
  }

  #next(set: readonly Range[], n: number, fresh: string): string {
    let taken: ReadonlySet<string> = new Set();
    const last = join(this.#dir, `${LAST_RESERVED}${n}`);
    for (const ip of candidates(set, readIfThere(last)?.trim())) {
      if (taken.has(ip)) continue;
      if (tryLink(fresh, join(this.#dir, ip))) {
        overwrite(last, ip);
        return ip;
      }
      // The next one is nearly always free; only when it is not, it pays to know all that are taken.
      if (taken.size === 0) taken = new Set(this.#names());
    }
    throw this.#full(set);
  }

  /** Throws CniError 11 when all addresses of the set are taken. */
  expectFree(set: readonly Range[]): void {
    const taken = new Set(this.#names());
    for (const ip of candidates(set, undefined)) if (!taken.has(ip)) return;
    throw this.#full(set);
  }

  #full(set: readonly Range[]): CniError {
    return new CniError(CODE.tryAgain, `no address is free in ${blocks(set)}`, {
      details: `all are listed in ${this.#dir}`,
    });
  }

  #wanted(set: readonly Range[], ip: string, fresh: string): string {
    if (!set.some((range) => gives(range, ip))) {
      throw new CniError(CODE.invalidConfig, `the requested address ${ip} is none that ${blocks(set)} gives`);
    }
    if (tryLink(fresh, join(this.#dir, ip))) return ip;
    throw new CniError(CODE.tryAgain, `the requested address ${ip} is taken`, {
      details: `by container ${this.#read(ip)?.containerID ?? "(just left)"}`,
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

const blocks = (set: readonly Range[]): string => set.map(({ block }) => String(block)).join(", ");

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
