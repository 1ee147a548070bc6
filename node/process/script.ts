// The shell text that turns fresh namespaces into a container's: /proc and name, the working directory, then the command
// in its place. Pure. Reports to descriptor 3, one line each: "warn …", "fail …", "missing …" or, at last, "ready".

/** A word for a POSIX shell. */
export function quote(word: string): string {
  return /^[A-Za-z0-9_/.:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

const TOOLS = "/usr/sbin:/usr/bin:/sbin:/bin";

/** readonlyPaths of the OCI runtimes. */
const PROTECTED = ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];

const readOnly = (path: string): string =>
  `[ ! -e ${path} ] || mount -o bind,ro ${path} ${path} 2>/dev/null || warn '${path} stays writable'`;

export interface ScriptOptions {
  /** Name for the new UTS namespace, and a /proc for the new PID namespace; omitted when joining existing ones. */
  hostname?: string;
  cwd: string;
  /** Nothing in /proc can be written to but what is of processes: else the machine's settings could be changed. */
  protect: boolean;
  /** Words before the command's own. */
  prefix: readonly string[];
  /** Make the terminal on stdin the controlling one (setsid --ctty). */
  tty: boolean;
  /** Descriptors of control groups to join, which are written to and closed. */
  groups?: readonly number[];
}

/**
 * The script for `sh -c SCRIPT sh COMMAND ARG…`. PATH is the container's own again when the command starts.
 */
export function launchScript({ hostname, cwd, tty, protect, prefix, groups = [] }: ScriptOptions): string {
  return [
    "own_path=$PATH",
    `PATH=${TOOLS}`,
    "warn() { printf 'warn %s\\n' \"$*\" >&3; }",
    "fail() { printf 'fail %s\\n' \"$*\" >&3; exit 125; }",
    ...(hostname !== undefined
      ? [
          "mount -t proc proc /proc 2>/dev/null || warn '/proc could not be mounted: the container sees the processes of the host'",
          `printf %s ${quote(hostname)} 2>/dev/null > /proc/sys/kernel/hostname || hostname ${quote(hostname)} 2>&3 || warn 'the host name could not be set'`,
        ]
      : []),
    ...(hostname !== undefined && protect ? PROTECTED.map(readOnly) : []),
    ...(tty ? ["setsid=$(command -v setsid) || fail 'setsid is not installed on this machine'"] : []),
    `cd ${quote(cwd)} 2>&3 || fail 'cannot change to working directory '${quote(cwd)}`,
    ...groups.map((fd) => `echo 0 >&${fd} || fail 'cannot join its control group'`),
    "PATH=$own_path",
    "unset own_path PWD OLDPWD SHLVL",
    `command -v -- "$1" >/dev/null 2>&1 || { printf 'missing %s\\n' "$1" >&3; exit 127; }`,
    // Nobody hears it: the agent was killed before setpriv had asked for its death to be ours. The command must not begin.
    "echo ready >&3 || exit 125",
    `exec ${[...(tty ? ['"$setsid" --ctty'] : []), ...prefix.map(quote)].join(" ")} "$@" 3>&-${groups.map((fd) => ` ${fd}>&-`).join("")}`,
  ].join("\n");
}
