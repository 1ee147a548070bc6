// Limits for containers of a test, where the machine has its controllers in hierarchies of cgroup v1: mounted for the
// machines of the test as runtimes look for them. Knows mounts and the one directory that kubeplumb's pods are in.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { basename, join } from "node:path";

/** Without these there is nothing to limit. */
const NEEDED = ["memory", "cpu", "devices"];
/** What node/cri/runtime.ts names as the parent of all. */
const PARENT = "kubepods";

/** Those that are mounted here, by the names of their directories: a runtime uses all that it knows of. */
function hierarchies(): Map<string, string> {
  const found = new Map<string, string>();
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const [, path = "", options = ""] = /^(?:\S+ ){4}(\S+) .* - cgroup \S+ (\S+)$/.exec(line) ?? [];
    const controllers = options.split(",").filter((word) => !["", "rw", "ro", "xattr"].includes(word));
    const isNamed = controllers.some((word) => word.startsWith("name="));
    if (path) found.set(basename(path), [...(isNamed ? ["none"] : []), ...controllers].join(","));
  }
  return found;
}

export class OldCgroups {
  readonly #directory: string;
  readonly #names: readonly string[];

  private constructor(directory: string, names: readonly string[]) {
    this.#directory = directory;
    this.#names = names;
  }

  /** Mounts them below `directory`; undefined where there are none. */
  static mount(directory: string): OldCgroups | undefined {
    const all = hierarchies();
    if (!NEEDED.every((name) => all.has(name))) return undefined;
    const own = new OldCgroups(join(directory, "cgroup-v1"), [...all.keys()]);
    try {
      for (const [name, options] of all) {
        mkdirSync(join(own.#directory, name), { recursive: true });
        const argv = ["-t", "cgroup", "-o", options, "none", join(own.#directory, name)];
        execFileSync("mount", argv, { stdio: "ignore" });
      }
      return own;
    } catch {
      own.#unmount();
      return undefined;
    }
  }

  /** A script that makes them a machine's, with `unified` beside them, which is cgroup2's. */
  script(unified: string): string {
    const mounts = this.#names.map(
      (name) =>
        `mkdir /sys/fs/cgroup/${name} && mount --bind ${join(this.#directory, name)} /sys/fs/cgroup/${name}`,
    );
    return `mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/unified
      mount --bind ${unified} /sys/fs/cgroup/unified
      ${mounts.join("\n")}`;
  }

  /** After the end of all containers: their runtime may have been killed before it took their directories away. */
  close(): void {
    for (const controller of this.#names) {
      const parent = join(this.#directory, controller, PARENT);
      if (!existsSync(parent)) continue;
      const below = readdirSync(parent, { withFileTypes: true }).filter((entry) => entry.isDirectory());
      for (const path of [...below.map(({ name }) => join(parent, name)), parent]) removeIfEmpty(path);
    }
    this.#unmount();
  }

  #unmount(): void {
    for (const controller of this.#names) {
      try {
        execFileSync("umount", [join(this.#directory, controller)], { stdio: "ignore" });
      } catch {
        // It never was mounted.
      }
    }
  }
}

/** Those of another test have processes. */
function removeIfEmpty(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (!["EBUSY", "ENOTEMPTY", "ENOENT"].includes(code)) throw error;
  }
}
