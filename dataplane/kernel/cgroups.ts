// Control groups of our own for memory and CPU, of both versions: where they may be made, their limits, what the kernel
// says of them. Only groups made here are written to or removed. Knows files of cgroupfs, no containers.

import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export interface CgroupLimits {
  memoryBytes?: number;
  /** Thousandths of a CPU. */
  cpuMillis?: number;
}

type Controller = "memory" | "cpu";

/** Where a controller is mounted, and below that the group of this process. */
export interface Hierarchy {
  version: 1 | 2;
  /** Mount point. */
  mount: string;
  /** Directory of this process's group. */
  own: string;
}

/** Of a node's groups, as people see them on the machine. */
const nameOf = (record: string): string =>
  `kubeplumb-${createHash("sha256").update(record).digest("hex").slice(0, 12)}`;
/** As the kubelet's default. */
const PERIOD_US = 100_000;
/** The kernel takes no less. */
const LEAST_QUOTA_US = 1000;
/** How long a group may still hold processes that have been killed. */
const REMOVE_MS = 5000;

/** From /proc/self/cgroup and /proc/self/mountinfo. Undefined: not mounted, or not where this process could find it. Pure. */
export function findHierarchy(
  controller: Controller,
  { cgroup, mountinfo }: { cgroup: string; mountinfo: string },
): Hierarchy | undefined {
  const groups = cgroup.split("\n").map((line) => /^\d+:([^:]*):(.*)$/.exec(line));
  for (const line of mountinfo.split("\n")) {
    const [left = "", right = ""] = line.split(" - ");
    const [, , , root = "", mount = ""] = left.split(" ");
    const [type, , options = ""] = right.split(" ");
    if (type !== "cgroup" && type !== "cgroup2") continue;
    if (type === "cgroup" && !options.split(",").includes(controller)) continue;
    const version = type === "cgroup" ? 1 : 2;
    // Where a controller is mounted in version 1, version 2 does not have it: the order does not matter then.
    if (version === 2 && groups.some((group) => group?.[1]?.split(",").includes(controller))) continue;
    const path = groups.find((group) =>
      version === 1 ? group?.[1]?.split(",").includes(controller) : group?.[1] === "",
    )?.[2];
    if (path === undefined || path.includes("/..")) continue;
    const inside = root === "/" ? path : path.startsWith(root) ? path.slice(root.length) : "/";
    return { version, mount, own: join(mount, inside).replace(/\/$/, "") };
  }
  return undefined;
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // Not there, or not for us: as if it said nothing.
    return "";
  }
}

/**
 * Directories below which a group with these controllers may be made, the best first. In version 2 only a group that hands
 * its controllers on is one, and no other is made to; in version 1 it is this process's own.
 */
function parents({ version, mount, own }: Hierarchy, controllers: readonly Controller[]): string[] {
  if (version === 1) return [own];
  const up: string[] = [];
  for (let at = own; at.startsWith(mount); at = dirname(at)) up.push(at);
  const handsOn = (at: string) => read(`${at}/cgroup.subtree_control`).trim().split(" ");
  return up.filter((at) => controllers.every((one) => handsOn(at).includes(one)));
}

/** A group of our own: one directory, or one for each controller (version 1). */
export class Cgroup {
  readonly #memory: string | undefined;
  readonly #directories: readonly string[];
  readonly #version: 1 | 2;

  constructor(directories: readonly string[], memory: { at: string; version: 1 | 2 } | undefined) {
    this.#directories = directories;
    this.#memory = memory?.at;
    this.#version = memory?.version ?? 2;
  }

  /** Descriptors to be written "0" to by a process that is to join. The caller closes them. */
  open(): number[] {
    return this.#directories.map((at) => openSync(`${at}/cgroup.procs`, "w"));
  }

  /** Whether the kernel holds its memory down. */
  get limitsMemory(): boolean {
    return this.#memory !== undefined;
  }

  /** Whether the kernel has ended a process of the group for want of memory. */
  get oomKilled(): boolean {
    const file = this.#version === 1 ? "memory.oom_control" : "memory.events";
    return Number(/^oom_kill (\d+)$/m.exec(read(`${this.#memory}/${file}`))?.[1] ?? 0) > 0;
  }

  /** Whether the kernel then ends all of them, as it does in version 2 (memory.oom.group). */
  get endsTogether(): boolean {
    return read(`${this.#memory}/memory.oom.group`).trim() === "1";
  }

  /** Waits for its killed processes. What cannot be removed then stays for {@link removeRecorded}. */
  async remove(): Promise<void> {
    await Promise.all(this.#directories.map(removeDirectory));
  }
}

async function removeDirectory(at: string): Promise<void> {
  for (const end = Date.now() + REMOVE_MS; ; await sleep(10)) {
    try {
      rmdirSync(at);
      return;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT") return;
      if (code !== "EBUSY" || Date.now() > end) throw error;
    }
  }
}

/** The file in a node's own directory in which its groups stand. */
export const cgroupRecord = (directory: string): string => join(directory, "cgroups");

/** The groups of one node. Nothing is made before the first is asked for. */
export class Cgroups {
  readonly #record: string;
  readonly #name: string;
  #bases: ReadonlyMap<Controller, { at: string; version: 1 | 2 }> | undefined;

