// The lab's own file system view: a private /run, names of the hosts' namespaces in /run/netns. Runs inside the
// lab's mount namespace, once, before anything else; changes nothing outside it.

import { closeSync, mkdirSync, openSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { dirname, sep } from "node:path";
import { MS_BIND, MS_REC, mount } from "../dataplane/kernel/libc.js";

const RUN = "/run";

/** Where `ip netns` looks for names. */
export const NETNS_DIR = "/run/netns";

/** Everything of the lab that lives as long as its processes: gone with the last of them. */
export const LAB_RUN = "/run/kubeplumb";

/** Where systemd-resolved is, only a link into /run; without the file there would be no place to show a pod its own. */
const RESOLV_CONF = "/etc/resolv.conf";

/**
 * Covers /run with an empty file system. Whatever of `keep` lies below /run (the state directory under
 * /run/user/UID, say) is shown again at its old place.
 * @throws SyscallError EPERM when this is not a mount namespace of our own.
 */
export function privateRun(keep: readonly string[]): void {
  const inside = [...new Set(keep.map((path) => realpathSync(path)))].filter((path) => isBelow(path, RUN));
  const resolver = fileIn(RUN, RESOLV_CONF);
  const held = inside.map((path) => ({ path, fd: openSync(path, "r") }));
  try {
    mount("tmpfs", RUN, "tmpfs", 0, "mode=0755");
    for (const { path, fd } of held) {
      mkdirSync(path, { recursive: true });
      mount(`/proc/self/fd/${fd}`, path, null, MS_BIND | MS_REC);
    }
  } finally {
    for (const { fd } of held) closeSync(fd);
  }
  for (const dir of [NETNS_DIR, LAB_RUN]) mkdirSync(dir, { recursive: true });
  if (!resolver) return;
  mkdirSync(dirname(resolver.path), { recursive: true });
  writeFileSync(resolver.path, resolver.text);
}

/** What `path` leads to below `top`, if it does. */
function fileIn(top: string, path: string): { path: string; text: string } | undefined {
  try {
    const real = realpathSync(path);
    return isBelow(real, top) ? { path: real, text: readFileSync(real, "utf8") } : undefined;
  } catch {
    // A machine without a resolver: pods get a file all the same, in a root of their own.
    return undefined;
  }
}

function isBelow(path: string, top: string): boolean {
  return path === top || path.startsWith(top + sep);
}

/**
 * Refuses to go on in the machine's own network namespace, where a bridge, routes and rules would be the
 * machine's: the namespaces are made by whoever starts this process.
 * @throws Error when there is any interface but lo.
 */
export function assertOwnNetwork(): void {
  const devices = readFileSync("/proc/self/net/dev", "utf8")
    .split("\n")
    .slice(2)
    .map((line) => line.split(":")[0]?.trim())
    .filter((name) => name && name !== "lo" && !KERNEL_FALLBACK_DEVICES.test(name));
  if (devices.length === 0) return;
  throw new Error(`the network namespace is not a new one: it has ${devices.join(", ")}`);
}

/** Tunnel modules put these, down, into each new namespace (net.core.fb_tunnels_only_for_init_net = 0). */
const KERNEL_FALLBACK_DEVICES = /^(tunl|gre|gretap|erspan|ip_vti|ip6_vti|sit|ip6tnl|ip6gre)\d+$/;
