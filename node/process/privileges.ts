// Who a container's process is and what it may do: user, groups, capabilities, as words of setpriv(1). Pure.

/** Who a process is, and what it may do. */
export interface Privileges {
  uid: number;
  gid: number;
  /** Supplementary. */
  groups: readonly number[];
  /** Without CAP_; "all": whatever the agent may itself. */
  capabilities: readonly string[] | "all";
  /** No program with a set-user-id bit gives more. */
  noNewPrivileges: boolean;
}

/** What containerd gives to a container that asks for nothing (its `WithDefaultUnixCaps`). */
export const DEFAULT_CAPABILITIES: readonly string[] = [
  ...["CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP"],
  ...["SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"],
];

/**
 * Options of setpriv. Where there is one user (`oneUser`, a lab without root) nobody can become another. `deathSignal`: what
 * it gets when its parent dies; a change of the user clears it (prctl(2)), and the agent's end would not be the container's.
 */
export function setprivOptions(
  { uid, gid, groups, capabilities, noNewPrivileges }: Privileges,
  oneUser: boolean,
  deathSignal: "keep" | "KILL" = "keep",
): string[] {
  const bounds = (names: readonly string[]) =>
    ["-all", ...names.map((name) => `+${name.toLowerCase()}`)].join(",");
  return [
    ...["--pdeathsig", deathSignal],
    ...(oneUser ? [] : ["--regid", String(gid), ...groupOptions(groups), "--reuid", String(uid)]),
    ...(capabilities === "all" ? [] : ["--inh-caps", "-all", "--bounding-set", bounds(capabilities)]),
    ...(noNewPrivileges ? ["--no-new-privs"] : []),
  ];
}

const groupOptions = (groups: readonly number[]): string[] =>
  groups.length > 0 ? ["--groups", groups.join(",")] : ["--clear-groups"];
