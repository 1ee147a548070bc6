// The root of a container, in a mount namespace of its own: built once by a plan, entered by each process. What is written
// there lives in memory, and ends with the last process that sees it. Knows mounts, no pods.

import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import {
  chmodSync,
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, isAbsolute } from "node:path";
import * as libc from "../../dataplane/kernel/libc.js";
import { MountNs } from "../../dataplane/kernel/mountns.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import { type BindMount, type FileView, planRoot, type RootPlan, type RootRequest } from "./root-plan.js";
import { mapsEverybody } from "./user-ns.js";

export interface ContainerRootOptions extends RootRequest {
  ns: NetNs;
  /** An empty directory of the pod's own; nothing of it is seen or left behind. */
  scratch: string;
  /** Nothing but its mounts can be written to. */
  readOnly?: boolean;
  warn(message: string): void;
}

type Warn = (message: string) => void;

/** What a container may write outside its volumes, at the most. */
const SIZE = "1g";
/** As container runtimes have it. */
const SHM_SIZE = "64m";
/** Where the machine is while the root is put together. */
const MACHINE = "/.machine";
const DEVICES = ["null", "zero", "full", "random", "urandom", "tty"];
/** As in every OCI container (runtime-spec, "Default Devices" and "Dev symbolic links"). */
const DEVICE_LINKS: Readonly<Record<string, string>> = {
  ptmx: "pts/ptmx",
  fd: "/proc/self/fd",
  stdin: "/proc/self/fd/0",
  stdout: "/proc/self/fd/1",
  stderr: "/proc/self/fd/2",
};
const O_PATH = 0o10000000;
/** As path_resolution(7). */
const MOST_LINKS = 40;

const machine: FileView = {
  exists: (path) => statSync(path, { throwIfNoEntry: false }) !== undefined,
  realpath: (path) => realpathSync(path),
  entries: (path) =>
    readdirSync(path, { withFileTypes: true }).map((entry) =>
      entry.isSymbolicLink()
        ? { name: entry.name, kind: "link", link: readlinkSync(`${path}/${entry.name}`) }
        : { name: entry.name, kind: entry.isDirectory() ? "directory" : "other" },
    ),
};

export class ContainerRoot implements Disposable {
  readonly #ns: NetNs;
  readonly #mounts: MountNs;
  readonly #fd: number;

  private constructor(ns: NetNs, mounts: MountNs, fd: number) {
    this.#ns = ns;
    this.#mounts = mounts;
    this.#fd = fd;
  }

  /** @throws SyscallError, or the error of a file: nothing is left then. */
  static create(options: ContainerRootOptions): ContainerRoot {
    mkdirSync(options.scratch, { recursive: true });
    const plan = planRoot(options, machine);
    const sources = plan.mounts.map((mount) => ({ ...mount, source: realpathSync(mount.source) }));
    let fd = -1;
    const mounts = options.ns.run(() =>
      MountNs.create(() => {
        build({ ...plan, mounts: sources }, options);
        fd = openSync("/", O_PATH | constants.O_DIRECTORY);
      }),
    );
    return new ContainerRoot(options.ns, mounts, fd);
  }

  /** child_process.spawn in the container's root and network. */
  spawn(command: string, args: readonly string[], options: SpawnOptions): ChildProcess {
    return this.#ns.run(() => this.#mounts.run(() => spawn(command, args, options)));
  }

  /**
   * Where this process, in any of its threads, finds `path` of the container. Links are followed as they are there.
   * The last part need not exist.
   */
  path(path: string): string {
    const root = `/proc/self/fd/${this.#fd}`;
    const done: string[] = [];
    const left = path.split("/").filter(Boolean);
    for (let links = 0; left.length > 0; ) {
      const part = left.shift() as string;
      if (part === "." || part === "..") {
        if (part === "..") done.pop();
        continue;
      }
      const at = [root, ...done, part].join("/");
      const link = lstatSync(at, { throwIfNoEntry: false })?.isSymbolicLink() ? readlinkSync(at) : undefined;
      if (link === undefined || ++links > MOST_LINKS) {
        done.push(part);
        continue;
      }
      if (isAbsolute(link)) done.length = 0;
      left.unshift(...link.split("/").filter(Boolean));
    }
    return [root, ...done].join("/");
  }

