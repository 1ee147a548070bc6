// What the root of a container is made of: the directories of this machine that an image would bring, each with a layer
// of the container's own above it, and fresh ones for the rest. Pure: decides, mounts nothing itself.

/** A file or directory of the pod, shown to its processes at `target`. */
export interface BindMount {
  /** Absolute path on this machine. */
  source: string;
  /** Absolute path inside the container. */
  target: string;
  readOnly?: boolean;
  /** Device files in it can be used; else they are files like any other (nodev). */
  devices?: boolean;
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

export interface RootRequest {
  mounts: readonly BindMount[];
  /** Files of the image, by absolute path. */
  files: Readonly<Record<string, string>>;
  /** Directories of the image that the machine does not have, by absolute path. */
  directories?: readonly string[];
}

/** All paths are relative to the new root. */
export interface RootPlan {
  /** Directories of the machine's root that the container sees, and may change for itself. */
  overlays: string[];
  links: { at: string; to: string }[];
  directories: { at: string; mode: number }[];
  /**
   * Directories below `overlays`, parents first, that the container owns whoever owns the machine's: without root on the
   * machine nothing could be made in them.
   */
  owned: string[];
  files: Readonly<Record<string, string>>;
  /** Those that others are below come first. */
  mounts: BindMount[];
}

/** Directories of programs and their settings; the last two are where NixOS and Guix have them. */
const OF_THE_IMAGE = /^(?:usr|bin|sbin|lib|lib32|lib64|libx32|etc|opt|nix|gnu)$/;

/** The rest of the Filesystem Hierarchy Standard: a container's own, and empty. */
const OF_THE_CONTAINER: Readonly<Record<string, number>> = {
  boot: 0o755,
  dev: 0o755,
  home: 0o755,
  media: 0o755,
  mnt: 0o755,
  proc: 0o555,
  root: 0o700,
  run: 0o755,
  "run/lock": 0o1777,
  srv: 0o755,
  sys: 0o555,
  tmp: 0o1777,
  var: 0o755,
  "var/cache": 0o755,
  "var/lib": 0o755,
  "var/local": 0o755,
  "var/log": 0o755,
  "var/mail": 0o755,
  "var/opt": 0o755,
  "var/spool": 0o755,
  "var/tmp": 0o1777,
};

const LINKS = [
  { at: "var/run", to: "/run" },
  { at: "var/lock", to: "/run/lock" },
];

/** Where people put things by hand. */
const OFTEN_WRITTEN = ["etc", "opt", "usr", "usr/bin", "usr/lib", "usr/local", "usr/local/bin", "usr/share"];

const parent = (path: string): string => path.slice(0, path.lastIndexOf("/")) || "/";

/** `path` without links in the part that exists. */
function canonical(path: string, view: FileView): string {
  const clean = `/${path.split("/").filter(Boolean).join("/")}`;
  let top = clean;
  while (top !== "/" && !view.exists(top)) top = parent(top);
  const real = view.realpath(top);
  return top === clean ? real : `${real === "/" ? "" : real}${clean.slice(top === "/" ? 0 : top.length)}`;
}

/** usr, usr/share, usr/share/nginx. */
function withParents(path: string): string[] {
  const parts = path.split("/").filter(Boolean);
  return parts.map((_, i) => parts.slice(0, i + 1).join("/"));
}

export function planRoot({ mounts, files, directories = [] }: RootRequest, view: FileView): RootPlan {
  const shown = view.entries("/").filter(({ name }) => OF_THE_IMAGE.test(name));
  const overlays = shown.filter(({ kind }) => kind === "directory").map(({ name }) => name);
  const written = [...mounts.map(({ target }) => target), ...Object.keys(files)]
    .map((path) => canonical(parent(path.replace(/\/+$/, "")), view))
    .concat(OFTEN_WRITTEN.map((path) => `/${path}`).filter((path) => view.exists(path)));
  const owned = written.flatMap(withParents).filter((path) => overlays.includes(path.split("/", 1)[0] ?? ""));
  return {
    overlays,
    links: [
      ...shown.flatMap(({ name, kind, link }) => (kind === "link" && link ? [{ at: name, to: link }] : [])),
      ...LINKS,
    ],
    directories: [
      ...Object.entries(OF_THE_CONTAINER).map(([at, mode]) => ({ at, mode })),
      ...directories.map((path) => ({ at: path.slice(1), mode: 0o755 })),
    ],
    owned: [...new Set(owned)].sort(),
    files,
    mounts: [...mounts].sort((a, b) => a.target.split("/").length - b.target.split("/").length),
  };
}
