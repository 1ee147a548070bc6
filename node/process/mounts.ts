// Which mounts give a real process the files of its pod. Pure: decides, mounts nothing itself. A mount point that
// this machine lacks is never made on the machine: the process then gets a root of its own, put together from
// the machine's directories.

/** A file or directory of the pod, shown to its processes at `target`. */
export interface BindMount {
  /** Absolute path on this machine. */
  source: string;
  /** Absolute path inside the container. */
  target: string;
  readOnly?: boolean;
  /** A file rather than a directory; decides what is made as a mount point. */
  file?: boolean;
}

/** What the plan must know of the file system; injected for tests. */
export interface FileView {
  exists(path: string): boolean;
  /** The path with links resolved; called for existing paths only. */
  realpath(path: string): string;
  /** Entries of a directory; links are not followed. */
  entries(path: string): { name: string; kind: "directory" | "link" | "other"; link?: string }[];
}

/** One step of a plan, in order. */
export type MountStep =
  | { do: "tmpfs"; at: string }
  | { do: "mkdir"; at: string }
  | { do: "touch"; at: string }
  | { do: "link"; at: string; to: string }
  /** A link for each name in the directory `at`, to the same name in the directory `to`. */
  | { do: "links"; at: string; to: string; names: string[] }
  | { do: "rbind"; from: string; at: string }
  /** A directory put together in these steps takes the machine's place, with all that is mounted in it. */
  | { do: "cover"; from: string; at: string }
  | { do: "bind"; from: string; at: string; readOnly: boolean };

export interface MountPlan {
  steps: MountStep[];
  /** Directory to chroot into; undefined: the root stays. */
  root?: string;
}

const parent = (path: string): string => path.slice(0, path.lastIndexOf("/")) || "/";
const join = (directory: string, name: string): string => `${directory === "/" ? "" : directory}/${name}`;
const within = (path: string, top: string): boolean =>
  top === "/" || path === top || path.startsWith(`${top}/`);

/** Where a /dev of a container's own has the machine's. */
const MACHINE_DEVICES = ".machine";

/** The longest existing directory above (or at) `path`. */
function deepestExisting(path: string, view: FileView): string {
  let at = path;
  while (at !== "/" && !view.exists(at)) at = parent(at);
  return at;
}

/** `path` without links in the part that exists. */
function canonical(path: string, view: FileView): string {
  const clean = join("/", path.split("/").filter(Boolean).join("/"));
  const top = deepestExisting(clean, view);
  const real = view.realpath(top);
  return top === clean ? real : `${real === "/" ? "" : real}${clean.slice(top === "/" ? 0 : top.length)}`;
}

/**
 * Plans the mounts for one process. `scratch` is an existing empty directory, used only when a mount point is
 * missing on this machine. Targets below one another come out parent first.
 */
export function planMounts(mounts: readonly BindMount[], scratch: string, view: FileView): MountPlan {
  const wanted = mounts
    .map((mount) => ({ ...mount, target: canonical(mount.target, view) }))
    .sort((a, b) => a.target.length - b.target.length);
  const missing = wanted.filter((mount) => !view.exists(mount.target));
  if (missing.length === 0) {
    return {
      steps: wanted.map((m) => ({ do: "bind", from: m.source, at: m.target, readOnly: !!m.readOnly })),
    };
  }
  const tops = missing.map((mount) => deepestExisting(parent(mount.target), view));
  // Nearly every container lacks something of /dev (its termination log): that is no reason for another root.
  const top = tops.every((one) => within(one, "/dev")) ? "/dev" : "/";
  const at = (path: string): string =>
    within(path, top) ? `${scratch}${path.slice(top === "/" ? 0 : top.length)}` : path;
  const points = new Set(missing.map(({ target }) => target));
  const steps: MountStep[] = [{ do: "tmpfs", at: scratch }, ...mirror(top, { tops, points }, at, view)];
  const made = new Set<string>();
  for (const mount of wanted) {
    const covered = wanted.some((other) => other !== mount && mount.target.startsWith(`${other.target}/`));
    if (!covered && !view.exists(mount.target)) {
      for (const directory of missingParents(mount.target, view)) {
        if (!made.has(directory)) steps.push({ do: "mkdir", at: at(directory) });
        made.add(directory);
      }
    }
    // Below another mount the point is made in that mount's own source, which belongs to the pod.
    if (covered || !view.exists(mount.target)) {
      steps.push({ do: mount.file ? "touch" : "mkdir", at: at(mount.target) });
    }
    steps.push({ do: "bind", from: mount.source, at: at(mount.target), readOnly: !!mount.readOnly });
  }
  if (top === "/") return { steps, root: scratch };
  return { steps: [...steps, { do: "cover", from: scratch, at: top }] };
}

function missingParents(target: string, view: FileView): string[] {
  const out: string[] = [];
  for (let at = parent(target); at !== "/" && !view.exists(at); at = parent(at)) out.unshift(at);
  return out;
}

interface Apart {
  /** Directories that get something of their own. */
  tops: readonly string[];
  /** What is missing: a link of that name leads nowhere, and must not be followed when the mount point is made. */
  points: ReadonlySet<string>;
}

/** `directory` entry by entry: whole ones bound, those that lead to one of `tops` taken apart. */
function mirror(directory: string, apart: Apart, at: (path: string) => string, view: FileView): MountStep[] {
  if (directory === "/dev") return mirrorDevices(apart, at, view);
  return view.entries(directory).flatMap(({ name, kind, link }): MountStep[] => {
    const path = join(directory, name);
    if (apart.points.has(path)) return [];
    if (kind === "link") return [{ do: "link", at: at(path), to: link ?? "" }];
    const point: MountStep = { do: kind === "directory" ? "mkdir" : "touch", at: at(path) };
    if (kind === "directory" && apart.tops.some((top) => within(top, path))) {
      return [point, ...mirror(path, apart, at, view)];
    }
    return [point, { do: "rbind", from: path, at: at(path) }];
  });
}

/** /dev as links into the machine's: it has hundreds of entries, and a mount for each would take its time. */
function mirrorDevices(parts: Apart, at: (path: string) => string, view: FileView): MountStep[] {
  const names = view.entries("/dev").map(({ name }) => name);
  const apart = names.filter((name) => parts.tops.some((top) => within(top, `/dev/${name}`)));
  const machine = at(`/dev/${MACHINE_DEVICES}`);
  return [
    { do: "mkdir", at: machine },
    { do: "rbind", from: "/dev", at: machine },
    {
      do: "links",
      at: at("/dev"),
      to: MACHINE_DEVICES,
      names: names.filter((name) => !apart.includes(name)),
    },
    ...apart.flatMap((name): MountStep[] => {
      const path = `/dev/${name}`;
      return [{ do: "mkdir", at: at(path) }, ...mirror(path, parts, at, view)];
    }),
  ];
}