  close(): void {
    this.#mounts.close();
    closeSync(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function build(plan: RootPlan, { scratch, warn, readOnly = false }: ContainerRootOptions): void {
  libc.mount("none", "/", null, libc.MS_REC | libc.MS_PRIVATE);
  libc.mount("tmpfs", scratch, "tmpfs", libc.MS_NODEV, `mode=755,size=${SIZE}`);
  const root = `${scratch}/root`;
  for (const name of ["root", "upper", "work"]) mkdirSync(`${scratch}/${name}`);
  libc.mount(root, root, null, libc.MS_BIND);
  layers(plan, scratch, warn);
  for (const { at, mode } of plan.directories) makeDirectory(`${root}/${at}`, mode);
  for (const { at, to } of plan.links) symlinkSync(to, `${root}/${at}`);
  mkdirSync(root + MACHINE);
  libc.pivotRoot(root, root + MACHINE);
  kernelFiles(warn);
  for (const [path, text] of Object.entries(plan.files)) {
    mkdirSync(dirname(path), { recursive: true });
    // The machine may have a file there, which is nobody's to write to without root.
    rmSync(path, { force: true });
    writeFileSync(path, text, { mode: text.startsWith("#!") ? 0o755 : 0o644 });
  }
  for (const mount of plan.mounts) bind(mount, warn);
  libc.umount(MACHINE, libc.MNT_DETACH);
  rmdirSync(MACHINE);
  if (!readOnly) return;
  // Each for itself: what is mounted below keeps its own say.
  for (const at of ["/", ...plan.overlays.map((name) => `/${name}`)])
    libc.mount("none", at, null, libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | libc.MS_NODEV);
}

function makeDirectory(path: string, mode: number): void {
  mkdirSync(path);
  // mkdir(2) takes the umask off.
  chmodSync(path, mode);
}

/** The directories of the machine, each below a layer of the container's own (overlayfs). */
function layers({ overlays, owned }: RootPlan, scratch: string, warn: Warn): void {
  for (const name of owned) {
    const facts = statSync(`/${name}`, { throwIfNoEntry: false });
    if (facts && !facts.isDirectory()) throw new Error(`/${name} is not a directory`);
    makeDirectory(`${scratch}/upper/${name}`, facts ? facts.mode & 0o7777 : 0o755);
  }
  // By descriptor: a path in an option may have neither a comma nor a colon.
  const fd = openSync(scratch, O_PATH | constants.O_DIRECTORY);
  try {
    for (const name of overlays) {
      for (const layer of ["root", "upper", "work"])
        mkdirSync(`${scratch}/${layer}/${name}`, { recursive: true });
      overlay(name, `/proc/self/fd/${fd}`, warn);
    }
  } finally {
    closeSync(fd);
  }
}

function overlay(name: string, layers: string, warn: Warn): void {
  const at = `${layers}/root/${name}`;
  const options = `lowerdir=/${name},upperdir=${layers}/upper/${name},workdir=${layers}/work/${name}`;
  try {
    // In a user namespace overlayfs may keep its notes in attributes of users only (Linux 5.11).
    const notes = mapsEverybody() ? "" : ",userxattr";
    libc.mount("overlay", at, "overlay", libc.MS_NODEV, options + notes);
  } catch (error) {
    // No overlayfs, or something that this user may not lay bare is mounted below: to look at, then.
    libc.mount(`/${name}`, at, null, libc.MS_BIND | libc.MS_REC);
    libc.restrictMount(at, libc.MS_RDONLY);
    warn(`/${name} is read-only in the container: ${(error as Error).message}`);
  }
}

/** /dev, /sys and, until a process mounts that of its own PID namespace, /proc. */
function kernelFiles(warn: Warn): void {
  libc.mount(`${MACHINE}/proc`, "/proc", null, libc.MS_BIND | libc.MS_REC);
  const none = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC;
  try {
    // /sys/class/net then lists the pod's interfaces.
    libc.mount("sysfs", "/sys", "sysfs", none | libc.MS_RDONLY);
  } catch {
    // Where parts of the machine's are hidden (a container) no other may be mounted.
    libc.mount(`${MACHINE}/sys`, "/sys", null, libc.MS_BIND | libc.MS_REC);
    libc.restrictMount("/sys", libc.MS_RDONLY);
  }
  libc.mount("tmpfs", "/dev", "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, "mode=755");
  for (const name of DEVICES) {
    const path = `/dev/${name}`;
    bind({ source: path, target: path, file: true, devices: true }, warn);
  }
  for (const [name, to] of Object.entries(DEVICE_LINKS)) symlinkSync(to, `/dev/${name}`);
  mkdirSync("/dev/pts");
  libc.mount("devpts", "/dev/pts", "devpts", libc.MS_NOSUID | libc.MS_NOEXEC, "newinstance,ptmxmode=0666");
  mkdirSync("/dev/shm");
  libc.mount("tmpfs", "/dev/shm", "tmpfs", none, `mode=1777,size=${SHM_SIZE}`);
}

/** In the root, or in what is mounted there already. */
function bind(
  { source, target, file = false, readOnly = false, devices = false }: BindMount,
  warn: Warn,
): void {
  if (file) {
    mkdirSync(dirname(target), { recursive: true });
    const there = lstatSync(target, { throwIfNoEntry: false });
    // A link, likely to nowhere, would be followed.
    if (there?.isSymbolicLink()) rmSync(target);
    if (!there || there.isSymbolicLink()) writeFileSync(target, "");
  } else {
    mkdirSync(target, { recursive: true });
  }
  libc.mount(MACHINE + source, target, null, libc.MS_BIND | libc.MS_REC);
  const flags = (readOnly ? libc.MS_RDONLY : 0) | (devices ? 0 : libc.MS_NODEV);
  if (flags === 0) return;
  try {
    libc.restrictMount(target, flags);
  } catch (error) {
    warn(`${target} is open to more than it should be: ${(error as Error).message}`);
  }
}
