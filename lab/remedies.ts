// What to do about a thing that this machine lacks: from the error to the exact command where there is one. Knows
// error texts, sysctls and module names; tries nothing.

import { existsSync, readFileSync } from "node:fs";

const IN_CONTAINER = "start the container with --privileged";

export function install(debianPackage: string): string {
  return `sudo apt-get install -y ${debianPackage}`;
}

/** The module that brings a feature of the probe, where it is one; several are loaded together. */
const MODULES: Record<string, string> = {
  bridge: "bridge",
  veth: "veth",
  vxlan: "vxlan",
  "bridge-nf-call-iptables": "br_netfilter",
  "iptables-nft tables": "nf_tables",
  "iptables-legacy tables": "-a iptable_nat iptable_filter iptable_mangle",
  "iptables DNAT": "xt_nat",
  "iptables MASQUERADE --random-fully": "xt_MASQUERADE",
  "iptables comment": "xt_comment",
  "iptables conntrack": "xt_conntrack",
  "iptables mark": "xt_mark",
  "iptables MARK": "xt_mark",
  "iptables addrtype": "xt_addrtype",
  "iptables statistic": "xt_statistic",
  "iptables recent": "xt_recent",
  "iptables REJECT": "ipt_REJECT",
};

/** @param id of a thing that the probe tried. @param error what came of it. */
export function featureRemedy(id: string, error: string, privileged: boolean): string {
  if (id === "iptables") return install("iptables");
  if (/couldn't load (match|target)/i.test(error)) return "sudo apt-get install -y --reinstall iptables";
  if (/EROFS/.test(error)) return IN_CONTAINER;
  if (/EPERM|EACCES|permission denied|not permitted/i.test(error)) {
    return privileged ? IN_CONTAINER : "run kubeplumb with sudo";
  }
  const module = MODULES[id];
  if (module) return `sudo modprobe ${module}`;
  return privileged ? IN_CONTAINER : "run kubeplumb with sudo";
}

interface Switch {
  key: string;
  bad: string;
  good: string;
  cause: string;
  /** Only who is not root is concerned. */
  unprivileged?: boolean;
}

/** Sysctls by which namespaces are forbidden (user_namespaces(7), namespaces(7), distributions' own). */
const SWITCHES: readonly Switch[] = [
  {
    key: "kernel.unprivileged_userns_clone",
    bad: "0",
    good: "1",
    cause: "Debian's switch for unprivileged user namespaces is off",
    unprivileged: true,
  },
  {
    key: "kernel.apparmor_restrict_unprivileged_userns",
    bad: "1",
    good: "0",
    cause: "AppArmor restricts unprivileged user namespaces (Ubuntu 23.10 and newer)",
    unprivileged: true,
  },
  limit("user", "user", true),
  limit("net", "network"),
  limit("mnt", "mount"),
  limit("uts", "UTS"),
  limit("ipc", "IPC"),
  limit("pid", "PID"),
];

function limit(kind: string, word: string, unprivileged = false): Switch {
  const cause = `no ${word} namespaces are allowed at all`;
  return { key: `user.max_${kind}_namespaces`, bad: "0", good: "28633", cause, unprivileged };
}

/** Why namespaces cannot be made, as far as a sysctl says so. */
export function namespaceRemedy(privileged: boolean): { cause: string; remedy: string } | undefined {
  const path = (key: string) => `/proc/sys/${key.replaceAll(".", "/")}`;
  const found = SWITCHES.filter((one) => !(one.unprivileged && privileged)).find(
    ({ key, bad }) => existsSync(path(key)) && readFileSync(path(key), "utf8").trim() === bad,
  );
  if (!found) return undefined;
  const { key, good, cause, unprivileged } = found;
  const instead = unprivileged ? "   (or run kubeplumb with sudo)" : "";
  return { cause, remedy: `sudo sysctl -w ${key}=${good}${instead}` };
}
