// The shell text that turns a fresh set of namespaces into a container: mounts, working directory, then the
// command in its place. Pure. Reports to descriptor 3, one line each: "warn …", "fail …", "missing …" or, at last, "ready".

import type { MountPlan, MountStep } from "./mounts.js";

/** A word for a POSIX shell. */
export function quote(word: string): string {
  return /^[A-Za-z0-9_/.:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

const TOOLS = "/usr/sbin:/usr/bin:/sbin:/bin";

function stepLine(step: MountStep): string {
  const at = quote(step.at);
  switch (step.do) {
    case "tmpfs":
      return `mount -t tmpfs -o mode=755 kubeplumb ${at} 2>&3 || fail 'no private root at '${at}`;
    case "mkdir":
      return `mkdir -p ${at} 2>&3 || fail 'cannot make the mount point '${at}`;
    case "touch":
      return `[ -e ${at} ] || : > ${at} || fail 'cannot make the mount point '${at}`;
    case "link":
      return `ln -s ${quote(step.to)} ${at}`;
    case "links":
      return `ln -s ${step.names.map((name) => quote(`${step.to}/${name}`)).join(" ")} ${at}/`;
    case "rbind":
      // Some entries of a root cannot be bound by an unprivileged user; the container can do without them.
      return `mount --rbind ${quote(step.from)} ${at} 2>/dev/null || warn ${quote(step.from)}' is not visible in the container'`;
    case "cover":
      return `mount --rbind ${quote(step.from)} ${at} 2>&3 || fail 'cannot mount '${quote(step.from)}' on '${at}`;
    case "bind": {
      const bind = `mount --bind ${quote(step.from)} ${at} 2>&3 || fail 'cannot mount '${quote(step.from)}' on '${at}`;
      return step.readOnly
        ? `${bind}\nmount -o remount,bind,ro ${at} 2>/dev/null || warn ${at}' stays writable'`
        : bind;
    }
  }
}

export interface ScriptOptions {
  plan: MountPlan;
  /** Name for the new UTS namespace, and a /proc for the new PID namespace; omitted when joining existing ones. */
  hostname?: string;
  cwd: string;
  /** Make the terminal on stdin the controlling one (setsid --ctty). */
  tty: boolean;
}

/**
 * The script for `sh -c SCRIPT sh COMMAND ARG…`. PATH is the container's own again when the command starts.
 */
export function launchScript(options: ScriptOptions): string {
  const { plan, hostname, cwd, tty } = options;
  const root = plan.root ?? "";
  const mounts = [
    ...plan.steps.map(stepLine),
    ...(hostname !== undefined
      ? [
          `mount -t proc proc ${quote(`${root}/proc`)} 2>/dev/null || warn '/proc could not be mounted: the container sees the processes of the host'`,
          `printf %s ${quote(hostname)} 2>/dev/null > /proc/sys/kernel/hostname || hostname ${quote(hostname)} 2>&3 || warn 'the host name could not be set'`,
        ]
      : []),
  ];
  const start = startLines(cwd, tty);
  return [
    "own_path=$PATH",
    `PATH=${TOOLS}`,
    "warn() { printf 'warn %s\\n' \"$*\" >&3; }",
    "fail() { printf 'fail %s\\n' \"$*\" >&3; exit 125; }",
    ...mounts,
    ...(root
      ? [
          "chroot=$(command -v chroot) || fail 'chroot is not installed on this machine'",
          "PATH=$own_path",
          `exec "$chroot" ${quote(root)} /bin/sh -c ${quote(chrootHead(start))} sh "$@"`,
        ]
      : start),
  ].join("\n");
}

function chrootHead(start: string[]): string {
  return [
    "own_path=$PATH",
    `PATH=${TOOLS}`,
    "fail() { printf 'fail %s\\n' \"$*\" >&3; exit 125; }",
    ...start,
  ].join("\n");
}

function startLines(cwd: string, tty: boolean): string[] {
  return [
    ...(tty ? ["setsid=$(command -v setsid) || fail 'setsid is not installed on this machine'"] : []),
    `cd ${quote(cwd)} 2>&3 || fail 'cannot change to working directory '${quote(cwd)}`,
    "PATH=$own_path",
    "unset own_path PWD OLDPWD SHLVL",
    `command -v -- "$1" >/dev/null 2>&1 || { printf 'missing %s\\n' "$1" >&3; exit 127; }`,
    // Nobody hears it: the agent was killed before setpriv had asked for its death to be ours. The command must not begin.
    "echo ready >&3 || exit 125",
    tty ? `exec "$setsid" --ctty "$@" 3>&-` : `exec "$@" 3>&-`,
  ];
}