  /** `record`: a file of the node's own, in which stands what a crash would leave. Its path makes the groups' name. */
  constructor(record: string) {
    this.#record = record;
    this.#name = nameOf(record);
  }

  /** A group with these limits; undefined where none can be made. A limit whose controller is not to be had is left out. */
  create(id: string, { memoryBytes, cpuMillis }: CgroupLimits): Cgroup | undefined {
    this.#bases ??= this.#makeBases();
    const memory = memoryBytes === undefined ? undefined : this.#bases.get("memory");
    const cpu = cpuMillis === undefined ? undefined : this.#bases.get("cpu");
    const made: string[] = [];
    const make = (base: string): string => {
      const at = join(base, id);
      if (!made.includes(at)) mkdirSync(at);
      if (!made.includes(at)) made.push(at);
      return at;
    };
    try {
      if (memory) limitMemory(make(memory.at), memory.version, memoryBytes as number);
      if (cpu) limitCpu(make(cpu.at), cpu.version, cpuMillis as number);
    } catch (error) {
      for (const at of made) rmdirSync(at);
      throw error;
    }
    if (made.length === 0) return undefined;
    return new Cgroup(made, memory && { at: join(memory.at, id), version: memory.version });
  }

  #makeBases(): ReadonlyMap<Controller, { at: string; version: 1 | 2 }> {
    const files = { cgroup: read("/proc/self/cgroup"), mountinfo: read("/proc/self/mountinfo") };
    const found = new Map<Controller, { at: string; version: 1 | 2 }>();
    const [memory, cpu] = [findHierarchy("memory", files), findHierarchy("cpu", files)];
    const place = (hierarchy: Hierarchy | undefined, ...controllers: Controller[]) => {
      const at = hierarchy && this.#makeBase(hierarchy, controllers);
      if (at) for (const one of controllers) found.set(one, { at, version: hierarchy.version });
    };
    if (memory?.version === 2 && cpu?.version === 2) place(memory, "memory", "cpu");
    if (!found.has("memory")) place(memory, "memory");
    if (!found.has("cpu") && !(memory?.version === 2 && found.has("memory"))) place(cpu, "cpu");
    return found;
  }

  /** Written down first, so that nothing is ever made that nobody knows of. */
  #makeBase(hierarchy: Hierarchy, controllers: readonly Controller[]): string | undefined {
    for (const parent of parents(hierarchy, controllers)) {
      const at = join(parent, this.#name);
      try {
        writeFileSync(this.#record, `${at}\n`, { flag: "a" });
        mkdirSync(at, { recursive: true });
        if (hierarchy.version === 2)
          writeFileSync(`${at}/cgroup.subtree_control`, controllers.map((one) => `+${one}`).join(" "));
        return at;
      } catch (error) {
        const { code = "" } = error as NodeJS.ErrnoException;
        if (!["EACCES", "EPERM", "EROFS", "ENOENT", "EBUSY"].includes(code)) throw error;
        if (existsSync(at)) rmdirSync(at);
      }
    }
    return undefined;
  }

  /** Removes all that was made, now or by a former life that ended without. */
  async remove(): Promise<void> {
    this.#bases = undefined;
    await removeRecorded(this.#record);
  }
}

function limitMemory(at: string, version: 1 | 2, bytes: number): void {
  const value = String(Math.floor(bytes));
  if (version === 1) {
    writeFileSync(`${at}/memory.limit_in_bytes`, value);
    // Memory and swap together; not there where the kernel does not count swap.
    if (existsSync(`${at}/memory.memsw.limit_in_bytes`))
      writeFileSync(`${at}/memory.memsw.limit_in_bytes`, value);
    return;
  }
  writeFileSync(`${at}/memory.max`, value);
  if (existsSync(`${at}/memory.swap.max`)) writeFileSync(`${at}/memory.swap.max`, "0");
  // Linux 4.19. All processes of a container end together, as with the kubelet since 1.28.
  if (existsSync(`${at}/memory.oom.group`)) writeFileSync(`${at}/memory.oom.group`, "1");
}

function limitCpu(at: string, version: 1 | 2, millis: number): void {
  const quota = Math.max(LEAST_QUOTA_US, Math.round((millis * PERIOD_US) / 1000));
  if (version === 2) {
    writeFileSync(`${at}/cpu.max`, `${quota} ${PERIOD_US}`);
    return;
  }
  writeFileSync(`${at}/cpu.cfs_period_us`, String(PERIOD_US));
  writeFileSync(`${at}/cpu.cfs_quota_us`, String(quota));
}

/** Removes the groups that a record tells of, all of whose processes have been killed, and the record. Idempotent. */
export async function removeRecorded(record: string): Promise<void> {
  const name = nameOf(record);
  const bases = new Set(
    read(record)
      .split("\n")
      .filter((at) => basename(at) === name),
  );
  for (const base of bases) {
    if (!existsSync(base)) continue;
    const groups = readdirSync(base, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    await Promise.all(groups.map(({ name }) => removeDirectory(join(base, name))));
    await removeDirectory(base);
  }
  rmSync(record, { force: true });
}

/** Closes descriptors of {@link Cgroup.open}. */
export function closeAll(fds: readonly number[]): void {
  for (const fd of fds) closeSync(fd);
}
