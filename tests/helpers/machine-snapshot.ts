// Everything of a machine that a lab could have touched, as text to be compared: links, addresses, routes, rules,
// sysctls, mounts, processes, files. Reads only; changes what it looks at in no way.

import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

export interface Snapshot {
  links: string;
  addresses: string;
  routes: string;
  policyRules: string;
  neighbours: string;
  iptables: string;
  nftables: string;
  sysctls: Record<string, string>;
  mounts: string;
  hostname: string;
  /** Processes that carry the marker, in their arguments or in their environment. */
  processes: string[];
  /** Below the directories asked for, with kind and size. */
  files: string[];
}

export interface SnapshotOptions {
  /** What the processes to look for have in their arguments or environment. */
  marker: string;
  directories: readonly string[];
}

export function machineSnapshot({ marker, directories }: SnapshotOptions): Snapshot {
  return {
    links: output("ip", "-details", "link"),
    addresses: withoutLifetimes(output("ip", "address")),
    routes: output("ip", "route", "show", "table", "all"),
    policyRules: output("ip", "rule"),
    neighbours: output("ip", "neighbour", "show", "nud", "permanent"),
    iptables: ["iptables-save", "iptables-legacy-save"]
      .map((program) => withoutCounters(output(program)))
      .join("\n"),
    nftables: output("nft", "list", "ruleset"),
    sysctls: sysctls("/proc/sys/net"),
    mounts: readFileSync("/proc/self/mountinfo", "utf8"),
    hostname: output("uname", "-n"),
    processes: processesWith(marker),
    files: directories.flatMap((directory) => tree(directory)).sort(),
  };
}

/** What a program prints; "" for one that this machine has not got. */
function output(program: string, ...args: string[]): string {
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  const { stdout, error } = spawnSync(program, args, { encoding: "utf8", env });
  return error ? "" : stdout;
}

const withoutLifetimes = (text: string) => text.replaceAll(/(valid|preferred)_lft \S+/g, "");
const withoutCounters = (text: string) => text.replaceAll(/^#.*\n/gm, "").replaceAll(/\[\d+:\d+\]/g, "[]");

/** Values that the kernel itself changes all the time. */
const MOVING = /nf_conntrack_count|\/tcp_(mem|fastopen_key)|route\/flush|tcp_available|stat_refresh/;

function sysctls(top: string): Record<string, string> {
  const out: Record<string, string> = {};
  for (const entry of readdirSync(top, { withFileTypes: true })) {
    const path = join(top, entry.name);
    if (entry.isDirectory()) Object.assign(out, sysctls(path));
    else if (!MOVING.test(path)) {
      try {
        out[path] = readFileSync(path, "utf8");
      } catch {
        // Write-only, or for root only: cannot be compared, and cannot be changed unseen by others either.
      }
    }
  }
  return out;
}

function processesWith(marker: string): string[] {
  return readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid) && Number(pid) !== process.pid)
    .flatMap((pid) => {
      try {
        const about = ["cmdline", "environ"].map((file) => readFileSync(`/proc/${pid}/${file}`, "utf8"));
        return about.some((text) => text.includes(marker)) ? [about[0]?.replaceAll("\0", " ") ?? ""] : [];
      } catch {
        // Gone in between, or somebody else's: neither is ours.
        return [];
      }
    })
    .sort();
}

function tree(directory: string): string[] {
  const stat = statSync(directory, { throwIfNoEntry: false });
  if (!stat) return [];
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return [`${path}/`, ...tree(path)];
    return [`${path} ${statSync(path, { throwIfNoEntry: false })?.size ?? "gone"}`];
  });
}
